"""What a speaker should be, as values: itself, its neighbours, what it announces and what it lets in and out.

In: composed by whoever knows the cluster. Out: compared with what gobgpd holds by `gobgp/plan.py`. Values only; nothing
here reads, sends or decides. Source: RFC 4271 (attributes, timers), RFC 4456 (reflection), RFC 4724 and RFC 9494
(graceful restart), RFC 5082 (TTL security), RFC 5880 (BFD).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from birdpy.addresses import Prefix, Version, version_of

BGP_PORT = 179
DEFAULT_HOLD_TIME_S = 90
DEFAULT_CONNECT_RETRY_S = 5
DEFAULT_RESTART_TIME_S = 120
"""As Calico's maxRestartTime."""
DEFAULT_DEFERRAL_TIME_S = 8
"""How long a restarting speaker waits for its neighbours' end-of-RIB before it announces.

GoBGP's own default of 360 s holds back every announcement for as long as one neighbour is down.
"""
MULTIHOP_TTL_MAX = 255
HOLD_TIME_S_MAX, RESTART_TIME_S_MAX = (1 << 16) - 1, (1 << 12) - 1
"""What the OPEN message has room for (RFC 4271 §4.2, RFC 4724 §3)."""
ANY_AS = 0
"""Of a neighbour whose AS is whatever it says it is."""

Community = int
"""RFC 1997: the AS in the upper 16 bits, the value in the lower."""
LargeCommunity = tuple[int, int, int]
"""RFC 8092: global administrator and two local parts, 32 bits each."""


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """RFC 4724 settings. `long_lived_s` above 0 adds RFC 9494: stale paths are kept so long after the restart time."""

    enabled: bool = True
    restart_time_s: int = DEFAULT_RESTART_TIME_S
    deferral_time_s: int = DEFAULT_DEFERRAL_TIME_S
    long_lived_s: int = 0


@dataclass(frozen=True, slots=True)
class Speaker:
    """This router. `router_id` is 4 bytes; `listen_port` -1 takes no connections; no listen address means all."""

    asn: int
    router_id: bytes
    listen_port: int = BGP_PORT
    listen_addresses: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Bfd:
    """RFC 5880 asynchronous mode: intervals in milliseconds, and how many lost packets mean down."""

    transmit_ms: int = 300
    receive_ms: int = 300
    multiplier: int = 3


@dataclass(frozen=True, slots=True)
class Reflection:
    """The neighbour is our client (RFC 4456); `cluster_id` is 4 bytes."""

    cluster_id: bytes


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A session to configure; `address` identifies it. Of ANY_AS, the neighbour counts as in another AS than ours.

    An address that stands for a prefix (`addresses.anyone_in`) means sessions with whoever connects from it, unless
    that is a neighbour by its own address, or in a longer prefix.

    `local_asn` 0 is the speaker's. `multihop_ttl` 0 keeps the default (1 to other ASes). `ttl_security_hops` above 0
    takes packets that crossed fewer hops only, and excludes multihop. `versions` are the address families carried.
    """

    address: bytes
    asn: int
    local_asn: int = 0
    port: int = BGP_PORT
    source: bytes | None = None
    password: str = field(default="", repr=False)
    hold_time_s: int = DEFAULT_HOLD_TIME_S
    keepalive_s: int = DEFAULT_HOLD_TIME_S // 3
    connect_retry_s: int = DEFAULT_CONNECT_RETRY_S
    passive: bool = False
    multihop_ttl: int = 0
    ttl_security_hops: int = 0
    allow_own_asn: int = 0
    reflection: Reflection | None = None
    versions: tuple[Version, ...] = ()
    prefix_limit: int = 0
    graceful_restart: GracefulRestart = GracefulRestart()
    bfd: Bfd | None = None

    @property
    def families(self) -> tuple[Version, ...]:
        """`versions`, or where that is empty the family of the session's own address."""
        return self.versions or (version_of(self.address),)


