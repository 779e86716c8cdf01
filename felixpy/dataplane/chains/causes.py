"""Why a packet was denied, refused, allowed or logged: the cause, and the short text by which the kernel names it.

One cause is one chain of the node (report.py): whatever packet dies of it passes there, is counted there, and
its head is reported under the cause's text. In → out: Cause ↔ text of at most 63 bytes. A text that would be longer
holds a digest instead, and is known again by whoever knows the causes that there are. Pure.
Source: NFLOG's prefix, 64 bytes with its NUL (linux/netfilter/xt_NFLOG.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Literal

from felixpy.calc.intent import PolicyId
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table

TEXT_BYTES = 63
_DIGEST_BYTES = 8
_PROFILE, _TIER = "prof", "tier"

SHORT_NAMES: Mapping[Table, str] = {
    Table.GLOBAL_POLICY: "gnp",
    Table.NAMESPACED_POLICY: "np",
    Table.KUBERNETES_POLICY: "knp",
    Table.CLUSTER_POLICY: "cnp",
    Table.ADMIN_POLICY: "anp",
    Table.BASELINE_POLICY: "banp",
}
_TABLES = {short: table for table, short in SHORT_NAMES.items()}


class Effect(StrEnum):
    """What the cause does to a packet."""

    DENY = "deny"
    REFUSE = "refuse"
    ADMIT = "admit"
    LOG = "log"


Way = Literal["in", "out", ""]
"""Towards the endpoint, from it, or neither."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The rule `index` of a `policy` or a `profile`, the end of a `tier`, or (in `words`) what is common to all nodes.

    `index` is the rule's place among those that were written, None where nobody wrote it.
    """

    effect: Effect
    way: Way
    policy: PolicyId | None = None
    profile: str = ""
    tier: str = ""
    index: int | None = None
    words: str = ""

    @property
    def subject(self) -> str:
        """Whose rule or default it is: `gnp/default.web`, `prof/open`, `tier/default`, or words."""
        if self.policy is not None:
            return f"{SHORT_NAMES[self.policy.table]}/{self.policy.name}"
        if self.profile:
            return f"{_PROFILE}/{self.profile}"
        return f"{_TIER}/{self.tier}" if self.tier else self.words

    @property
    def text(self) -> str:
        """By which the kernel names it: `deny|in|gnp/default.web|2`."""
        index = "" if self.index is None else str(self.index)
        full = "|".join((self.effect, self.way, self.subject, index))
        if len(full.encode()) <= TEXT_BYTES and full.isascii():
            return full
        return f"{self.effect}|{blake2b(full.encode(), digest_size=_DIGEST_BYTES).hexdigest()}"

    def __str__(self) -> str:
        """For people, as rules are commented."""
        direction = {"in": " ingress", "out": " egress", "": ""}[self.way]
        index = "" if self.index is None else f"[{self.index}]"
        if self.policy is not None:
            return f"{self.policy}{direction}{index}"
        if self.profile:
            return f"Profile {self.profile}{direction}{index}"
        return f"end of tier {self.tier}" if self.tier else self.words


def parse_cause(text: str, known: Mapping[str, Cause]) -> Cause | None:
    """The cause that a text names: one of `known`, or any that it says in full; None for other programs' texts."""
    if text in known:
        return known[text]
    parts = text.split("|")
    if len(parts) != 4 or parts[0] not in set(Effect) or parts[1] not in ("in", "out", ""):
        return None
    effect, way = Effect(parts[0]), parts[1]
    index = int(parts[3]) if parts[3].isdecimal() else None
    kind, slash, rest = parts[2].partition("/")
    side: Way = "in" if way == "in" else "out" if way == "out" else ""
    if not slash:
        return Cause(effect, side, words=parts[2], index=index)
    if kind == _PROFILE:
        return Cause(effect, side, profile=rest, index=index)
    if kind == _TIER:
        return Cause(effect, side, tier=rest, index=index)
    if kind not in _TABLES:
        return None
    namespace, dash, name = rest.rpartition("/")
    return Cause(effect, side, PolicyId(_TABLES[kind], Name(namespace if dash else "", name)), index=index)


NO_PROFILE = {way: Cause(Effect.DENY, way, words="no profile allows it") for way in ("in", "out")}
INVALID = {way: Cause(Effect.DENY, way, words="what belongs to no connection") for way in ("in", "out", "")}
NO_ENDPOINT = {way: Cause(Effect.DENY, way, words="interface without endpoint") for way in ("in", "out")}
SPOOFED = Cause(Effect.DENY, "out", words="source address of another")
TO_HOST = Cause(Effect.DENY, "out", words="workload to its host")
VXLAN_OF_WORKLOAD = Cause(Effect.DENY, "out", words="VXLAN of a workload")
IPIP_OF_WORKLOAD = Cause(Effect.DENY, "out", words="IPIP of a workload")
VXLAN_OF_STRANGER = Cause(Effect.DENY, "in", words="VXLAN from no node")
IPIP_OF_STRANGER = Cause(Effect.DENY, "in", words="IPIP from no node")
UNSERVED = Cause(Effect.REFUSE, "", words="no endpoint")
NO_SUCH_PORT = Cause(Effect.REFUSE, "", words="no such port")
NO_LOCAL_BACKEND = Cause(Effect.DENY, "", words="no endpoint of the Service on this node")
LOOP_DROPPED = Cause(Effect.DENY, "", words="no Service has this address")
LOOP_REFUSED = Cause(Effect.REFUSE, "", words="no Service has this address")
SOURCE_NOT_ALLOWED = Cause(Effect.DENY, "", words="source not allowed")

COMMON = (
    *NO_PROFILE.values(),
    INVALID["in"],
    INVALID["out"],
    *NO_ENDPOINT.values(),
    SPOOFED,
    TO_HOST,
    VXLAN_OF_WORKLOAD,
    IPIP_OF_WORKLOAD,
    VXLAN_OF_STRANGER,
    IPIP_OF_STRANGER,
    LOOP_DROPPED,
    LOOP_REFUSED,
)
"""What every node's rules may come to, whatever its policies are."""
OF_SERVICES = (INVALID[""], UNSERVED, NO_SUCH_PORT, NO_LOCAL_BACKEND, SOURCE_NOT_ALLOWED)
"""What Services' rules may come to."""
