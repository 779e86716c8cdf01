"""BGP as the agent reads it: configuration, peers and filters of Calico, peers and BFD profiles of MetalLB, passwords.

Parsed and checked values; the codec makes them. None and empty mean that nothing was said. Source: projectcalico/calico
api/pkg/apis/projectcalico/v3/{bgpconfig,bgppeer,bgpfilter}.go; metallb api/v1beta1, api/v1beta2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from felixpy.addresses import Address, Prefix
from felixpy.resources.bgp_extras import NO_EXTRAS, SessionExtras
from felixpy.selector import Selector


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Which text of which Secret; `namespace` "" is that of the agents."""

    name: str
    key: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Secret:
    """A Kubernetes Secret's texts by their keys. They are in no `repr`, and so in no log."""

    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    type: str = ""


@dataclass(frozen=True, slots=True)
class PrefixCommunities:
    """Communities for what lies inside a prefix, as numbers; `unknown` are names that no number is given for."""

    prefix: Prefix
    communities: tuple[str, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BgpConfiguration:
    """Global (`default`) or of one node (`node.<name>`)."""

    as_number: int | None = None
    mesh: bool | None = None
    listen_port: int | None = None
    service_cluster_cidrs: tuple[Prefix, ...] = ()
    service_external_cidrs: tuple[Prefix, ...] = ()
    service_lb_cidrs: tuple[Prefix, ...] = ()
    aggregate_lb: bool = True
    prefix_communities: tuple[PrefixCommunities, ...] | None = None
    mesh_password: SecretKey | None = None
    mesh_restart_s: int | None = None
    bind_to_node: bool | None = None
    normal_priority4: int | None = None
    normal_priority6: int | None = None
    workload_peering: tuple[Address, ...] = ()
    """At which addresses, one a family, every node speaks with its own workloads."""
    peering_on_links: tuple[Address, ...] = ()
    """Those that were asked for and are of one link only, where each workload has a link of its own."""
    extras: SessionExtras = NO_EXTRAS
    """Of the sessions of the mesh."""


class NextHopMode(StrEnum):
    """What becomes of the next hop of routes that a peer is told: the protocol's default, us, or what it was."""

    AUTO = "Auto"
    SELF = "Self"
    KEEP = "Keep"


@dataclass(frozen=True, slots=True)
class BgpPeer:
    """A peering that was asked for: by address, with the nodes that `peer_selector` selects, or with local workloads.

    `peer_range`: with whoever connects from it. `peer_port` None is the port of the node that has the address, else
    BGP's own. `legacy_keep`: keepOriginalNextHop, which holds for other ASes only.
    """

    peer_address: Address | None
    peer_port: int | None
    as_number: int | None
    node: str = ""
    node_selector: Selector | None = None
    peer_selector: Selector | None = None
    workload_selector: Selector | None = None
    local_as_number: int | None = None
    next_hop: NextHopMode = NextHopMode.AUTO
    legacy_keep: bool = False
    use_node_source: bool = True
    ttl_security_hops: int | None = None
    keepalive_s: int | None = None
    allow_local_as: int = 0
    reachable_by: Address | None = None
    password: SecretKey | None = None
    filters: tuple[str, ...] = ()
    max_restart_s: int | None = None
    reverse: bool = True
    peer_range: Prefix | None = None
    extras: SessionExtras = NO_EXTRAS


class MatchOperator(StrEnum):
    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


@dataclass(frozen=True, slots=True)
class AddCommunity:
    """Adds a community, given as numbers."""

    community: str


@dataclass(frozen=True, slots=True)
class PrependAsPath:
    """Makes the path begin with these ASes."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetPriority:
    """Gives the route a kernel metric."""

    priority: int


FilterOperation = AddCommunity | PrependAsPath | SetPriority


@dataclass(frozen=True, slots=True)
class FilterRule:
    """What a rule asks of a route, all of which must hold, and its verdict.

    `shortest` and `longest` bound the route's length within `cidr`. `external_peers` None: peers of any AS.
    `from_peers`: not those that this node originates.
    """

    accept: bool
    cidr: Prefix | None = None
    operator: MatchOperator = MatchOperator.IN
    shortest: int | None = None
    longest: int | None = None
    from_peers: bool = False
    interface: str = ""
    external_peers: bool | None = None
    community: str = ""
    as_path_prefix: tuple[int, ...] = ()
    priority: int | None = None
    operations: tuple[FilterOperation, ...] = ()


@dataclass(frozen=True, slots=True)
class BgpFilter:
    """A BGPFilter's rules, by direction and family."""

    import4: tuple[FilterRule, ...] = ()
    import6: tuple[FilterRule, ...] = ()
    export4: tuple[FilterRule, ...] = ()
    export6: tuple[FilterRule, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeakerPeer:
    """A MetalLB BGPPeer. Exactly one of `address` and `interface` is given.

    `asn` None takes the peer's own, which must be ours where `internal`, and another where not. `unsupported` names
    fields that ask for something that cannot be had.
    """

    my_asn: int
    asn: int | None
    internal: bool = False
    address: Address | None = None
    interface: str = ""
    local_asn: int | None = None
    port: int | None = None
    source: Address | None = None
    hold_time_s: int | None = None
    keepalive_s: int | None = None
    connect_retry_s: int | None = None
    router_id: Address | None = None
    node_selectors: tuple[Selector, ...] = ()
    password: str = field(default="", repr=False)
    password_secret: SecretKey | None = None
    bfd_profile: str = ""
    graceful_restart: bool | None = None
    multihop: bool | None = None
    both_families: bool = False
    unsupported: tuple[str, ...] = ()
    extras: SessionExtras = NO_EXTRAS


@dataclass(frozen=True, slots=True)
class BfdProfile:
    """A MetalLB BFDProfile; intervals in milliseconds. `unsupported` as in SpeakerPeer."""

    receive_ms: int = 300
    transmit_ms: int = 300
    multiplier: int = 3
    unsupported: tuple[str, ...] = ()
