"""IP sets in the kernel (ipset), by netlink.

In → out: kernel names, types and members → messages; dumps → sets with members. Knows nothing of what a set is for.
Members are in the form of `objects.Members`: address; address and prefix length; address . protocol . port.
Source: linux/netfilter/ipset/ip_set.h, net/netfilter/ipset/ip_set_core.c.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Self

from felixpy.dataplane.objects import SetType
from felixpy.dataplane.sets import encode_port_key
from felixpy.drivers.netlink.codec import (
    NLM_F_ACK,
    Failure,
    attribute,
    attribute_be16,
    attribute_be32,
    attribute_text,
    attribute_u8,
    iterate_attributes,
    nested,
    parse_attributes,
    parse_be32,
    parse_text,
    pick_attributes,
)
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkError, NetlinkSocket

MOST_MEMBERS = 1 << 20
"""Of one set; memory is taken as members come."""
MOST_AGING = 65536
"""Of one that ages: a flood of sources must not take the kernel's memory."""
MEMBERS_PER_MESSAGE = 1000
"""A message is at most 64 KiB long: its ADT attribute has a 16-bit length."""
DESTROY_ATTEMPTS = 20
DESTROY_PAUSE_S = 0.01
"""The kernel lets go of a deleted rule's sets a moment after the rule is gone (nf_tables_trans_destroy_work)."""
ERROR_REFERENCED = 4100
"""IPSET_ERR_BUSY: a rule or another set uses it."""
ERROR_TEXTS: Mapping[int, str] = {
    4097: "wrong ipset protocol",
    4098: "the kernel has no such type of set",
    4099: "too many sets",
    ERROR_REFERENCED: "the set is in use",
    4101: "a set of that name is there and differs",
    4102: "the types differ",
    4103: "the set is there and differs, or so does the member",
    4104: "bad prefix length",
    4352: "the set is full",
}

_SUBSYSTEM = 6
_PROTOCOL_VERSION = 6
_CREATE, _DESTROY, _LIST, _ADD, _DEL = 2, 3, 7, 9, 10
_PROTOCOL, _SETNAME, _TYPENAME, _REVISION_OF_TYPE, _FAMILY, _FLAGS, _DATA, _ADT, _LINENO = 1, 2, 3, 4, 5, 6, 7, 8, 9
_IP, _CIDR, _PORT, _TIMEOUT, _PROTO, _MAXELEM, _ELEMENTS = 1, 3, 4, 6, 7, 19, 24
_HEADERS_ONLY = 4
_NET_BYTEORDER = 0x4000
_GENERIC = Struct(">BBH")
_AF_INET, _AF_INET6 = 2, 10
_REVISION = 1
"""The first one that every type here has and that ipset(8) can list; later ones add what we do not use."""


@dataclass(frozen=True, slots=True)
class KernelSet:
    """A set by its kernel name; `interval` sets hold prefixes, and none of length 0.

    Of one that `ages` no member is read.
    """

    name: str
    type: SetType
    interval: bool = False
    ages: bool = False


_TYPE_NAMES: Mapping[tuple[SetType, bool], str] = {
    (SetType.IPV4, False): "hash:ip",
    (SetType.IPV6, False): "hash:ip",
    (SetType.IPV4, True): "hash:net",
    (SetType.IPV6, True): "hash:net",
    (SetType.IPV4_PORT, False): "hash:ip,port",
    (SetType.IPV6_PORT, False): "hash:ip,port",
}
_TYPES = {
    (name, _AF_INET if kind in (SetType.IPV4, SetType.IPV4_PORT) else _AF_INET6): (kind, interval)
    for (kind, interval), name in _TYPE_NAMES.items()
}


