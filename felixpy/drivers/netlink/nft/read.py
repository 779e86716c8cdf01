"""Chains and rules of a table as read back from nfnetlink.

In → out: message bodies → chains with their hooks, rules as the digests that we left beside them.
Source: linux/netfilter/nf_tables.h; user data as rules.py writes it.
"""

from __future__ import annotations

from struct import Struct
from typing import Literal, NamedTuple

from felixpy.dataplane.objects import BaseHook
from felixpy.drivers.netlink.codec import parse_attributes, parse_be32, parse_text, pick_attributes
from felixpy.drivers.netlink.nft.encode import (
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TABLE,
    CHAIN_TYPE,
    HOOK_NUMBER,
    HOOK_PRIORITY,
    RULE_HANDLE,
    RULE_USERDATA,
)
from felixpy.drivers.netlink.nft.rules import DIGEST_TYPE

ATTRIBUTES_AT = 4
"""Behind struct nfgenmsg."""

Hook = Literal["prerouting", "input", "forward", "output", "postrouting"]
ChainType = Literal["filter", "nat", "route"]
_HOOK_NAMES: dict[int, Hook] = {
    0: "prerouting",
    1: "input",
    2: "forward",
    3: "output",
    4: "postrouting",
}
_CHAIN_TYPES: dict[str, ChainType] = {"filter": "filter", "nat": "nat", "route": "route"}
_SIGNED = Struct(">i")


class ChainFound(NamedTuple):
    """A chain's table, name and hook."""

    table: str
    name: str
    hook: BaseHook | None


def parse_chain(body: bytes) -> ChainFound:
    """The chain of a message body; a hook that we never use reads as none."""
    found = parse_attributes(body, ATTRIBUTES_AT)
    hook = None
    if CHAIN_HOOK in found:
        where = parse_attributes(found[CHAIN_HOOK])
        name = _HOOK_NAMES.get(parse_be32(where.get(HOOK_NUMBER, b"\xff" * 4)))
        kind = _CHAIN_TYPES.get(parse_text(found.get(CHAIN_TYPE, b"")))
        if name is not None and kind is not None:
            policy = parse_be32(found.get(CHAIN_POLICY, b"\0\0\0\1"))
            hook = BaseHook(kind, name, _SIGNED.unpack(where[HOOK_PRIORITY])[0], "accept" if policy else "drop")
    return ChainFound(parse_text(found[CHAIN_TABLE]), parse_text(found[CHAIN_NAME]), hook)


def parse_rule(body: bytes) -> bytes:
    """The digest of the rule of a message body; b"" where it has none of ours."""
    return _parse_digest(pick_attributes(body, ATTRIBUTES_AT, RULE_USERDATA)[0])


def parse_handle(body: bytes) -> bytes:
    """By which the kernel knows the rule of a message body."""
    return pick_attributes(body, ATTRIBUTES_AT, RULE_HANDLE)[0]


def _parse_digest(user_data: bytes) -> bytes:
    offset = 0
    while offset + 2 <= len(user_data):
        kind, length = user_data[offset], user_data[offset + 1]
        if kind == DIGEST_TYPE:
            return user_data[offset + 2 : offset + 2 + length]
        offset += 2 + length
    return b""
