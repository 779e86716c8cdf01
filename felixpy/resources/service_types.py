"""Services, their endpoints and addresses, and who announces them how, as calculations read them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.resources.kinds import Name
from felixpy.resources.types import LabelPairs
from felixpy.selector import Selector


class TrafficPolicy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


class Distribution(StrEnum):
    """Which endpoints a Service prefers (spec.trafficDistribution); PreferClose is the older word for the same zone."""

    ANY = ""
    SAME_ZONE = "PreferSameZone"
    SAME_NODE = "PreferSameNode"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service; `protocol` by number."""

    name: str
    protocol: int
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service, as far as forwarding, allocation and announcement read it.

    `requested` are addresses asked for, `pool` the pool asked for; `class_name` None means not said. `health_port` is
    where nodes tell a balancer outside whether they have endpoints; 0 means not said. `node_ports`: whether ports that
    have none are to get one. `publish_unready`: its endpoints count as ready whatever they say. `calico_pools` are the
    IPPools asked for, by name or CIDR. `given` are addresses that the controller of a foreign class says lead here;
    `had` those that another controller gave to a Service of ours before.
    """

    type: str
    ports: tuple[ServicePort, ...]
    cluster_addresses: tuple[Address, ...] = ()
    external_addresses: tuple[Address, ...] = ()
    requested: tuple[Address, ...] = ()
    pool: str = ""
    sharing_key: str = ""
    class_name: str | None = None
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    source_ranges: tuple[Prefix, ...] = ()
    families: tuple[int, ...] = ()
    family_policy: str = "SingleStack"
    affinity_timeout_s: int = 0
    labels: LabelPairs = ()
    selector: LabelPairs = ()
    created: str = ""
    health_port: int = 0
    node_ports: bool = True
    publish_unready: bool = False
    distribution: Distribution = Distribution.ANY
    calico_pools: tuple[str, ...] = ()
    uid: str = ""
    given: tuple[Address, ...] = ()
    had: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Hints:
    """Which zones and nodes should use a backend; nothing said where empty."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """One address behind a Service; `zone` is where it runs."""

    addresses: tuple[Address, ...]
    node: str
    ready: bool
    serving: bool
    terminating: bool = False
    zone: str = ""
    hints: Hints = Hints()


@dataclass(frozen=True, slots=True)
class BackendPort:
    """A port of every backend of a slice, by the Service port's name."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class BackendGroup:
    """Backends that serve the same ports."""

    backends: tuple[Backend, ...]
    ports: tuple[BackendPort, ...]


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Backends of one Service of the same namespace: an EndpointSlice, or the older Endpoints with its subsets.

    A `headless` one is for rules that name the Service; nothing forwards to it.
    """

    service: str
    groups: tuple[BackendGroup, ...]
    headless: bool = False


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Inclusive first and last address, of one family."""

    first: Address
    last: Address


@dataclass(frozen=True, slots=True)
class AddressPool:
    """A MetalLB IPAddressPool; a `draining` one gives out nothing more."""

    ranges: tuple[AddressRange, ...]
    auto_assign: bool = True
    avoid_buggy: bool = False
    priority: int = 0
    namespaces: tuple[str, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    namespace_selectors: tuple[Selector, ...] = ()
    labels: LabelPairs = ()
    draining: bool = False


PREPEND_MOST = 255
"""As much as fits into an octet, which is what MetalLB and GoBGP have for it."""


@dataclass(frozen=True, slots=True)
class BgpAdvertisement:
    """A MetalLB BGPAdvertisement; empty selections mean all. A pool is selected by name or by `pool_selectors`.

    `communities` are numbers with colons, or names that a Community gives; `peers` are names of BGPPeers. `prepend`: so
    many times more our AS stands in front of the path that other ASes are told.
    """

    pools: tuple[str, ...] = ()
    aggregation4: int = 32
    aggregation6: int = 128
    local_pref: int | None = None
    communities: tuple[str, ...] = ()
    node_selectors: tuple[Selector, ...] = ()
    peers: tuple[str, ...] = ()
    pool_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    prepend: int = 0


@dataclass(frozen=True, slots=True)
class CommunityAliases:
    """A MetalLB Community: names of communities, each with its number."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Nodes to prefer, and how much."""

    weight: int
    selector: Selector


@dataclass(frozen=True, slots=True)
class L2Advertisement:
    """A MetalLB L2Advertisement; empty selections mean all. A pool is selected by name or by `pool_selectors`."""

    pools: tuple[str, ...] = ()
    pool_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    node_selectors: tuple[Selector, ...] = ()
    preferences: tuple[Preference, ...] = ()
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """An address that the load balancer controller gave to Services (one, or several that share it)."""

    address: Address
    services: tuple[Name, ...]
    pool: str


class AnsweringClaim(NamedTuple):
    """An address that a node answers for on a segment, with its score there."""

    address: Address
    segment: str
    score: int


@dataclass(frozen=True, slots=True)
class Answering:
    """What one node answers for at layer 2, while it lives."""

    claims: tuple[AnsweringClaim, ...]


class PortUse(NamedTuple):
    """A port of a Service, by protocol number; HEALTH stands for its health check."""

    protocol: int
    port: int


HEALTH = PortUse(0, 0)


@dataclass(frozen=True, slots=True)
class PortGrant:
    """A port of every node that the controllers gave to a Service, and what for."""

    port: int
    service: Name
    uses: tuple[PortUse, ...]
