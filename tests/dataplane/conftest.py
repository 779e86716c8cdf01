"""Grounds that tests of a module share: devices, namespaces around them, and rules in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felixpy.addresses import format_address
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, in_namespace
from tests.dataplane.frames import Wires
from tests.dataplane.ground import GATEWAYS, OWN, PODS, Ground, mac
from tests.dataplane.service_ground import CLIENT, Place
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    node = Namespace.create("v")
    ends: dict[str, Namespace] = {}
    try:
        node.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__send_redirects=0)
        for device in (*PODS, "cali9", "eth0"):
            ends[device] = Namespace.create("v")
            link_namespaces(node, device, ends[device], "eth0")
            node.ip("link", "set", device, "address", mac(1).hex(":"))
            ends[device].ip("link", "set", "eth0", "address", mac(2).hex(":"))
            node.sysctl(**{f"ipv4__conf__{device}__{name}": 0 for name in ("rp_filter", "send_redirects")})
            for address in PODS.get(device, GATEWAYS if device == "eth0" else ()):
                node.ip("route", "replace", address, "dev", device)
                node.ip("neigh", "replace", address, "lladdr", mac(2).hex(":"), "dev", device)
        node.add_address("eth0", f"{format_address(OWN)}/32")
        for gateway in GATEWAYS:
            node.ip("route", "replace", "default", "via", gateway, "dev", "eth0")
        node.sysctl(ipv4__conf__all__rp_filter=0)
        socket = in_namespace(node.path, lambda: NetlinkSocket(NETLINK_NETFILTER))
        wires = Wires(ends)
        with NftDriver(socket=socket) as driver:
            yield Ground(node, driver, wires)
        wires.close()
    finally:
        for namespace in (node, *ends.values()):
            namespace.delete()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    names = "node", "client", "pod1", "pod2", "remote"
    made = {name: Namespace.create("svc") for name in names}
    servers: list[NameServer] = []
    try:
        node = made["node"]
        node.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        node.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)  # else a refusal in the same second is silence
        for name, device, net, net6 in (
            ("client", "eth0", "192.0.2", "2001:db8:9"),
            ("pod1", "cali1", "10.0.1", "fd00:1"),
            ("pod2", "cali2", "10.0.2", "fd00:2"),
            ("remote", "eth1", "10.0.9", "fd00:9"),
        ):
            last = "9" if name == "client" else "1"
            link_namespaces(
                node,
                device,
                made[name],
                "eth0",
                left_addresses=(f"{net}.254/24", f"{net6}::fe/64"),
                right_addresses=(f"{net}.{last}/24", f"{net6}::{last}/64"),
            )
            made[name].ip("route", "add", "default", "via", f"{net}.254")
            made[name].ip("-6", "route", "add", "default", "via", f"{net6}::fe")
            if name != "client":
                servers.append(NameServer(made[name], name, 8080))
        node.ip("route", "add", "default", "via", CLIENT)
        node.ip("-6", "route", "add", "default", "via", "2001:db8:9::9")
        yield Place(node, made["client"], made["pod1"], made["pod2"], made["remote"])
    finally:
        for server in servers:
            server.stop()
        for namespace in made.values():
            namespace.delete()
