"""Which node holds an address, and by which tunnel it is reached: as Felix's own calculation has it.

Random nodes in two subnets, pools of every mode, blocks with borrowed addresses, in Calico's own JSON.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from felixpy.addresses import format_address
from felixpy.calc.tunnel_plan import Direct, Encapsulated, HostDevice, Tunnel
from felixpy.calc.tunnels import TunnelCalc
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node
from tests.agent.node import CALICO, Json, resource
from tests.calico.felix import Felix
from tests.calico.with_calculation import ask_felix, read_ours
from tests.dataplane.meaning_world import NODE, Maker
from tests.support.etcd import Etcd

WORLDS = int(os.environ.get("WORLDS", "60"))
REMOTE_WORKLOAD, VXLAN, IPIP = 1, 2, 3
KINDS = {VXLAN: "vxlan", IPIP: "ipip"}
END, END_V6 = ("mac", "parent_device_ip", "ipv4_addr"), ("mac_v6", "parent_device_ipv6", "ipv6_addr")
"""How Felix calls the parts of a tunnel's far end."""
BLOCKS = {4: ("10.64.0.0/20", 26), 6: ("fd64::/112", 122)}


class Way(NamedTuple):
    """Whom a destination leads to, by what; `through` is "" where both are in a subnet, or the far end is not known."""

    node: str
    kind: str
    direct: bool
    through: str = ""


class Author(Maker):
    """Writes clusters; the same seed writes the same one."""

    def node_of(self, number: int) -> Json:
        subnet = self.pick((1, 1, 2))
        bgp: Json = {"ipv4Address": f"192.0.{subnet}.{number}/24"}
        if number == 1 or not self.once_in(4):
            bgp["ipv6Address"] = f"2001:db8:{subnet}::{number}/64"
        spec: Json = {"bgp": bgp}
        if not self.once_in(4):
            spec["ipv4VXLANTunnelAddr"] = f"10.64.15.{number}"
        if self.once_in(3):
            spec["vxlanTunnelMACAddr"] = f"66:00:00:00:00:0{number}"
        if not self.once_in(3):
            spec["ipv6VXLANTunnelAddr"] = f"fd64::ff0{number}"
        if self.once_in(3):
            bgp["ipv4IPIPTunnelAddr"] = f"10.64.14.{number}"
        return {} if self.once_in(12) and number != 1 else spec

    def pool_of(self, cidr: str, size: int) -> Json:
        mode = self.pick(("Always", "CrossSubnet", "CrossSubnet"))
        four = {"ipipMode": mode, "vxlanMode": "Never"} if ":" not in cidr else {"ipipMode": "Never", "vxlanMode": mode}
        how = self.pick(({"ipipMode": "Never", "vxlanMode": mode}, four, {"ipipMode": "Never", "vxlanMode": "Never"}))
        more = {"natOutgoing": not self.once_in(3), "nodeSelector": "all()"}
        return {"cidr": cidr, "blockSize": size, **how, **more}

    def block_of(self, cidr: str, names: tuple[str, ...]) -> Json:
        size = ipaddress.ip_network(cidr).num_addresses
        owner = self.pick(names)
        holders = [self.pick((owner, owner, owner, *names)) for _ in range(self.random.randint(0, 4))]
        allocations: list[int | None] = [None] * size
        for index, place in enumerate(self.random.sample(range(size), len(holders))):
            allocations[place] = index
        body: Json = {
            "cidr": cidr,
            "strictAffinity": False,
            "deleted": False,
            "allocations": allocations,
            "unallocated": [place for place, index in enumerate(allocations) if index is None],
            "attributes": [
                {"handle_id": f"h{index}", "secondary": {"node": holder, "pod": f"p{index}", "namespace": "d"}}
                for index, holder in enumerate(holders)
            ],
        }
        return body if self.once_in(8) else {**body, "affinity": f"host:{owner}"}

    def write(self) -> dict[str, Json]:
        """Everything there is, by key."""
        guid = {"clusterGUID": "f" * 32, "datastoreReady": True, "calicoVersion": "v3.28.5"}
        made: dict[str, Json] = {
            f"{CALICO}/clusterinformations/default": resource("ClusterInformation", "default", guid)
        }
        names = tuple(f"n{number}" for number in range(1, 6))
        for number, name in enumerate(names, 1):
            if number == 1 or not self.once_in(10):
                made[f"{CALICO}/nodes/{name}"] = resource("Node", name, self.node_of(number))
        for version, (whole, length) in BLOCKS.items():
            network: Any = ipaddress.ip_network(whole)
            for number, part in enumerate(network.subnets(1)):
                name = f"pool{version}{number}"
                made[f"{CALICO}/ippools/{name}"] = resource("IPPool", name, self.pool_of(str(part), length))
                for block in self.some([str(one) for one in list(part.subnets(new_prefix=length))[:12]], 1, 5):
                    place = f"/calico/ipam/v2/assignment/ipv{version}/block/{block.replace('/', '-')}"
                    made[place] = self.block_of(block, names)
        return made


def felix_ways(felix: Felix) -> dict[str, Way]:
    """Tunnelled destinations on other nodes."""
    ends = {end["node"]: end for end in felix.tunnel_ends}
    found = {}
    for route in felix.routes:
        kind = KINDS.get(route.get("ip_pool_type", 0))
        if route.get("type") != REMOTE_WORKLOAD or kind is None:
            continue
        node, direct = route["dst_node_name"], route.get("same_subnet", False)
        through = route.get("dst_node_ip", "")
        if kind == "vxlan" and not direct:
            mac, outer, inner = END_V6 if ":" in route["dst"] else END
            end = ends.get(node, {})
            through = f"{end[mac]} {end[outer]}" if end.get(inner) else ""
        found[route["dst"]] = Way(node, kind, direct, through)
    return found


def our_ways(resources: Iterable[tuple[Ref, Resource]]) -> dict[str, Way]:
    """The same of our calculation."""
    calc = TunnelCalc(NODE)
    for ref, value in resources:
        calc.update(ref, value)
        if ref.table is Table.NODE and ref.name.name == NODE and isinstance(value, Node):
            own = [one.address for one in (value.ipv4, value.ipv6) if one is not None]
            calc.put_devices({address: HostDevice("eth0", 1500) for address in own})
    calc.flush()
    found = {}
    for route in calc.list_routes():
        kind = "ipip" if route.way.tunnel is Tunnel.IPIP else "vxlan"
        through = ""
        match route.hop:
            case Direct(gateway):
                through = format_address(gateway)
            case Encapsulated(tunnel, gateway, remote, mac):
                through = format_address(remote)
                through = through if tunnel is Tunnel.IPIP else f"{mac.hex(':')} {through}"
        found[str(route.destination)] = Way(route.way.node, kind, isinstance(route.hop, Direct), through)
    return found


@pytest.mark.parametrize("seed", range(WORLDS))
def test_addresses_are_reached_as_felix_calculates(etcd: Etcd, seed: int) -> None:
    etcd.delete_prefix("/")
    for key, body in Author(seed).write().items():
        etcd.put(key, body)
    felix, ours = felix_ways(ask_felix(etcd, NODE)), our_ways(read_ours(etcd))
    assert ours == felix
