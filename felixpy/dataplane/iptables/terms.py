"""The words of iptables that the modules beside this one share: tables, places, and what has no form there. Pure.

Source: iptables(8); the order of tables is that of netfilter's hook priorities.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from felixpy.dataplane.objects import Members
from felixpy.dataplane.sets import Version


class Table(StrEnum):
    """A table of iptables, in the order in which an incoming packet meets them."""

    RAW = "raw"
    MANGLE = "mangle"
    NAT = "nat"
    FILTER = "filter"


class Place(NamedTuple):
    """A table of one family."""

    version: Version
    table: Table


class Inexpressible(Exception):
    """A rule that iptables has no form for; the text says what of it."""


class Lookup(Protocol):
    """What a rule's text depends on beside the rule."""

    def members(self, set_name: str) -> Members:
        """The members of a set or map."""

    def frontend(self, map_name: str, key: bytes, chain: str) -> str | None:
        """The kernel's chain for one frontend, where `chain` does nothing but balance; else None."""


def set_mark(value: int, mask: int) -> str:
    """The target that sets the bits of `mask` as `value` has them."""
    return f"-j MARK --set-xmark {value:#x}/{mask:#x}"
