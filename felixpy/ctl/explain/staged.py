"""What staged policies would do: the cluster as it would be if they were in force, and flows judged by both. Pure.

In: a Cluster and what is in the datastore; out: the Cluster in which each staged policy has the place of the one that
it stands for (stagedAction Set), or takes it away (Delete); Learn and Ignore say nothing. A flow is judged by the rules
that both compile to; where it fares otherwise, what decides then is named. Nothing of it reaches a kernel.
Source: api/pkg/apis/projectcalico/v3 (staged*.go), felix/calc (staged policies).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from felixpy.addresses import Address, parse_address
from felixpy.ctl.explain.cluster import Cluster
from felixpy.ctl.explain.flow import Flow, Passage
from felixpy.ctl.explain.reading import Said, Statement, read_passage
from felixpy.ctl.explain.staged_kinds import STAGED_PREFIXES, STANDS_FOR
from felixpy.ctl.explain.text import describe_statement, written_text
from felixpy.ctl.manifests import Json
from felixpy.dataplane.judging.compiled import CompiledNode, compile_node
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Fate, verdict
from felixpy.datastore.model import KeyValue
from felixpy.flows.records import FlowRecord
from felixpy.resources.codec import Decoder
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import KindInfo

_DECIDES = (Said.ALLOWS, Said.DENIES, Said.REFUSES)
_VERDICTS = {Fate.ACCEPTED: "allowed", Fate.DROPPED: "denied", Fate.REJECTED: "refused", Fate.UNROUTED: "lost"}
_ICMP = (1, 58)


class _Spec(msgspec.Struct, rename="camel"):
    staged_action: str = "Set"


class _Staged(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What would become of a flow, what would decide it, and the rule as it was written ("" where nobody wrote one)."""

    verdict: str
    by: str
    rule: str = ""

    def tree(self) -> Json:
        """As JSON."""
        return {"verdict": self.verdict, "by": self.by, "rule": self.rule}

    def __str__(self) -> str:
        return f"staged: would be {self.verdict}: {self.by}"


def stage(cluster: Cluster, items: Iterable[KeyValue]) -> Cluster | None:
    """The cluster with its staged policies in force; None where there are none."""
    changes: dict[str, bytes | None] = {}
    for item in items:
        if item.key.startswith(STAGED_PREFIXES):
            changes.update(_stand_for(item))
    if not changes:
        return None
    decoder = Decoder("")
    staged = (decoder.ref_of(key) for key in changes)
    return replace(cluster.changed(changes), staged=frozenset(ref for ref in staged if ref is not None))


def _stand_for(item: KeyValue) -> Mapping[str, bytes | None]:
    """The key that a staged policy stands for, with the value that it would have; nothing where it says nothing."""
    text = item.key.decode("utf-8", "replace")
    for info, real in STANDS_FOR.items():
        name = info.parse_name(text) if text.startswith(info.prefix) else None
        if name is None:
            continue
        staged = decode_or_none(item.value, _Staged)
        action = staged.spec.staged_action if staged is not None else ""
        if action in ("Set", "Delete"):
            return {real.key(name): _as_kind(item.value, real) if action == "Set" else None}
    return {}


def _as_kind(value: bytes, info: KindInfo) -> bytes:
    """The same object as one of another kind."""
    body = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    said = {"kind": info.kind, "apiVersion": info.api_version}
    return msgspec.json.encode({**body, **{key: msgspec.Raw(msgspec.json.encode(one)) for key, one in said.items()}})


def compare_flows(staged: Cluster, now: Iterable[Flow], then: Iterable[Flow]) -> tuple[Otherwise | None, ...]:
    """For each flow that was explained, what would become of it, where that is something else.

    `then` are the flows of the staged cluster between the same two parties.
    """
    there = tuple(then)
    found: list[Otherwise | None] = []
    for flow in now:
        same = [one for one in there if one.packet == flow.packet]
        other = next((one for one in same if one.end.destination == flow.end.destination), same[0] if same else None)
        fares_otherwise = other is not None and other.fate is not flow.fate
        found.append(_otherwise(staged, flow.passages, other.passages) if other and fares_otherwise else None)
    return tuple(found)


def judge_records(
    cluster: Cluster, staged: Cluster, node: str, records: Iterable[FlowRecord]
) -> tuple[Otherwise | None, ...]:
    """For each flow that a node told of, what would become of it there: where that is something else than it was told
    to be, and than it is by the policies of now."""
    told = tuple(records)
    packets = [_packet(record) for record in told]
    addresses = frozenset(address for packet in packets for address in (packet.source, packet.destination))
    compiled: dict[str, tuple[CompiledNode, CompiledNode]] = {}
    found: list[Otherwise | None] = []
    for record, packet in zip(told, packets, strict=True):
        device = packet.in_interface
        if device not in compiled:
            compiled[device] = _compile(cluster, node, addresses, device), _compile(staged, node, addresses, device)
        now, then = (Passage(one, packet, verdict(one.kernel, packet)) for one in compiled[device])
        fate = then.verdict.fate
        same = fate is now.verdict.fate or _VERDICTS[fate] == record.verdict
        found.append(None if same else _otherwise(staged, (now,), (then,)))
    return tuple(found)


def _compile(cluster: Cluster, node: str, addresses: frozenset[Address], device: str) -> CompiledNode:
    """The node; where the packets came in by no pod's device, that is its uplink."""
    resources = tuple(cluster.resources(node, addresses, ()))
    local, uplink = cluster.local_addresses(node), cluster.uplink(node)
    compiled = compile_node(node, resources, local, uplink)
    of_pods = {endpoint.interface for endpoint in compiled.endpoints.values()}
    return compiled if not device or device in of_pods else compile_node(node, resources, local, device)


def _packet(record: FlowRecord) -> Packet:
    return Packet(
        parse_address(record.source.address),
        parse_address(record.destination.address),
        record.protocol,
        record.in_interface,
        record.source_port,
        record.destination_port,
        (record.icmp_type, record.icmp_code) if record.protocol in _ICMP else None,
    )


def _otherwise(staged: Cluster, now: tuple[Passage, ...], then: tuple[Passage, ...]) -> Otherwise:
    """Names what denies the packet then; or, where it is allowed, the first that allows it and did not before."""
    fate = then[-1].verdict.fate if then else Fate.ACCEPTED
    before = {_identity(one) for passage in now for one in read_passage(passage)}
    deciding = [one for passage in then for one in read_passage(passage) if one.said in _DECIDES]
    new = [one for one in deciding if _identity(one) not in before]
    if not deciding:
        return Otherwise(_VERDICTS[fate], "nothing that would stop it")
    said = deciding[-1] if fate is not Fate.ACCEPTED else (new or deciding)[0]
    return Otherwise(_VERDICTS[fate], said.default or describe_statement(staged, said), written_text(staged, said))


def _identity(said: Statement) -> tuple[object, ...]:
    return said.said, said.scope, said.direction, said.policy, said.profile, said.index, said.default
