"""Ops on sets, members and chains as the messages of one nftables transaction, in an order that the kernel accepts.

In → out: ops → messages, each with the op that it is for. Made: table, sets, chains. Then rules are taken out of every
chain that changes or goes, and the new ones written; members out, members in; sets and chains deleted. So nothing is
referenced before it exists or deleted while referenced, and an interval goes before one that overlaps it comes. Of a
set that ages only the whole is made, whose part it is; what a part holds, the driver takes out.
Source: net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from felixpy.dataplane.aging import WHOLES, parse_part
from felixpy.dataplane.objects import BaseHook, Chain, Drop, DropMembers, Kind, Members, Op, Put, PutMembers
from felixpy.dataplane.objects import Set as NftSet
from felixpy.dataplane.rules import Return, Rule
from felixpy.drivers.netlink.codec import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    attribute,
    attribute_be32,
    attribute_text,
    nested,
)
from felixpy.drivers.netlink.nft.rules import encode_rule
from felixpy.drivers.netlink.nft.sets import encode_anonymous_set, encode_members, encode_set, encode_set_key

SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES."""
FAMILY_INET = 1
MSG_NEWTABLE, MSG_DELTABLE = 0, 2
MSG_NEWCHAIN, MSG_GETCHAIN, MSG_DELCHAIN = 3, 4, 5
MSG_NEWRULE, MSG_GETRULE, MSG_DELRULE = 6, 7, 8
MSG_NEWSET, MSG_GETSET, MSG_DELSET = 9, 10, 11
MSG_NEWSETELEM, MSG_GETSETELEM, MSG_DELSETELEM = 12, 13, 14

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
POLICIES = {"drop": 0, "accept": 1}
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 3, 4, 5, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS, RULE_USERDATA = 1, 2, 3, 4, 7
_TABLE_NAME = 1


class Step(NamedTuple):
    """One message: nf_tables type, flags, attributes, and the position of the op it is for (None: the table)."""

    message: int
    flags: int
    body: bytes
    source: int | None


@dataclass(frozen=True, slots=True)
class Detour:
    """How an op goes otherwise than it stands.

    `remake` deletes a chain before it is made (another hook); `replace` are members to take out before the new ones
    come in, and `members` what is left to do, in place of the op's own. `behind` puts a chain's rules behind those that
    are there, where no packet comes; `instead_of` are the handles of rules before them, which are taken out at last.
    """

    remake: bool = False
    replace: Members = field(default_factory=dict)
    members: Members | None = None
    behind: bool = False
    instead_of: tuple[bytes, ...] | None = None


BARRIER = Rule(Return())
"""Between the rules of a chain and those that are to come in their place."""


def encode_transaction(table: str, ops: Mapping[int, Op], detours: Mapping[int, Detour]) -> list[Step]:
    """The messages for `ops`, which are named by their position."""
    numbers = count(1)

    def next_id() -> int:
        return next(numbers)

    plain = Detour()
    wholes: set[str] = set()
    steps = [Step(MSG_NEWTABLE, NLM_F_CREATE, encode_table(table), None)]
    late: list[Step] = []
    flushes: list[Step] = []
    rules: list[Step] = []
    members_out: list[Step] = []
    members_in: list[Step] = []
    chains: list[Step] = []
    for position, op in ops.items():
        detour = detours.get(position, plain)
        match op:
            case Put(object=NftSet() as it):
                if (part := parse_part(it.name)) is not None:
                    it = WHOLES[part.version]
                    if it.name in wholes:
                        continue
                    wholes.add(it.name)
                steps.append(Step(MSG_NEWSET, NLM_F_CREATE, encode_set(table, it, next_id()), position))
            case Put(object=Chain() as chain):
                if detour.remake:
                    chains += _delete_chain(table, chain.name, position)
                if detour.instead_of is not None:
                    flushes += _delete_rules(table, chain.name, detour.instead_of, position)
                    continue
                chains.append(Step(MSG_NEWCHAIN, NLM_F_CREATE, _encode_chain(table, chain), position))
                if detour.behind:
                    rules += _encode_rules(table, chain.name, (BARRIER, *chain.rules), next_id, position)
                    continue
                flushes.append(Step(MSG_DELRULE, 0, encode_chain_of_rules(table, chain.name), position))
                rules += _encode_rules(table, chain.name, chain.rules, next_id, position)
            case PutMembers():
                wanted = op.members if detour.members is None else detour.members
                for body in encode_members(table, op.set, detour.replace, data=False):
                    members_out.append(Step(MSG_DELSETELEM, 0, body, position))
                for body in encode_members(table, op.set, wanted, data=True):
                    members_in.append(Step(MSG_NEWSETELEM, NLM_F_CREATE, body, position))
            case DropMembers():
                gone = op.members if detour.members is None else detour.members
                for body in encode_members(table, op.set, gone, data=False):
                    members_out.append(Step(MSG_DELSETELEM, 0, body, position))
            case Drop(key=key) if key.kind is Kind.SET and parse_part(str(key.id[0])) is not None:
                pass
            case Drop(key=key) if key.kind is Kind.SET:
                late.insert(0, Step(MSG_DELSET, 0, encode_set_key(table, str(key.id[0])), position))
            case Drop(key=key) if key.kind is Kind.CHAIN:
                name = str(key.id[0])
                flushes.append(Step(MSG_DELRULE, 0, encode_chain_of_rules(table, name), position))
                late.append(Step(MSG_DELCHAIN, 0, _chain_key(table, name), position))
            case _:
                raise TypeError(f"not an op on a set or chain: {op}")
    return [*steps, *chains, *flushes, *rules, *members_out, *members_in, *late]


