"""An ingress behind one address: client → router → VIP → nginx → the Service of each host name → pods."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter

import pytest

from tests.lab import claims
from tests.lab.ground import REPOSITORY
from tests.lab.sight import gateways
from tests.lab.topology import Topology, load_topology
from tests.lab.world import World
from tests.support.netns import Namespace
from tests.support.wait import eventually

CLIENT = {4: "172.26.9.2", 6: "2001:db8:39::2"}
NODES = {4: {"172.26.0.11", "172.26.0.12"}, 6: {"2001:db8:26::11", "2001:db8:26::12"}}
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"


WIDE = """
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: wide, namespace: metallb-system}
spec:
  ipAddressPools: [services]
  aggregationLength: 24
  aggregationLengthV6: 120
  communities: [here, "large:64513:1:2"]
  nodeSelectors: [{matchLabels: {edge: "yes"}}]
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: names, namespace: metallb-system}
spec: {communities: [{name: here, value: "64513:7"}]}
"""


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/ingress.clab.yml")


test_what_the_lab_claims = claims.test_what_the_lab_claims


def get(client: Namespace, address: str, host: str) -> dict[str, str] | None:
    """What the application says, as its words; None when the answer is another one, or none."""
    where = f"[{address}]" if ":" in address else address
    request = urllib.request.Request(f"http://{where}/", headers={"Host": host})
    try:
        with client.entered(), urllib.request.urlopen(request, timeout=2) as answer:
            asked, *words = answer.read().decode().split()
    except OSError:
        return None
    return {"host": asked, **dict(word.split("=", 1) for word in words)}


def vip(world: World, service: str, version: int = 4) -> str:
    address = eventually(lambda: world.service_address(version, name=service), 20)
    eventually(lambda: get(world.client, address, "orange.example"), 20, 0.1, f"{service} answers at {address}")
    return address


def addresses(world: World, app: str) -> set[str | None]:
    return {world.pod_address(pod) for pod in world.pods if dict(pod.labels)["app"] == app}


@pytest.mark.parametrize("service", ["ingress", "ingress-local"])
@pytest.mark.parametrize("version", [4, 6])
def test_each_host_name_leads_to_the_pods_of_its_own_service(world: World, service: str, version: int) -> None:
    address = vip(world, service, version)
    for app in ("orange", "blue"):
        answers = [get(world.client, address, f"{app}.example") for _ in range(30)]
        assert None not in answers
        assert {one["host"] for one in answers if one} == {f"{app}.example"}
        assert {one["pod"] for one in answers if one} == addresses(world, app)
    assert get(world.client, address, "nobody.example") is None


@pytest.mark.parametrize("version", [4, 6])
def test_with_policy_local_the_ingress_sees_the_client_and_else_a_node(world: World, version: int) -> None:
    seen = {
        service: {
            answer["client"]
            for address in [vip(world, service, version)]
            for _ in range(30)
            if (answer := get(world.client, address, "blue.example"))
        }
        for service in ("ingress", "ingress-local")
    }
    assert seen["ingress-local"] == {CLIENT[version]}
    assert seen["ingress"] <= NODES[version]


@pytest.mark.parametrize("version", [4, 6])
def test_the_router_sends_each_node_as_much_as_it_has_endpoints(world: World, version: int) -> None:
    address = vip(world, "ingress-local", version)
    eventually(lambda: sorted(weights(world, address).values()) == [33, 66], 20, 0.2, "two endpoints and one")
    address = vip(world, "ingress", version)
    assert len(set(weights(world, address).values())) == 1, "any node serves all"


def weights(world: World, address: str) -> dict[str, int]:
    """The router's kernel: the weight of each next hop to the address."""
    family = "-6" if ":" in address else "-4"
    (route,) = json.loads(world.lab.run(world.router, "ip", family, "-j", "route", "show", address))
    return {hop["gateway"]: hop["weight"] for hop in route.get("nexthops", ())}


def test_connections_go_to_the_pods_as_the_weights_say(world: World) -> None:
    address = vip(world, "ingress-local")
    eventually(lambda: sorted(weights(world, address).values()) == [33, 66], 20, 0.2)
    seen = Counter(answer["ingress"] for _ in range(120) if (answer := get(world.client, address, "blue.example")))
    assert sum(seen.values()) == 120
    assert len(seen) == 3, "each of the three pods had its share"


def test_several_advertisements_of_a_pool_reach_the_router_each_with_its_own(world: World) -> None:
    address = vip(world, "ingress")
    world.felixctl("apply", "-f", "-", stdin=WIDE)
    try:
        shown = eventually(lambda: "64513:7" in (text := paths(world, "172.26.100.0/24")) and text, 20, 0.2)
        assert len(json.loads(shown)["paths"]) == 1, "of the selected node"
        eventually(lambda: "64513:1:2" in paths(world, "2001:db8:100::/120"), 20, 0.2)
        alone = json.loads(paths(world, address))["paths"]
        assert [one.get("community", {}).get("string") for one in alone] == [None, None]
    finally:
        world.felixctl("delete", "-f", "-", stdin=WIDE)
    eventually(lambda: "paths" not in paths(world, "172.26.100.0/24"), 20, 0.2)


def test_a_drained_node_asks_first_and_then_withdraws_and_nobody_notices(world: World) -> None:
    address = vip(world, "ingress")
    eventually(lambda: len(weights(world, address)) == 2, 20, 0.2)
    label(world, True)
    try:
        shown = eventually(lambda: "graceful-shutdown" in (text := paths(world, address)) and text, 10)
        assert len(json.loads(shown)["paths"]) == 2, "still announced"
        eventually(lambda: gateways(world, world.router, address) == {"172.26.0.12"}, what="no more sent there")
        failed = 0
        while len(json.loads(paths(world, address))["paths"]) == 2:
            failed += get(world.client, address, "blue.example") is None
        failed += sum(get(world.client, address, "blue.example") is None for _ in range(30))
        assert failed == 0
    finally:
        label(world, False)
    eventually(lambda: len(weights(world, address)) == 2, 20, 0.2)
    assert "graceful-shutdown" not in paths(world, address)


def label(world: World, excluded: bool) -> None:
    """Labels n1 as one that takes no part in external load balancing, or no longer."""
    labels = {EXCLUDE: ""} if excluded else {}
    bgp = {"ipv4Address": "172.26.0.11/24", "ipv6Address": "2001:db8:26::11/64"}
    node = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": labels},
        "spec": {"bgp": bgp},
    }
    world.felixctl("apply", "-f", "-", stdin=json.dumps(node))


def paths(world: World, address: str) -> str:
    """The router's BGP paths to the address, or the prefix."""
    family, prefix = "ipv6" if ":" in address else "ipv4", address if "/" in address else f"{address}/32"
    command = f"show bgp {family} unicast {prefix} json"
    return world.lab.run(world.router, "vtysh", "--vty_socket", "/run/frr", "-c", command)
