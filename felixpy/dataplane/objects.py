"""Kernel objects as values, and the ops that put and drop them.

Each object's `.key` is the kernel's own key, so that a conflict is an update and not a race. Devices are named, never
numbered: the driver resolves names. Set members are many and small, so they are not objects one by one: an op carries
a batch of them, and the reconciler keeps them per set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Literal, NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.rules import Rule

TABLE_MAIN = 254
ROUTE_PROTOCOL_WORKLOAD = 176
"""rtm_protocol of the routes to local workloads, blackholes and tunnels: felixpy's own."""
ROUTE_PROTOCOL_LEARNED = 177
"""rtm_protocol of the routes learned by BGP: birdpy's own."""


class Kind(StrEnum):
    """The kinds of object; `order.py` says what is put before what."""

    SYSCTL = "sysctl"
    LINK = "link"
    ADDRESS = "address"
    NEIGHBOUR = "neighbour"
    FDB = "fdb"
    SET = "set"
    CHAIN = "chain"
    NEXTHOP = "nexthop"
    IP_RULE = "ip_rule"
    ROUTE = "route"


class Key(NamedTuple):
    """Identity in the kernel: the kind, and the kernel's key as a tuple of plain values."""

    kind: Kind
    id: tuple[str | int | bytes, ...]


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A file under /proc/sys; `path` as `net/ipv4/conf/cali1/proxy_arp`. Dropping one leaves it as it is."""

    path: str
    value: str

    @property
    def key(self) -> Key:
        return Key(Kind.SYSCTL, (self.path,))


@dataclass(frozen=True, slots=True)
class VxlanSettings:
    """vni, UDP port, the parent device and the local address of the tunnel."""

    vni: int
    port: int
    parent: str
    local: Address


@dataclass(frozen=True, slots=True)
class IpipSettings:
    """A collect-anything ipip device (`tunl0`) or one with a local address."""

    local: Address | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A network device that we own. mtu in bytes (0 leaves it), mac 6 bytes (None leaves it).

    Without settings it must be there already. As read back, mtu and mac are always what the device has.
    """

    name: str
    settings: VxlanSettings | IpipSettings | None = None
    mtu: int = 0
    mac: bytes | None = None
    up: bool = True

    @property
    def key(self) -> Key:
        return Key(Kind.LINK, (self.name,))


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """An address on a device; `prefix.address` is the address itself (host bits kept)."""

    device: str
    prefix: Prefix

    @property
    def key(self) -> Key:
        return Key(Kind.ADDRESS, (self.device, self.prefix.address, self.prefix.length))


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry; with `proxy`, an address that the host answers for on that device (NTF_PROXY)."""

    device: str
    address: Address
    mac: bytes = b""
    proxy: bool = False

    @property
    def key(self) -> Key:
        return Key(Kind.NEIGHBOUR, (self.device, self.address, self.proxy))


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A static forwarding entry of a VXLAN device: frames for `mac` go to the host `destination`."""

    device: str
    mac: bytes
    destination: Address

    @property
    def key(self) -> Key:
        return Key(Kind.FDB, (self.device, self.mac))


@dataclass(frozen=True, slots=True)
class NextHop:
    """A kernel nexthop object: a gateway on a device, or a group of other nexthops by id (with equal weights)."""

    id: int
    gateway: Address | None = None
    device: str | None = None
    onlink: bool = False
    group: tuple[int, ...] = ()
    protocol: int = ROUTE_PROTOCOL_LEARNED
    blackhole: bool = False
    version: Literal[4, 6] = 4

    @property
    def key(self) -> Key:
        return Key(Kind.NEXTHOP, (self.id,))


class RouteType(IntEnum):
    """rtm_type (linux/rtnetlink.h)."""

    UNICAST = 1
    LOCAL = 2
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8


@dataclass(frozen=True, slots=True)
class Hop:
    """One leg of a multipath route."""

    gateway: Address | None
    device: str | None
    onlink: bool = False
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """A route of ours. metric is the kernel's (lower wins; 0 is the family's default), mtu in bytes (0: device's).

    `link_scope` is for IPv4: the kernel keeps no scope with an IPv6 route.
    """

    destination: Prefix
    protocol: int
    type: RouteType = RouteType.UNICAST
    device: str | None = None
    gateway: Address | None = None
    source: Address | None = None
    onlink: bool = False
    link_scope: bool = False
    nexthop_id: int | None = None
    hops: tuple[Hop, ...] = ()
    metric: int = 0
    table: int = TABLE_MAIN
    mtu: int = 0

    @property
    def kernel_metric(self) -> int:
        """The metric that the kernel keeps it under."""
        return self.metric or (1024 if self.destination.version == 6 else 0)

    @property
    def key(self) -> Key:
        return Key(Kind.ROUTE, (self.table, self.destination.address, self.destination.length, self.kernel_metric))


