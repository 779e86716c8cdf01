"""How many packets and bytes passed the counting rules of some chains, as the kernel counted them.

In → out: names of chains → Counts. One question a chain (some 20 µs), so that asking costs what is asked for and not
the size of the table. Has a socket of its own and may be used in a thread; decides nothing.
Source: net/netfilter/nf_tables_api.c (nf_tables_dump_rules: table and chain), linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from felixpy.dataplane.nftables import TABLE
from felixpy.dataplane.objects import Counts
from felixpy.drivers.netlink.codec import attribute_text, iterate_attributes, parse_attributes, parse_text
from felixpy.drivers.netlink.nft.encode import FAMILY_INET, SUBSYSTEM
from felixpy.drivers.netlink.nft.read import ATTRIBUTES_AT
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkError, NetlinkSocket

_GET_RULE = SUBSYSTEM << 8 | 7
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_NAME, _DATA = 1, 2
_BYTES, _PACKETS = 1, 2
_GENERIC = bytes([FAMILY_INET, 0, 0, 0])


class NftCounters:
    """The counters of one table. Raises  OSError when the kernel lacks nftables."""

    def __init__(self, table: str = TABLE) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        self._table = table

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()

    def read(self, chains: Iterable[str]) -> Mapping[str, Counts]:
        """The counts of those of the chains that are there. Raises  OSError when the kernel does not answer."""
        found: dict[str, Counts] = {}
        for chain in chains:
            asked = _GENERIC + attribute_text(_RULE_TABLE, self._table) + attribute_text(_RULE_CHAIN, chain)
            try:
                rules = self._socket.dump(_GET_RULE, asked)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue
            if rules:
                counts = [_parse_counts(body) for body in rules]
                found[chain] = Counts(sum(one.packets for one in counts), sum(one.bytes for one in counts))
        return found


def _parse_counts(body: bytes) -> Counts:
    expressions = parse_attributes(body, ATTRIBUTES_AT).get(_RULE_EXPRESSIONS, b"")
    for _, expression in iterate_attributes(expressions):
        fields = parse_attributes(expression)
        if parse_text(fields.get(_NAME, b"")) == "counter":
            data = parse_attributes(fields.get(_DATA, b""))
            return Counts(int.from_bytes(data.get(_PACKETS, b""), "big"), int.from_bytes(data.get(_BYTES, b""), "big"))
    return Counts(0, 0)
