"""Generated clusters: histories of resources, small enough to collide often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from felixpy.addresses import parse_address, parse_prefix
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import (
    EntityMatch,
    NetworkSet,
    Policy,
    PolicyRule,
    Profile,
    RuleAction,
    Tier,
    TierDefault,
)
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import Backend, BackendGroup, BackendPort, EndpointSlice
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import (
    FailsafePort,
    FelixConfiguration,
    HostEndpoint,
    NamedPort,
    Namespace,
    Node,
    NodeAddress,
    Pod,
    ServiceAccount,
    WorkloadEndpoint,
)
from felixpy.selector import parse_selector

History = Sequence[tuple[tuple[Ref, Resource | None], bool]]
"""Changes, each with whether a flush follows it."""

NODE = "n1"
INTERFACES = {
    "eth0": frozenset({parse_address("10.0.0.1"), parse_address("fd00::1")}),
    "eth1": frozenset({parse_address("10.0.0.2")}),
}
VALUES = ("x", "y", "z")
SELECTORS = tuple(
    parse_selector(text)
    for text in (
        "all()",
        "a == 'x'",
        "a != 'x'",
        "has(b)",
        "!has(b)",
        "a in {'x', 'y'} && has(b)",
        "a == 'z' || b starts with 'y'",
        "pcns.env == 'x'",
        "b not in {'x'}",
        "inherited == 'y'",
        "pcsa.role == 'x' || pcsa.projectcalico.org/name == 'sa2'",
    )
)

names = st.sampled_from(("p1", "p2", "p3", "p4", "p5"))
labels = st.dictionaries(st.sampled_from(("a", "b")), st.sampled_from(VALUES)).map(
    lambda one: tuple(sorted(one.items()))
)
addresses = st.lists(st.integers(1, 6).map(lambda n: parse_address(f"10.0.0.{n}")), max_size=2, unique=True).map(tuple)
profiles = st.lists(st.sampled_from(("pr1", "pr2", "kns.ns1", "ksa.ns1.sa1", "absent")), max_size=3).map(tuple)
ports = st.lists(
    st.sampled_from((NamedPort("web", 6, 80), NamedPort("web", 6, 81), NamedPort("dns", 17, 53))), max_size=2
)

endpoints = st.builds(
    WorkloadEndpoint,
    node=st.sampled_from((NODE, "n2")),
    interface=st.sampled_from(("cali1", "cali2")),
    workload=st.sampled_from(("pod1", "pod2", "")),
    orchestrator=st.sampled_from(("k8s", "cni")),
    addresses=addresses,
    labels=labels,
    profiles=profiles,
    ports=ports.map(tuple),
)
node_addresses = st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3")).map(
    lambda one: NodeAddress(parse_address(one), parse_prefix("10.0.0.0/24"))
)
nodes = st.builds(
    Node,
    labels=labels,
    ipv4=st.none() | node_addresses,
    vxlan_tunnel4=st.none() | st.just(parse_address("10.0.0.4")),
    others=st.sampled_from(((), ("10.0.0.1",), ("10.0.0.5", "fd00::5"))).map(
        lambda some: tuple(map(parse_address, some))
    ),
)
pods = st.builds(Pod, labels=labels, service_account=st.sampled_from(("", "sa1")), ports=ports.map(tuple))
configurations = st.builds(
    FelixConfiguration,
    values=st.sampled_from(
        (
            (("interfacePrefix", "eth,cali"),),
            (("defaultEndpointToHostAction", "ACCEPT"), ("logPrefix", "here")),
            (("interfacePrefix", 7), ("vxlanPort", 1)),
            (),
        )
    ),
    failsafe_in=st.sampled_from((None, (), (FailsafePort(6, 1),))),
)
hosts = st.builds(
    HostEndpoint,
    node=st.sampled_from((NODE, "n2")),
    interface=st.sampled_from(("", "eth0", "eth1", "*")),
    expected_addresses=addresses,
    labels=labels,
    profiles=profiles,
    ports=ports.map(tuple),
)
entities = st.builds(
    EntityMatch,
    selector=st.none() | st.sampled_from(SELECTORS),
    not_selector=st.none() | st.sampled_from(SELECTORS),
    port_names=st.sampled_from(((), ("web",))),
)
entities |= st.builds(EntityMatch, service=st.sampled_from((Name("ns1", "s1"), Name("ns1", "s2"))))
entities |= st.builds(EntityMatch, nodes=st.sampled_from(SELECTORS))
rules = st.lists(
    st.builds(
        PolicyRule, action=st.sampled_from(RuleAction), protocol=st.just(6), source=entities, destination=entities
    ),
    max_size=2,
).map(tuple)
policies = st.builds(
    Policy,
    tier=st.sampled_from(("default", "first", "absent", "kube-admin")),
    order=st.none() | st.sampled_from((1.0, 2.0)),
    selector=st.sampled_from(SELECTORS),
    applies_ingress=st.booleans(),
    applies_egress=st.booleans(),
    ingress=rules,
    egress=rules,
    do_not_track=st.just(False) | st.booleans(),
    pre_dnat=st.just(False) | st.booleans(),
    apply_on_forward=st.booleans(),
)
tiers = st.builds(Tier, order=st.none() | st.sampled_from((1.0, 5.0)), default_action=st.sampled_from(TierDefault))
made_profiles = st.builds(
    Profile,
    ingress=rules,
    egress=rules,
    labels_to_apply=st.sampled_from(((), (("inherited", "y"),), (("a", "x"), ("inherited", "z")))),
)
namespaces = st.sampled_from((Namespace(()), Namespace((("env", "x"),))))
accounts = st.sampled_from((ServiceAccount(()), ServiceAccount((("role", "x"),))))
network_sets = st.builds(
    NetworkSet,
    nets=st.lists(st.sampled_from(("10.1.0.0/16", "10.0.0.3/32", "fd00::/64")).map(parse_prefix), max_size=3).map(
        tuple
    ),
    labels=labels,
    profiles=profiles,
)
service_ports = st.lists(
    st.sampled_from((BackendPort("", 6, 80), BackendPort("dns", 17, 53))), max_size=2, unique=True
).map(tuple)
backends = st.builds(Backend, addresses=addresses, node=st.just(""), ready=st.booleans(), serving=st.just(True))
slices = st.builds(
    EndpointSlice,
    service=st.sampled_from(("s1", "s2")),
    groups=st.lists(st.builds(BackendGroup, st.lists(backends, max_size=2).map(tuple), service_ports), max_size=2).map(
        tuple
    ),
)


def change(table: Table, name: st.SearchStrategy[Name], value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.builds(Ref, st.just(table), name), st.none() | value)


pod_names = names.map(lambda name: Name("ns1", name))
global_names = names.map(lambda name: Name("", name))
changes = st.one_of(
    change(Table.WORKLOAD, pod_names, endpoints),
    change(Table.WORKLOAD, pod_names, endpoints),
    change(Table.GLOBAL_POLICY, global_names, policies),
    change(Table.NAMESPACED_POLICY, pod_names, policies),
    change(Table.CLUSTER_POLICY, global_names, policies),
    change(Table.TIER, st.sampled_from((Name("", "default"), Name("", "first"))), tiers),
    change(Table.PROFILE, st.sampled_from([Name("", one) for one in ("pr1", "pr2", "kns.ns1")]), made_profiles),
    change(Table.NAMESPACE, st.just(Name("", "ns1")), namespaces),
    change(Table.GLOBAL_NETWORK_SET, global_names, network_sets),
    change(Table.POD, st.sampled_from((Name("ns1", "pod1"), Name("ns1", "pod2"))), pods),
    change(Table.FELIX_CONFIGURATION, st.sampled_from((Name("", "default"), Name("", "node.n1"))), configurations),
    change(Table.HOST, global_names, hosts),
    change(Table.NODE, st.sampled_from((Name("", NODE), Name("", "n2"))), nodes),
    change(Table.SERVICE_ACCOUNT, st.just(Name("ns1", "sa1")), accounts),
    change(Table.SLICE, pod_names, slices),
    change(Table.ENDPOINTS, pod_names, slices),
)
histories = st.lists(st.tuples(changes, st.booleans()), max_size=25)