def encode_table(table: str) -> bytes:
    """Attributes that name the table."""
    return attribute_text(_TABLE_NAME, table)


def encode_chain_of_rules(table: str, name: str) -> bytes:
    """Attributes that name a chain to a message about rules."""
    return attribute_text(RULE_TABLE, table) + attribute_text(RULE_CHAIN, name)


def needs(op: Op) -> Set[tuple[Kind, str]]:
    """The sets and chains that must exist for `op` to be possible."""
    match op:
        case Put(object=Chain() as chain):
            return _needs_of_rules(chain)
        case PutMembers():
            chains = {
                (Kind.CHAIN, word[5:].decode()) for word in op.members.values() if word[:5] in (b"jump ", b"goto ")
            }
            return chains | {(Kind.SET, op.set.name)}
        case _:
            return frozenset()


def _needs_of_rules(chain: Chain) -> Set[tuple[Kind, str]]:
    found: set[tuple[Kind, str]] = set()
    for rule in chain.rules:
        for part in (*rule.matches, rule.action):
            if (name := getattr(part, "set_name", None) or getattr(part, "map_name", None)) is not None:
                found.add((Kind.SET, name))
            elif (name := getattr(part, "chain", None)) is not None:
                found.add((Kind.CHAIN, name))
    return found


def _encode_chain(table: str, chain: Chain) -> bytes:
    key = _chain_key(table, chain.name)
    return key if chain.hook is None else key + _encode_hook(chain.hook)


def _encode_hook(hook: BaseHook) -> bytes:
    where = (attribute_be32(HOOK_NUMBER, HOOKS[hook.hook]), attribute_be32(HOOK_PRIORITY, hook.priority))
    return (
        nested(CHAIN_HOOK, *where)
        + attribute_be32(CHAIN_POLICY, POLICIES[hook.policy])
        + attribute_text(CHAIN_TYPE, hook.type)
    )


def _chain_key(table: str, name: str) -> bytes:
    return attribute_text(CHAIN_TABLE, table) + attribute_text(CHAIN_NAME, name)


def _delete_chain(table: str, name: str, position: int) -> Iterator[Step]:
    yield Step(MSG_DELRULE, 0, encode_chain_of_rules(table, name), position)
    yield Step(MSG_DELCHAIN, 0, _chain_key(table, name), position)


def _delete_rules(table: str, name: str, handles: Iterable[bytes], position: int) -> Iterator[Step]:
    where = encode_chain_of_rules(table, name)
    for handle in handles:
        yield Step(MSG_DELRULE, 0, where + attribute(RULE_HANDLE, handle), position)


def _encode_rules(
    table: str, name: str, rules: Iterable[Rule], next_id: Callable[[], int], position: int
) -> Iterator[Step]:
    where = encode_chain_of_rules(table, name)
    for rule in rules:
        encoded = encode_rule(rule, next_id)
        for anonymous in encoded.sets:
            declared, filled = encode_anonymous_set(table, anonymous)
            yield Step(MSG_NEWSET, NLM_F_CREATE, declared, position)
            yield from (Step(MSG_NEWSETELEM, NLM_F_CREATE, body, position) for body in filled)
        body = where + nested(RULE_EXPRESSIONS, encoded.expressions) + attribute(RULE_USERDATA, encoded.user_data)
        yield Step(MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body, position)
