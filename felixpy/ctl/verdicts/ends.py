"""Who may send and receive: each address of an endpoint that is in both worlds, those of nodes with host endpoints, and
the rest of the world in regions that no rule in question divides. In: two worlds and prefixes; out: Ends. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from felixpy.addresses import Address, Prefix, parse_prefix
from felixpy.ctl.verdicts.world import World
from felixpy.resources.kinds import Name

WHOLE = tuple(parse_prefix(text) for text in ("0.0.0.0/0", "::/0"))
ALWAYS_TUNNELLED = "*"
ALIKE = ", "
MOST_STEPS = 4096
"""How many addresses of a region are tried for one that nobody has."""


class Carrier(StrEnum):
    """What carries packets to and from an end."""

    ANY = ""
    TUNNEL = "tunnel"
    PLAIN = "plain"


class End(NamedTuple):
    """An address, and who has it: an endpoint, a node itself, a Service, or (none of them) nobody known, for a region.

    `node` is that of an endpoint only where host endpoints guard it. `interface` is the one by which the node is left
    or reached, where this makes a difference; those that are alike with commas between. `is_forwarded`: host endpoints
    have a say about what passes through. `tunnelled`: other nodes reach it through a tunnel, ALWAYS_TUNNELLED or those
    of another `segment` than this. `carrier`: it is left and reached so through a tunnel only, or by other interfaces.
    """

    address: Address
    endpoint: Name | None = None
    region: Prefix | None = None
    node: str = ""
    interface: str = ""
    is_forwarded: bool = False
    service: Name | None = None
    tunnelled: str = ""
    segment: str = ""
    carrier: Carrier = Carrier.ANY

    @property
    def version(self) -> int:
        """The family."""
        return 4 if len(self.address) == 4 else 6

    @property
    def is_host(self) -> bool:
        """Whether it is a node itself."""
        return self.endpoint is None and self.region is None and self.service is None

    @property
    def interfaces(self) -> list[str]:
        """By which its node is left or reached."""
        return self.interface.split(ALIKE)

    def is_near(self, other: End) -> bool:
        """Whether packets between the two do not pass the door of the node that both are on."""
        return bool(self.node) and self.node == other.node and (self.is_host or other.is_host or self.is_forwarded)

    def is_carried_to(self, other: End) -> bool:
        """Whether packets to the other go by the interfaces that both are looked at by."""
        return carried(self.sending, other.receiving)

    @property
    def sending(self) -> Sending:
        """What decides how its packets are carried."""
        return self.carrier, self.segment, self.region is not None

    @property
    def receiving(self) -> Receiving:
        """What decides how packets to it are carried."""
        return self.carrier, self.tunnelled

    def is_same(self, other: End) -> bool:
        """Whether both are one endpoint, whose packets to itself meet no rule."""
        return self.endpoint is not None and self.endpoint == other.endpoint


Sending = tuple[Carrier, str, bool]
Receiving = tuple[Carrier, str]


def carried(sending: Sending, receiving: Receiving) -> bool:
    """Whether the carriers of two ends are the one that there is between them."""
    (here, segment, is_outside), (there, tunnelled) = sending, receiving
    if here is there is Carrier.ANY:
        return True
    is_tunnelled = bool(tunnelled) and not is_outside and tunnelled != segment
    used = Carrier.TUNNEL if is_tunnelled else Carrier.PLAIN
    return here in (Carrier.ANY, used) and there in (Carrier.ANY, used)


def endpoints_of(before: World, after: World) -> Iterator[tuple[Name, Address]]:
    """The addresses that an endpoint has in both worlds; of an address that several have, the first is the holder."""
    held: set[Address] = set()
    for name in sorted(before.endpoints.keys() & after.endpoints.keys()):
        one, other = before.endpoints[name], after.endpoints[name]
        if one.node != other.node:
            continue
        for address in one.addresses:
            if address in other.addresses and address not in held:
                held.add(address)
                yield name, address


def regions_of(prefixes: Iterable[Prefix], taken: Collection[Address]) -> Iterator[End]:
    """An address for every part into which the prefixes divide what nobody has, as far as one is found."""
    ordered = sorted({*prefixes, *WHOLE}, key=lambda one: (len(one.address), one.address, one.length))
    starts = {prefix: index for index, prefix in enumerate(ordered)}
    for prefix, index in starts.items():
        address = _free(prefix, ordered, index + 1, taken)
        if address is not None:
            yield End(address, region=prefix)


def _free(prefix: Prefix, ordered: list[Prefix], inner: int, taken: Collection[Address]) -> Address | None:
    """An address of `prefix` in none of the prefixes inside it, which stand from `inner` on, that nobody has."""
    size = len(prefix.address)
    candidate = int.from_bytes(prefix.address, "big")
    last = candidate | ((1 << (size * 8 - prefix.length)) - 1)
    if candidate == 0:
        candidate = 1
    for _ in range(MOST_STEPS):
        if candidate > last:
            return None
        address = Address(candidate.to_bytes(size, "big"))
        while inner < len(ordered) and _end(ordered[inner]) < candidate and len(ordered[inner].address) == size:
            inner += 1
        if inner < len(ordered) and ordered[inner].contains(address):
            candidate = _end(ordered[inner]) + 1
        elif address in taken:
            candidate += 1
        else:
            return address
    return None


def _end(prefix: Prefix) -> int:
    """The last address, as a number."""
    host_bits = len(prefix.address) * 8 - prefix.length
    return int.from_bytes(prefix.address, "big") | ((1 << host_bits) - 1)