@dataclass(frozen=True, slots=True)
class IpRule:
    """A policy routing rule: packets with the mark look in `table`."""

    version: Literal[4, 6]
    priority: int
    mark: int
    mask: int
    table: int

    @property
    def key(self) -> Key:
        return Key(Kind.IP_RULE, (self.version, self.priority))


class SetType(StrEnum):
    """What a set's key is; concatenations are in nft's padding (each field to a multiple of 4 bytes)."""

    IPV4 = "ipv4_addr"
    IPV6 = "ipv6_addr"
    IPV4_PORT = "ipv4_addr . inet_proto . inet_service"
    IPV6_PORT = "ipv6_addr . inet_proto . inet_service"
    IPV4_IPV4 = "ipv4_addr . ipv4_addr"
    IPV6_IPV6 = "ipv6_addr . ipv6_addr"
    IPV4_PORT_SLOT = "ipv4_addr . inet_proto . inet_service . mark"
    IPV6_PORT_SLOT = "ipv6_addr . inet_proto . inet_service . mark"
    NODE_PORT = "inet_proto . inet_service"
    NODE_PORT_SLOT = "inet_proto . inet_service . mark"
    IPV4_OWNER = "ipv4_addr . mark . mark"
    IPV6_OWNER = "ipv6_addr . mark . mark"
    OWNER_SLOT = "mark . mark . mark"
    INTERFACE = "ifname"


class DataType(StrEnum):
    """What a map's value is; NONE makes it a set."""

    NONE = ""
    VERDICT = "verdict"
    IPV4 = "ipv4_addr"
    IPV6 = "ipv6_addr"
    IPV4_PORT = "ipv4_addr . inet_service"
    IPV6_PORT = "ipv6_addr . inet_service"


@dataclass(frozen=True, slots=True)
class Set:
    """A named set or map of our table. `interval` sets hold prefixes, which must not overlap (see `merge_prefixes`).

    The members of one that `ages` are the kernel's own business: rules put them there, and time takes them away.
    """

    name: str
    type: SetType
    data: DataType = DataType.NONE
    interval: bool = False
    ages: bool = False

    @property
    def key(self) -> Key:
        return Key(Kind.SET, (self.name,))


Members = Mapping[bytes, bytes]
"""Members of one set: encoded key → encoded data (b"" where the set is no map).

The key of an interval set is address followed by one byte of prefix length; otherwise it is the kernel's own bytes for
that SetType (ifname: the name without padding). Data of a verdict map is `jump NAME`, `goto NAME`, `drop`, `accept` or
`return` in ASCII; otherwise the kernel's own bytes.
"""


@dataclass(frozen=True, slots=True)
class BaseHook:
    """Where a base chain hangs: nft type, hook and priority, and what happens at its end."""

    type: Literal["filter", "nat", "route"]
    hook: Literal["prerouting", "input", "forward", "output", "postrouting"]
    priority: int
    policy: Literal["accept", "drop"] = "accept"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of our table, with all of its rules: replaced as a whole, in one transaction."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: BaseHook | None = None

    @property
    def key(self) -> Key:
        return Key(Kind.CHAIN, (self.name,))


@dataclass(frozen=True, slots=True)
class ChainSeen:
    """A chain as read back: rules only by the digests that we left beside them (a foreign rule's is b"")."""

    name: str
    digests: tuple[bytes, ...]
    hook: BaseHook | None = None

    @property
    def key(self) -> Key:
        return Key(Kind.CHAIN, (self.name,))


class Counts(NamedTuple):
    """What the kernel counted."""

    packets: int
    bytes: int


Object = Sysctl | Link | DeviceAddress | Neighbour | FdbEntry | NextHop | Route | IpRule | Set | Chain | ChainSeen


@dataclass(frozen=True, slots=True)
class Put:
    """Make it so, whatever is there under that key."""

    object: Object


@dataclass(frozen=True, slots=True)
class Drop:
    """Have nothing under that key; `last` is the object as last known, where the kernel wants more than a key."""

    key: Key
    last: Object | None = None


@dataclass(frozen=True, slots=True)
class PutMembers:
    """Add members to a set (or change their data)."""

    set: Set
    members: Members


@dataclass(frozen=True, slots=True)
class DropMembers:
    """Take members out of a set."""

    set: Set
    members: Members


Op = Put | Drop | PutMembers | DropMembers


_NO_MEMBERS: Members = MappingProxyType({})


def _no_members() -> Members:
    return _NO_MEMBERS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an op: `error` is None when it holds in the kernel, else the errno and text of why not.

    `refused`: which members of a PutMembers are not in, where the others are.
    """

    op: Op
    error: str | None = None
    errno: int = 0
    refused: Members = field(default_factory=_no_members)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a driver read: the objects it answers for, and the members of each set."""

    objects: Mapping[Key, Object] = field(default_factory=dict)
    members: Mapping[str, Members] = field(default_factory=dict)
