"""What packets meet at each end: the judges, before and after, of what is sent and of what is received.

In: two Worlds; out: Fields, of which the first is everything but what stays on one guarded node, and each other what is
sent on one such node: to itself, and from workload to workload where host endpoints have a say about that. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.calc.policy.hosts import EVERY_INTERFACE
from felixpy.ctl.verdicts.carriage import DEVICES, Carriage
from felixpy.ctl.verdicts.ends import ALIKE, ALWAYS_TUNNELLED, Carrier, End, endpoints_of
from felixpy.ctl.verdicts.hosts import UNGUARDED, Door, Hosts, Path, concerned_nodes, doors_of
from felixpy.ctl.verdicts.world import World
from felixpy.resources.kinds import Name


class Ways(NamedTuple):
    """One direction of an end, before and after; empty paths where nothing judges."""

    before: Path
    after: Path

    def then(self, other: Ways) -> Ways:
        """This, and then the other."""
        if not (other.before or other.after):
            return self
        return Ways((*self.before, *other.before), (*self.after, *other.after))


NOBODY = Ways((), ())


@dataclass(frozen=True, slots=True)
class Field:
    """Who sends and who receives, and by which ways. `is_within`: all of it is on one node."""

    sources: dict[End, Ways] = field(default_factory=dict)
    targets: dict[End, Ways] = field(default_factory=dict)
    is_within: bool = False


def fields_of(before: World, after: World) -> Iterator[Field]:
    """Everything that may be asked of two worlds."""
    hosts = Hosts(before), Hosts(after)
    whole = Field()
    carriage = Carriage(after)
    guarded = {node: _Guarded(hosts, node, carriage) for node in concerned_nodes(*hosts)}
    taken: set[Address] = set()
    for name, address in endpoints_of(before, after):
        taken.add(address)
        pairs = before.judges(name), after.judges(name)
        out, into = (Ways((pairs[0][way],), (pairs[1][way],)) for way in (0, 1))
        node = guarded.get(after.endpoints[name].node)
        if node is not None:
            node.put(whole, name, address, out, into)
        else:
            end = End(address, name)
            if guarded and carriage.tunnels:
                at = after.endpoints[name].node
                marks = carriage.mark(address, at), carriage.segment(address, at)
                end = end._replace(tunnelled=marks[0], segment=marks[1])
            whole.sources[end], whole.targets[end] = out, into
    for node in guarded.values():
        node.put_itself(whole, taken)
    yield whole
    for node in guarded.values():
        yield from (one for one in (node.to_itself, node.to_workloads) if one.sources and one.targets)


class _Portal(NamedTuple):
    """What host endpoints say of what passes through by one interface, or by all that are alike."""

    interface: str
    leaving: Ways
    entering: Ways
    carrier: Carrier


class _Guarded:
    """A node with host endpoints, in one of the worlds at least."""

    def __init__(self, hosts: Sequence[Hosts], node: str, carriage: Carriage) -> None:
        self.to_itself = Field(is_within=True)
        self.to_workloads = Field(is_within=True)
        self._hosts = hosts
        self._node = node
        self._carriage = carriage
        self._doors = doors_of(hosts[0], hosts[1], node)
        if carriage.tunnels:
            own = frozenset[Address]().union(*(door.addresses for door in self._doors))
            plain = tuple(door for door in self._doors if door.interface not in DEVICES)
            self._doors = (*(plain or (Door(node, UNGUARDED, own),)), *carriage.doors(node))
        every = Door(node, EVERY_INTERFACE)
        from_workload = [one.of_workload(node) for one in hosts]
        self._forwarded = Ways(*(path for path, _ in from_workload))
        self._early = Ways(*(path for _, path in from_workload))
        self._delivered = _ways(one.after_forwarding(every) for one in hosts)
        self._portals = self._find_portals()
        self._is_forwarded = any(
            path
            for ways in (self._forwarded, self._delivered, *(ways for one in self._portals for ways in one[1:]))
            for path in ways
        )

    def _find_portals(self) -> tuple[_Portal, ...]:
        found: dict[tuple[Ways, Ways], list[str]] = {}
        for door in self._doors:
            leaving = _ways(one.after_forwarding(door) for one in self._hosts)
            entering = _ways(one.before_forwarding(door) for one in self._hosts)
            found.setdefault((leaving, entering), []).append(door.interface)
        if not found:
            return (_Portal(UNGUARDED, NOBODY, NOBODY, Carrier.ANY),)
        plain = [some for some in found.values() if not DEVICES.issuperset(some)]
        return tuple(
            _Portal("" if len(plain) == 1 and some is plain[0] else ALIKE.join(some), *ways, self._carrier(*some))
            for ways, some in found.items()
        )

    def _carrier(self, *interfaces: str) -> Carrier:
        """What goes by some interfaces that are alike."""
        kinds = {one in DEVICES for one in interfaces}
        if not self._carriage.tunnels or len(kinds) > 1:
            return Carrier.ANY
        return Carrier.TUNNEL if kinds == {True} else Carrier.PLAIN

    def put(self, whole: Field, name: Name, address: Address, out: Ways, into: Ways) -> None:
        """An endpoint of the node."""
        out, into = self._forwarded.then(out), into.then(self._delivered)
        mark, segment = self._carriage.mark(address, self._node), self._carriage.segment(address, self._node)
        for portal in self._portals:
            end = End(address, name, None, self._node, portal.interface, self._is_forwarded)
            if self._carriage.tunnels:
                end = end._replace(tunnelled=mark, segment=segment, carrier=portal.carrier)
            whole.sources[end] = out.then(portal.leaving)
            whole.targets[end] = portal.entering.then(into)
        inner = End(address, name, None, self._node)
        self.to_itself.sources[inner] = self._early.then(_ways((one.to_own_node(name),) for one in self._hosts))
        if self._is_forwarded:
            self.to_workloads.sources[inner], self.to_workloads.targets[inner] = out, into

    def put_itself(self, whole: Field, taken: Iterable[Address]) -> None:
        """The node's own addresses, as far as no endpoint has them; to be called last."""
        held = frozenset(taken)
        for door in self._doors:
            out = _ways(one.out_of_node(door) for one in self._hosts)
            into = _ways(one.into_node(door) for one in self._hosts)
            interface = "" if len(self._doors) == 1 and door.interface == EVERY_INTERFACE else door.interface
            for address in sorted(door.addresses - held):
                end = End(address, node=self._node, interface=interface)
                if self._carriage.tunnels:
                    own = ALWAYS_TUNNELLED if door.interface in DEVICES else ""
                    segment = self._carriage.segment(address, self._node)
                    end = end._replace(tunnelled=own, segment=segment, carrier=self._carrier(door.interface))
                whole.sources[end], whole.targets[end] = out, into
                self.to_itself.targets[End(address, node=self._node)] = self._action

    @property
    def _action(self) -> Ways:
        """What the node says of what its workloads send to it."""
        return _ways(one.own_node_action(self._node) for one in self._hosts)


def _ways(paths: Iterable[Path]) -> Ways:
    before, after = paths
    return Ways(before, after)
