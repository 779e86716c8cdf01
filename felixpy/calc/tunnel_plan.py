"""How traffic reaches another node for a pool that is tunnelled: the values, and what one of each follows from.

In: one pool, block, node or host device; out: tunnels, next hops and devices in names. Knows nothing of who else there
is (tunnels.py does). Pure.
Source: felix/calc/vxlan_resolver.go (MACs), felix/dataplane/linux/{vxlan_mgr,ipip_mgr,route_mgr}.go; RFC 7348, 2003.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b, sha1
from typing import Literal, NamedTuple

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.resources.types import (
    Block,
    EncapMode,
    FelixConfiguration,
    IpPool,
    LabelPairs,
    Node,
    NodeAddress,
)
from felixpy.selector import compile_selector


class Tunnel(StrEnum):
    """The tunnels there are; the value is the device's name, as Calico has it."""

    VXLAN = "vxlan.calico"
    VXLAN_V6 = "vxlan-v6.calico"
    IPIP = "tunl0"

    @property
    def version(self) -> Literal[4, 6]:
        """The family of what it carries, and of what carries it."""
        return 6 if self is Tunnel.VXLAN_V6 else 4

    @property
    def overhead_bytes(self) -> int:
        """What it takes of the underlay's mtu: outer IP header, and UDP, VXLAN and inner Ethernet where it is VXLAN."""
        return {Tunnel.VXLAN: 50, Tunnel.VXLAN_V6: 70, Tunnel.IPIP: 20}[self]


class Unreached(StrEnum):
    """Why a tunnelled block is not reached, or a tunnel has no device."""

    NO_NODE = "the node that holds the addresses has no Node resource"
    NO_ADDRESS = "the node that holds the addresses gives no address of that family"
    NO_TUNNEL_ADDRESS = "the node that holds the addresses has no tunnel address yet"
    NO_OWN_ADDRESS = "this node's Node resource gives no address of that family"
    NO_UNDERLAY = "no device of this host has the node's address"
    SAME_ADDRESS = "the node that holds the addresses gives this node's address as its own"


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device of the host that holds an address; mtu in bytes.

    `name` is "" where the address is on loopback: packets then leave by whatever device the kernel's routes say.
    """

    name: str
    mtu: int


HostDevices = Mapping[Address, HostDevice]
"""Which device holds each of the host's own addresses."""


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """FelixConfiguration's part; mtu 0 means that the underlay's decides."""

    vni: int = 4096
    port: int = 4789
    mtu: tuple[tuple[Tunnel, int], ...] = ()


class Way(NamedTuple):
    """Towards a node as a pool's mode says. The next hop of a way is one object, however many routes take it."""

    node: str
    tunnel: Tunnel
    mode: EncapMode

    @property
    def number(self) -> int:
        """The kernel's number for its next hop: the upper half of all numbers is ours, and a hash chooses there."""
        digest = blake2b(f"{self.node}\0{self.tunnel}\0{self.mode}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") | 1 << 31


@dataclass(frozen=True, slots=True)
class Direct:
    """Over the subnet that both nodes are in."""

    gateway: Address
    device: str


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """Through `tunnel`, whose far end is the host `remote`. For VXLAN `mac` is the far device's, else empty."""

    tunnel: Tunnel
    gateway: Address
    remote: Address
    mac: bytes = b""


Hop = Direct | Encapsulated


@dataclass(frozen=True, slots=True)
class TunnelDevice:
    """This node's end of a tunnel. `address` None until one is assigned; mtu in bytes; vni and port for VXLAN."""

    tunnel: Tunnel
    parent: str
    local: Address
    mtu: int
    address: Address | None
    mac: bytes = b""
    vni: int = 0
    port: int = 0


def derive_settings(configurations: Iterable[FelixConfiguration | None]) -> TunnelSettings:
    """What the configurations say, later ones first; a number out of its range is not said."""
    values: dict[str, object] = {}
    for configuration in configurations:
        if configuration is not None:
            values.update(configuration.values)

    def number(name: str, default: int, most: int) -> int:
        value = values.get(name)
        return value if isinstance(value, int) and 0 < value <= most else default

    fields = ((Tunnel.VXLAN, "vxlanMTU"), (Tunnel.VXLAN_V6, "vxlanMTUV6"), (Tunnel.IPIP, "ipipMTU"))
    mtus = tuple((tunnel, number(field, 0, 65535)) for tunnel, field in fields)
    return TunnelSettings(number("vxlanVNI", 4096, (1 << 24) - 1), number("vxlanPort", 4789, 65535), mtus)


def tunnel_of(pool: IpPool) -> tuple[Tunnel, EncapMode] | None:
    """The tunnel of a pool's traffic and when it is used; None for a pool whose traffic is not tunnelled."""
    version = pool.cidr.version
    if pool.vxlan is not EncapMode.NEVER:
        return (Tunnel.VXLAN if version == 4 else Tunnel.VXLAN_V6), pool.vxlan
    if pool.ipip is not EncapMode.NEVER and version == 4:
        return Tunnel.IPIP, pool.ipip
    return None


