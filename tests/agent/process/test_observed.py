"""What Prometheus and a kubelet ask of a node, over HTTP as they do."""

from __future__ import annotations

import subprocess

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.agent.services.figures import announced_family
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import Grant
from tests.agent.node import Node, resource
from tests.agent.pages import fetch
from tests.agent.sandbox import call_plugin
from tests.support.netns import Namespace
from tests.support.wait import eventually

BAD = resource("GlobalNetworkPolicy", "default.bad", {"selector": "name =", "order": 1})


def configure(node: Node, **spec: object) -> None:
    node.put("felixconfigurations", resource("FelixConfiguration", "default", dict(spec)))


@pytest.fixture
def watched(node: Node) -> Node:
    """Its agent runs, and listens on all addresses where --metrics says."""
    node.agent = node.make_agent("--metrics", ":9091")
    node.agent.start()
    eventually(lambda: (page := fetch(node, "/readiness")) and page.status == 200, what="ready")
    return node


def test_figures_follow_what_the_node_holds(watched: Node) -> None:
    first = fetch(watched, "/metrics")
    assert first is not None
    before = first.figures()
    assert (before["felixpy_datastore_in_sync"], before["felix_active_local_endpoints"]) == (1, 0)
    assert before["process_resident_memory_bytes"] > 1e6
    watched.pod("a", "10.65.0.2").write()
    watched.put("globalnetworkpolicies", BAD)
    wanted = {"felix_active_local_endpoints": 1.0, "felixpy_broken_resources": 1.0}
    eventually(lambda: (page := fetch(watched, "/metrics")) and wanted.items() <= page.figures().items())


def test_cni_calls_are_counted_and_timed_by_stage(watched: Node) -> None:
    watched.put("ippools", resource("IPPool", "main", {"cidr": "10.64.0.0/24"}))
    with Namespace.create("s") as netns:
        eventually(lambda: call_plugin(watched, "ADD", "one", netns, "", {}).exit_status == 0)
        assert call_plugin(watched, "ADD", "two", netns, "", {"mtu": -1}).code == 7
        assert call_plugin(watched, "DEL", "one", netns, "", {}).exit_status == 0
    page = fetch(watched, "/metrics")
    assert page is not None
    for line in ('calls_total{code="7",verb="ADD"} 1.0', 'calls_total{code="0",verb="DEL"} 1.0'):
        assert f"felixpy_cni_{line}" in page.body
    for stage in ('stage="address",verb="ADD"', 'stage="programmed",verb="ADD"', 'stage="released",verb="DEL"'):
        assert f"felixpy_cni_stage_seconds_total{{{stage}}}" in page.body


def test_readiness_names_what_is_wrong(watched: Node) -> None:
    watched.put("globalnetworkpolicies", BAD)
    page = eventually(lambda: (page := fetch(watched, "/readiness")) and page.status == 503 and page)
    assert page is not None
    assert "globalnetworkpolicies/default.bad" in page.body
    alive = fetch(watched, "/liveness")
    assert alive is not None
    assert alive.status == 200


def test_felix_configuration_opens_moves_and_closes_the_pages(node: Node) -> None:
    node.agent.start()
    configure(node, prometheusMetricsEnabled=True, healthEnabled=True)
    eventually(lambda: fetch(node, "/metrics"), what="metrics at Calico's default port")
    eventually(lambda: fetch(node, "/liveness", at="127.0.0.1:9099"), what="health at Calico's default port")
    configure(node, prometheusMetricsEnabled=True, prometheusMetricsPort=9999, prometheusMetricsHost="127.0.0.1")
    eventually(lambda: fetch(node, "/metrics", at="127.0.0.1:9999"), what="metrics at the new port")
    eventually(lambda: fetch(node, "/metrics") is None and fetch(node, "/liveness", at="127.0.0.1:9099") is None)
    configure(node)
    eventually(lambda: fetch(node, "/metrics", at="127.0.0.1:9999") is None, what="nobody listens")


def test_a_port_that_is_taken_is_tried_again(node: Node) -> None:
    taker = subprocess.Popen(
        node.namespace.enter_argv(["python3", "-m", "http.server", "9091", "--bind", "0.0.0.0"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: fetch(node, "/"), what="the other program listens")
        node.agent = node.make_agent("--metrics", "127.0.0.1:9091")
        node.agent.start()
        eventually(lambda: "cannot listen at 127.0.0.1:9091" in node.log())
    finally:
        taker.kill()
        taker.wait()
    eventually(lambda: (page := fetch(node, "/metrics")) and "felixpy_" in page.body, within_s=20)


@pytest.mark.parametrize(
    ("path", "flags", "status"),
    [
        ("/nowhere", (), 404),
        ("/nowhere", ("-I",), 404),
        ("/readiness", ("-I",), 200),
        ("/metrics", ("-X", "POST", "-d", "x=1"), 405),
        ("/metrics", ("-H", f"X: {'y' * 40_000}"), 431),
        ("/metrics", ("-H", "Transfer-Encoding: nonsense"), 501),
    ],
)
def test_each_request_gets_its_status(watched: Node, path: str, flags: tuple[str, ...], status: int) -> None:
    page = fetch(watched, path, *flags)
    assert page is not None
    assert page.status == status


def test_how_full_the_pools_are_in_metallb_s_names() -> None:
    ours = "/felixpy/resources"
    with Node("agent,controllers") as node:
        node.agent = node.make_agent("--metrics", ":9091")
        node.agent.start()
        pool = {"metadata": {"name": "vips"}, "spec": {"addresses": ["203.0.113.0/30", "2001:db8::/127"]}}
        node.etcd.put(f"{ours}/metallb.io/v1beta1/ipaddresspools/metallb-system/vips", pool)
        service = {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}
        node.etcd.put(f"{ours}/core/v1/services/default/web", service)
        wanted = {
            'metallb_allocator_addresses_in_use_total{pool="vips"} 1.0',
            'metallb_allocator_addresses_total{pool="vips"} 6.0',
            'metallb_allocator_ipv4_addresses_in_use_total{pool="vips"} 1.0',
            'metallb_allocator_ipv6_addresses_total{pool="vips"} 2.0',
            'metallb_allocator_services_allocated_total{pool="vips"} 1.0',
        }
        eventually(lambda: (page := fetch(node, "/metrics")) and wanted <= set(page.body.splitlines()), within_s=20)


def test_an_address_is_announced_by_any_prefix_of_its_family_around_it() -> None:
    announced = [parse_prefix(one) for one in ("203.0.113.0/24", "198.51.100.7", "::/0", "198.0.0.0/9")]
    grants = [
        Grant(parse_address(one), (Name("a", one),), "p")
        for one in ("203.0.113.9", "203.0.114.9", "198.51.100.7", "198.128.0.1", "2001:db8::1")
    ]
    family = announced_family("n1", grants, announced)
    assert {row[0] for row in family.rows} == {"a/203.0.113.9", "a/198.51.100.7", "a/2001:db8::1"}
