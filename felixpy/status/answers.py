"""How a node stands, as it says itself when it is asked: the values, their JSON, and where question and answer lie.

In: values; out: JSON both ways. Nodes write nothing by themselves: whoever wants to know
puts an Ask under a lease of their own, and each process answers under that lease once it has applied everything up to
the question. Lists are bounded, their true length beside them. Never decides what a node should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from msgspec import Struct, field, json

from felixpy.flows.records import FlowsAnswer, FlowsQuestion
from felixpy.resources.kinds import ANSWERS_PREFIX, ASK_PREFIX

FAILURES_SHOWN = 20
NEIGHBOURS_SHOWN = 5
DETAILS_SHOWN = 1000
"""The most of one kind that an answer holds, so that it stays far below etcd's limit of 1.5 MiB a request."""
ASK_TTL_S = 15
CONTROL_SOCKETS = ("agent.sock", "bgp.sock", "controllers.sock")
"""By role: a process listens at the first of these whose role it has."""
_ROLES = ("agent", "bgp", "controllers")

T = TypeVar("T")


class Want(StrEnum):
    """What an answer holds only when it is asked for."""

    ANNOUNCED = "announced"
    LEARNED = "learned"
    TUNNELLED = "tunnelled"
    SERVED = "served"


class Ask(Struct, frozen=True, rename="camel"):
    """A question to every node, or to `nodes` where there are any, for what is in `want` (values of Want) as well.

    Want.SERVED tells of `services` (`namespace/name`), or of as many as an answer holds; `chains` are those whose
    counts are wanted. Answers go under `lease`. With `flows` it asks for those instead: each agent answers with a
    FlowsAnswer.
    """

    lease: int
    want: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    flows: FlowsQuestion | None = None
    chains: tuple[str, ...] = ()


class Failure(Struct, frozen=True, rename="camel"):
    """An operation that did not succeed, in words that a person can paste into a shell, and why."""

    operation: str
    error: str


class BrokenResource(Struct, frozen=True, rename="camel"):
    """A value in the datastore that counts as missing; `place` is the field that is wrong, "" for the whole.

    With `in_part` it is the field alone that counts as missing.
    """

    key: str
    place: str = field(name="field")
    why: str
    in_part: bool = False

    def __str__(self) -> str:
        return f"{self.key}: {self.place}: {self.why}" if self.place else f"{self.key}: {self.why}"


class TunnelledPrefix(Struct, frozen=True, rename="camel"):
    """A route to what another node holds: through which device (a tunnel's, or the subnet's), and which gateway.

    `mode` is the pool's; `error` says why there is no way, so that the packets are dropped.
    """

    prefix: str
    holder: str
    mode: str
    device: str = ""
    gateway: str = ""
    error: str = ""


class KernelStatus(Struct, frozen=True, rename="camel"):
    """What should be in the kernel, and what of it is not. Not `started`: the datastore was not read yet.

    `unreached`: ways to other nodes, and tunnels, that cannot be as things stand in the datastore and on the host.
    `tunnelled`: routes to what other nodes hold; `pod_mtu` in bytes, 0 when it is not known. `contested`: what somebody
    keeps undoing, which is put right later each time.
    """

    started: bool
    endpoints: int = 0
    objects: int = 0
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    unreached: int = 0
    unreached_ways: tuple[Failure, ...] = ()
    tunnelled: int = 0
    tunnels: tuple[TunnelledPrefix, ...] = ()
    pod_mtu: int = 0
    contested: tuple[Failure, ...] = ()


class MessagesStatus(Struct, frozen=True, rename="camel"):
    """BGP messages that went one way, by kind."""

    opens: int = 0
    updates: int = 0
    notifications: int = 0
    keepalives: int = 0
    refreshes: int = 0
    total: int = 0


class BfdStatus(Struct, frozen=True, rename="camel"):
    """BFD with a neighbour: whether it is up, its control packets, and how often it went down."""

    up: bool
    sent: int = 0
    got: int = 0
    failures: int = 0


