"""JSON that anybody may have written, read as a shape; what is something else is None, or one of UNREADABLE. Pure.

The codec of resources says what is wrong with a value. This is for those who need a field or two of one, or none of it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes: its own errors, and Python's for text that is no UTF-8 and for nesting without end."""

T = TypeVar("T")


def decode_or_none(value: bytes | None, shape: type[T]) -> T | None:
    """`value` as a `shape`; None where there is none, or it is something else."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=shape)
    except UNREADABLE:
        return None
