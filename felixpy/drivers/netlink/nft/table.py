"""What the kernel holds of one nftables table: sets and their members, chains, rules. Only reads.

Source: net/netfilter/nf_tables_api.c (dumps begin again at their beginning for every datagram).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from felixpy.dataplane.aging import WHOLES, Part, decode_owner, parse_part
from felixpy.dataplane.objects import Key, Kind, Members, Set
from felixpy.dataplane.sets import Version
from felixpy.drivers.netlink.nft.encode import (
    FAMILY_INET,
    MSG_GETCHAIN,
    MSG_GETRULE,
    MSG_GETSET,
    MSG_GETSETELEM,
    SUBSYSTEM,
    encode_chain_of_rules,
    encode_table,
)
from felixpy.drivers.netlink.nft.read import ATTRIBUTES_AT, ChainFound, parse_chain
from felixpy.drivers.netlink.nft.sets import encode_element_query, encode_set_key, parse_members, parse_set
from felixpy.drivers.netlink.socket import NetlinkError, NetlinkSocket

INET = bytes([FAMILY_INET, 0, 0, 0])
"""struct nfgenmsg: family, version, resource."""


class NftTable:
    """The table of that name in the namespace of the socket; it need not be there."""

    def __init__(self, name: str, socket: NetlinkSocket) -> None:
        self.name = name
        self._socket = socket

    def read_sets(self, wanted: Iterable[Key]) -> Iterator[Set]:
        """Its sets, and of those that age the parts that are `wanted` or hold something; none without a table.

        Raises  NetlinkError.
        """
        wholes: dict[Version, Set] = {}
        for body in self._dump_where_there(MSG_GETSET, encode_table(self.name)) or ():
            it = parse_set(body, ATTRIBUTES_AT)
            version = next((version for version, whole in WHOLES.items() if whole == it), None)
            if version is not None:
                wholes[version] = WHOLES[version]
            elif it is not None:
                yield it
        if wholes:
            yield from self._read_parts(wholes, wanted)

    def read_members(self, it: Set) -> Members | None:
        """What a set holds; None where there is no such set (any more). Of one that ages nothing is read.

        Raises  NetlinkError.
        """
        if it.ages:
            return {}
        bodies = self._dump_where_there(MSG_GETSETELEM, encode_set_key(self.name, it.name))
        return None if bodies is None else parse_members(it, iter(bodies), ATTRIBUTES_AT)

    def find_members(self, it: Set, keys: Iterable[bytes]) -> Members:
        """Which of `keys` the set holds, with their data. Raises  NetlinkError."""
        found: dict[bytes, bytes] = {}
        for key in keys:
            body = INET + encode_element_query(self.name, it, key)
            try:
                replies = self._socket.request(SUBSYSTEM << 8 | MSG_GETSETELEM, 0, body)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                found[key] = b"" if it.interval else parse_members(it, replies, ATTRIBUTES_AT).get(key, b"")
        return found

    def read_clients(self, whole: Set, owners: AbstractSet[bytes] | None = None) -> Iterator[bytes]:
        """The keys of a set that ages; with `owners`, at least those that are of them. Raises  NetlinkError."""
        asked = encode_set_key(self.name, whole.name)
        for body in self._dump_where_there(MSG_GETSETELEM, asked) or ():
            if owners is None or any(owner in body for owner in owners):
                yield from parse_members(whole, [body], ATTRIBUTES_AT)

    def read_chains(self) -> tuple[ChainFound, ...]:
        """The chains without their rules. Raises  NetlinkError."""
        bodies = self._socket.dump(SUBSYSTEM << 8 | MSG_GETCHAIN, INET)
        return tuple(chain for chain in map(parse_chain, bodies) if chain.table == self.name)

    def read_rules(self, chain: str) -> list[bytes] | None:
        """The rules of a chain, in order, as the kernel tells them; None where there is no such chain (any more).

        Rules are asked for chain by chain: the time of a dump of all grows with the square of their number.

        Raises  NetlinkError.
        """
        return self._dump_where_there(MSG_GETRULE, encode_chain_of_rules(self.name, chain))

    def _read_parts(self, wholes: Mapping[Version, Set], wanted: Iterable[Key]) -> Iterator[Set]:
        asked = {part for key in wanted if key.kind is Kind.SET and (part := parse_part(str(key.id[0])))}
        found = {
            Part(version, decode_owner(key)) for version, whole in wholes.items() for key in self.read_clients(whole)
        }
        for part in found | {part for part in asked if part.version in wholes}:
            yield part.set

    def _dump_where_there(self, kind: int, body: bytes) -> list[bytes] | None:
        """None where what is asked about is not there (any more)."""
        try:
            return self._socket.dump(SUBSYSTEM << 8 | kind, INET + body)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            return None
