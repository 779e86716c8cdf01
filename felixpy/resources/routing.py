"""Nodes, pools, blocks and BGP: documents → types. Source: projectcalico/calico api, libcalico-go/lib/backend/model."""

from __future__ import annotations

from typing import Any

from felixpy.addresses import Address, Prefix
from felixpy.resources.documents import BgpConfigurationDoc, BgpPeerDoc, BlockDoc, IpPoolDoc, NodeDoc
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
from felixpy.resources.types import BgpConfiguration, BgpPeer, Block, EncapMode, IpPool, Node

DEFAULT_BLOCK_SIZE = {4: 26, 6: 122}
HOST_AFFINITY = "host:"
BGP_PORT = 179


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
    )


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


def read_bgp_configuration(doc: BgpConfigurationDoc) -> BgpConfiguration:
    spec = doc.spec
    cidrs = {
        field: tuple(read_prefix(f"spec.{field}[{index}].cidr", item.cidr) for index, item in enumerate(items or ()))
        for field, items in (
            ("serviceClusterIPs", spec.service_cluster_ips),
            ("serviceExternalIPs", spec.service_external_ips),
            ("serviceLoadBalancerIPs", spec.service_lb_ips),
        )
    }
    return BgpConfiguration(
        as_number=read_as_number("spec.asNumber", spec.as_number),
        mesh=spec.node_to_node_mesh_enabled,
        listen_port=spec.listen_port,
        service_cluster_cidrs=cidrs["serviceClusterIPs"],
        service_external_cidrs=cidrs["serviceExternalIPs"],
        service_lb_cidrs=cidrs["serviceLoadBalancerIPs"],
    )


def _split_port(field: str, text: str) -> tuple[str, int]:
    """`10.0.0.1`, `10.0.0.1:1790`, `fd00::1` or `[fd00::1]:1790` → address text and port (179 when not given)."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise FieldError(field, f"{text!r} is no address and port")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not port:
        return host, BGP_PORT
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise FieldError(field, f"{port!r} is no port")
    return host, int(port)


def _seconds(field: str, text: str | None) -> int | None:
    """A Go duration of whole hours, minutes and seconds (`1m30s`) in seconds."""
    if not text:
        return None
    total, number = 0, ""
    for letter in text:
        if letter.isdecimal():
            number += letter
        elif letter in "hms" and number:
            total += int(number) * {"h": 3600, "m": 60, "s": 1}[letter]
            number = ""
        else:
            raise FieldError(field, f"{text!r} is no duration")
    if number:
        raise FieldError(field, f"{text!r} has no unit")
    return total


def _secret(password: dict[str, Any] | None) -> str:
    """`name/key` of the Secret that holds the password; "" without one."""
    reference = (password or {}).get("secretKeyRef")
    if reference is None:
        return ""
    if not isinstance(reference, dict) or not isinstance(reference.get("name"), str):
        raise FieldError("spec.password.secretKeyRef", "names no Secret")
    if not isinstance(reference.get("key"), str):
        raise FieldError("spec.password.secretKeyRef", "names no key of the Secret")
    return f"{reference['name']}/{reference['key']}"


def read_bgp_peer(doc: BgpPeerDoc) -> BgpPeer:
    spec = doc.spec
    host, port = _split_port("spec.peerIP", spec.peer_ip) if spec.peer_ip else ("", BGP_PORT)
    if not host and not spec.peer_selector:
        raise FieldError("spec", "gives neither peerIP nor peerSelector")
    return BgpPeer(
        peer_address=read_address("spec.peerIP", host) if host else None,
        peer_port=port,
        as_number=read_as_number("spec.asNumber", spec.as_number),
        node=spec.node,
        node_selector=read_selector("spec.nodeSelector", spec.node_selector) if spec.node_selector else None,
        peer_selector=read_selector("spec.peerSelector", spec.peer_selector) if spec.peer_selector else None,
        local_as_number=read_as_number("spec.localASNumber", spec.local_as_number),
        keep_original_next_hop=spec.keep_original_next_hop or spec.next_hop_mode == "Keep",
        use_node_source=spec.source_address != "None",
        ttl_security_hops=spec.ttl_security,
        keepalive_s=_seconds("spec.keepaliveTime", spec.keepalive_time),
        allow_local_as=spec.allow_local_as or 0,
        reachable_by=_optional("spec.reachableBy", spec.reachable_by),
        password_secret=_secret(spec.password),
        filters=tuple(spec.filters or ()),
        max_restart_s=_seconds("spec.maxRestartTime", spec.max_restart_time),
    )