class SessionStatus(Struct, frozen=True, rename="camel"):
    """One BGP neighbour. `since_s` is the time that it has been up, or down; None when that is not known.

    For `accepted` of the `received` prefixes its path passed the import policy, and none is better. `asked_by` are
    names of BGPPeers, none for the mesh; `differences` say what of the session is not as was asked for. `untold`:
    how many prefixes of this node's own the neighbour is still to be told. A `visitor` comes when it likes, if ever.
    """

    address: str
    asn: int
    state: str
    established: bool
    since_s: int | None = field(default=None, name="sinceSeconds")
    last_error: str = ""
    received: int = 0
    accepted: int = 0
    advertised: int = 0
    asked_by: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    visitor: bool = False
    sent: MessagesStatus = MessagesStatus()
    got: MessagesStatus = MessagesStatus()
    bfd: BfdStatus | None = None
    untold: int = 0


class AnnouncedPrefix(Struct, frozen=True, rename="camel"):
    """A prefix that the node originates, what for, with which attributes, and for which peers (none means all).

    `prepend`: so many times more its AS is in front of the path that other ASes are told. `told` are neighbours that
    have been told of it, of `told_to` in all.
    """

    prefix: str
    why: str
    communities: tuple[str, ...] = ()
    local_pref: int | None = None
    peers: tuple[str, ...] = ()
    prepend: int = 0
    told: tuple[str, ...] = ()
    told_to: int = 0


class SilentPrefix(Struct, frozen=True, rename="camel"):
    """A prefix that the node holds and does not announce."""

    prefix: str
    reason: str


class FrontendStatus(Struct, frozen=True, rename="camel"):
    """An address (of a node port every address of the node, then 0.0.0.0 or ::), protocol and port of a Service.

    `inside` and `outside` are how many endpoints take connections from pods and the node, and from elsewhere; `reason`
    says why none. `programmed`: whether the kernel has it so; None when that is not known now.
    """

    service: str
    address: str
    protocol: int
    port: int
    origin: str
    inside: int = 0
    outside: int = 0
    reason: str = ""
    programmed: bool | None = None


class AnsweredAddress(Struct, frozen=True, rename="camel"):
    """An address that a node contends for on an interface; `mac` is where it was last heard to be.

    `owns`: this node answers for it. `foreign_mac` is a host's that is no node and answers for it too.
    """

    address: str
    interface: str
    owns: bool
    mac: str = ""
    foreign_mac: str = ""


class Layer2Status(Struct, frozen=True, rename="camel"):
    """Addresses at layer 2: for how many the node contends and for how many it does not; `error` of the responder.

    `own_answers`: why the kernel answers for some by itself.
    """

    wanted: int = 0
    silent: int = 0
    addresses: tuple[AnsweredAddress, ...] = ()
    silences: tuple[SilentPrefix, ...] = ()
    error: str = ""
    own_answers: tuple[str, ...] = ()


class LearnedPrefix(Struct, frozen=True, rename="camel"):
    """A route that neighbours taught; `error` says why the kernel does not have it.

    `teachers` are the neighbours' addresses, none where they have not spoken again since a restart.
    """

    prefix: str
    next_hops: tuple[str, ...]
    metric: int = 0
    error: str = ""
    teachers: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


class BgpStatus(Struct, frozen=True, rename="camel"):
    """The BGP role. `no_speaker` says why it speaks no BGP; `generation` is gobgpd's, 0 while it is away.

    `announced` is how many prefixes it should originate, `advertised` how many gobgpd has of them. `pending` are
    operations that are still to be done for gobgpd to be as asked. `phase` says how far the learned routes are known,
    of which the kernel has `installed`. `plain` says why they name gateways themselves; "" where nexthop objects do.
    `refusals`: what was asked for and cannot be had, by the object that asks. `contested`: as of the kernel.
    gobgpd has told its table so many times (`tables_heard`), and so many paths with that and one by one.
    """

    no_speaker: str = ""
    generation: int = 0
    sessions: tuple[SessionStatus, ...] = ()
    announced: int = 0
    advertised: int = 0
    silent: int = 0
    learned: int = 0
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    refused: int = 0
    refusals: tuple[Failure, ...] = ()
    announcements: tuple[AnnouncedPrefix, ...] = ()
    silences: tuple[SilentPrefix, ...] = ()
    routes: tuple[LearnedPrefix, ...] = ()
    installed: int = 0
    router_id: str = ""
    phase: str = ""
    pending: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    plain: str = ""
    contested: tuple[Failure, ...] = ()
    tables_heard: int = 0
    paths_heard: int = 0

    @property
    def established(self) -> int:
        """How many sessions are up."""
        return sum(session.established for session in self.sessions)


