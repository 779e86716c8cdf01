"""Which workloads a node peers with: any history of endpoints, profiles and peers against all of it from scratch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import format_address
from felixpy.addresses import parse_address
from felixpy.calc.bgp.scene import HostFacts, Scene, derive_scene
from felixpy.calc.bgp.speaker import derive_plan
from felixpy.calc.bgp.workloads import SelectedWorkloads, derive_selected
from felixpy.resources.bgp_types import BgpPeer
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import Profile
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Pod, WorkloadEndpoint
from felixpy.resources.view import View
from felixpy.selector import parse_selector
from tests.calc.bgp_world import ME, World

LABELS = st.sampled_from([(), (("role", "router"),), (("role", "web"),), (("zone", "a"),)])
ADDRESSES = st.sampled_from([("10.65.0.2",), ("10.65.0.2", "fd65::2"), ("10.65.0.3", "10.65.0.4"), ()])


def endpoint(node: str, addresses: tuple[str, ...], labels: tuple[tuple[str, str], ...]) -> WorkloadEndpoint:
    parsed = tuple(map(parse_address, addresses))
    return WorkloadEndpoint(node, "cali1", parsed, labels, ("zone",), workload="web", orchestrator="k8s")


def peer(selector: str) -> BgpPeer:
    return BgpPeer(None, None, 65000, workload_selector=parse_selector(selector) if selector else None)


CHANGES = st.one_of(
    st.tuples(
        st.builds(lambda name: Ref(Table.WORKLOAD, Name("default", name)), st.sampled_from("ab")),
        st.none() | st.builds(endpoint, st.sampled_from([ME, "n2"]), ADDRESSES, LABELS),
    ),
    st.tuples(st.just(Ref(Table.POD, Name("default", "web"))), st.none() | st.builds(Pod, labels=LABELS)),
    st.tuples(st.just(Ref(Table.PROFILE, Name("", "zone"))), st.none() | st.builds(Profile, labels_to_apply=LABELS)),
    st.tuples(
        st.builds(lambda name: Ref(Table.BGP_PEER, Name("", name)), st.sampled_from("xy")),
        st.none() | st.builds(peer, st.sampled_from(["", "role == 'router'", "has(zone)", "all()"])),
    ),
)


@given(st.lists(CHANGES, max_size=20))
def test_any_history_ends_as_from_scratch(changes: list[tuple[Ref, Resource | None]]) -> None:
    view, selected = View(), SelectedWorkloads(ME)
    for ref, value in changes:
        before = selected.addresses
        view.put(ref, value)
        assert selected.update(ref, value) is (selected.addresses != before)
        assert selected.addresses == derive_selected(view.tables, ME)


def with_workloads(world: World, *addresses: str) -> Scene:
    chosen = {"pods": tuple(map(parse_address, addresses))}
    scene = derive_scene(world.view.tables, ME, HostFacts(), chosen)
    assert isinstance(scene, Scene)
    return scene


def test_a_workload_is_waited_for_at_whichever_address_of_ours_it_knows() -> None:
    world = World().put("BGPPeer", "pods", {"localWorkloadSelector": "all()", "asNumber": 65001}, "projectcalico.org")
    world.put("BGPConfiguration", "default", {"localWorkloadPeeringIPV4": "169.254.0.179"})
    plan = derive_plan(with_workloads(world, "10.65.0.2", "fd65::2"), ())
    found = {format_address(one.address): one for one in plan.intent.neighbors.values() if one.asn == 65001}
    assert set(found) == {"10.65.0.2", "fd65::2"}
    assert all(one.passive and one.source is None for one in found.values())
    assert plan.visitors == {one.address for one in found.values()}
    assert [format_address(one) for one in plan.local_addresses] == ["169.254.0.179"]
    assert derive_plan(with_workloads(world), ()).local_addresses == (), "nobody is there to use it"


def test_what_the_node_does_not_listen_at_is_named() -> None:
    world = World().put("BGPPeer", "pods", {"localWorkloadSelector": "all()", "asNumber": 65001}, "projectcalico.org")
    world.put("BGPConfiguration", "default", {"localWorkloadPeeringIPV4": "169.254.0.179", "bindMode": "NodeIP"})
    ((what, why),) = [(one.what, one.why) for one in derive_plan(with_workloads(world, "10.65.0.2"), ()).refusals]
    assert what == "BGPConfiguration default"
    assert "localWorkloadPeeringIPV4" in why


def test_an_address_of_one_link_takes_nothing_else_of_the_configuration_with_it() -> None:
    world = World().put("BGPPeer", "pods", {"localWorkloadSelector": "all()", "asNumber": 65001}, "projectcalico.org")
    peering = {"localWorkloadPeeringIPV4": "169.254.0.179", "localWorkloadPeeringIPV6": "fe80::179"}
    world.put("BGPConfiguration", "default", {"asNumber": 64999, **peering})

    plan = derive_plan(with_workloads(world, "10.65.0.2"), ())

    assert plan.intent.speaker is not None
    assert plan.intent.speaker.asn == 64999
    assert [format_address(one) for one in plan.local_addresses] == ["169.254.0.179"]
    assert [one.why for one in plan.refusals] == [
        "localWorkloadPeeringIPV6: fe80::179 is of one link only, and every workload has one of its own"
    ]
