"""A packet, and what one node's kernel holds that decides about it.

KernelState is made of the very objects and set members that the drivers put into the kernel; it answers the questions
that rules ask (is this key in that set, which way does this address lie). Pure; `verdict` walks it.
Source: net/netfilter/nft_lookup.c, nft_fib.c; longest prefix wins (net/ipv4/fib_trie.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.dataplane.objects import BaseHook, Chain, Members, NextHop, Object, Route, RouteType, Set
from felixpy.dataplane.rules import CtState, Side
from felixpy.dataplane.sets import encode_port_key

HookName = Literal["prerouting", "input", "forward", "output", "postrouting"]


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it meets a node: `in_interface` "" when the node itself sends it, else where it comes in.

    `out_interface` is "" until routing has said. `icmp` is type and code of ICMP or ICMPv6; ports are 0 where the
    protocol has none. `translated`: its connection's destination was rewritten. `slot` is the backend that a Service's
    choice falls on (modulo their number).
    """

    source: Address
    destination: Address
    protocol: int
    in_interface: str = ""
    source_port: int = 0
    destination_port: int = 0
    icmp: tuple[int, int] | None = None
    state: CtState = CtState.NEW
    mark: int = 0
    slot: int = 0
    out_interface: str = ""
    translated: bool = False

    @property
    def version(self) -> Literal[4, 6]:
        """The family."""
        return 4 if len(self.source) == 4 else 6

    def address(self, side: Side) -> Address:
        """Source or destination."""
        return self.source if side == "source" else self.destination

    def port(self, side: Side) -> int:
        """Source or destination port."""
        return self.source_port if side == "source" else self.destination_port

    def port_key(self, side: Side) -> bytes:
        """address . protocol . port, as sets and maps hold it."""
        return encode_port_key(self.address(side), self.protocol, self.port(side))


@dataclass(frozen=True, slots=True)
class KernelState:
    """The chains by name, the sets by name with their members, the routes, and the node's own addresses.

    What no route of ours leads to leaves by `uplink`. `hops` are the devices of nexthop objects.
    """

    chains: Mapping[str, Chain]
    sets: Mapping[str, Set]
    members: Mapping[str, Members]
    routes: Mapping[Prefix, Route] = field(default_factory=dict)
    local: frozenset[Address] = frozenset()
    uplink: str = "eth0"
    hops: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        objects: Iterable[Object],
        members: Mapping[Set, Members],
        local: frozenset[Address] = frozenset(),
        uplink: str = "eth0",
    ) -> KernelState:
        """What a kernel holds after these objects and members are put."""
        every = tuple(objects)
        return cls(
            {one.name: one for one in every if isinstance(one, Chain)},
            {one.name: one for one in every if isinstance(one, Set)},
            {target.name: held for target, held in members.items()},
            {one.destination: one for one in every if isinstance(one, Route)},
            local,
            uplink,
            {one.id: one.device for one in every if isinstance(one, NextHop) and one.device is not None},
        )

    def base_chains(self, hook: HookName) -> tuple[tuple[Chain, BaseHook], ...]:
        """The chains that hang on a hook, in the order in which packets meet them."""
        found = [
            (chain, chain.hook) for chain in self.chains.values() if chain.hook is not None and chain.hook.hook == hook
        ]
        return tuple(sorted(found, key=lambda pair: pair[1].priority))

    def find_data(self, set_name: str, key: bytes) -> bytes | None:
        """What a map has for a key (b"" from a set); None where it is no member.

        Raises  KeyError when there is no such set: the kernel would not have taken the rule that asks.
        """
        target, held = self.sets[set_name], self.members.get(set_name, {})
        if not target.interval:
            return held.get(key)
        for length in range(len(key) * 8 + 1):
            data = held.get(mask_address(key, length) + length.to_bytes(1, "big"))
            if data is not None:
                return data
        return None

    def has(self, set_name: str, key: bytes) -> bool:
        """Whether a set or map has the key; errors as `find_data`."""
        return self.find_data(set_name, key) is not None

    def route_out(self, destination: Address) -> str | None:
        """The device that packets to an address leave by; None for the node's own addresses."""
        if destination in self.local:
            return None
        route = self._route_to(destination)
        return self.uplink if route is None else route.device or self.hops.get(route.nexthop_id or 0, self.uplink)

    def discards(self, destination: Address) -> bool:
        """Whether the route to an address is one that leads nowhere."""
        route = None if destination in self.local else self._route_to(destination)
        return route is not None and route.type is RouteType.BLACKHOLE

    def _route_to(self, destination: Address) -> Route | None:
        for length in range(len(destination) * 8, -1, -1):
            route = self.routes.get(Prefix(mask_address(destination, length), length))
            if route is not None:
                return route
        return None

    def leads_back(self, source: Address, device: str) -> bool:
        """Whether some route to `source` leaves by `device`."""
        return any(
            route.device == device and route.type is RouteType.UNICAST and prefix.contains(source)
            for prefix, route in self.routes.items()
        )
