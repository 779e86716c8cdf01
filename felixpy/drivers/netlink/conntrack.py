"""Connections that the kernel tracks: those that are to be forgotten are deleted.

In → out: a Forget → one dump of the table, and a delete for each entry that it names. Decides nothing of what is stale.
Never sends a delete without a tuple: the kernel takes that for the whole table.
Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from felixpy.addresses import Address
from felixpy.calc.services.frontends import ANY_OWN, BackendAddress, Frontend
from felixpy.dataplane.stale_flows import Forget
from felixpy.drivers.netlink.codec import attribute, nested, parse_attributes, pick_attributes
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkError, NetlinkSocket

NEEDLES = 16
"""Up to so many addresses are looked for in an entry's bytes first (0.4 µs each): to parse it takes 10 µs."""

_SUBSYSTEM = 1
_GET, _DELETE = 1, 2
_GENERIC_BYTES = 4
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IPV4_SOURCE, _IPV4_DESTINATION, _IPV6_SOURCE, _IPV6_DESTINATION = 1, 2, 3, 4
_PROTO_NUMBER, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT = 1, 2, 3
_AF_INET = 2
_EVERYTHING = bytes(_GENERIC_BYTES)
_UDP = 17


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a connection; ports are 0 where the protocol has none."""

    source: Address
    destination: Address
    protocol: int
    source_port: int
    destination_port: int


class Conntrack:
    """The connections of the network namespace of `socket` (the caller's own, when None)."""

    def __init__(self, socket: NetlinkSocket | None = None) -> None:
        self._socket = socket or NetlinkSocket(NETLINK_NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the descriptor back."""
        self._socket.close()

    def forget(self, what: Forget) -> int:
        """Deletes the connections that `what` names; how many there were. One that ended meanwhile counts.

        Raises  OSError when the kernel tracks nothing, does not answer, or refuses a delete; the others are made.
        """
        if not what:
            return 0
        entries = self._socket.dump(_SUBSYSTEM << 8 | _GET, _EVERYTHING)
        deletes = [_render_delete(entry) for entry in _find_stale(entries, what)]
        failures = self._socket.batch(_SUBSYSTEM << 8 | _DELETE, 0, deletes)
        for failure in failures.values():
            if failure.errno != errno.ENOENT:
                raise NetlinkError(failure)
        return len(deletes)


def _find_stale(entries: Sequence[bytes], what: Forget) -> Iterator[bytes]:
    needles: set[bytes] = {*what.addresses, *map(_needle, what.udp)}
    few = tuple(needles) if len(needles) <= NEEDLES else ()
    for entry in entries:
        if few and not any(needle in entry for needle in few):
            continue
        original, reply = pick_attributes(entry, _GENERIC_BYTES, _TUPLE_ORIG, _TUPLE_REPLY)
        if _is_stale(_parse_direction(original, entry[0]), _parse_direction(reply, entry[0]), what):
            yield entry


def _needle(frontend: Frontend) -> bytes:
    """What an entry to a frontend has in it: its address; of a node port, which has none, the port."""
    return frontend.port.to_bytes(2, "big") if frontend.is_node_port else frontend.address


def _is_stale(original: Direction, reply: Direction, what: Forget) -> bool:
    if not what.addresses.isdisjoint((original.source, original.destination, reply.source, reply.destination)):
        return True
    if original.protocol != _UDP:
        return False
    port, own = original.destination_port, ANY_OWN[4 if len(original.destination) == 4 else 6]
    return any(
        (backends := what.udp.get(Frontend(address, _UDP, port))) is not None
        and BackendAddress(reply.source, reply.source_port) not in backends
        for address in (original.destination, own)
    )


def _parse_direction(data: bytes, family: int) -> Direction:
    addresses, proto = pick_attributes(data, 0, _TUPLE_IP, _TUPLE_PROTO)
    kinds = (_IPV4_SOURCE, _IPV4_DESTINATION) if family == _AF_INET else (_IPV6_SOURCE, _IPV6_DESTINATION)
    source, destination = pick_attributes(addresses, 0, *kinds)
    fields = parse_attributes(proto)
    number, source_port, destination_port = (
        int.from_bytes(fields.get(kind, b""), "big")
        for kind in (_PROTO_NUMBER, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT)
    )
    return Direction(Address(source), Address(destination), number, source_port, destination_port)


def _render_delete(entry: bytes) -> bytes:
    """The delete of that very entry: a newer one of the same tuple has another id."""
    fields = parse_attributes(entry, _GENERIC_BYTES)
    zone = attribute(_ZONE, fields[_ZONE]) if _ZONE in fields else b""
    original = nested(_TUPLE_ORIG, fields[_TUPLE_ORIG])
    return entry[:_GENERIC_BYTES] + original + zone + attribute(_ID, fields[_ID])
