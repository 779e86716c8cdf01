"""What a node's new address costs another node's kernel, as that tells it: one next hop, whatever leads there.

The whole agent, fed through etcd; the node that moves is a name in etcd, with some hundred blocks of each family.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from felixpy.dataplane.objects import ROUTE_PROTOCOL_WORKLOAD, RouteType
from felixpy.drivers.netlink.codec import split_messages
from felixpy.drivers.netlink.routes import RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkSocket, in_namespace
from tests.agent.node import Node, resource
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually

BLOCKS = 300
POOLS = {"pool4": ("10.64.0.0/16", 26), "pool6": ("fd64::/108", 122)}
NEAR, FAR, FURTHER = (("192.0.2.9/24", "2001:db8:2::9/64"), ("192.0.3.9/24", "2001:db8:3::9/64"),
                      ("192.0.4.9/24", "2001:db8:4::9/64"))  # fmt: skip
_ROUTES4, _ROUTES6, _NEXTHOPS = 1 << 6, 1 << 10, 1 << 31
"""Multicast groups: RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEXTHOP."""


def blocks(begin: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Blocks of the node that moves, of both families, as they are in etcd."""
    for number in range(begin, begin + count):
        for family, cidr in (
            ("ipv4", f"10.64.{128 + number // 4}.{number % 4 * 64}/26"),
            ("ipv6", f"fd64::8:{number * 64:x}/122"),
        ):
            body = {"cidr": cidr, "affinity": "host:n2", "allocations": [None] * 64, "attributes": []}
            key = f"/calico/ipam/v2/assignment/{family}/block/{cidr.replace('/', '-')}"
            yield key.encode(), json.dumps(body).encode()


def place(node: Node, where: tuple[str, str]) -> None:
    """Writes n2 with its addresses and those of its tunnels."""
    spec = {
        "bgp": dict(zip(("ipv4Address", "ipv6Address"), where, strict=True)),
        "ipv4VXLANTunnelAddr": "10.64.128.0",
        "ipv6VXLANTunnelAddr": "fd64::8:0",
    }
    node.put("nodes", resource("Node", "n2", spec))


@contextmanager
def kernel_messages(namespace: Namespace) -> Iterator[Callable[[], Counter[int]]]:
    """Counts what the kernel tells of our routes that lead somewhere and of nexthop objects, by type of message."""
    groups = _ROUTES4 | _ROUTES6 | _NEXTHOPS
    with in_namespace(namespace.path, lambda: NetlinkSocket(NETLINK_ROUTE, groups=groups)) as heard:
        counted: Counter[int] = Counter()

        def count() -> Counter[int]:
            with suppress(BlockingIOError):
                while True:
                    for one in split_messages(heard.receive(wait=False)):
                        leads = (one.body[5], one.body[7]) == (ROUTE_PROTOCOL_WORKLOAD, RouteType.UNICAST)
                        counted[one.type] += leads or one.type not in (RTM_NEWROUTE, RTM_DELROUTE)
            return counted

        yield count


@pytest.mark.parametrize("objects", [True, False], ids=["nexthop objects", "plain routes"])
def test_a_node_that_moves_costs_one_next_hop_of_each_family(objects: bool) -> None:
    """A kernel in its usual mode repeats each route of a next hop that changed: here only what we wrote is told of."""
    with Node() as node, Namespace.create("u") as other:
        n1 = node.namespace
        own = ["192.0.2.1/24", "2001:db8:2::1/64"]
        link_namespaces(n1, "eth0", other, "eth0", left_addresses=own, right_addresses=["192.0.2.2/24"])
        n1.ip("route", "add", "default", "via", "192.0.2.2")
        n1.ip("-6", "route", "add", "default", "via", "2001:db8:2::2")
        n1.sysctl(ipv4__nexthop_compat_mode=0)
        bgp = {"bgp": dict(zip(("ipv4Address", "ipv6Address"), own, strict=True))}
        node.put("nodes", resource("Node", "n1", bgp))
        place(node, FAR)
        node.etcd.put_all(blocks(0, BLOCKS))
        for name, (cidr, size) in POOLS.items():
            node.put("ippools", resource("IPPool", name, {"cidr": cidr, "blockSize": size, "vxlanMode": "CrossSubnet"}))
        node.agent = node.make_agent(*(() if objects else ("--nexthops", "none")))
        node.agent.start()

        def has(*prefixes: str) -> bool:
            return all(n1.ip("-6" if ":" in one else "-4", "route", "show", "proto", "176", one) for one in prefixes)

        def device(number: int = BLOCKS - 1) -> set[str]:
            """By which devices one of the blocks is reached."""
            inside = (f"10.64.{128 + number // 4}.{number % 4 * 64 + 1}", f"fd64::8:{number * 64 + 1:x}")
            return {n1.ip("route", "get", one).partition(" dev ")[2].split()[0] for one in inside}

        tunnels = {"vxlan.calico", "vxlan-v6.calico"}
        eventually(lambda: device() == tunnels, within_s=40)
        with kernel_messages(n1) as count:
            place(node, FURTHER)
            eventually(lambda: "dst 192.0.4.9" in n1.run("bridge", "fdb", "show", "dev", "vxlan.calico"))
            place(node, NEAR)
            eventually(lambda: device() == {"eth0"})
            node.etcd.put_all(blocks(BLOCKS, 1))
            eventually(lambda: has("10.64.203.0/26", "fd64::8:4b00/122"), what="so whatever came before is done")
            counted = count()
        assert counted[RTM_DELROUTE] == 0
        if objects:
            assert (counted[RTM_NEWROUTE], counted[RTM_NEWNEXTHOP]) == (2, 2), "the new blocks' routes alone"
        else:
            assert (counted[RTM_NEWROUTE], counted[RTM_NEWNEXTHOP]) == (2 * BLOCKS + 2, 0)
