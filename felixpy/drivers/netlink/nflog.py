"""What rules tell of packets: one NFLOG group, read without waiting.

In → out: a group → Sightings, and how many the kernel could not hand over (by its own numbering of them). It batches
them (at most a tenth of a second) and copies no more than a packet's head. Decides nothing. One socket holds a group
in a network namespace: the second is refused.
Source: linux/netfilter/nfnetlink_log.h, net/netfilter/nfnetlink_log.c.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct
from typing import Self

from felixpy.dataplane.rules import REPORT_GROUP
from felixpy.drivers.netlink.codec import (
    attribute,
    attribute_be16,
    attribute_be32,
    attribute_u8,
    parse_attributes,
    parse_be32,
    parse_text,
    split_messages,
)
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from felixpy.flows.sighting import HEAD_BYTES, Sighting

RECEIVE_BUFFER_BYTES = 1 << 20
"""Holds some 2,000 heads while nobody reads; what is more is lost, and counted."""

_SUBSYSTEM = 4
_PACKET, _CONFIG = _SUBSYSTEM << 8, _SUBSYSTEM << 8 | 1
_GENERIC = Struct(">BBH")
_MODE = Struct(">IBx")
_BIND, _COPY_PACKET, _NUMBERED = 1, 2, 1
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT, _CFG_THRESHOLD, _CFG_FLAGS = 1, 2, 4, 5, 6
_IN_INDEX, _OUT_INDEX, _PAYLOAD, _PREFIX, _NUMBER = 4, 5, 9, 10, 12
_TIMEOUT_CENTISECONDS = 10
_BATCH = 64
_GENERIC_BYTES = 4
_WRAP = 1 << 32


class Nflog:
    """Holds the group from the start to `close`.

    Raises  OSError: EBUSY where another process holds it (EPERM, the kernel says), others where there is no NFLOG.
    """

    def __init__(self, group: int = REPORT_GROUP) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, receive_bytes=RECEIVE_BUFFER_BYTES)
        self._next: int | None = None
        self.lost = 0
        try:
            self._socket.request(_CONFIG, 0, _render_config(group))
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EPERM:
                raise OSError(errno.EBUSY, f"another process reads NFLOG group {group}") from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For event loops."""
        return self._socket.fileno()

    def close(self) -> None:
        """Gives the group back."""
        self._socket.close()

    def read(self) -> tuple[Sighting, ...] | None:
        """What one datagram tells; None where there is none now."""
        try:
            datagram = self._socket.receive(wait=False)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return ()
        return tuple(self._parse(datagram))

    def _parse(self, datagram: bytes) -> Iterator[Sighting]:
        for message in split_messages(datagram):
            if message.type != _PACKET:
                continue
            fields = parse_attributes(message.body, _GENERIC_BYTES)
            number = parse_be32(fields.get(_NUMBER, b""))
            if self._next is not None:
                self.lost += (number - self._next) % _WRAP
            self._next = (number + 1) % _WRAP
            yield Sighting(
                parse_text(fields.get(_PREFIX, b"")),
                parse_be32(fields.get(_IN_INDEX, b"")),
                parse_be32(fields.get(_OUT_INDEX, b"")),
                fields.get(_PAYLOAD, b""),
            )


def _render_config(group: int) -> bytes:
    return b"".join(
        (
            _GENERIC.pack(0, 0, group),
            attribute_u8(_CFG_CMD, _BIND),
            attribute(_CFG_MODE, _MODE.pack(HEAD_BYTES, _COPY_PACKET)),
            attribute_be32(_CFG_TIMEOUT, _TIMEOUT_CENTISECONDS),
            attribute_be32(_CFG_THRESHOLD, _BATCH),
            attribute_be16(_CFG_FLAGS, _NUMBERED),
        )
    )
