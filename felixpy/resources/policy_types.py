"""Policies, tiers, profiles and sets of networks, as calculations read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from felixpy.addresses import Prefix
from felixpy.resources.kinds import Name
from felixpy.resources.types import LabelPairs
from felixpy.selector import Selector


class RuleAction(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"
    LOG = "Log"
    PASS = "Pass"


@dataclass(frozen=True, slots=True)
class IcmpMatch:
    """ICMP type, and code where given."""

    type: int
    code: int | None = None


@dataclass(frozen=True, slots=True)
class EntityMatch:
    """What a rule asks of a packet's source or destination; empty parts ask nothing.

    `selector` already holds the namespace and service account parts. `ports` are inclusive ranges, `port_names` names.
    `service` is the only part where it is given: what is behind it; as a destination only at the ports served there.
    `nodes` are the nodes whose labels match.
    """

    nets: tuple[Prefix, ...] = ()
    not_nets: tuple[Prefix, ...] = ()
    selector: Selector | None = None
    not_selector: Selector | None = None
    ports: tuple[tuple[int, int], ...] = ()
    port_names: tuple[str, ...] = ()
    not_ports: tuple[tuple[int, int], ...] = ()
    not_port_names: tuple[str, ...] = ()
    service: Name | None = None
    nodes: Selector | None = None


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One ingress or egress rule; `index` is its place among the rules that were written, where some were left out.

    `note` is what its writer remarks, for people who read the kernel's rules.
    """

    action: RuleAction
    version: Literal[4, 6] | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    source: EntityMatch = field(default_factory=EntityMatch)
    destination: EntityMatch = field(default_factory=EntityMatch)
    index: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of either scope. `order` None means last; `selector` holds the namespace part."""

    tier: str
    order: float | None
    selector: Selector
    applies_ingress: bool
    applies_egress: bool
    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] = ()
    do_not_track: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False


class TierDefault(StrEnum):
    DENY = "Deny"
    PASS = "Pass"


@dataclass(frozen=True, slots=True)
class Tier:
    """A group of policies; `order` None means last."""

    order: float | None
    default_action: TierDefault = TierDefault.DENY


@dataclass(frozen=True, slots=True)
class Profile:
    """Rules and labels that endpoints take over by naming it."""

    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] = ()
    labels_to_apply: LabelPairs = ()


@dataclass(frozen=True, slots=True)
class NetworkSet:
    """Prefixes with labels (global or of a namespace)."""

    nets: tuple[Prefix, ...]
    labels: LabelPairs
    profiles: tuple[str, ...] = ()
