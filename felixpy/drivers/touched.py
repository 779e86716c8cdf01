"""Whether the tables of iptables are still as they were, without reading them: a mark that almost every change moves.

The legacy variant tells of a table how many entries it has, how long they are and where its hooks begin; one rule in
the place of another of the same length does not show. Of the nft variant it is the number of the ruleset's generation,
which others' tables move, too. So a mark that stands says little less than a read, and one that moved asks for it.
Source: linux/netfilter_ipv4/ip_tables.h (struct ipt_getinfo), nf_tables.h (NFT_MSG_GETGEN).
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable
from typing import Protocol

from felixpy.dataplane.iptables.terms import Place
from felixpy.dataplane.sets import Version
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket

_GETGEN = 10 << 8 | 16
_GENERIC = bytes(4)
_GET_INFO = 64
_INFO_BYTES = 84
_NAME_BYTES = 32
_LEVELS: dict[Version, tuple[socket.AddressFamily, int]] = {
    4: (socket.AF_INET, socket.IPPROTO_IP),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6),
}
_libc = ctypes.CDLL(None, use_errno=True)


class Marks(Protocol):
    """Of the network namespace that it is made in."""

    def read(self, places: Iterable[Place]) -> tuple[bytes, ...]:
        """What moves with a change in one of `places`, which are there. Raises  OSError."""

    def close(self) -> None:
        """Gives the sockets back."""


class GenerationMarks:
    """For the nft variant."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def read(self, places: Iterable[Place]) -> tuple[bytes, ...]:
        """The generation of all tables."""
        return tuple(self._socket.request(_GETGEN, 0, _GENERIC))

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()


class TableMarks:
    """For the legacy variant. Raises  OSError where a family is not there."""

    def __init__(self, versions: Iterable[Version]) -> None:
        self._sockets = {
            version: socket.socket(_LEVELS[version][0], socket.SOCK_RAW, socket.IPPROTO_RAW) for version in versions
        }

    def read(self, places: Iterable[Place]) -> tuple[bytes, ...]:
        """What each table says of itself; to ask for one that is not there would make it."""
        return tuple(self._read_table(place) for place in sorted(places))

    def _read_table(self, place: Place) -> bytes:
        info = ctypes.create_string_buffer(place.table.encode(), _INFO_BYTES)
        length = ctypes.c_uint(_INFO_BYTES)
        descriptor, level = self._sockets[place.version].fileno(), _LEVELS[place.version][1]
        if _libc.getsockopt(descriptor, level, _GET_INFO, info, ctypes.byref(length)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(place.table))
        return info.raw[_NAME_BYTES:]

    def close(self) -> None:
        """Gives the sockets back."""
        for one in self._sockets.values():
            one.close()
