"""What our chains and sets are called where names are short: iptables and ipset. Pure.

A short name keeps its words after our prefix; any other keeps its head and gets a digest, and has then exactly the
longest length, so that the two kinds cannot meet. The prefix is the mark of ownership.
Source: XT_EXTENSION_MAXNAMELEN 29 (linux/netfilter/x_tables.h), IPSET_MAXNAMELEN 32 (linux/netfilter/ipset/ip_set.h).
"""

from __future__ import annotations

import re
from hashlib import blake2b

PREFIX = "fpx-"
CHAIN_CHARACTERS = 28
SET_CHARACTERS = 31
_DIGEST_BYTES = 6
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]")


def chain_kernel_name(name: str) -> str:
    """The name of a chain in every table that has it."""
    return _shorten(name, CHAIN_CHARACTERS)


def set_kernel_name(name: str) -> str:
    """The name of a set; one that was read with our prefix is that already."""
    return name if name.startswith(PREFIX) else _shorten(name, SET_CHARACTERS)


def _shorten(name: str, limit: int) -> str:
    plain = _UNUSUAL.sub("_", name)
    full = PREFIX + plain
    if plain == name and len(full) < limit:
        return full
    digest = blake2b(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    head = full[: limit - len(digest) - 1].ljust(limit - len(digest) - 1, "_")
    return f"{head}-{digest}"