class LinkBandwidth(NamedTuple):
    """How much a neighbour that balances should send here, among those that announce the same prefix.

    `asn` is who says so, below 65536. Source: draft-ietf-idr-link-bandwidth §2.
    """

    asn: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A prefix that we originate. `next_hop` None is the local address of each session."""

    prefix: Prefix
    next_hop: bytes | None = None
    communities: tuple[Community, ...] = ()
    large_communities: tuple[LargeCommunity, ...] = ()
    local_pref: int | None = None
    med: int | None = None
    link_bandwidth: LinkBandwidth | None = None


class Direction(StrEnum):
    """Which way a statement filters, as seen from here."""

    IMPORT = "import"
    EXPORT = "export"


class RouteOrigin(StrEnum):
    """Where a path came from: an iBGP neighbour, an eBGP one, or ourselves."""

    INTERNAL = "internal"
    EXTERNAL = "external"
    LOCAL = "local"


class NextHopRule(StrEnum):
    """What an export does to the next hop.

    UNCHANGED is for paths that have one: GoBGP 3 sends none of ours with it that were given no next hop.
    """

    SELF = "self"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class PrefixRange:
    """Prefixes inside `prefix` whose length lies between the two, inclusive."""

    prefix: Prefix
    shortest: int
    longest: int


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold; None leaves one out, an empty tuple can hold for no path.

    `prefixes` are of one family. `communities`, `large_communities` and `next_hops` (GoBGP 4 takes no prefixes there):
    any of them. `as_path` are GoBGP's regular expressions (`^65000_`), any of them. `local_pref` is not to be had with
    GoBGP 3.
    """

    neighbors: tuple[bytes, ...] | None = None
    neighbors_negated: bool = False
    prefixes: tuple[PrefixRange, ...] | None = None
    prefixes_negated: bool = False
    version: Version | None = None
    communities: tuple[Community, ...] | None = None
    large_communities: tuple[LargeCommunity, ...] | None = None
    as_path: tuple[str, ...] | None = None
    next_hops: tuple[bytes, ...] | None = None
    origin: RouteOrigin | None = None
    local_pref: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a statement does to a path. `prepend` is an AS and how often. Communities are added or removed, not both."""

    add_communities: tuple[Community, ...] = ()
    add_large_communities: tuple[LargeCommunity, ...] = ()
    remove_communities: tuple[Community, ...] = ()
    local_pref: int | None = None
    med: int | None = None
    prepend: tuple[int, int] | None = None
    next_hop: NextHopRule | bytes | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """Paths that match are changed, and then accepted, rejected, or (`accept` None) go on to the next statement."""

    match: Match = Match()
    accept: bool | None = None
    change: Change = Change()


@dataclass(frozen=True, slots=True)
class Policy:
    """First verdict wins, in order; a path that meets none is accepted.

    `apart` are neighbours that a prefix among the neighbours of a statement does not mean, though they are in it.
    """

    imports: tuple[Statement, ...] = ()
    exports: tuple[Statement, ...] = ()
    apart: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BgpIntent:
    """All that a speaker should be now. Neighbours by address, advertisements by prefix.

    `speaker` None: there is to be none. One that runs becomes mute, with no neighbour and nothing to announce.
    """

    speaker: Speaker | None
    neighbors: Mapping[bytes, Neighbor] = field(default_factory=dict)
    advertisements: Mapping[Prefix, Advertisement] = field(default_factory=dict)
    policy: Policy = Policy()


def parse_community(text: str) -> Community:
    """`65000:100` → the number.

    Raises  ValueError when it is not two numbers of 16 bits.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) < 1 << 16 for part in parts):
        raise ValueError(f"{text!r} is no community (AS:value, each below 65536)")
    return int(parts[0]) << 16 | int(parts[1])


def parse_large_community(text: str) -> LargeCommunity:
    """`65000:1:2` → its parts; a leading `large:` is taken too.

    Raises  ValueError when it is not three numbers of 32 bits.
    """
    parts = text.removeprefix("large:").split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) < 1 << 32 for part in parts):
        raise ValueError(f"{text!r} is no large community (three numbers, each below 2^32)")
    return int(parts[0]), int(parts[1]), int(parts[2])


def format_community(community: Community) -> str:
    """`65000:100`."""
    return f"{community >> 16}:{community & 0xFFFF}"


def format_large_community(community: LargeCommunity) -> str:
    """`65000:1:2`."""
    return ":".join(str(part) for part in community)
