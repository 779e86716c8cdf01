"""Nodes, pools and blocks: documents → types. Source: projectcalico/calico api, libcalico-go/lib/backend/model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from felixpy.addresses import Address, Prefix, parse_address
from felixpy.resources.documents import BlockDoc, IpPoolDoc, IpReservationDoc, NodeAddressDoc, NodeDoc
from felixpy.resources.scalars import (
    FieldError,
    read_address,
    read_as_number,
    read_labels,
    read_mac,
    read_node_address,
    read_prefix,
    read_selector,
)
from felixpy.resources.types import Block, EncapMode, IpPool, IpReservation, Node

DEFAULT_BLOCK_SIZE = {4: 26, 6: 122}
HOST_AFFINITY = "host:"


def read_pool(doc: IpPoolDoc) -> IpPool:
    spec = doc.spec
    cidr = read_prefix("spec.cidr", spec.cidr)
    return IpPool(
        cidr=cidr,
        block_size=spec.block_size or DEFAULT_BLOCK_SIZE[cidr.version],
        ipip=_encap("spec.ipipMode", spec.ipip_mode),
        vxlan=_encap("spec.vxlanMode", spec.vxlan_mode),
        nat_outgoing=spec.nat_outgoing,
        disabled=spec.disabled,
        disable_bgp_export=spec.disable_bgp_export,
        node_selector=read_selector("spec.nodeSelector", spec.node_selector) if spec.node_selector else None,
        allowed_uses=tuple(spec.allowed_uses or ("Workload", "Tunnel")),
        automatic=spec.assignment_mode != "Manual",
    )


def read_reservation(doc: IpReservationDoc) -> IpReservation:
    cidrs = doc.spec.reserved_cidrs
    return IpReservation(tuple(read_prefix(f"spec.reservedCIDRs[{index}]", text) for index, text in enumerate(cidrs)))


def _encap(field: str, word: str) -> EncapMode:
    if not word:
        return EncapMode.NEVER
    try:
        return EncapMode(word)
    except ValueError:
        raise FieldError(field, f"{word!r} is not Never, Always or CrossSubnet") from None


def _optional(field: str, text: str) -> Address | None:
    return read_address(field, text) if text else None


def read_node(doc: NodeDoc) -> Node:
    spec, bgp = doc.spec, doc.spec.bgp
    return Node(
        labels=read_labels(doc.metadata.labels),
        ipv4=read_node_address("spec.bgp.ipv4Address", bgp.ipv4_address) if bgp else None,
        ipv6=read_node_address("spec.bgp.ipv6Address", bgp.ipv6_address) if bgp else None,
        as_number=read_as_number("spec.bgp.asNumber", bgp.as_number) if bgp else None,
        route_reflector_cluster_id=bgp.route_reflector_cluster_id if bgp else "",
        ipip_tunnel=_optional("spec.bgp.ipv4IPIPTunnelAddr", bgp.ipip_tunnel) if bgp else None,
        vxlan_tunnel4=_optional("spec.ipv4VXLANTunnelAddr", spec.vxlan_tunnel4),
        vxlan_tunnel6=_optional("spec.ipv6VXLANTunnelAddr", spec.vxlan_tunnel6),
        vxlan_mac4=read_mac("spec.vxlanTunnelMACAddr", spec.vxlan_mac4),
        vxlan_mac6=read_mac("spec.vxlanTunnelMACAddrV6", spec.vxlan_mac6),
        others=tuple(dict.fromkeys(_read_others(spec.addresses or ()))),
    )


def _read_others(addresses: Iterable[NodeAddressDoc]) -> Iterator[Address]:
    """With or without the length of a network; a node that has a name among them has its addresses all the same."""
    for one in addresses:
        try:
            yield parse_address(one.address.partition("/")[0])
        except ValueError:
            continue


def read_block(doc: BlockDoc, cidr: Prefix) -> Block | None:
    """The block of a key; None for one that is marked deleted."""
    if doc.deleted:
        return None
    if read_prefix("cidr", doc.cidr) != cidr:
        raise FieldError("cidr", f"{doc.cidr} is not the block of the key, {cidr}")
    if len(doc.allocations) > 1 << (len(cidr.address) * 8 - cidr.length):
        raise FieldError("allocations", f"there are {len(doc.allocations)}, more than {cidr} has addresses")
    owner = doc.affinity or ""
    node = owner.removeprefix(HOST_AFFINITY) if owner.startswith(HOST_AFFINITY) else ""
    attributes = doc.attributes or []
    borrowed = []
    for ordinal, index in enumerate(doc.allocations):
        if index is None:
            continue
        if not 0 <= index < len(attributes):
            raise FieldError(f"allocations[{ordinal}]", f"there is no attribute {index}")
        holder = (attributes[index].secondary or {}).get("node", "")
        if holder and holder != node:
            borrowed.append((address_in(cidr, ordinal), holder))
    return Block(node, tuple(borrowed), any(index is not None for index in doc.allocations))


def address_in(prefix: Prefix, ordinal: int) -> Address:
    """The address `ordinal` steps after the prefix's first."""
    number = int.from_bytes(prefix.address, "big") + ordinal
    return Address(number.to_bytes(len(prefix.address), "big"))