def pool_of(pools: Iterable[IpPool], block: Prefix) -> IpPool | None:
    """The pool that a block is of: the smallest that holds it."""
    holding = [pool for pool in pools if pool.cidr.length <= block.length and pool.cidr.contains(block.address)]
    return max(holding, key=lambda pool: pool.cidr.length, default=None)


def derive_address_pools(pools: Iterable[IpPool], labels: LabelPairs) -> Mapping[Tunnel, tuple[Prefix, ...]]:
    """Where a node with these labels takes its own tunnel addresses from; no entry for a tunnel that needs none."""
    named = dict(labels)
    found: dict[Tunnel, list[Prefix]] = {}
    for pool in pools:
        asked = tunnel_of(pool)
        if asked is None or pool.disabled or "Tunnel" not in pool.allowed_uses:
            continue
        if pool.node_selector is None or compile_selector(pool.node_selector)(named):
            found.setdefault(asked[0], []).append(pool.cidr)
    return {tunnel: tuple(sorted(prefixes)) for tunnel, prefixes in found.items()}


def derive_ways(prefix: Prefix, block: Block, pool: IpPool | None, node: str) -> Mapping[Prefix, Way | None]:
    """The routes that one block asks of `node`: by destination, the way to whoever holds it.

    None stands for a blackhole: an own block, where pods have longer routes of their own. It is never a single
    address, which a pod's route would have to share. Borrowed addresses go to their holders, out of own blocks too.
    """
    found: dict[Prefix, Way | None] = {}
    asked = tunnel_of(pool) if pool is not None else None
    if block.affinity == node and not prefix.is_host:
        found[prefix] = None
    if asked is None:
        return found
    if block.affinity not in ("", node):
        found[prefix] = Way(block.affinity, *asked)
    for address, holder in block.borrowed:
        if holder != node:
            found[host_prefix(address)] = Way(holder, *asked)
    return found


def address_of(node: Node | None, version: int) -> NodeAddress | None:
    """A node's address of one family."""
    if node is None:
        return None
    return node.ipv4 if version == 4 else node.ipv6


def tunnel_address(node: Node, tunnel: Tunnel) -> Address | None:
    """A node's own address inside a tunnel."""
    match tunnel:
        case Tunnel.VXLAN:
            return node.vxlan_tunnel4
        case Tunnel.VXLAN_V6:
            return node.vxlan_tunnel6
        case Tunnel.IPIP:
            return node.ipip_tunnel


def vxlan_mac(name: str, node: Node, tunnel: Tunnel) -> bytes:
    """The address of a node's VXLAN device: what the Node says, else Calico's hash of the name."""
    said, suffix = (node.vxlan_mac6, "-v6") if tunnel is Tunnel.VXLAN_V6 else (node.vxlan_mac4, "")
    return said or b"f" + sha1(f"{name}{suffix}".encode(), usedforsecurity=False).digest()[:5]


def link_local(mac: bytes) -> Address:
    """The IPv6 link-local address that a device with this MAC has (RFC 4291, appendix A)."""
    return Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def derive_hop(way: Way, me: Node | None, them: Node | None, devices: HostDevices) -> Hop | Unreached:
    """The next hop of a way.

    An IPv6 gateway inside VXLAN is the far device's link-local address: the kernel takes that on any device, while it
    refuses a global one that another route of the moment leads elsewhere (net/ipv6/route.c, ip6_route_check_nh_onlink).
    """
    tunnel = way.tunnel
    ours, theirs = address_of(me, tunnel.version), address_of(them, tunnel.version)
    if them is None:
        return Unreached.NO_NODE
    if theirs is None:
        return Unreached.NO_ADDRESS
    if ours is None:
        return Unreached.NO_OWN_ADDRESS
    device = devices.get(ours.address)
    if device is None:
        return Unreached.NO_UNDERLAY
    if ours.address == theirs.address:
        return Unreached.SAME_ADDRESS
    if way.mode is EncapMode.CROSS_SUBNET and device.name and ours.subnet.contains(theirs.address):
        return Direct(theirs.address, device.name)
    if tunnel is Tunnel.IPIP:
        return Encapsulated(tunnel, theirs.address, theirs.address)
    inside = tunnel_address(them, tunnel)
    if inside is None:
        return Unreached.NO_TUNNEL_ADDRESS
    mac = vxlan_mac(way.node, them, tunnel)
    return Encapsulated(tunnel, inside if tunnel.version == 4 else link_local(mac), theirs.address, mac)


def derive_device(
    tunnel: Tunnel, name: str, me: Node | None, devices: HostDevices, settings: TunnelSettings
) -> TunnelDevice | Unreached:
    """This node's end of a tunnel that some pool asks for."""
    ours = address_of(me, tunnel.version)
    if me is None or ours is None:
        return Unreached.NO_OWN_ADDRESS
    parent = devices.get(ours.address)
    if parent is None:
        return Unreached.NO_UNDERLAY
    mtu = dict(settings.mtu).get(tunnel) or parent.mtu - tunnel.overhead_bytes
    device = TunnelDevice(tunnel, parent.name, ours.address, mtu, tunnel_address(me, tunnel))
    if tunnel is Tunnel.IPIP:
        return device
    mac = vxlan_mac(name, me, tunnel)
    return TunnelDevice(tunnel, parent.name, ours.address, mtu, device.address, mac, settings.vni, settings.port)
