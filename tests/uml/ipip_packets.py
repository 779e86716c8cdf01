"""IPIP between two nodes of two subnets, with real packets; runs where the kernel has ipip (see test_ipip.py).

Each node is a namespace that gets exactly the objects that the calculation asks for, through the route driver. There
is no nftables here, so chains are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from felixpy.addresses import parse_address
from felixpy.calc.tunnel_plan import HostDevice
from felixpy.calc.tunnels import TunnelCalc
from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.objects import ROUTE_PROTOCOL_WORKLOAD, Kind
from felixpy.dataplane.tunnel_objects import TunnelTables
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import in_namespace
from felixpy.reconcile import Reconciler
from tests.calc.tunnel_world import ALWAYS, CROSS, NEVER, Change, block, node, pool
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import ping_ok
from tests.support.wait import eventually

NODES = (
    node("n1", "192.0.2.1/24", ipip_tunnel="10.0.1.1"),
    node("n2", "198.51.100.1/24", ipip_tunnel="10.0.2.1"),
)
BLOCKS = (block("10.0.1.0/26", "n1"), block("10.0.2.0/26", "n2"))
PODS = {"n1": "10.0.1.5", "n2": "10.0.2.5"}


class Host:
    """One node: its namespace, and what it should hold."""

    def __init__(self, name: str, namespace: Namespace, address: str) -> None:
        self.namespace = namespace
        self.driver = in_namespace(namespace.path, lambda: RouteDriver(protocols=(ROUTE_PROTOCOL_WORKLOAD,)))
        self.calc = TunnelCalc(name)
        self.calc.put_devices({parse_address(address): HostDevice("up0", 1500)})
        self.ledger = Ledger()
        self.tables = TunnelTables(self.ledger)
        self.reconciler = Reconciler(self.driver, lambda _: {})

    def see(self, *changes: Change) -> int:
        """How many ops the changes cost, none of which may fail."""
        for change in changes:
            self.calc.update(*change)
        wanted = Changes()
        self.tables.translate(self.calc.flush(), wanted)
        held = {key: one for key, one in wanted.objects.items() if key.kind not in (Kind.CHAIN, Kind.SYSCTL)}
        self.reconciler.want(Changes(held))
        report = self.reconciler.apply()
        assert not report.failed, report.failed
        return report.applied

    def restart(self) -> int:
        """How many ops somebody needs who knows nothing but what is desired."""
        again = Reconciler(self.driver, lambda _: {})
        held = {key: one for key, one in self.ledger.desired().items() if key.kind not in (Kind.CHAIN, Kind.SYSCTL)}
        again.want(Changes(dict(held)))
        again.adopt()
        return again.apply().applied


@dataclass
class Ground:
    """Two nodes in two subnets, a pod on each, and a router that knows no pod."""

    hosts: dict[str, Host]
    pods: dict[str, Namespace]

    def see(self, *changes: Change) -> None:
        for host in self.hosts.values():
            host.see(*changes)

    def reach(self, size_bytes: int = 56) -> bool:
        pairs = (("n1", "n2"), ("n2", "n1"))
        return all(ping_ok(self.pods[one], PODS[other], wait_s=2, size_bytes=size_bytes) for one, other in pairs)


@pytest.fixture
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        router = stack.enter_context(Namespace.create("r"))
        router.sysctl(ipv4__ip_forward=1)
        hosts, pods = {}, {}
        for name, subnet in (("n1", "192.0.2"), ("n2", "198.51.100")):
            here = stack.enter_context(Namespace.create("n"))
            here.sysctl(ipv4__ip_forward=1)
            link_namespaces(
                here, "up0", router, name, left_addresses=[f"{subnet}.1/24"], right_addresses=[f"{subnet}.254/24"]
            )
            here.ip("route", "add", "default", "via", f"{subnet}.254")
            hosts[name] = Host(name, here, f"{subnet}.1")
            stack.callback(hosts[name].driver.close)
            pods[name] = stack.enter_context(Namespace.create("p"))
            link_namespaces(here, "cali0", pods[name], "eth0", right_addresses=[f"{PODS[name]}/32"])
            here.ip("route", "add", f"{PODS[name]}/32", "dev", "cali0")
            here.sysctl(ipv4__conf__cali0__proxy_arp=1)
            pods[name].ip("route", "add", "169.254.1.1", "dev", "eth0")
            pods[name].ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        yield Ground(hosts, pods)


def sent_packets(host: Host) -> int:
    """Packets that went into the tunnel."""
    line = host.namespace.ip("-s", "link", "show", "tunl0").splitlines()[-1]
    return int(line.split()[1])


def test_pods_reach_each_other_through_ipip(ground: Ground) -> None:
    ground.see(*NODES, *BLOCKS, pool("a", "10.0.0.0/16"))
    assert not ground.reach(), "the router knows no pod"
    for mode in (ALWAYS, CROSS):
        ground.see(pool("a", "10.0.0.0/16", ipip=mode))
        eventually(ground.reach)
    n1 = ground.hosts["n1"]
    before = sent_packets(n1)
    assert ground.reach(size_bytes=1500 - 20 - 28)
    assert sent_packets(n1) >= before + 2
    assert not ping_ok(ground.pods["n1"], PODS["n2"], size_bytes=1500 - 20 - 28 + 1)
    assert "10.0.1.1/32" in n1.namespace.ip("address", "show", "dev", "tunl0")
    assert [host.restart() for host in ground.hosts.values()] == [0, 0], "what is right is not touched"
    assert n1.see(node("n2", "198.51.100.1/24", ipip_tunnel="10.0.2.1")) == 0
    ground.see(pool("a", "10.0.0.0/16", ipip=NEVER))
    assert "UP" not in n1.namespace.ip("link", "show", "tunl0")
    assert "tunl0" not in n1.namespace.ip("route")
    assert n1.restart() == 0, "the kernel's own tunl0 is left alone"
    assert not ground.reach()
