"""A small cluster of nodes in two subnets: builders with short names, and strategies for sequences of changes to it."""

from __future__ import annotations

from hypothesis import strategies as st

from felixpy.addresses import Address, parse_address, parse_prefix
from felixpy.calc.tunnel_plan import HostDevice, HostDevices
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Block, EncapMode, FelixConfiguration, IpPool, Node, NodeAddress

ME, NEAR, FAR = "n1", "n2", "n3"
"""This node, one in its subnet, and one behind a router."""
NEVER, ALWAYS, CROSS = EncapMode.NEVER, EncapMode.ALWAYS, EncapMode.CROSS_SUBNET

Change = tuple[Ref, Resource | None]

HOST: HostDevices = {
    parse_address("192.0.2.1"): HostDevice("eth0", 1500),
    parse_address("2001:db8:2::1"): HostDevice("eth0", 1500),
}
MOVED_HOST: HostDevices = {parse_address("192.0.2.1"): HostDevice("eth1", 9000)}


def node_address(text: str) -> NodeAddress:
    return NodeAddress(parse_address(text.partition("/")[0]), parse_prefix(text))


def node(name: str, ipv4: str = "", ipv6: str = "", **tunnels: str) -> Change:
    """`tunnels` are ipip_tunnel, vxlan_tunnel4 and vxlan_tunnel6."""
    inside: dict[str, Address] = {key: parse_address(text) for key, text in tunnels.items()}
    four = node_address(ipv4) if ipv4 else None
    six = node_address(ipv6) if ipv6 else None
    return Ref(Table.NODE, Name("", name)), Node(ipv4=four, ipv6=six, **inside)  # type: ignore[arg-type]


def full_node(name: str, subnet: int, host: int) -> Change:
    """A node with every address there is."""
    return node(
        name,
        f"192.0.{subnet}.{host}/24",
        f"2001:db8:{subnet}::{host}/64",
        ipip_tunnel=f"10.0.{host}.1",
        vxlan_tunnel4=f"10.0.{host}.2",
        vxlan_tunnel6=f"fd00:0:0:{host}::2",
    )


NODES = (full_node(ME, 2, 1), full_node(NEAR, 2, 2), full_node(FAR, 3, 3))


def pool(name: str, cidr: str, *, vxlan: EncapMode = NEVER, ipip: EncapMode = NEVER, **values: object) -> Change:
    ref = Ref(Table.POOL, Name("", name))
    return ref, IpPool(parse_prefix(cidr), 26, ipip=ipip, vxlan=vxlan, **values)  # type: ignore[arg-type]


def block(cidr: str, owner: str, **borrowed: str) -> Change:
    """`borrowed` gives the holder of address number N as `aN`."""
    prefix = parse_prefix(cidr)
    first = int.from_bytes(prefix.address, "big")
    size = len(prefix.address)
    held = tuple((Address((first + int(key[1:])).to_bytes(size, "big")), who) for key, who in borrowed.items())
    return Ref(Table.BLOCK, Name("", cidr.replace("/", "-"))), Block(owner, held)


def configuration(scope: str, **values: int) -> Change:
    return Ref(Table.FELIX_CONFIGURATION, Name("", scope)), FelixConfiguration(tuple(values.items()))


_NODE_CHOICES = [
    *NODES,
    node(ME, "192.0.2.1/24"),
    node(ME, "192.0.3.1/24", vxlan_tunnel4="10.0.1.9"),
    node(NEAR, "192.0.3.2/24", vxlan_tunnel4="10.0.2.2", ipip_tunnel="10.0.2.1"),
    node(NEAR, "192.0.2.1/24", vxlan_tunnel4="10.0.2.2"),
    node(FAR, "192.0.2.3/24", "2001:db8:2::3/64", vxlan_tunnel6="fd00:0:0:3::2"),
    node(FAR, "192.0.3.3/24", vxlan_tunnel4="10.0.3.5"),
    node(FAR),
]
_POOL_CHOICES = [
    pool("a", "10.0.0.0/16", vxlan=ALWAYS),
    pool("a", "10.0.0.0/16", vxlan=CROSS),
    pool("a", "10.0.0.0/16", ipip=ALWAYS),
    pool("a", "10.0.0.0/16"),
    pool("b", "10.0.2.0/24", ipip=CROSS),
    pool("b", "10.0.2.0/24"),
    pool("six", "fd00::/48", vxlan=ALWAYS),
    pool("six", "fd00::/48", ipip=ALWAYS),
]
_BLOCK_CHOICES = [
    block("10.0.1.0/26", ME),
    block("10.0.1.0/26", ME, a3=FAR, a4=NEAR),
    block("10.0.1.0/26", FAR),
    block("10.0.2.0/26", NEAR),
    block("10.0.2.0/26", NEAR, a5=ME, a6=FAR),
    block("10.0.2.0/26", ""),
    block("10.0.3.0/26", FAR),
    block("10.0.3.0/26", "n4", a7=FAR),
    block("10.0.3.64/32", ME),
    block("fd00:0:0:3::/122", FAR),
    block("fd00:0:0:1::/122", ME, a9=NEAR),
]
_CONFIGURATIONS = [
    configuration("default", vxlanMTU=1400, vxlanVNI=7),
    configuration("node.n1", vxlanMTU=1300),
    configuration("node.n2", vxlanMTU=1200),
]
_ALL = [*_NODE_CHOICES, *_POOL_CHOICES, *_BLOCK_CHOICES, *_CONFIGURATIONS]

Step = Change | HostDevices
STEPS = st.one_of(
    st.sampled_from(_ALL),
    st.sampled_from(_ALL),
    st.sampled_from([(ref, None) for ref in dict.fromkeys(ref for ref, _ in _ALL)]),
    st.sampled_from([HOST, MOVED_HOST, {}]),
)
