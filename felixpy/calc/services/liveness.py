"""Which nodes look dead from here, so that what they have of a Service is not used while others have some. Pure.

In      who ever ran an agent of ours, who holds a name under a lease now, addresses of Nodes, neighbours that BGP lost,
        and, round by round, which suspects answered. Out: whom to ask, and who looks dead and why.
Why     nobody marks the endpoints of a node that died where no API server does, and where one does it takes 40 s.
Never   judges a node that never ran an agent of ours, or this one. A lost lease alone says that an agent or etcd is
        away, which moves nothing: pods go on. So a node is dead only where it does not answer either, for `SILENCES`
        rounds; it lives again with its lease, or after `ANSWERS` rounds.
Cost    that of what changed; a round costs the suspects that are asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from felixpy.addresses import Address
from felixpy.resources.kinds import HOLDERS_PREFIX, NODES_PREFIX
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node

SILENCES, ANSWERS = 3, 2
"""Rounds in a row that make a suspect dead, and a dead one alive."""
STEADY, STEADY_EVERY = 10, 10
"""Who answered so many times in a row is asked in one round of so many: its agent may be away for good."""
ASKED_MOST = 50
"""Suspects asked in one round: where all leases are lost at once, every node suspects every other."""


class Sign(StrEnum):
    """What a node is suspected for."""

    NO_LEASE = "no agent holds its name"
    NO_SESSION = "its BGP session is lost"
    NO_NODE = "its Node is gone, and no agent holds its name"


@dataclass(slots=True)
class _Suspicion:
    """`asked` counts rounds of the whole: who waited longest is asked next."""

    silences: int = 0
    answers: int = 0
    dead: bool = False
    asked: int = 0

    @property
    def pause(self) -> int:
        """Rounds from one question to the next."""
        return STEADY_EVERY if self.answers >= STEADY else 1


class Liveness:
    """The nodes of a cluster as `node` sees them."""

    def __init__(self, node: str, known_dead: Collection[str] = ()) -> None:
        self._me = node
        self._known_dead = frozenset(known_dead)
        self._members: set[str] = set()
        self._holders: dict[str, set[str]] = {}
        self._addresses: dict[str, tuple[Address, ...]] = {}
        self._owners: dict[Address, str] = {}
        self._lost: frozenset[Address] = frozenset()
        self._suspects: dict[str, _Suspicion] = {}
        self._touched: set[str] = set()
        self._round = 0

    def observe(self, key: bytes, there: bool) -> None:
        """Takes an event of any key: a name that is held, or was ever."""
        if key.startswith(_NODES):
            node = key[len(_NODES) :].decode("utf-8", "replace")
            (self._members.add if there else self._members.discard)(node)
        elif key.startswith(_HOLDERS):
            node, _, role = key[len(_HOLDERS) :].decode("utf-8", "replace").partition("/")
            held = self._holders.setdefault(node, set())
            (held.add if there else held.discard)(role)
            if not held:
                del self._holders[node]
        else:
            return
        self._touched.add(node)

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        if ref.table is not Table.NODE:
            return
        for address in self._addresses.pop(ref.name.name, ()):
            self._owners.pop(address, None)
        if isinstance(value, Node):
            found = tuple(one.address for one in (value.ipv4, value.ipv6) if one is not None)
            self._addresses[ref.name.name] = found
            self._owners.update(dict.fromkeys(found, ref.name.name))
        self._touched.add(ref.name.name)

    def put_lost(self, neighbours: frozenset[Address]) -> None:
        """Takes the addresses of the neighbours whose sessions were up and are down now."""
        self._touched.update(self._owners[one] for one in neighbours ^ self._lost if one in self._owners)
        self._lost = neighbours

    def flush(self) -> None:
        """Suspects whom there is a sign against, and nobody else any more."""
        for node in self._touched:
            if self.sign_of(node) is None:
                self._suspects.pop(node, None)
            elif node not in self._suspects:
                dead = node in self._known_dead
                self._suspects[node] = _Suspicion(SILENCES if dead else 0, 0, dead)
        self._touched.clear()
        self._known_dead = frozenset()

    def sign_of(self, node: str) -> Sign | None:
        """What there is against a node; None where nothing is, or it could not be asked."""
        if node == self._me or node not in self._members:
            return None
        if node not in self._holders:
            if node not in self._addresses:
                return Sign.NO_NODE
            return Sign.NO_LEASE if self._addresses[node] else None
        lost = any(address in self._lost for address in self._addresses.get(node, ()))
        return Sign.NO_SESSION if lost else None

    @property
    def has_suspects(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._suspects)

    def next_round(self) -> Mapping[str, tuple[Address, ...]]:
        """Whom to ask now, and at which addresses; those without any do not answer."""
        self._round += 1
        due = [node for node, one in self._suspects.items() if self._round - one.asked >= one.pause]
        chosen = sorted(due, key=lambda node: (self._suspects[node].asked, node))[:ASKED_MOST]
        for node in chosen:
            self._suspects[node].asked = self._round
        return {node: self._addresses.get(node, ()) for node in chosen}

    def note(self, asked: Collection[str], answered: Collection[str]) -> None:
        """Takes how a round ended; who is no longer a suspect does not matter."""
        for node in asked:
            suspicion = self._suspects.get(node)
            if suspicion is None:
                continue
            if node in answered:
                suspicion.silences, suspicion.answers = 0, suspicion.answers + 1
                suspicion.dead = suspicion.dead and suspicion.answers < ANSWERS
            else:
                suspicion.silences, suspicion.answers = suspicion.silences + 1, 0
                suspicion.dead = suspicion.dead or suspicion.silences >= SILENCES

    @property
    def dead(self) -> Mapping[str, Sign]:
        """Who looks dead, and for what it was suspected."""
        return {
            node: sign
            for node, suspicion in self._suspects.items()
            if suspicion.dead and (sign := self.sign_of(node)) is not None
        }


_NODES, _HOLDERS = NODES_PREFIX.encode(), HOLDERS_PREFIX.encode()
