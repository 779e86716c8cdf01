"""Client affinity: who went to a backend of late goes there again, for as long as the Service says. Pure.

In: a Service's name, protocol and timeout, and the backends to choose from; out: the chain that chooses, a chain for
each backend, and the set of the clients that each of them had of late, which the kernel keeps and time empties
(aging.py says how it keeps thousands of them).
A client that none knows is told by a hash of its address over slots filled by rendezvous: the same backend on every
node, so that it stays with it where a router sends it to another node. A backend that comes takes clients that nobody
knows, and no others; one that goes takes with it who was there. All frontends of a Service share what is known.
One set a backend and not one map of all clients: nft(8) cannot list a rule that looks up what it has looked up, so
that such a map could not leave out backends that are gone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from felixpy.calc.services.frontends import BackendAddress
from felixpy.dataplane.aging import OWNER_BYTES, Part, encode_owner
from felixpy.dataplane.chains.service_sets import CLIENT_SLOTS, encode_backend
from felixpy.dataplane.objects import Chain, Set
from felixpy.dataplane.rules import DestinationNat, Goto, ProtocolIs, Remember, Rule, SetHas, SourceSlotIn
from felixpy.dataplane.sets import Version
from felixpy.resources.kinds import Name

SLOTS_LEAST, SLOTS_A_BACKEND = 64, 4
_REMEMBERED = 1024
"""Services whose chains are kept at hand: each is asked for by every frontend, and again when one of them changes."""


class Stay(NamedTuple):
    """Whose clients stay, and how long after their last connection."""

    service: Name
    protocol: int
    timeout_s: int


class Sticky(NamedTuple):
    """The chain that chooses; what it needs: chains, sets, and members of CLIENT_SLOTS."""

    choice: Chain
    needed: tuple[Chain | Set, ...]
    slots: tuple[bytes, ...]


@lru_cache(maxsize=_REMEMBERED)
def sticky_objects(stay: Stay, backends: tuple[BackendAddress, ...]) -> Sticky:
    """What leads to one of `backends` (all of one family, not none)."""
    version: Version = 4 if len(backends[0].address) == 4 else 6
    sets = {backend: _clients(stay, version, backend) for backend in backends}
    chains = {backend: _backend_chain(stay, version, backend, sets[backend]) for backend in backends}
    spread = spread_slots(backends)
    count = sum(map(len, spread.values()))
    known = tuple(Rule(Goto(chains[one].name), (SetHas("source", sets[one].name, version),)) for one in backends)
    *others, last = (one for one in backends if spread[one])
    all_of_them = tuple(map(encode_backend, backends))
    among = {one: _digest(stay._replace(timeout_s=0), encode_backend(one), *all_of_them) for one in others}
    unknown = (
        *(
            Rule(Goto(chains[one].name), (SourceSlotIn(version, count, spread[one], CLIENT_SLOTS.name, owner),))
            for one, owner in among.items()
        ),
        Rule(Goto(chains[last].name)),
    )
    slots = tuple(
        encode_owner(owner) + slot.to_bytes(4, sys.byteorder) for one, owner in among.items() for slot in spread[one]
    )
    name = f"svc-stay{version}-{_digest(stay, *all_of_them).hex()}"
    return Sticky(Chain(name, (*known, *unknown)), (*chains.values(), *(part.set for part in sets.values())), slots)


def spread_slots(backends: tuple[BackendAddress, ...]) -> Mapping[BackendAddress, tuple[int, ...]]:
    """The slots of each backend, by rendezvous: one that goes frees only its own."""
    count = SLOTS_LEAST
    while count < SLOTS_A_BACKEND * len(backends):
        count *= 2
    weights = [_weigh_slots(backend, count) for backend in backends]
    found: dict[BackendAddress, list[int]] = {backend: [] for backend in backends}
    for slot, claims in enumerate(zip(*weights, strict=True)):
        found[backends[claims.index(max(claims))]].append(slot)
    return {backend: tuple(slots) for backend, slots in found.items()}


def _weigh_slots(backend: BackendAddress, count: int) -> list[bytes]:
    """How much a backend claims each slot: 8 bytes each of digests that have room for as many."""
    key, most = encode_backend(backend), blake2b.MAX_DIGEST_SIZE
    blocks = (blake2b(key, salt=at.to_bytes(4, "big")).digest() for at in range(0, count * 8, most))
    return [block[at : at + 8] for block in blocks for at in range(0, most, 8)]


def _clients(stay: Stay, version: Version, backend: BackendAddress) -> Part:
    """Who went there of late; another timeout does not make it another set."""
    return Part(version, _digest(stay._replace(timeout_s=0), encode_backend(backend)))


def _backend_chain(stay: Stay, version: Version, backend: BackendAddress, clients: Part) -> Chain:
    of = (ProtocolIs(stay.protocol),)
    return Chain(
        f"svc-end{version}-{_digest(stay, encode_backend(backend)).hex()}",
        (Rule(Remember(clients.name, version, stay.timeout_s), of), Rule(DestinationNat(*backend), of)),
    )


def _digest(stay: Stay, *parts: bytes) -> bytes:
    text = f"{stay.service} {stay.protocol} {stay.timeout_s} ".encode()
    return blake2b(text + b"".join(parts), digest_size=OWNER_BYTES).digest()
