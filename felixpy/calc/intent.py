"""The Intent: what this node should be, in names. Calculations make it; the data plane turns it into objects.

Nothing here knows chains, marks or netlink. Sets are named by what they hold (SetSpec), policies by where they came
from, so that the same cluster state always gives the same Intent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Literal, NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import IcmpMatch, RuleAction, TierDefault
from felixpy.resources.tables import Table
from felixpy.resources.types import FloatingAddress
from felixpy.selector import Selector, render_selector


class PolicyId(NamedTuple):
    """A policy, by the table and name of its resource."""

    table: Table
    name: Name

    def __str__(self) -> str:
        return f"{self.table} {self.name}"


class ServiceMembers(NamedTuple):
    """The addresses behind a Service; with `ports`, each with the ports that it serves there."""

    service: Name
    ports: bool


class SetSpec(NamedTuple):
    """What an IP set holds: addresses and prefixes that a selector matches; with `port`, that named port of each.

    With `nodes`, the addresses of the nodes that it matches. Or, with `service`, what is behind a Service: `text`, the
    selector's canonical text, is empty then.
    """

    text: str
    port: tuple[int, str] | None = None
    """Protocol number and port name."""
    service: ServiceMembers | None = None
    nodes: bool = False

    @property
    def id(self) -> str:
        """A short stable name: 20 hexadecimal digits."""
        name = self.text
        if self.port is not None:
            name = f"{self.text} port {self.port[0]} {self.port[1]}"
        if self.service is not None:
            name = f"service {self.service.service}{' ports' if self.service.ports else ''}"
        if self.nodes:
            name = f"nodes {self.text}"
        return blake2b(name.encode(), digest_size=10).hexdigest()

    @property
    def has_ports(self) -> bool:
        """Whether members are address, protocol and port."""
        return self.port is not None or (self.service is not None and self.service.ports)


def set_of(selector: Selector, port: tuple[int, str] | None = None) -> SetSpec:
    """The set that holds what `selector` matches."""
    return SetSpec(render_selector(selector), port)


def node_set(selector: Selector) -> SetSpec:
    """The set that holds the addresses of the nodes that `selector` matches."""
    return SetSpec(render_selector(selector), nodes=True)


def service_set(service: Name, ports: bool) -> SetSpec:
    """The set that holds what is behind a Service."""
    return SetSpec("", service=ServiceMembers(service, ports))


@dataclass(frozen=True, slots=True)
class EntityTerms:
    """Conditions on one side of a packet; all must hold, empty ones do.

    `ports` and `port_sets` are alternatives of one condition. `port_sets` hold address, protocol and port.
    """

    nets: tuple[Prefix, ...] = ()
    not_nets: tuple[Prefix, ...] = ()
    sets: tuple[SetSpec, ...] = ()
    not_sets: tuple[SetSpec, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    port_sets: tuple[SetSpec, ...] = ()
    not_ports: tuple[tuple[int, int], ...] = ()
    not_port_sets: tuple[SetSpec, ...] = ()

    @property
    def all_sets(self) -> tuple[SetSpec, ...]:
        return self.sets + self.not_sets + self.port_sets + self.not_port_sets


@dataclass(frozen=True, slots=True)
class RuleTerms:
    """A policy rule with its selectors replaced by sets; `index` is its place among the rules that were written.

    `note` is its writer's remark.
    """

    action: RuleAction
    version: Literal[4, 6] | None
    protocol: int | None
    not_protocol: int | None
    icmp: IcmpMatch | None
    not_icmp: IcmpMatch | None
    source: EntityTerms
    destination: EntityTerms
    index: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RulesIntent:
    """The rules of a policy or profile, per direction (as the endpoint sees it), and a policy's tier."""

    ingress: tuple[RuleTerms, ...]
    egress: tuple[RuleTerms, ...]
    tier: str = ""


@dataclass(frozen=True, slots=True)
class TierIntent:
    """The policies of one tier that apply to an endpoint, in order, per direction."""

    name: str
    default_action: TierDefault
    ingress: tuple[PolicyId, ...]
    egress: tuple[PolicyId, ...]


class Stage(StrEnum):
    """Where on a packet's way the policies of a host endpoint decide."""

    NORMAL = "normal"
    """What the host's own processes receive and send."""
    FORWARD = "forward"
    """What passes through the host (applyOnForward)."""
    PRE_DNAT = "pre-dnat"
    """What comes in, before a Service's address is translated."""
    UNTRACKED = "untracked"
    """Everything, before connection tracking (doNotTrack)."""


@dataclass(frozen=True, slots=True)
class HostEndpointIntent:
    """An interface of this host (or all of them), and what may pass. Stages without policies have no tiers."""

    stages: Mapping[Stage, tuple[TierIntent, ...]]
    profiles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointIntent:
    """A local workload endpoint: its interface, its addresses and what may pass; `spoofed` as of WorkloadEndpoint."""

    interface: str
    addresses: tuple[Address, ...]
    mac: bytes
    tiers: tuple[TierIntent, ...]
    profiles: tuple[str, ...]
    floating: tuple[FloatingAddress, ...] = ()
    spoofed: tuple[Prefix, ...] = ()