class IpsetClient:
    """Sets of the network namespace of `socket` (the caller's own, when None)."""

    def __init__(self, socket: NetlinkSocket | None = None) -> None:
        self._socket = socket or NetlinkSocket(NETLINK_NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the socket back; the sets stay."""
        self._socket.close()

    def create(self, it: KernelSet) -> None:
        """Has the set; one that is there and is the same stays as it is.

        Raises  NetlinkError.
        """
        body = b"".join(
            (
                attribute_text(_TYPENAME, _TYPE_NAMES[it.type, it.interval]),
                attribute_u8(_REVISION_OF_TYPE, _REVISION),
                attribute_u8(_FAMILY, _AF_INET if it.type in (SetType.IPV4, SetType.IPV4_PORT) else _AF_INET6),
                nested(
                    _DATA,
                    attribute_be32(_MAXELEM | _NET_BYTEORDER, MOST_AGING if it.ages else MOST_MEMBERS),
                    *((attribute_be32(_TIMEOUT | _NET_BYTEORDER, 0),) if it.ages else ()),
                ),
            )
        )
        self._request(_CREATE, it.name, body)

    def destroy(self, name: str) -> None:
        """Removes the set.

        Raises  NetlinkError; ENOENT when there is none, `ERROR_REFERENCED` while something uses it.
        """
        for attempt in range(DESTROY_ATTEMPTS):
            try:
                self._request(_DESTROY, name)
            except NetlinkError as error:
                if error.errno != ERROR_REFERENCED or attempt == DESTROY_ATTEMPTS - 1:
                    raise
                time.sleep(DESTROY_PAUSE_S)
            else:
                return

    def add(self, it: KernelSet, members: Collection[bytes]) -> None:
        """Has these members in the set.

        Raises  NetlinkError; some of them are then there.
        """
        self._change(_ADD, it, members)

    def remove(self, it: KernelSet, members: Collection[bytes]) -> None:
        """Has none of these members in the set.

        Raises  NetlinkError; some of them are then gone.
        """
        self._change(_DEL, it, members)

    def read(self, prefix: str) -> Mapping[KernelSet, frozenset[bytes]]:
        """All sets whose names begin with `prefix` and that we could have made; none without ipset in the kernel.

        Raises  NetlinkError.
        """
        bodies = self._socket.dump(_SUBSYSTEM << 8 | _LIST, _header())
        found: dict[KernelSet, set[bytes]] = {}
        known: dict[str, KernelSet] = {}
        for body in bodies:
            attributes = parse_attributes(body, _GENERIC.size)
            name = parse_text(attributes[_SETNAME])
            if not name.startswith(prefix):
                continue
            if _TYPENAME in attributes:
                key = parse_text(attributes[_TYPENAME]), attributes[_FAMILY][0]
                if key in _TYPES:
                    ages = _TIMEOUT in parse_attributes(attributes.get(_DATA, b""))
                    known[name] = KernelSet(name, *_TYPES[key], ages)
                    found[known[name]] = set()
            if name in known and not known[name].ages:
                found[known[name]].update(_parse_members(known[name], attributes.get(_ADT, b"")))
        return {it: frozenset(members) for it, members in found.items()}

    def read_sizes(self, prefix: str) -> Mapping[str, int]:
        """How many members each set has that `read` would read them of; none of them is read.

        Raises  NetlinkError.
        """
        flags = attribute_be32(_FLAGS | _NET_BYTEORDER, _HEADERS_ONLY)
        found: dict[str, int] = {}
        for body in self._socket.dump(_SUBSYSTEM << 8 | _LIST, _header() + flags):
            named, data = pick_attributes(body, _GENERIC.size, _SETNAME, _DATA)
            name = parse_text(named)
            if name.startswith(prefix):
                count, aging = pick_attributes(data, 0, _ELEMENTS, _TIMEOUT)
                if not aging:
                    found[name] = parse_be32(count)
        return found

    def _change(self, command: int, it: KernelSet, members: Collection[bytes]) -> None:
        ordered = sorted(members)
        for start in range(0, len(ordered), MEMBERS_PER_MESSAGE):
            part = ordered[start : start + MEMBERS_PER_MESSAGE]
            entries = (nested(_DATA, *_encode_member(it, member)) for member in part)
            # Without a line number the kernel takes a single member only.
            self._request(command, it.name, attribute_be32(_LINENO | _NET_BYTEORDER, 0) + nested(_ADT, *entries))

    def _request(self, command: int, name: str, body: bytes = b"") -> None:
        try:
            self._socket.request(
                _SUBSYSTEM << 8 | command, NLM_F_ACK, _header() + attribute_text(_SETNAME, name) + body
            )
        except NetlinkError as error:
            if text := ERROR_TEXTS.get(error.errno or 0):
                raise NetlinkError(Failure(error.errno or 0, text)) from None
            raise


def _header() -> bytes:
    return _GENERIC.pack(_AF_INET, 0, 0) + attribute_u8(_PROTOCOL, _PROTOCOL_VERSION)


def _encode_member(it: KernelSet, member: bytes) -> Iterator[bytes]:
    size = 4 if it.type in (SetType.IPV4, SetType.IPV4_PORT) else 16
    yield nested(_IP, attribute((1 if size == 4 else 2) | _NET_BYTEORDER, member[:size]))
    if it.interval:
        yield attribute_u8(_CIDR, member[size])
    elif it.type in (SetType.IPV4_PORT, SetType.IPV6_PORT):
        yield attribute_u8(_PROTO, member[size])
        yield attribute_be16(_PORT | _NET_BYTEORDER, int.from_bytes(member[size + 4 : size + 6], "big"))


def _parse_members(it: KernelSet, data: bytes) -> Iterator[bytes]:
    for _, entry in iterate_attributes(data):
        attributes = parse_attributes(entry)
        address = next(payload for _, payload in iterate_attributes(attributes[_IP]))
        if it.interval:
            yield address + attributes.get(_CIDR, bytes([8 * len(address)]))[:1]
        elif it.type in (SetType.IPV4_PORT, SetType.IPV6_PORT):
            yield encode_port_key(address, attributes[_PROTO][0], int.from_bytes(attributes[_PORT][:2], "big"))
        else:
            yield address
