"""What of a BGP session no field of Calico's or MetalLB's asks for: annotations of the objects that ask for sessions.

Annotations → values. Source: RFC 9494 §3.1 (24 bits for the time), RFC 4486 (maximum number of prefixes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from felixpy.resources.scalars import FieldError, read_seconds

PREFIX_LIMIT = "felixpy.io/prefix-limit"
"""On a BGPPeer: the most prefixes of a family that the neighbour may announce; with one more its session ends."""
LONG_LIVED = "felixpy.io/long-lived-restart-time"
"""On a BGPPeer, or the BGPConfiguration `default` (for the mesh): how long routes are kept past the restart time."""
LONG_LIVED_S_MOST = (1 << 24) - 1
PREFIX_LIMIT_MOST = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class SessionExtras:
    """None where nothing is said."""

    prefix_limit: int | None = None
    long_lived_s: int | None = None


NO_EXTRAS = SessionExtras()


def read_extras(annotations: Mapping[str, str] | None) -> SessionExtras:
    """Raises  FieldError where one of them is no number or time."""
    given = annotations or {}
    limit, time = given.get(PREFIX_LIMIT), given.get(LONG_LIVED)
    return SessionExtras(
        None if limit is None else read_limit(_field(PREFIX_LIMIT), limit),
        None if time is None else read_long_lived(_field(LONG_LIVED), time),
    )


def read_limit(field: str, text: str) -> int:
    """A number of prefixes."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= PREFIX_LIMIT_MOST):
        raise FieldError(field, f"{text!r} is no number of prefixes")
    return int(text)


def read_long_lived(field: str, text: str) -> int:
    """A time that the capability has room for."""
    seconds = read_seconds(field, text)
    if not seconds or seconds > LONG_LIVED_S_MOST:
        raise FieldError(field, f"{text!r} is no time of 1 second to {LONG_LIVED_S_MOST} s")
    return seconds


def _field(annotation: str) -> str:
    return f"metadata.annotations.{annotation}"
