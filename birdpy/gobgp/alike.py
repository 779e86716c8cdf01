"""Table events of version 4 straight from their bytes: paths that are alike but for the prefix are decoded once.

A table of 100,000 paths has a few dozen sets of attributes, sources and next hops. So of each path only the lengths and
the prefix are looked at, and all that follows the prefix is looked up whole, or else without its age. What does not
look as expected is left to protobuf, path by path: the meaning is the same, at several times the cost. Source:
protobuf's encoding (tags, varints); the fields of `fields.py`; the order in which 4.8 writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_pton

from birdpy.addresses import Prefix
from birdpy.fib import Path, PathEvent, PathGone, PathPut, Source

TAILS_MOST = 4096
"""How many different ones are remembered."""

_TABLE, _NLRI, _ATTRIBUTE, _AGE = 0x1A, 0x0A, 0x12, 0x1A
"""Tags: of the table in a reply, and of a path's fields."""
_PREFIX, _LENGTH, _ADDRESS = 0x0A, 0x08, 0x12
"""Tags: of the prefix in an NLRI, and of the prefix's fields."""

_TAGS, _HEAD_BYTES = bytes([_NLRI, _PREFIX, _LENGTH, _ADDRESS]), 8
"""What a path begins with, each with one byte behind it."""
_HEADS, _LENGTH_128 = bytes([_NLRI, _PREFIX]), bytes([_LENGTH, 0x80, 0x01, _ADDRESS])

Tail = tuple[Source, Path | None]
"""All of a path but its prefix; no Path where it is withdrawn."""


@dataclass(slots=True)
class AlikePaths:
    """Reads the replies of one stream. `decode` reads a whole path; None where its family is none of ours."""

    decode: Callable[[bytes], tuple[Prefix, Tail] | None]
    _heads: dict[bytes, int] = field(default_factory=dict)
    _exact: dict[bytes, Tail] = field(default_factory=dict)
    _ageless: dict[bytes, Tail] = field(default_factory=dict)
    _shared: dict[Tail, Tail] = field(default_factory=dict)

    def read(self, reply: bytes) -> tuple[list[PathEvent], int]:
        """The changes that a table event tells, what went before what there is now; and of how many paths it told.

        Raises  ValueError where the bytes are no table event.
        """
        size, position = read_varint(reply, 1)
        end = len(reply)
        if reply[0] != _TABLE or position + size != end:
            raise ValueError("not a table event")
        exact, heads, pton, make = self._exact, self._heads, inet_pton, Prefix._make
        found: dict[int, tuple[Tail, list[Prefix]]] = {}
        count = 0
        last: Tail | None = None
        prefixes: list[Prefix] = []
        while position < end:
            count += 1
            length = reply[position + 1]
            if length < 0x80:
                start = position + 2
            else:
                length, start = read_varint(reply, position + 1)
            position = start + length
            head = reply[start : start + _HEAD_BYTES]
            size = heads.get(head) or self._find_size(head)
            if size and (tail_at := start + size) <= position:
                text = str(reply[start + _HEAD_BYTES : tail_at], "ascii")
                prefix = make((pton(AF_INET6 if ":" in text else AF_INET, text), head[5]))
                tail = exact.get(reply[tail_at:position])
                if tail is None:
                    tail = self._find_tail(reply[start:position], tail_at - start)
            else:
                told = self._read_other(reply[start:position])
                if told is None:
                    continue
                prefix, tail = told
            if tail is not last:
                last, prefixes = found.setdefault(id(tail), (tail, []))
            prefixes.append(prefix)
        return _events(found), count

    def _find_size(self, head: bytes) -> int:
        """How much of a path its NLRI takes, by the first bytes: tags, lengths in between; 0 for any others."""
        if len(head) < _HEAD_BYTES or head[::2] != _TAGS or head[1] >= 0x80:
            return 0
        size = head[1] + 2
        if head[3] + 4 != size or head[7] + _HEAD_BYTES != size:
            return 0
        self._heads[head] = size
        return size

    def _read_other(self, path: bytes) -> tuple[Prefix, Tail] | None:
        """A path that begins otherwise; one of IPv6 with a length of 128, which takes two bytes, in the short way."""
        if path[:1] + path[2:3] == _HEADS and path[4:8] == _LENGTH_128 and path[8] + 9 == (tail_at := path[1] + 2):
            return Prefix(inet_pton(AF_INET6, str(path[9:tail_at], "ascii")), 128), self._find_tail(path, tail_at)
        told = self.decode(path)
        return None if told is None else (told[0], self._share(told[1]))

    def _find_tail(self, path: bytes, tail_at: int) -> Tail:
        """By all that follows the prefix, but for the age, and for the prefix again (IPv6 has it in MP_REACH_NLRI)."""
        tail = path[tail_at:]
        before, after = _around_age(tail)
        key = tail[:before].replace(path[2:tail_at], b"") + tail[after:]
        known = self._ageless.get(key)
        if known is None:
            decoded = self.decode(path)
            assert decoded is not None, path
            if len(self._ageless) >= TAILS_MOST:
                self._ageless.clear()
            known = self._ageless[key] = self._share(decoded[1])
        if len(self._exact) >= TAILS_MOST:
            self._exact.clear()
        self._exact[tail] = known
        return known

    def _share(self, tail: Tail) -> Tail:
        if len(self._shared) >= TAILS_MOST:
            self._shared.clear()
        return self._shared.setdefault(tail, tail)


def _events(found: dict[int, tuple[Tail, list[Prefix]]]) -> list[PathEvent]:
    events: list[PathEvent] = []
    for (source, path), prefixes in found.values():
        if path is None:
            events += [PathGone(prefix, source) for prefix in prefixes]
    for (source, path), prefixes in found.values():
        if path is not None:
            events.append(PathPut(prefixes, source, path))
    return events


def _around_age(tail: bytes) -> tuple[int, int]:
    """Where the age begins and ends behind the attributes; twice the same where there is none."""
    position, size = 0, len(tail)
    while position < size and tail[position] == _ATTRIBUTE:
        length, start = read_varint(tail, position + 1)
        position = start + length
    if position < size and tail[position] == _AGE:
        return position, position + 2 + tail[position + 1]
    return position, position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends.

    Raises  IndexError where the bytes end first.
    """
    value = shift = 0
    while (byte := data[position]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        position += 1
    return value | byte << shift, position + 1
