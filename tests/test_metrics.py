"""The figures that follow from a process's status."""

from __future__ import annotations

from birdpy.l2.protocol import OwnedVip, Status
from felixpy.agent.services.figures import AllocatorFigures, announced_family, answered_families
from felixpy.metrics import derive_families
from felixpy.status.answers import BfdStatus, BgpStatus, MessagesStatus, NodeStatus, SessionStatus

SENT, GOT = MessagesStatus(1, 2, 3, 4, 5, 15), MessagesStatus(11, 12, 13, 14, 15, 65)
UP = SessionStatus(
    *("10.0.0.2", 64512, "Established", True, 60),
    received=7,
    accepted=5,
    advertised=2,
    sent=SENT,
    got=GOT,
    bfd=BfdStatus(True, 6, 7, 1),
    untold=1,
)
DOWN = SessionStatus("10.0.0.3", 64512, "Active", False, 5, "no connection", untold=3)


def test_bgp_tells_of_each_session_and_of_the_routes_in_the_kernel() -> None:
    bgp = BgpStatus(generation=4, sessions=(UP, DOWN), learned=9, installed=8, phase="frozen")
    found = {family.name: dict(family.rows) for family in derive_families(NodeStatus("n1", ("bgp",), bgp=bgp))}
    assert found["metallb_bgp_session_up"] == {("10.0.0.2",): 1, ("10.0.0.3",): 0}
    assert found["felixpy_bgp_session_state_seconds"] == {("10.0.0.2",): 60, ("10.0.0.3",): 5}
    assert found["felixpy_bgp_session_down"] == {("10.0.0.3", "no connection"): 1}
    assert found["felixpy_bgp_prefixes_accepted"][("10.0.0.2",)] == 5
    assert (found["felixpy_bgp_routes_learned"], found["felixpy_bgp_routes_installed"]) == ({(): 9}, {(): 8})
    assert found["felixpy_bgp_routes_frozen"] == {(): 1}


METALLB = {
    "allocator": """addresses_in_use_total addresses_total ipv4_addresses_in_use_total ipv4_addresses_total
        ipv6_addresses_in_use_total ipv6_addresses_total services_allocated_total""",
    "speaker": "announced",
    "layer2": "requests_received responses_sent gratuitous_sent",
    "bgp": """session_up announced_prefixes_total pending_prefixes_total updates opens_sent opens_received
        notifications_sent updates_total_received keepalives_sent keepalives_received route_refresh_sent total_sent
        total_received""",
    "bfd": "session_up control_packet_input control_packet_output session_down_events",
    "k8s_client": "config_loaded_bool config_stale_bool",
}
"""Its names by subsystem; `updates` is served as `updates_total`."""


def test_metallb_s_names_are_all_there() -> None:
    bgp = BgpStatus(generation=4, sessions=(UP, DOWN), announced=3, advertised=2)
    families = [
        *derive_families(NodeStatus("n1", ("bgp",), bgp=bgp, in_sync=True, revision=5)),
        *AllocatorFigures().families(),
        announced_family("n1", (), ()),
        *answered_families(Status()),
    ]
    found = {family.name: (family.labels, dict(family.rows)) for family in families}
    wanted = {f"metallb_{system}_{name}" for system, names in METALLB.items() for name in names.split()}
    assert wanted - found.keys() == set()
    assert {name for name in found if name.startswith("metallb_")} - wanted == set(), "and none that is not MetalLB's"
    assert {found[f"metallb_bgp_{name}"][0] for name in METALLB["bgp"].split()} == {("peer",)}
    figures = {name.removeprefix("metallb_"): rows.get(("10.0.0.2",)) for name, (_, rows) in found.items()}
    assert (figures["bgp_updates"], figures["bgp_updates_total_received"]) == (2, 12)
    assert (figures["bgp_announced_prefixes_total"], figures["bgp_pending_prefixes_total"]) == (2, 1)
    assert found["metallb_bgp_pending_prefixes_total"][1][("10.0.0.3",)] == 3, "each neighbour has its own"
    assert (figures["bgp_opens_sent"], figures["bgp_total_received"]) == (1, 65)
    assert (figures["bfd_session_up"], figures["bfd_control_packet_input"]) == (1, 7)
    assert found["metallb_bfd_session_up"][1].keys() == {("10.0.0.2",)}, "of those that have BFD"
    assert found["metallb_k8s_client_config_stale_bool"][1] == {(): 0}


def test_what_went_to_and_fro_for_an_address_is_of_all_interfaces() -> None:
    vips = [OwnedVip(device, "10.9.0.100", True, "", "", 3, 2, 10) for device in ("eth0", "eth1")]
    found = {family.name: dict(family.rows) for family in answered_families(Status(vips=tuple(vips)))}
    assert found["metallb_layer2_requests_received"] == {("10.9.0.100",): 6}
    assert found["metallb_layer2_responses_sent"] == {("10.9.0.100",): 4}
    assert found["metallb_layer2_gratuitous_sent"] == {("10.9.0.100",): 20}
