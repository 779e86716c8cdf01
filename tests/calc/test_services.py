"""Frontends of Services: Kubernetes' rules one by one, and the incremental form against the one from scratch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.calc.reasons import Reason, Silent
from felixpy.calc.services import arbitration as services
from felixpy.calc.services.arbitration import ServiceCalc, ServiceDelta, derive_all
from felixpy.calc.services.frontends import Frontend, FrontendIntent, HealthCheck, derive_claims
from felixpy.kube.convert import GRANTED, convert
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, Name
from felixpy.resources.tables import Decoded, Table
from felixpy.resources.view import View
from tests.calc.service_world import (
    LOCAL,
    ME,
    OTHER,
    SERVICE_CHANGES,
    UDP,
    Change,
    at,
    backend,
    external_ranges,
    grant,
    service,
    service_of,
    slice_of,
    to,
    workload,
)

VIP = "203.0.113.1"
KUBE_SERVICE = BY_TYPE["v1", "Service"]


def world(*changes: Change) -> ServiceCalc:
    calc = ServiceCalc(ME)
    for change in changes:
        calc.update(*change)
    calc.flush()
    return calc


def vip_intent(*changes: Change) -> FrontendIntent:
    return world(grant(VIP, "a/x"), *changes).frontends[at(VIP)]


def test_a_granted_address_forwards_to_the_ready_endpoints() -> None:
    intent = vip_intent(
        service("a/x", service_of()),
        slice_of("a/1", "x", backend("10.0.0.2"), backend("10.0.0.1"), backend("10.0.0.3", state="gone")),
    )
    assert intent.inside == intent.outside == (to("10.0.0.1"), to("10.0.0.2"))
    assert not intent.keep_source
    assert intent.reason is None


def test_where_none_is_ready_the_terminating_ones_that_serve_go_on() -> None:
    intent = vip_intent(service("a/x", service_of()), slice_of("a/1", "x", backend("10.0.0.1", state="terminating")))
    assert intent.inside == (to("10.0.0.1"),)


def test_a_ready_endpoint_displaces_terminating_ones() -> None:
    backends = backend("10.0.0.1", state="terminating"), backend("10.0.0.2")
    assert vip_intent(service("a/x", service_of()), slice_of("a/1", "x", *backends)).inside == (to("10.0.0.2"),)


def test_endpoints_of_a_dead_node_do_not_count_while_another_has_some() -> None:
    calc = world(grant(VIP, "a/x"), service("a/x", service_of()), slice_of("a/1", "x", backend("10.0.0.1", OTHER)))
    calc.put_dead(frozenset({OTHER}))
    assert calc.flush() == ServiceDelta(), "a Service is not emptied on the strength of a guess"
    calc.update(*slice_of("a/2", "x", backend("10.0.0.2", "n3", "terminating")))
    assert calc.flush().puts[at(VIP)].outside == (to("10.0.0.2"),)
    calc.put_dead(frozenset())
    assert calc.flush().puts[at(VIP)].outside == (to("10.0.0.1"),)


def test_what_is_on_this_node_is_alive() -> None:
    calc = world(grant(VIP, "a/x"), service("a/x", service_of()), slice_of("a/1", "x", backend("10.0.0.1", ME)))
    calc.update(*slice_of("a/2", "x", backend("10.0.0.2", OTHER)))
    calc.put_dead(frozenset({ME, OTHER}))
    calc.flush()
    assert calc.frontends[at(VIP)].outside == (to("10.0.0.1"),)


def test_external_policy_local_takes_local_endpoints_from_outside_and_all_from_inside() -> None:
    intent = vip_intent(
        service("a/x", service_of(external_policy=LOCAL)),
        slice_of("a/1", "x", backend("10.0.0.1", ME), backend("10.0.1.1", OTHER)),
    )
    assert intent.outside == (to("10.0.0.1"),)
    assert intent.inside == (to("10.0.0.1"), to("10.0.1.1"))
    assert intent.keep_source


def test_external_policy_local_without_a_local_endpoint_is_silent_outside_only() -> None:
    intent = vip_intent(service("a/x", service_of(external_policy=LOCAL)), slice_of("a/1", "x", backend("10.0.1.1")))
    assert (intent.outside, intent.reason) == ((), Reason.NO_LOCAL_ENDPOINT)
    assert intent.inside == (to("10.0.1.1"),)


def test_local_terminating_endpoints_serve_outside_while_others_are_ready_elsewhere() -> None:
    intent = vip_intent(
        service("a/x", service_of(external_policy=LOCAL)),
        slice_of("a/1", "x", backend("10.0.0.1", ME, "terminating"), backend("10.0.1.1")),
    )
    assert intent.outside == (to("10.0.0.1"),)
    assert intent.inside == (to("10.0.1.1"),)


def test_internal_policy_local_concerns_the_cluster_address_from_everywhere() -> None:
    calc = world(
        service("a/x", service_of("ClusterIP", cluster="10.96.0.1", internal_policy=LOCAL)),
        slice_of("a/1", "x", backend("10.0.1.1")),
    )
    intent = calc.frontends[at("10.96.0.1")]
    assert (intent.inside, intent.outside, intent.reason) == ((), (), Reason.NO_LOCAL_ENDPOINT)


def test_no_endpoint_at_all_is_said_so_even_where_the_policy_is_local() -> None:
    assert vip_intent(service("a/x", service_of(external_policy=LOCAL))).reason is Reason.NO_ENDPOINT


def test_external_addresses_are_denied_unless_a_range_allows_them() -> None:
    calc = world(
        service("a/x", service_of("ClusterIP", external="198.51.100.1")), slice_of("a/1", "x", backend("10.0.0.1"))
    )
    assert calc.frontends == {}
    assert calc.silences(Name("a", "x")) == {at("198.51.100.1").address: Silent(Reason.EXTERNAL_ADDRESS_NOT_ALLOWED)}
    calc.update(*external_ranges("198.51.100.0/24"))
    assert set(calc.flush().puts) == {at("198.51.100.1")}


def test_an_external_address_never_takes_a_cluster_address_from_another_service() -> None:
    calc = world(
        external_ranges("10.96.0.0/16"),
        service("a/evil", service_of("ClusterIP", external="10.96.0.1")),
        service("b/good", service_of("ClusterIP", cluster="10.96.0.1")),
    )
    assert calc.frontends[at("10.96.0.1")].service == Name("b", "good")
    assert calc.silences(Name("a", "evil")) == {at("10.96.0.1"): Silent(Reason.TAKEN)}


def test_a_shared_address_serves_each_service_on_its_own_port() -> None:
    calc = world(
        grant(VIP, "a/x", "b/z"),
        service("a/x", service_of(port=80)),
        service("b/z", service_of(port=53, protocol=UDP)),
    )
    assert {frontend: intent.service.name for frontend, intent in calc.frontends.items()} == {
        at(VIP, 80): "x",
        at(VIP, 53, UDP): "z",
    }


def test_source_ranges_guard_the_granted_address_and_not_the_cluster_address() -> None:
    calc = world(grant(VIP, "a/x"), service("a/x", service_of(cluster="10.96.0.1", source_ranges="192.0.2.0/24")))
    assert [bool(calc.frontends[at(vip)].source_ranges) for vip in (VIP, "10.96.0.1")] == [True, False]


def test_each_family_goes_to_its_own_endpoints() -> None:
    calc = world(
        grant(VIP, "a/x"),
        grant("2001:db8::1", "a/x"),
        service("a/x", service_of()),
        slice_of("a/4", "x", backend("10.0.0.1")),
        slice_of("a/6", "x", backend("fd00::1")),
    )
    assert calc.frontends[at(VIP)].inside == (to("10.0.0.1"),)
    assert calc.frontends[at("2001:db8::1")].inside == (to("fd00::1"),)


@pytest.mark.parametrize(
    "value", [service_of("ExternalName"), service_of(label="service.kubernetes.io/service-proxy-name")]
)
def test_services_that_are_not_ours_to_forward_have_no_frontend(value: object) -> None:
    assert world(grant(VIP, "a/x"), service("a/x", value)).frontends == {}  # type: ignore[arg-type]


def test_a_grant_counts_for_services_of_type_load_balancer_only() -> None:
    calc = world(grant(VIP, "a/x"), service("a/x", service_of("ClusterIP", cluster="10.96.0.1")))
    assert set(calc.frontends) == {at("10.96.0.1")}


def load_balancer(class_name: str, *ingress: dict[str, str]) -> dict[str, Any]:
    """A Service as the API has it, with what its balancer says."""
    spec = {"type": "LoadBalancer", "loadBalancerClass": class_name, "ports": [{"name": "web", "port": 80}]}
    body = {"metadata": {"name": "x", "namespace": "a"}, "spec": spec}
    return {**body, "status": {"loadBalancer": {"ingress": list(ingress)}}}


def read(body: dict[str, Any]) -> Change:
    decoded = Decoder(ME).decode(b"/felixpy/resources/core/v1/services/a/x", json.dumps(body).encode())
    assert isinstance(decoded, Decoded)
    return decoded.ref, decoded.value


def test_an_address_that_a_foreign_controller_gave_leads_here_too_unless_its_balancer_connects_itself() -> None:
    given = ({"ip": VIP, "ipMode": "VIP"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "lb.example"})
    behind = slice_of("a/1", "x", backend("10.0.0.1"))
    assert world(read(load_balancer("cloud", *given)), behind).frontends[at(VIP)].outside == (to("10.0.0.1"),)
    assert set(world(read(load_balancer("cloud", *given)), behind).frontends) == {at(VIP)}
    assert not world(read(load_balancer("felixpy", *given)), behind).frontends, "what we give is in grants"


@pytest.mark.parametrize("load_balancer_class", ["cloud", "felixpy"])
def test_the_importer_keeps_what_another_controller_gave_and_not_what_we_did(load_balancer_class: str) -> None:
    body = load_balancer(load_balancer_class, {"ip": VIP})
    given, ours = convert(KUBE_SERVICE, body), convert(KUBE_SERVICE, granted(body, VIP))
    assert given is not None
    assert ours is not None
    assert json.loads(given.value)["status"] == {"loadBalancer": {"ingress": [{"ip": VIP}]}}
    assert "status" not in json.loads(ours.value)


def granted(body: dict[str, Any], address: str) -> dict[str, Any]:
    """As it is once we have put the address into its status."""
    return {**body, "metadata": {**body["metadata"], "annotations": {GRANTED: address}}}


def test_a_backend_without_a_node_is_local_where_a_local_endpoint_has_its_address() -> None:
    changes = service("a/x", service_of(external_policy=LOCAL)), slice_of("a/1", "x", backend("10.0.0.1", node=""))
    calc = world(grant(VIP, "a/x"), *changes)
    assert calc.frontends[at(VIP)].outside == ()
    calc.update(*workload("a/w", "10.0.0.1"))
    assert calc.flush().puts[at(VIP)].outside == (to("10.0.0.1"),)
    calc.update(workload("a/w")[0], None)
    assert calc.flush().puts[at(VIP)].outside == ()


def test_slices_count_before_the_older_endpoints() -> None:
    intent = vip_intent(
        service("a/x", service_of()),
        slice_of("a/x", "x", backend("10.0.0.9"), table=Table.ENDPOINTS),
        slice_of("a/1", "x", backend("10.0.0.1")),
    )
    assert intent.inside == (to("10.0.0.1"),)


def test_a_change_of_one_slice_reads_its_own_service_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calc = world(*(service(f"a/s{i}", service_of("ClusterIP", cluster=f"10.96.0.{i}")) for i in range(200)))
    derived: list[Name] = []

    def counting(name: Name, *others: Any) -> Any:
        derived.append(name)
        return derive_claims(name, *others)

    monkeypatch.setattr(services, "derive_claims", counting)
    calc.update(*slice_of("a/1", "s7", backend("10.0.0.1")))
    assert set(calc.flush().puts) == {at("10.96.0.7")}
    assert derived == [Name("a", "s7")]


@settings(max_examples=300)
@given(st.lists(st.tuples(SERVICE_CHANGES | st.frozensets(st.just(OTHER)), st.booleans()), max_size=60))
def test_incremental_and_from_scratch_agree_over_any_sequence(
    steps: list[tuple[Change | frozenset[str], bool]],
) -> None:
    calc, view = ServiceCalc(ME), View()
    dead: frozenset[str] = frozenset()
    kept: dict[Frontend, FrontendIntent] = {}
    health: dict[Name, HealthCheck] = {}

    def flush() -> None:
        delta = calc.flush()
        assert not delta.drops - kept.keys(), "dropped what was never put"
        assert all(kept.get(frontend) != intent for frontend, intent in delta.puts.items()), "put what was there"
        kept.update(delta.puts)
        for frontend in delta.drops:
            del kept[frontend]
        assert all(health.get(name) != check for name, check in delta.health.items()), "told what was known"
        health.update({name: check for name, check in delta.health.items() if check is not None})
        for name in (name for name, check in delta.health.items() if check is None):
            del health[name]
        assert kept == calc.frontends
        assert (kept, health) == derive_all(view.tables, ME, dead)

    for change, look in steps:
        if isinstance(change, frozenset):
            dead = change
            calc.put_dead(change)
        else:
            view.put(*change)
            calc.update(*change)
        if look:
            flush()
    flush()


@given(st.lists(SERVICE_CHANGES, max_size=30))
def test_emptying_the_world_leaves_nothing_behind(changes: list[Change]) -> None:
    calc = world(*changes)
    for ref, _ in changes:
        calc.update(ref, None)
    calc.flush()
    remaining = {key: value for key, value in vars(calc).items() if key not in ("node", "_external_ranges") and value}
    assert remaining == {}
