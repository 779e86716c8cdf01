"""Sets that age, as parts of one: their names, and how a kernel that keeps them together tells them apart. Pure.

iptables has each as a set of its own. nftables walks all sets of a table whenever one is named (2,000 Services with
affinity: 29 s), and a set that is to hold many has a megabyte before it holds any: there all parts of a family are one
set, whose keys end in 64 bits that say whose a member is. A rule brings them along as two numbers that are always the
same: of a constant in a key nft(8) makes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import NamedTuple

from felixpy.dataplane.objects import Set, SetType
from felixpy.dataplane.sets import VERSIONS, Version

OWNER_BYTES = 8
_NAME = "clients"


class Part(NamedTuple):
    """The members of one owner, by family."""

    version: Version
    owner: bytes

    @property
    def name(self) -> str:
        """What it is called as a set."""
        return f"{_NAME}{self.version}-{self.owner.hex()}"

    @property
    def set(self) -> Set:
        """It as a set of its own."""
        return Set(self.name, SetType.IPV4 if self.version == 4 else SetType.IPV6, ages=True)


WHOLES: Mapping[Version, Set] = {
    version: Set(f"{_NAME}{version}", SetType.IPV4_OWNER if version == 4 else SetType.IPV6_OWNER, ages=True)
    for version in VERSIONS
}
"""All parts of a family as one set."""
_PART = re.compile(rf"{_NAME}([46])-([0-9a-f]{{{2 * OWNER_BYTES}}})")


def parse_part(name: str) -> Part | None:
    """The part that is called so; None of any other set."""
    found = _PART.fullmatch(name)
    return Part(4 if found[1] == "4" else 6, bytes.fromhex(found[2])) if found else None


def owner_numbers(owner: bytes) -> tuple[int, int]:
    """The two numbers that stand for an owner in a rule."""
    return int.from_bytes(owner[:4], "big"), int.from_bytes(owner[4:], "big")


def encode_owner(owner: bytes) -> bytes:
    """The same two as a key has them, in the byte order of the machine."""
    return b"".join(number.to_bytes(4, sys.byteorder) for number in owner_numbers(owner))


def decode_owner(key: bytes) -> bytes:
    """The owner that a key of `encode_owner` ends in."""
    first, second = key[-OWNER_BYTES:-4], key[-4:]
    return b"".join(int.from_bytes(half, sys.byteorder).to_bytes(4, "big") for half in (first, second))
