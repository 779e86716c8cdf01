"""The kernel's nexthop objects for learned routes: one per next hop, and one per set of equal ones.

In: the next hops of routes as they come and go, and the way that the kernel has to each; out: NextHop objects, and what
a route is to name. A hundred thousand routes with one next hop share one object, so that a hop that moves, or leaves
its set, costs one message. Where the kernel has no such objects, or is not to be given any, routes name gateways and
devices themselves, and each of them is put anew then. A next hop that is not on a link is reached by the gateway that
the kernel has towards it; one without any way keeps the last that it had, and before that gets no object. Does no input
or output.
Source: RFC 4271 §5.1.3 (recursive next hops); linux/nexthop.h; BIRD's `gateway recursive`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from felixpy.addresses import Address
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, Hop, Key, Kind, NextHop
from felixpy.drivers.netlink.lookup import Outlet

HopSet = tuple[bytes, ...]
"""Next hops of one route, ascending, none twice."""

_SINGLES, _SETS = 0x4000_0000, 0x6000_0000
"""Where numbers begin; those of tunnels have the highest bit (calc/tunnel_plan.py)."""
_NUMBERS = 0x1FFF_FFFF


@dataclass(slots=True)
class _Entry:
    """A next hop or a set: its number, how many sets or routes take it, and (of a set) whether there is a way."""

    number: int
    users: int = 0
    reached: bool = False


Target = int | tuple[Hop, ...]
"""What a route names: a nexthop object's number, or the next hops themselves."""


@dataclass(slots=True)
class NextHops:
    """All that the learned routes need. `lost` are next hops that sets do without for the time being.

    `objects`: whether there are to be nexthop objects.
    """

    objects: bool = True
    outlets: dict[bytes, Outlet] = field(default_factory=dict)
    lost: frozenset[bytes] = frozenset()
    _singles: dict[bytes, _Entry] = field(default_factory=dict)
    _sets: dict[HopSet, _Entry] = field(default_factory=dict)
    _numbers: set[int] = field(default_factory=set)

    def unknown(self, sets: Iterable[HopSet]) -> set[Address]:
        """Of these sets, the next hops that no way is known to: whoever can should `resolve` them first."""
        return {Address(hop) for hops in sets for hop in hops if hop not in self.outlets}

    @property
    def hops(self) -> Collection[Address]:
        """Every next hop in use."""
        return [Address(hop) for hop in self._singles]

    def take(self, hops: HopSet, changes: Changes, users: int = 1) -> None:
        """Counts routes that take this set."""
        entry = self._sets.get(hops)
        if entry is not None:
            entry.users += users
            return
        for hop in hops:
            single = self._singles.get(hop)
            if single is None:
                single = self._singles[hop] = _Entry(self._new_number(_SINGLES, hop))
                self._put_single(hop, changes)
            single.users += 1
        number = self._singles[hops[0]].number if len(hops) == 1 else self._new_number(_SETS, b"".join(hops))
        self._sets[hops] = _Entry(number, users)
        self._put_set(hops, changes)

    def find_target(self, hops: HopSet) -> Target:
        """What routes that take this set are to name."""
        entry = self._sets[hops]
        if self.objects and entry.reached:
            return entry.number
        if not entry.reached:
            return tuple(Hop(Address(hop[:16]), None) for hop in hops)
        ways = {(self._gateway(hop), self.outlets[hop].device) for hop in self._members(hops)}
        return tuple(Hop(gateway, device) for gateway, device in sorted(ways))

    def leave(self, hops: HopSet, changes: Changes, users: int = 1) -> None:
        """Counts routes that take this set no more."""
        entry = self._sets[hops]
        entry.users -= users
        if entry.users:
            return
        del self._sets[hops]
        if len(hops) > 1:
            self._drop(entry.number, changes)
        for hop in hops:
            single = self._singles[hop]
            single.users -= 1
            if not single.users:
                del self._singles[hop]
                self.outlets.pop(hop, None)
                self._drop(single.number, changes)

    def resolve(self, outlets: Mapping[Address, Outlet], changes: Changes) -> set[HopSet]:
        """Takes the ways that there are now; the sets whose routes are to name something else than before."""
        changed = {hop for hop, outlet in outlets.items() if self.outlets.get(hop) != outlet}
        touched = [hops for hops in self._sets if not changed.isdisjoint(hops)]
        before = {hops: self.find_target(hops) for hops in touched}
        self.outlets.update((hop, outlets[Address(hop)]) for hop in changed)
        for hop in changed & self._singles.keys():
            self._put_single(hop, changes)
        for hops in touched:
            self._put_set(hops, changes)
        return {hops for hops in touched if self.find_target(hops) != before[hops]}

    def lose(self, hops: frozenset[bytes], changes: Changes) -> set[HopSet]:
        """Has sets do without these next hops from now on, as far as they have others; as `resolve`.

        One message a set, where there are objects.
        """
        gone_or_back = self.lost ^ hops
        touched = [one for one in self._sets if not gone_or_back.isdisjoint(one)] if gone_or_back else []
        before = {one: self.find_target(one) for one in touched}
        self.lost = hops
        for one in touched:
            self._put_set(one, changes)
        return {one for one in touched if self.find_target(one) != before[one]}

    def _members(self, hops: HopSet) -> list[bytes]:
        """Those that there is a way to, but for the lost ones where there are others."""
        members = [hop for hop in hops if hop in self.outlets]
        return [hop for hop in members if hop not in self.lost] or members

    def _put_single(self, hop: bytes, changes: Changes) -> None:
        outlet = self.outlets.get(hop)
        if outlet is None or not self.objects:
            return
        gateway = self._gateway(hop)
        number = self._singles[hop].number
        one = NextHop(
            number, gateway, outlet.device, protocol=ROUTE_PROTOCOL_LEARNED, version=4 if len(gateway) == 4 else 6
        )
        changes.objects[one.key] = one

    def _put_set(self, hops: HopSet, changes: Changes) -> None:
        members = self._members(hops)
        self._sets[hops].reached = bool(members)
        if len(hops) == 1 or not members or not self.objects:
            return
        one = NextHop(
            self._sets[hops].number,
            group=tuple(sorted(self._singles[hop].number for hop in members)),
            protocol=ROUTE_PROTOCOL_LEARNED,
            version=4 if len(self._gateway(members[0])) == 4 else 6,
        )
        changes.objects[one.key] = one

    def _gateway(self, hop: bytes) -> Address:
        return self.outlets[hop].gateway or Address(hop)

    def _drop(self, number: int, changes: Changes) -> None:
        self._numbers.discard(number)
        if self.objects:
            changes.objects[Key(Kind.NEXTHOP, (number,))] = None

    def _new_number(self, first: int, content: bytes) -> int:
        offset = int.from_bytes(blake2b(content, digest_size=4).digest(), "big") & _NUMBERS
        while first | offset in self._numbers:
            offset = (offset + 1) & _NUMBERS
        self._numbers.add(first | offset)
        return first | offset