class ChainCount(Struct, frozen=True, rename="camel"):
    """What a node's kernel counted in one chain: since the node began, or the rules were last made anew."""

    chain: str
    packets: int
    bytes: int


class DeadNode(Struct, frozen=True, rename="camel"):
    """A node that looks dead from here: its endpoints are used only where no other node has any. `why` it was asked."""

    node: str
    why: str


class NodeStatus(Struct, frozen=True, rename="camel"):
    """How one process of a node stands, or (merged) all of them.

    `revision` is the last one that it has applied; `datastore` the syncer's phase, with why. `expected_roles` are those
    that a process of this node has had since the run directory was made. `cni_unready` None: CNI is served.
    """

    node: str
    roles: tuple[str, ...]
    version: str = ""
    revision: int = 0
    datastore: str = ""
    in_sync: bool = False
    expected_roles: tuple[str, ...] = ()
    broken: int = 0
    broken_resources: tuple[BrokenResource, ...] = ()
    kernel: KernelStatus | None = None
    bgp: BgpStatus | None = None
    layer2: Layer2Status | None = None
    served: tuple[FrontendStatus, ...] = ()
    cni_unready: str | None = None
    leader: bool = False
    counted: tuple[ChainCount, ...] = ()
    dead: tuple[DeadNode, ...] = ()


class ControlRequest(Struct, frozen=True, rename="camel"):
    """One line to the control socket: `status`, `accept-cluster` or `flows`."""

    op: str
    want: tuple[str, ...] = ()
    flows: FlowsQuestion | None = None


class ControlAnswer(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line back: the status; whether the cluster was accepted; the flows; or why none of these."""

    status: NodeStatus | None = None
    accepted: bool | None = None
    flows: FlowsAnswer | None = None
    error: str = ""


def ask_key(question: str) -> bytes:
    """Where a question lies."""
    return f"{ASK_PREFIX}{question}".encode()


def parse_ask_key(key: bytes) -> str | None:
    """The question that a key is; None for any other key."""
    text = key.decode("utf-8", "replace")
    name = text.removeprefix(ASK_PREFIX)
    return name if text.startswith(ASK_PREFIX) and name and "/" not in name else None


def answers_prefix(question: str) -> bytes:
    """What the keys of all answers to a question begin with."""
    return f"{ANSWERS_PREFIX}{question}/".encode()


def answer_key(question: str, node: str, roles: Iterable[str]) -> bytes:
    """Where one process of a node answers."""
    return answers_prefix(question) + f"{node}/{'+'.join(sorted(roles))}".encode()


def control_socket(roles: Iterable[str]) -> str:
    """The name of the socket of a process with these roles."""
    held = set(roles)
    return next(socket for role, socket in zip(_ROLES, CONTROL_SOCKETS, strict=True) if role in held)


def render(value: Struct) -> bytes:
    """The JSON of any value of this module."""
    return json.encode(value)


def parse(value: bytes, shape: type[T]) -> T:
    """A value of this module from its JSON; fields that are not known are passed over.

    Raises  ValueError when it is something else.
    """
    try:
        return json.decode(value, type=shape)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def merge_answers(answers: Sequence[NodeStatus]) -> NodeStatus:
    """One node's status out of those of its processes, of which there is at least one.

    Shape   what each role says of itself; the oldest revision; the worst of what they say of the datastore.
    """
    first = min(answers, key=lambda one: (one.in_sync, one.roles))
    return NodeStatus(
        node=first.node,
        roles=_sorted_roles(role for one in answers for role in one.roles),
        version=", ".join(sorted({one.version for one in answers})),
        revision=min(one.revision for one in answers),
        datastore=first.datastore,
        in_sync=first.in_sync,
        expected_roles=_sorted_roles(role for one in answers for role in one.expected_roles),
        broken=max(one.broken for one in answers),
        broken_resources=max((one.broken_resources for one in answers), key=len),
        kernel=next((one.kernel for one in answers if one.kernel is not None), None),
        bgp=next((one.bgp for one in answers if one.bgp is not None), None),
        layer2=next((one.layer2 for one in answers if one.layer2 is not None), None),
        served=max((one.served for one in answers), key=len),
        cni_unready=next((one.cni_unready for one in answers if one.cni_unready is not None), None),
        leader=any(one.leader for one in answers),
        counted=max((one.counted for one in answers), key=len),
        dead=max((one.dead for one in answers), key=len),
    )


def _sorted_roles(roles: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(roles)))
