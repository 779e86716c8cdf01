"""This node's own tunnel addresses: taken from a pool, written into its Node, given back when no pool asks for them.

In: the pools and this node's Node, as the syncer tells them; out: writes to etcd, address and Node in one transaction,
so neither is ever without the other. Unknown fields of the Node survive. Touches no kernel: the address comes back by
the watch like anyone's. Source: node/pkg/allocateip of Calico.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from felixpy.addresses import Address, Prefix, format_address
from felixpy.calc.tunnel_plan import Tunnel, derive_address_pools, tunnel_address, vxlan_mac
from felixpy.datastore.model import DatastoreError, KeyValue, Store
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kinds import BY_TYPE, CALICO, Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import IpPool, Node
from ipam.engine import Allocator
from ipam.model import Assignment
from ipam.request import ExpectationFailed, IpamError, Request, Write, tunnel_request
from ipam.request import Tunnel as Kind

_log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MOST_S = 0.2, 30.0
ATTEMPTS = 5
"""How often a Node that changes under our hands is looked at again before a pause."""

_NODES = BY_TYPE[CALICO, "Node"]
_KINDS = {Tunnel.VXLAN: Kind.VXLAN, Tunnel.VXLAN_V6: Kind.VXLAN_V6, Tunnel.IPIP: Kind.IPIP}
_FIELDS: Mapping[Tunnel, tuple[str, str]] = {
    Tunnel.VXLAN: ("ipv4VXLANTunnelAddr", "vxlanTunnelMACAddr"),
    Tunnel.VXLAN_V6: ("ipv6VXLANTunnelAddr", "vxlanTunnelMACAddrV6"),
}
"""Fields of a Node's spec: the address, and the MAC of the device."""
_IPIP_FIELD = "ipv4IPIPTunnelAddr"
"""Field of spec.bgp."""


class TunnelAddresses:
    """Keeps one node's addresses what its pools ask for; `serve` does the work, `frozen` stops it from writing."""

    def __init__(self, node: str, store: Store, allocator: Allocator) -> None:
        self.frozen = False
        self._name = Name("", node)
        self._store = store
        self._allocator = allocator
        self._node: Node | None = None
        self._pools: dict[Name, IpPool] = {}
        self._settled: tuple[object, ...] = ()
        self._wake = asyncio.Event()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View; nothing happens before `flush`."""
        match ref.table:
            case Table.NODE if ref.name == self._name:
                self._node = value if isinstance(value, Node) else None
            case Table.POOL:
                self._pools.pop(ref.name, None)
                if isinstance(value, IpPool):
                    self._pools[ref.name] = value

    def flush(self) -> None:
        """Everything so far has been given."""
        if not self.settled:
            self._wake.set()

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do, as far as is known."""
        return self._state() == self._settled

    def _wanted(self) -> Mapping[Tunnel, tuple[Prefix, ...]]:
        return derive_address_pools(self._pools.values(), self._node.labels) if self._node is not None else {}

    def _held(self, tunnel: Tunnel) -> Address | None:
        return tunnel_address(self._node, tunnel) if self._node is not None else None

    def _state(self) -> tuple[object, ...]:
        return self._node is None, self._wanted(), *(self._held(tunnel) for tunnel in Tunnel)

    async def serve(self) -> None:
        """Settles whenever something changed, and again, less and less often, after what failed."""
        pause_s = RETRY_FIRST_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            state = self._state()
            try:
                if not self.frozen:
                    await self._settle()
                    self._settled, pause_s = state, RETRY_FIRST_S
                    continue
            except (IpamError, DatastoreError, *UNREADABLE) as error:
                _log.warning("the node's tunnel addresses are not as they should be: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MOST_S)
            self._wake.set()

    async def _settle(self) -> None:
        if self._node is None:
            return
        wanted = self._wanted()
        for tunnel in Tunnel:
            pools, held = wanted.get(tunnel, ()), self._held(tunnel)
            if held is not None and not any(pool.contains(held) for pool in pools):
                await self._change(tunnel, None)
            if pools:
                await self._change(tunnel, tunnel_request(self._name.name, _KINDS[tunnel], tuple(map(str, pools))))

    async def _change(self, tunnel: Tunnel, request: Request | None) -> None:
        """Takes an address (the one that we have already, where there is one), or with None gives it back."""
        key = _NODES.key(self._name)
        mac = vxlan_mac(self._name.name, Node(), tunnel)
        for _ in range(ATTEMPTS):
            pair = await self._store.get(key.encode())
            if pair is None:
                return
            write = partial(_write_node, pair, tunnel, mac)
            try:
                if request is None:
                    await self._allocator.release(_handle(self._name.name, tunnel), write(None))
                else:
                    await self._allocator.assign(request, write)
                return
            except ExpectationFailed:
                continue
        raise ExpectationFailed(key)


def _handle(node: str, tunnel: Tunnel) -> str:
    return tunnel_request(node, _KINDS[tunnel]).handle_id


def _write_node(pair: KeyValue, tunnel: Tunnel, mac: bytes, assignment: Assignment | None) -> Sequence[Write]:
    """What makes the stored Node say what was assigned; nothing where it does already."""
    address = Address(assignment.addresses[0].address) if assignment is not None else None
    stored = msgspec.json.decode(pair.value, type=dict[str, Any])
    changed = with_tunnel(stored, tunnel, address, mac)
    if changed == stored:
        return []
    return [Write(pair.key.decode(), msgspec.json.encode(changed), pair.mod_revision)]


def with_tunnel(document: Mapping[str, Any], tunnel: Tunnel, address: Address | None, mac: bytes) -> dict[str, Any]:
    """A Node's document with the address of a tunnel (None: without); everything else stays as it is.

    `mac` is the device's own; one that somebody has written instead stays too.
    """
    spec = dict(document.get("spec") or {})
    if tunnel is Tunnel.IPIP:
        bgp = dict(spec.get("bgp") or {})
        _put(bgp, _IPIP_FIELD, address)
        if bgp or "bgp" in spec:
            spec["bgp"] = bgp
        return {**document, "spec": spec}
    address_field, mac_field = _FIELDS[tunnel]
    _put(spec, address_field, address)
    if address is not None:
        spec.setdefault(mac_field, mac.hex(":"))
    elif spec.get(mac_field) == mac.hex(":"):
        del spec[mac_field]
    return {**document, "spec": spec}


def _put(fields: dict[str, Any], name: str, address: Address | None) -> None:
    if address is None:
        fields.pop(name, None)
    else:
        fields[name] = format_address(address)
