"""The policy model by its documentation, in plain loops over the resources: the definition that `verdict` must equal.

Knows no chain, mark, set or calculation of felixpy: only resources, selectors and addresses.
Source: Calico's reference documentation (NetworkPolicy, GlobalNetworkPolicy, Tier, Profile, and policy tiers);
felix/rules/endpoints.go for what precedes policy, felix/rules/policy.go for families, felix/calc/policy_sorter.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.rules import CtState, Side
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import (
    EntityMatch,
    IcmpMatch,
    NetworkSet,
    Policy,
    PolicyRule,
    Profile,
    RuleAction,
    Tier,
    TierDefault,
)
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import Backend, BackendPort, EndpointSlice
from felixpy.resources.tables import POLICY_TABLES, Table
from felixpy.resources.types import HostEndpoint, LabelPairs, Namespace, WorkloadEndpoint
from felixpy.selector import And, Not, Selector, compile_selector

Cluster = Mapping[Table, Mapping[Name, Resource]]

ALLOW_ALL = Profile((PolicyRule(RuleAction.ALLOW),), (PolicyRule(RuleAction.ALLOW),))
NEIGHBOUR_DISCOVERY = {130, 131, 132, 133, 135, 136}
VXLAN, IPIP, UDP, ICMP, ICMP6 = 4789, 4, 17, 1, 58


@dataclass(frozen=True)
class Decision:
    """Whether the packet passes the node, and what said so last."""

    allowed: bool
    why: str


def decide(cluster: Cluster, node: str, packet: Packet, local: frozenset[Address] = frozenset()) -> Decision:
    """What becomes of a packet that comes in on an interface of `node`."""
    source = next(iter(_local_endpoints(cluster, node, interface=packet.in_interface)), None)
    target = next(iter(_local_endpoints(cluster, node, address=packet.destination)), None)
    from_workload = packet.in_interface.startswith("cali")
    if from_workload:
        duplicate_detection = not any(packet.source)
        if not duplicate_detection and (source is None or packet.source not in source.addresses):
            return Decision(False, "the source is not the workload's own")
    if packet.destination in local:
        return _to_host(cluster, packet, source, from_workload)
    if from_workload and source is None:
        return Decision(False, "an interface without endpoint")
    if (source or target) and packet.state in (CtState.ESTABLISHED, CtState.RELATED):
        return Decision(True, "part of a connection")
    if (source or target) and packet.state is CtState.INVALID:
        return Decision(False, "conntrack finds it invalid")
    if source is not None:
        leaving = _leave(cluster, packet, source)
        if not leaving.allowed:
            return leaving
    return _police(cluster, packet, target, "in") if target is not None else Decision(True, "no workload's")


def _to_host(cluster: Cluster, packet: Packet, source: WorkloadEndpoint | None, from_workload: bool) -> Decision:
    """What a workload sends to its own host: neighbour discovery, and else nothing."""
    if not from_workload:
        return Decision(True, "from elsewhere to the host")
    if packet.protocol == ICMP6 and packet.version == 6 and packet.icmp and packet.icmp[0] in NEIGHBOUR_DISCOVERY:
        return Decision(True, "neighbour discovery")
    if source is None:
        return Decision(False, "an interface without endpoint")
    if packet.state in (CtState.ESTABLISHED, CtState.RELATED):
        return Decision(True, "part of a connection")
    return Decision(False, "to its host")


def _leave(cluster: Cluster, packet: Packet, source: WorkloadEndpoint) -> Decision:
    if packet.protocol == UDP and packet.destination_port == VXLAN:
        return Decision(False, "VXLAN from a workload")
    if packet.protocol == IPIP:
        return Decision(False, "IPIP from a workload")
    return _police(cluster, packet, source, "out")


def _local_endpoints(
    cluster: Cluster, node: str, interface: str = "", address: bytes = b""
) -> Iterator[WorkloadEndpoint]:
    for _, endpoint in sorted(cluster[Table.WORKLOAD].items()):
        if not isinstance(endpoint, WorkloadEndpoint) or endpoint.node != node:
            continue
        if endpoint.interface == interface or address in endpoint.addresses:
            yield endpoint


def _police(cluster: Cluster, packet: Packet, endpoint: WorkloadEndpoint, way: str) -> Decision:
    """Tiers in order, then profiles, then no."""
    labels = labels_of(cluster, endpoint.labels, endpoint.profiles)
    for name, tier, policies in tiers_of(cluster, labels, way):
        outcome = first_action(cluster, packet, (rule for policy in policies for rule in rules_of(policy, way)))
        if outcome is RuleAction.ALLOW:
            return Decision(True, f"{way}: a rule of tier {name}")
        if outcome is RuleAction.DENY:
            return Decision(False, f"{way}: a rule of tier {name}")
        if outcome is None and tier.default_action is TierDefault.DENY:
            return Decision(False, f"{way}: the end of tier {name}")
    for name in endpoint.profiles:
        profile = find_profile(cluster, name)
        if profile is None:
            return Decision(False, f"{way}: profile {name} is not there")
        outcome = first_action(cluster, packet, rules_of(profile, way))
        if outcome is RuleAction.ALLOW:
            return Decision(True, f"{way}: profile {name}")
        if outcome is RuleAction.DENY:
            return Decision(False, f"{way}: profile {name}")
    return Decision(False, f"{way}: no profile allows it")


def for_workloads(policy: Policy) -> bool:
    """Whether a policy is for workloads as well as for hosts."""
    return not (policy.do_not_track or policy.pre_dnat)


def tiers_of(
    cluster: Cluster, labels: Mapping[str, str], way: str, counts: Callable[[Policy], bool] = for_workloads
) -> list[tuple[str, Tier, list[Policy]]]:
    """The tiers that have a policy for the endpoint and the direction; a tier that is not there is last and denies."""
    chosen: dict[str, list[tuple[float, str, Policy]]] = {}
    for table in POLICY_TABLES:
        for name, policy in cluster[table].items():
            if not isinstance(policy, Policy) or not counts(policy):
                continue
            applies = policy.applies_ingress if way == "in" else policy.applies_egress
            if applies and compile_selector(policy.selector)(labels):
                order = inf if policy.order is None else policy.order
                chosen.setdefault(policy.tier, []).append((order, f"{name.name}/{name.namespace}/{table}", policy))
    found = []
    for name, policies in chosen.items():
        stored = cluster[Table.TIER].get(Name("", name))
        tier = stored if isinstance(stored, Tier) else None
        order = inf if tier is None or tier.order is None else tier.order
        ranked = [policy for *_, policy in sorted(policies, key=lambda one: one[:2])]
        found.append(((tier is None, order, name), tier or Tier(None, TierDefault.DENY), ranked))
    return [(rank[2], tier, ranked) for rank, tier, ranked in sorted(found, key=lambda one: one[0])]


def rules_of(rules: Policy | Profile, way: str) -> tuple[PolicyRule, ...]:
    return rules.ingress if way == "in" else rules.egress


def first_action(cluster: Cluster, packet: Packet, rules: Iterable[PolicyRule]) -> RuleAction | None:
    """The action of the first rule that matches and is not Log; None when no rule does."""
    for rule in rules:
        if rule.action is not RuleAction.LOG and _matches(cluster, packet, rule):
            return rule.action
    return None


def _matches(cluster: Cluster, packet: Packet, rule: PolicyRule) -> bool:
    if rule.version not in (None, packet.version) or not _exists(rule, packet.version):
        return False
    if rule.protocol not in (None, packet.protocol) or rule.not_protocol == packet.protocol:
        return False
    if rule.icmp is not None and not (_is_icmp(packet) and _icmp_is(packet, rule.icmp)):
        return False
    if rule.not_icmp is not None and not (_is_icmp(packet) and not _icmp_is(packet, rule.not_icmp)):
        return False
    return _side(cluster, packet, rule.source, "source") and _side(cluster, packet, rule.destination, "destination")


def _exists(rule: PolicyRule, version: int) -> bool:
    """A rule with a list of nets that are all of the other family does not exist; nor does one that excludes all."""
    for entity in (rule.source, rule.destination):
        for nets in (entity.nets, entity.not_nets):
            if nets and all(net.version != version for net in nets):
                return False
        if any(net.version == version and net.length == 0 for net in entity.not_nets):
            return False
    return True


def _is_icmp(packet: Packet) -> bool:
    return packet.protocol == (ICMP if packet.version == 4 else ICMP6)


def _icmp_is(packet: Packet, match: IcmpMatch) -> bool:
    assert packet.icmp is not None
    return packet.icmp[0] == match.type and match.code in (None, packet.icmp[1])


def _side(cluster: Cluster, packet: Packet, entity: EntityMatch, side: Side) -> bool:
    if entity.service is None:
        return _entity(cluster, packet, entity, packet.address(side), packet.port(side))
    return any(
        packet.address(side) in backend.addresses
        and (side == "source" or any((one.protocol, one.port) == (packet.protocol, packet.port(side)) for one in ports))
        for backend, ports in _behind(cluster, entity.service)
    )


def _behind(cluster: Cluster, service: Name) -> Iterator[tuple[Backend, tuple[BackendPort, ...]]]:
    """What is behind a Service, ready or not, with the ports served there."""
    for name, one in cluster[Table.SLICE].items():
        assert isinstance(one, EndpointSlice)
        if Name(name.namespace, one.service) == service:
            yield from ((backend, group.ports) for group in one.groups for backend in group.backends)


def _entity(cluster: Cluster, packet: Packet, entity: EntityMatch, address: Address, port: int) -> bool:
    if entity.nets and not _in(address, entity.nets):
        return False
    if _in(address, entity.not_nets):
        return False
    chosen = entity.selector
    if chosen is not None and entity.not_selector is not None:
        chosen = And((chosen, Not(entity.not_selector)))
    elif entity.not_selector is not None and _selected(cluster, entity.not_selector, address):
        return False
    if chosen is not None and not _selected(cluster, chosen, address):
        return False
    if entity.ports or entity.port_names:
        numbers = any(low <= port <= high for low, high in entity.ports)
        names = any(_named(cluster, packet, name, address, port, chosen) for name in entity.port_names)
        if not (numbers or names):
            return False
    if any(low <= port <= high for low, high in entity.not_ports):
        return False
    return not any(_named(cluster, packet, name, address, port, chosen) for name in entity.not_port_names)


def _in(address: Address, nets: Iterable[Prefix]) -> bool:
    return any(net.contains(address) for net in nets)


def _selected(cluster: Cluster, selector: Selector, address: Address) -> bool:
    """Whether an endpoint or network set that the selector matches has the address."""
    matches = compile_selector(selector)
    for table in (Table.WORKLOAD, Table.HOST, Table.NETWORK_SET, Table.GLOBAL_NETWORK_SET):
        for one in cluster[table].values():
            if isinstance(one, WorkloadEndpoint):
                holds = address in one.addresses
            elif isinstance(one, HostEndpoint):
                holds = address in one.expected_addresses
            else:
                assert isinstance(one, NetworkSet)
                holds = _in(address, one.nets)
            if holds and matches(labels_of(cluster, one.labels, one.profiles)):
                return True
    return False


def _named(cluster: Cluster, packet: Packet, name: str, address: Address, port: int, selector: Selector | None) -> bool:
    """Whether an endpoint at the address, which the selector matches, calls the port by that name."""
    for table in (Table.WORKLOAD, Table.HOST):
        for one in cluster[table].values():
            assert isinstance(one, WorkloadEndpoint | HostEndpoint)
            addresses = one.addresses if isinstance(one, WorkloadEndpoint) else one.expected_addresses
            known = any((own.name, own.protocol, own.port) == (name, packet.protocol, port) for own in one.ports)
            labels = labels_of(cluster, one.labels, one.profiles)
            if address in addresses and known and (selector is None or compile_selector(selector)(labels)):
                return True
    return False


def labels_of(cluster: Cluster, own: LabelPairs, profiles: tuple[str, ...]) -> dict[str, str]:
    """Its own labels, and what its profiles give it: the first profile that has a label wins."""
    labels = dict(own)
    for name in profiles:
        profile = find_profile(cluster, name)
        for label, value in profile.labels_to_apply if profile is not None else ():
            labels.setdefault(label, value)
    return labels


def find_profile(cluster: Cluster, name: str) -> Profile | None:
    """A stored profile with its namespace's labels; a namespace's, which allows all, as the default one does."""
    stored = cluster[Table.PROFILE].get(Name("", name))
    namespace = cluster[Table.NAMESPACE].get(Name("", name.removeprefix("kns."))) if name.startswith("kns.") else None
    if isinstance(namespace, Namespace):
        named = {word: name.removeprefix("kns.") for word in ("projectcalico.org/name", "kubernetes.io/metadata.name")}
        labels = {f"pcns.{label}": value for label, value in (*namespace.labels, *named.items())}
        own = stored if isinstance(stored, Profile) else ALLOW_ALL
        return Profile(own.ingress, own.egress, tuple({**labels, **dict(own.labels_to_apply)}.items()))
    if isinstance(stored, Profile):
        return stored
    return ALLOW_ALL if name == "projectcalico-default-allow" else None
