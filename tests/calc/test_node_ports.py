"""Node ports, health checks and nearness: what a Service asks of every node, and which endpoints are near enough."""

from __future__ import annotations

import pytest

from felixpy.calc.reasons import Reason, Silent
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.calc.services.frontends import HealthCheck
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import HEALTH, Distribution, PortUse
from tests.calc.service_world import (
    LOCAL,
    ME,
    OTHER,
    TCP,
    UDP,
    Change,
    at,
    backend,
    grant,
    node,
    on_node,
    port_grant,
    service,
    service_of,
    slice_of,
    to,
)

VIP = "203.0.113.1"
WEB = PortUse(TCP, 80)


def world(*changes: Change) -> ServiceCalc:
    calc = ServiceCalc(ME)
    for change in changes:
        calc.update(*change)
    calc.flush()
    return calc


@pytest.mark.parametrize(
    ("families", "cluster", "versions"),
    [("4", "", {4}), ("6", "10.96.0.1", {6}), ("", "10.96.0.1", {4}), ("", "", {4, 6}), ("6 4", "", {4, 6})],
)
def test_a_node_port_is_of_the_families_of_its_service(families: str, cluster: str, versions: set[int]) -> None:
    calc = world(service("a/x", service_of("NodePort", node_port=30080, families=families, cluster=cluster)))
    assert {4 if len(one.address) == 4 else 6 for one in calc.frontends if one.is_node_port} == versions


def test_a_port_of_a_cluster_address_only_is_no_node_port() -> None:
    assert world(service("a/x", service_of("ClusterIP", node_port=30080))).frontends == {}


def test_a_granted_port_is_forwarded_for_what_it_was_granted() -> None:
    calc = world(
        port_grant(30080, "a/x", WEB, PortUse(UDP, 53)),
        service("a/x", service_of("NodePort", families="4")),
        slice_of("a/1", "x", backend("10.0.0.1")),
    )
    assert set(calc.frontends) == {on_node(30080)}
    assert calc.frontends[on_node(30080)].inside == (to("10.0.0.1"),)
    calc.update(*service("a/x", service_of("NodePort", families="4", port=443)))
    assert set(calc.flush().drops) == {on_node(30080)}


def test_who_holds_the_grant_of_a_port_has_it_and_else_the_first_by_name() -> None:
    both = [service(name, service_of("NodePort", node_port=30080, families="4")) for name in ("a/x", "b/y")]
    calc = world(*both)
    assert calc.frontends[on_node(30080)].service == Name("a", "x")
    calc.update(*port_grant(30080, "b/y", WEB))
    assert calc.flush().puts[on_node(30080)].service == Name("b", "y")
    assert calc.silences(Name("a", "x")) == {on_node(30080): Silent(Reason.TAKEN)}


def checks(*changes: Change) -> dict[Name, HealthCheck | None]:
    calc = ServiceCalc(ME)
    for change in changes:
        calc.update(*change)
    return dict(calc.flush().health)


def test_a_health_check_counts_the_ready_endpoints_of_this_node() -> None:
    backends = [
        backend("10.0.0.1", ME),
        backend("fd00::1", ME),
        backend("10.0.0.2", ME, "terminating"),
        backend("10.0.0.3", ME, "gone"),
        backend("10.0.1.1", OTHER),
    ]
    value = service_of(external_policy=LOCAL, health_port=31000)
    assert checks(service("a/x", value), slice_of("a/1", "x", *backends)) == {
        Name("a", "x"): HealthCheck(31000, Name("a", "x"), 1)
    }


def test_a_health_check_has_a_granted_port_and_goes_with_the_policy() -> None:
    calc = world(port_grant(31000, "a/x", HEALTH), service("a/x", service_of(external_policy=LOCAL)))
    calc.update(*slice_of("a/1", "x", backend("10.0.0.1", ME)))
    assert calc.flush().health == {Name("a", "x"): HealthCheck(31000, Name("a", "x"), 1)}
    calc.update(*service("a/x", service_of()))
    assert calc.flush().health == {Name("a", "x"): None}


EAST, WEST = backend("10.0.0.1", "e", zones="east"), backend("10.0.0.2", "w", zones="west")


def near(*changes: Change, zone: str = "east", **values: object) -> set[str]:
    """The last part of the addresses used at the cluster address."""
    value = service_of("ClusterIP", cluster="10.96.0.1", **values)  # type: ignore[arg-type]
    calc = world(node(zone), service("a/x", value), *changes)
    return {str(one.address[3]) for one in calc.frontends[at("10.96.0.1")].inside}


def test_endpoints_with_hints_for_the_zone_are_used_in_it() -> None:
    assert near(slice_of("a/1", "x", EAST, WEST)) == {"1"}
    assert near(slice_of("a/1", "x", EAST, WEST), zone="west") == {"2"}


@pytest.mark.parametrize("zone", ["north", ""])
def test_a_zone_that_no_hint_names_uses_all(zone: str) -> None:
    assert near(slice_of("a/1", "x", EAST, WEST), zone=zone) == {"1", "2"}


def test_one_endpoint_without_hint_switches_hints_off_unless_it_is_not_ready() -> None:
    assert near(slice_of("a/1", "x", EAST, WEST, backend("10.0.0.3"))) == {"1", "2", "3"}
    assert near(slice_of("a/1", "x", EAST, WEST, backend("10.0.0.3", state="gone"))) == {"1"}


def test_hints_for_the_node_come_before_those_for_its_zone() -> None:
    here = backend("10.0.0.3", ME, zones="west", nodes=ME)
    there = backend("10.0.0.4", OTHER, zones="east", nodes=OTHER)
    assert near(slice_of("a/1", "x", here, there)) == {"3"}
    assert near(slice_of("a/1", "x", there)) == {"4"}


def test_without_hints_the_service_s_wish_goes_by_where_endpoints_run() -> None:
    slices = slice_of("a/1", "x", backend("10.0.0.1", ME, zone="east"), backend("10.0.0.2", OTHER, zone="east"),
                      backend("10.0.0.3", OTHER, zone="west"))  # fmt: skip
    assert near(slices) == {"1", "2", "3"}
    assert near(slices, distribution=Distribution.SAME_ZONE) == {"1", "2"}
    assert near(slices, distribution=Distribution.SAME_NODE) == {"1"}


def test_a_node_that_moves_uses_what_is_near_there() -> None:
    calc = world(grant(VIP, "a/x"), node("east"), service("a/x", service_of()), slice_of("a/1", "x", EAST, WEST))
    calc.update(*node("west"))
    assert calc.flush().puts[at(VIP)].outside == (to("10.0.0.2"),)


def test_policy_local_takes_the_local_endpoints_whatever_the_hints() -> None:
    mine = backend("10.0.0.9", ME, zones="west")
    calc = world(
        grant(VIP, "a/x"), node("east"), service("a/x", service_of(external_policy=LOCAL)),
        slice_of("a/1", "x", EAST, mine),
    )  # fmt: skip
    assert calc.frontends[at(VIP)].outside == (to("10.0.0.9"),)
    assert calc.frontends[at(VIP)].inside == (to("10.0.0.1"),)


def test_published_unready_endpoints_count_as_ready() -> None:
    slices = slice_of("a/1", "x", backend("10.0.0.1", state="gone"))
    assert near(slices) == set()
    assert near(slices, unready=True) == {"1"}
