"""What goes through tunnels: which addresses other nodes reach so, and by which device of a node.

In: the pools and nodes of a World; out: marks for Ends. What an encapsulating pool holds is reached through its tunnel
by other nodes and what is on them, and by nobody outside. Pure.
"""

from __future__ import annotations

from felixpy.addresses import Address
from felixpy.calc.tunnel_plan import Tunnel, address_of, tunnel_address, tunnel_of
from felixpy.ctl.verdicts.ends import ALWAYS_TUNNELLED
from felixpy.ctl.verdicts.hosts import Door
from felixpy.ctl.verdicts.world import World
from felixpy.resources.tables import Table
from felixpy.resources.types import EncapMode, IpPool, Node

DEVICES = frozenset(map(str, Tunnel))


class Carriage:
    """The tunnels of a cluster."""

    def __init__(self, world: World) -> None:
        tables = world.cluster.tables
        pools = [one for one in tables[Table.POOL].values() if isinstance(one, IpPool)]
        self._pools = sorted(pools, key=lambda one: -one.cidr.length)
        self._nodes = {name.name: one for name, one in tables[Table.NODE].items() if isinstance(one, Node)}
        found = {asked[0] for pool in pools if (asked := tunnel_of(pool)) is not None}
        self.tunnels = tuple(sorted(found))

    def mark(self, address: Address, node: str) -> str:
        """`End.tunnelled` of somebody on a node."""
        pool = next((one for one in self._pools if one.cidr.contains(address)), None)
        asked = tunnel_of(pool) if pool is not None else None
        if asked is None:
            return ""
        if asked[1] is EncapMode.CROSS_SUBNET:
            return self.segment(address, node) or ALWAYS_TUNNELLED
        return ALWAYS_TUNNELLED

    def segment(self, address: Address, node: str) -> str:
        """The subnet that a node is in, in the family of an address; "" where it is not known."""
        found = address_of(self._nodes.get(node), 4 if len(address) == 4 else 6)
        return str(found.subnet) if found is not None else ""

    def doors(self, node: str) -> tuple[Door, ...]:
        """A node's ends of the tunnels."""
        known = self._nodes.get(node)
        own = {tunnel: tunnel_address(known, tunnel) if known is not None else None for tunnel in self.tunnels}
        return tuple(
            Door(node, tunnel.value, frozenset() if address is None else frozenset({address}))
            for tunnel, address in own.items()
        )
