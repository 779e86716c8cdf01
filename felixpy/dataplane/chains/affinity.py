"""Client affinity: who went to a backend of late goes there again, for as long as the Service says. Pure.

In: a Service's name, protocol and timeout, and the backends to choose from; out: the chain that chooses, a chain for
each backend, and the set of the clients that each of them had of late, which the kernel keeps and time empties.
A client that none knows is told by a hash of its address over slots filled by rendezvous: the same backend on every
node, so that it stays with it where a router sends it to another node. A backend that comes takes clients that nobody
knows, and no others; one that goes takes with it who was there. All frontends of a Service share what is known.
One set a backend, as nftables proxier of Kubernetes has them: nft(8) cannot list a rule that looks up what it has
looked up, so one map of all clients could not leave out backends that are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from felixpy.calc.services.frontends import BackendAddress
from felixpy.dataplane.chains.service_sets import encode_backend
from felixpy.dataplane.objects import Chain, Set, SetType
from felixpy.dataplane.rules import DestinationNat, Goto, ProtocolIs, Remember, Rule, SetHas, SourceSlotIn
from felixpy.dataplane.sets import Version
from felixpy.resources.kinds import Name

SLOTS_LEAST, SLOTS_A_BACKEND = 64, 4
_DIGEST_BYTES = 8


class Stay(NamedTuple):
    """Whose clients stay, and how long after their last connection."""

    service: Name
    protocol: int
    timeout_s: int


def sticky_objects(stay: Stay, backends: Sequence[BackendAddress]) -> tuple[Chain, tuple[Chain | Set, ...]]:
    """The chain that chooses one of `backends` (all of one family, not none), and what it needs."""
    version: Version = 4 if len(backends[0].address) == 4 else 6
    sets = {backend: _clients(stay, version, backend) for backend in backends}
    chains = {backend: _backend_chain(stay, version, backend, sets[backend]) for backend in backends}
    spread = spread_slots(backends)
    count = sum(map(len, spread.values()))
    known = tuple(Rule(Goto(chains[one].name), (SetHas("source", sets[one].name, version),)) for one in backends)
    *others, last = (one for one in backends if spread[one])
    unknown = (
        *(Rule(Goto(chains[one].name), (SourceSlotIn(version, count, spread[one]),)) for one in others),
        Rule(Goto(chains[last].name)),
    )
    name = f"svc-stay{version}-{_digest(stay, *map(encode_backend, backends))}"
    return Chain(name, (*known, *unknown)), (*chains.values(), *sets.values())


def spread_slots(backends: Sequence[BackendAddress]) -> Mapping[BackendAddress, tuple[int, ...]]:
    """The slots of each backend, by rendezvous: one that goes frees only its own."""
    count = SLOTS_LEAST
    while count < SLOTS_A_BACKEND * len(backends):
        count *= 2
    encoded = [(encode_backend(backend), backend) for backend in backends]
    found: dict[BackendAddress, list[int]] = {backend: [] for backend in backends}
    for slot in range(count):
        salt = slot.to_bytes(4, "big")
        _, chosen = max((blake2b(key, digest_size=8, salt=salt).digest(), backend) for key, backend in encoded)
        found[chosen].append(slot)
    return {backend: tuple(slots) for backend, slots in found.items()}


def _clients(stay: Stay, version: Version, backend: BackendAddress) -> Set:
    """Who went there of late; another timeout does not make it another set."""
    name = f"stay{version}-{_digest(stay._replace(timeout_s=0), encode_backend(backend))}"
    return Set(name, SetType.IPV4 if version == 4 else SetType.IPV6, ages=True)


def _backend_chain(stay: Stay, version: Version, backend: BackendAddress, clients: Set) -> Chain:
    of = (ProtocolIs(stay.protocol),)
    return Chain(
        f"svc-end{version}-{_digest(stay, encode_backend(backend))}",
        (Rule(Remember(clients.name, version, stay.timeout_s), of), Rule(DestinationNat(*backend), of)),
    )


def _digest(stay: Stay, *parts: bytes) -> str:
    text = f"{stay.service} {stay.protocol} {stay.timeout_s} ".encode()
    return blake2b(text + b"".join(parts), digest_size=_DIGEST_BYTES).hexdigest()
