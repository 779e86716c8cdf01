"""What is stale, delta by delta."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.intent import EndpointIntent
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, ROUTE_PROTOCOL_WORKLOAD, DeviceAddress, Route, RouteType
from felixpy.dataplane.stale_flows import Forget, StaleFlows
from felixpy.resources.kinds import Name
from felixpy.resources.types import FloatingAddress
from tests.calc.service_world import ME, TCP, UDP, Change, at, backend, grant, service, service_of, slice_of, to

VIP = "203.0.113.1"
ONE, TWO = Name("default", "one"), Name("default", "two")


def pod(*addresses: str, device: str = "cali1", mac: bytes = b"") -> EndpointIntent:
    return EndpointIntent(device, tuple(map(parse_address, addresses)), mac, (), ())


def addresses(*texts: str) -> Forget:
    return Forget(frozenset(map(parse_address, texts)))


def test_addresses_that_an_endpoint_lost() -> None:
    flows = StaleFlows()
    flows.update_endpoints({ONE: pod("10.0.0.1", "fd00::1")})
    assert not flows.take(), "a new endpoint has nothing to forget"
    flows.update_endpoints({ONE: pod("10.0.0.1", "10.0.0.2")})
    assert flows.take() == addresses("fd00::1")
    flows.update_endpoints({ONE: None})
    assert flows.take() == addresses("10.0.0.1", "10.0.0.2")
    assert not flows.take(), "said once"


def test_a_floating_address_that_leads_elsewhere() -> None:
    flows = StaleFlows()
    there = FloatingAddress(parse_address("192.0.2.1"), parse_address("10.0.0.1"))
    flows.update_endpoints({ONE: replace(pod("10.0.0.1"), floating=(there,))})
    flows.update_endpoints({ONE: pod("10.0.0.1")})
    assert flows.take() == addresses("192.0.2.1")


def test_an_address_that_changes_hands_in_one_batch() -> None:
    flows = StaleFlows()
    flows.update_endpoints({ONE: pod("10.0.0.1")})
    flows.update_endpoints({TWO: pod("10.0.0.1", device="cali2"), ONE: None})
    assert flows.take() == addresses("10.0.0.1")


def test_another_pod_under_the_same_name() -> None:
    flows = StaleFlows()
    flows.update_endpoints({ONE: pod("10.0.0.1", mac=b"\2\0\0\0\0\1")})
    flows.update_endpoints({ONE: pod("10.0.0.1", mac=b"\2\0\0\0\0\2")})
    assert flows.take() == addresses("10.0.0.1")


def route(prefix: str, **fields: Any) -> Route:
    return Route(parse_prefix(prefix), ROUTE_PROTOCOL_WORKLOAD, **fields)


def test_routes_found_at_the_start_that_lead_to_nobody() -> None:
    flows = StaleFlows()
    pod_route = route("10.0.0.1/32", device="cali1")
    borrowed = route("10.0.0.2/32", device="vxlan.calico", gateway=parse_address("10.0.9.0"))
    grouped = route("10.0.0.4/32", nexthop_id=7)
    block = route("10.0.0.0/26", type=RouteType.BLACKHOLE)
    learned = replace(route("10.0.0.5/32", device="cali1"), protocol=ROUTE_PROTOCOL_LEARNED)
    flows.forget_routes(
        (pod_route, borrowed, grouped, block, learned, DeviceAddress("cali1", parse_prefix("10.0.0.6")))
    )
    assert flows.take() == addresses("10.0.0.1")


class Services:
    """Services whose deltas go to the flows."""

    def __init__(self, *changes: Change) -> None:
        self.calc, self.flows = ServiceCalc(ME), StaleFlows()
        self.update(grant(VIP, "a/x"), *changes)

    def update(self, *changes: Change) -> Forget:
        for change in changes:
            self.calc.update(*change)
        self.flows.update_frontends(self.calc.flush())
        return self.flows.take()


def udp_slice(*backends: str) -> Change:
    return slice_of("a/1", "x", *map(backend, backends), protocol=UDP)


def test_backends_of_a_udp_frontend_come_and_go() -> None:
    world, frontend = Services(service("a/x", service_of(protocol=UDP))), at(VIP, 80, UDP)
    one, two = to("10.0.0.1"), to("10.0.0.2")
    assert world.update(udp_slice("10.0.0.1")) == Forget(udp={frontend: frozenset({one})}), "the first"
    assert not world.update(udp_slice("10.0.0.1", "10.0.0.2")), "one more"
    assert world.update(udp_slice("10.0.0.2")) == Forget(udp={frontend: frozenset({two})})
    assert world.update(udp_slice()) == Forget(udp={frontend: frozenset()})
    world.update(udp_slice("10.0.0.1"))
    assert world.update(service("a/x", None)) == Forget(udp={frontend: frozenset()}), "the Service goes"


def test_tcp_is_let_end_by_itself() -> None:
    world = Services(service("a/x", service_of(protocol=TCP)))
    assert not world.update(slice_of("a/1", "x", backend("10.0.0.1")))
    assert not world.update(slice_of("a/1", "x"))
