"""What the agent says to the responder, and hears from it: one JSON document a line, over a UNIX stream socket.

In, out lines ↔ values. `Replace` is all addresses, `Update` some; each is answered by `Status`, so that it is known to
        have been taken in. Addresses are text on the wire. Never does input or output.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from birdpy.addresses import format_address, parse_address
from birdpy.l2.election import Standing

LINE_MOST_BYTES = 1 << 24
DRAIN_MOST_S = 86400.0
VERSION = 4
"""Raised when a responder that runs must make way for a newer one."""


class Vip(NamedTuple):
    """An address to contend for; `interfaces` are the names of those to do it on, None for all.

    `elsewhere`: interfaces on whose segment another node says that it answers, with the greatest score of such a one.
    """

    address: bytes
    standing: Standing
    interfaces: tuple[str, ...] | None = None
    elsewhere: tuple[tuple[str, int], ...] = ()

    def standing_on(self, interface: str) -> Standing:
        """The standing with what is known of the interface's segment."""
        return self.standing._replace(elsewhere=dict(self.elsewhere).get(interface, 0))


class Replace(NamedTuple):
    """These addresses, and no others."""

    vips: tuple[Vip, ...]


class Update(NamedTuple):
    """These addresses as given, those no more, and all else as it is; `drains` are to be left gently."""

    puts: tuple[Vip, ...]
    drops: tuple[bytes, ...]
    drains: tuple[bytes, ...] = ()


class Ask(NamedTuple):
    """Nothing changes; how do things stand?"""


class Watch(NamedTuple):
    """As Ask, and again whenever this node begins or ends to answer for an address."""


Request = Replace | Update | Ask | Watch


class OwnedVip(NamedTuple):
    """How one address stands on one interface. `mac` is where it was last heard to be ("" nowhere).

    `questions` came from others than nodes, while this node had the address; `answers` went to them.
    """

    interface: str
    address: str
    owns: bool
    mac: str
    foreign_mac: str
    questions: int = 0
    answers: int = 0
    announcements: int = 0


class InterfaceCounters(NamedTuple):
    """What was sent on an interface, and how often this node began or ended to answer there."""

    interface: str
    answers: int
    announcements: int
    probes: int
    turns: int


class Status(NamedTuple):
    """How things stand; `error` where a request was not understood."""

    version: int = VERSION
    pid: int = 0
    wanted: int = 0
    vips: tuple[OwnedVip, ...] = ()
    interfaces: tuple[InterfaceCounters, ...] = ()
    error: str = ""


class ProtocolError(ValueError):
    """A line is no document of this protocol."""


def render_request(request: Request) -> bytes:
    """One line."""
    if isinstance(request, Replace):
        return _line({"op": "replace", "vips": _list(request.vips)})
    if isinstance(request, Update):
        left = {"drop": list(map(format_address, request.drops)), "drain": list(map(format_address, request.drains))}
        return _line({"op": "update", "put": _list(request.puts), **left})
    return _line({"op": "watch" if isinstance(request, Watch) else "status"})


def parse_request(line: bytes) -> Request:
    """Raises ProtocolError."""
    try:
        document = json.loads(line)
        match document["op"]:
            case "replace":
                return Replace(tuple(_vip(*one) for one in document["vips"]))
            case "update":
                drops, drains = (tuple(map(parse_address, document[word])) for word in ("drop", "drain"))
                return Update(tuple(_vip(*one) for one in document["put"]), drops, drains)
            case "status":
                return Ask()
            case "watch":
                return Watch()
            case other:
                raise ProtocolError(f"there is no operation {other!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"not a request: {error}") from None


def render_status(status: Status, detailed: bool) -> bytes:
    """One line; without the addresses unless `detailed`."""
    document = status._asdict() if detailed else status._replace(vips=())._asdict()
    return _line(document)


def parse_status(line: bytes) -> Status:
    """Raises ProtocolError."""
    try:
        document = json.loads(line)
        return Status(
            document["version"],
            document["pid"],
            document["wanted"],
            tuple(OwnedVip(*one) for one in document["vips"]),
            tuple(InterfaceCounters(*one) for one in document["interfaces"]),
            document["error"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"not a status: {error}") from None


def _list(vips: Iterable[Vip]) -> list[Any]:
    return [
        [format_address(vip.address), one.rank, one.score, vip.interfaces, dict(vip.elsewhere), one.drain_s]
        for vip in vips
        for one in (vip.standing,)
    ]


def _vip(
    address: str, rank: int, score: int, interfaces: list[str] | None, elsewhere: dict[str, int], drain_s: float
) -> Vip:
    if not (isinstance(rank, int) and isinstance(score, int) and 0 <= score < 1 << 64 and rank >= 0):
        raise ValueError(f"rank {rank!r} or score {score!r}")
    if not 0 <= drain_s <= DRAIN_MOST_S:
        raise ValueError(f"drain {drain_s!r}")
    names = None if interfaces is None else tuple(interfaces)
    standing = Standing(rank, score, drain_s=drain_s)
    return Vip(parse_address(address), standing, names, tuple(elsewhere.items()))


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
