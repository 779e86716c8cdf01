"""Chains, sets and maps → the tables of iptables that mean the same, for both families. Pure.

In → out: a World (all that is desired) → Compiled: per table of each family the chains with their rules, and the jumps
from the kernel's own chains. A chain is in every table that a hook leads to it from. A map has no form in iptables: its
entries become rules where it is looked up, and a frontend that balances becomes a chain of its own.

Differences that the kernel imposes: `accept` also ends what other programs have in the same table; refusals of
Services, which nftables does right after translation, come first in INPUT and FORWARD. A base chain that nftables has
after the hook's usual place hangs at the end of the kernel's chain, behind the rules of others.
Source: netfilter hook priorities (linux/netfilter_ipv4.h), iptables(8).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from felixpy.dataplane.iptables.names import chain_kernel_name
from felixpy.dataplane.iptables.rules import render_rule
from felixpy.dataplane.iptables.services import render_balance
from felixpy.dataplane.iptables.targets import drop_targets
from felixpy.dataplane.iptables.terms import Inexpressible, Place, Table
from felixpy.dataplane.nftables import COMMENT_BYTES, printable
from felixpy.dataplane.objects import (
    BaseHook,
    Chain,
    DataType,
    Drop,
    DropMembers,
    Key,
    Kind,
    Members,
    Op,
    Put,
    PutMembers,
    Set,
    SetType,
)
from felixpy.dataplane.rules import MARK_DROP, Balance, Dispatch, Goto, Hairpin, Jump, MapDestination, MapSource, Rule
from felixpy.dataplane.sets import VERSIONS, Version

ENCODING = 1
"""Part of every digest: a new number has the rules of an older version written anew."""
OWNER = "fpx:"
"""Begins the comment of every rule of ours; the digest of the rule follows."""
_DIGEST_BYTES = 8
_RAW_BEFORE, _MANGLE_BEFORE, _POSTROUTING_BEFORE = -150, -100, 100
_FILTER = 0
_BALANCERS = ""
"""Stands for all chains that balance, among the names of sets whose changes are counted."""
_KERNEL_TYPES = frozenset({SetType.IPV4, SetType.IPV6, SetType.IPV4_PORT, SetType.IPV6_PORT})


_CLEAR = (f"-j MARK --set-xmark 0x0/{MARK_DROP:#x}", "")
_DROP = (f"-m mark --mark {MARK_DROP:#x}/{MARK_DROP:#x} -j DROP", "dropped in translation")
_TRANSLATION_DROPS: Mapping[tuple[Table, str], tuple[str, str]] = {
    (Table.RAW, "PREROUTING"): _CLEAR,
    (Table.RAW, "OUTPUT"): _CLEAR,
    (Table.FILTER, "INPUT"): _DROP,
    (Table.FILTER, "FORWARD"): _DROP,
    (Table.FILTER, "OUTPUT"): _DROP,
}
"""Where nat chains are: what makes their drops true, and takes care that the mark says nothing else."""


@dataclass(frozen=True, slots=True)
class Body:
    """The rules of a chain in one table, each with its comment; and the digests that are in the comments, in hex."""

    lines: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a chain cannot be; `needs` is the chain for want of which, if that is why."""

    reason: str
    needs: str = ""


@dataclass(slots=True)
class TableBody:
    """One table: our chains, those that others lead to first; and what leads to them from the kernel's own.

    `jumps` come before all else in a chain of the kernel's, `last` after all else.
    """

    chains: dict[str, Body] = field(default_factory=dict)
    jumps: dict[str, Body] = field(default_factory=dict)
    last: dict[str, Body] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The tables; where each chain is in them; and the chains that cannot be, which are left out."""

    tables: Mapping[Place, TableBody]
    places: Mapping[str, frozenset[tuple[Place, str]]]
    faults: Mapping[str, Fault]


def has_kernel_set(it: Set) -> bool:
    """Whether the kernel has a set for it; of a map, a set of its keys."""
    return it.type in _KERNEL_TYPES


def is_expanded(it: Set) -> bool:
    """Whether its members become rules."""
    return it.data is not DataType.NONE or not has_kernel_set(it)


class World:
    """All that is desired of netfilter: chains, sets, and the members of those that become rules."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.sets: dict[str, Set] = {}
        self.changes: Counter[str] = Counter()
        self._members: dict[str, dict[bytes, bytes]] = {}

    def members(self, set_name: str) -> Members:
        """The members that became rules; none of a set that the kernel has."""
        return self._members.get(set_name, {})

    def take(self, op: Op) -> None:
        """Takes over what an op asks for."""
        match op:
            case Put(Chain() as chain):
                self._note_balancers(self.chains.get(chain.name), chain)
                self.chains[chain.name] = chain
            case Put(Set() as it):
                self.sets[it.name] = it
            case Drop(Key(Kind.CHAIN, (str() as name,))):
                self._note_balancers(self.chains.pop(name, None))
            case Drop(Key(Kind.SET, (str() as name,))):
                self.sets.pop(name, None)
                self._members.pop(name, None)
                self.changes[name] += 1
            case PutMembers(it, members) if is_expanded(it):
                self._members.setdefault(it.name, {}).update(members)
                self.changes[it.name] += 1
            case DropMembers(it, members) if is_expanded(it):
                held = self._members.get(it.name, {})
                for key in members:
                    held.pop(key, None)
                self.changes[it.name] += 1
            case _:
                pass

    def restore(self, op: Op, chain: Chain | None, members: Members) -> None:
        """Takes back what an op asked for: what was there before it."""
        match op:
            case Put(Chain(name)) | Drop(Key(Kind.CHAIN, (str() as name,))):
                self._note_balancers(self.chains.pop(name, None), chain)
                if chain is not None:
                    self.chains[name] = chain
            case PutMembers(it, _) | DropMembers(it, _) if is_expanded(it):
                self._members[it.name] = dict(members)
                self.changes[it.name] += 1
            case _:
                pass

    def _note_balancers(self, *chains: Chain | None) -> None:
        if any(isinstance(rule.action, Balance) for chain in chains if chain is not None for rule in chain.rules):
            self.changes[_BALANCERS] += 1

    def balance_of(self, chain: str) -> Balance | None:
        """What a chain does, if it does nothing but balance."""
        match self.chains.get(chain):
            case Chain(rules=(Rule(action=Balance() as balance, matches=()),)):
                return balance
            case _:
                return None

    def frontend(self, map_name: str, key: bytes, chain: str) -> str | None:
        """The kernel's chain for one frontend, where `chain` does nothing but balance."""
        balance = self.balance_of(chain)
        return frontend_chain(balance, key) if balance is not None else None


def frontend_chain(balance: Balance, key: bytes) -> str:
    """Name of the chain of one frontend."""
    return chain_kernel_name(f"{balance.map_name} pick {balance.count} {key.hex()}")


@dataclass(slots=True)
class _Entry:
    """What was found out about a chain, and what it depends on."""

    chain: Chain
    depends: Mapping[str, int]
    targets: tuple[str, ...]
    frontends: Mapping[str, tuple[Balance, bytes]]
    bodies: dict[Place, dict[str, Body]] = field(default_factory=dict)


class Compiler:
    """Remembers what it made of each chain, so that an unchanged one costs a look."""

    def __init__(self, versions: Iterable[Version] = VERSIONS) -> None:
        self._versions = tuple(versions)
        self._entries: dict[str, _Entry] = {}

    def compile(self, world: World) -> Compiled:
        """The tables of everything desired; the same as that of a new Compiler."""
        self._entries = {name: self._entry(chain, world) for name, chain in world.chains.items()}
        tables: dict[Place, TableBody] = {}
        places: dict[str, set[tuple[Place, str]]] = {name: set() for name in world.chains}
        faults: dict[str, Fault] = {}
        hooks = _hooks(world.chains.values())
        for name, chain in world.chains.items():
            if chain.hook is not None and not any(name in names for names in hooks.values()):
                faults[name] = Fault(f"iptables has no table at {chain.hook.hook} {chain.hook.priority}")
        for table in Table:
            roots = [name for (at, _), names in hooks.items() if at is table for name in names]
            order = self._order(roots, world, faults)
            for version in self._versions:
                place = Place(version, table)
                tables[place] = TableBody()
                for name in order:
                    self._add_chain(name, place, world, tables[place], places, faults)
                _add_hooks(place, hooks, tables[place], places, world)
        return Compiled(tables, {name: frozenset(found) for name, found in places.items()}, faults)

    def _entry(self, chain: Chain, world: World) -> _Entry:
        entry = self._entries.get(chain.name)
        fresh = entry is not None and entry.chain is chain
        if entry is not None and fresh and all(world.changes[name] == at for name, at in entry.depends.items()):
            return entry
        depends: dict[str, int] = {}
        targets: dict[str, None] = {}
        frontends: dict[str, tuple[Balance, bytes]] = {}
        for rule in chain.rules:
            for match in rule.matches:
                if isinstance(match, Hairpin):
                    depends[match.set_name] = world.changes[match.set_name]
            match rule.action:
                case Jump(target) | Goto(target):
                    targets[target] = None
                case Dispatch(_, map_name):
                    depends[map_name] = world.changes[map_name]
                    depends[_BALANCERS] = world.changes[_BALANCERS]
                    for key, verdict in world.members(map_name).items():
                        target = verdict.decode().partition(" ")[2]
                        balance = world.balance_of(target)
                        if balance is not None:
                            frontends[frontend_chain(balance, key)] = (balance, key)
                            depends[balance.map_name] = world.changes[balance.map_name]
                        elif target:
                            targets[target] = None
                case MapDestination(map_name) | MapSource(map_name):
                    depends[map_name] = world.changes[map_name]
                case _:
                    pass
        return _Entry(chain, depends, tuple(targets), frontends)

    def _order(self, roots: Iterable[str], world: World, faults: dict[str, Fault]) -> list[str]:
        """The chains that the roots lead to, each after all that it leads to itself."""
        order: dict[str, None] = {}
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen:
                return
            seen.add(name)
            for target in self._entries[name].targets:
                if target in self._entries:
                    visit(target)
                else:
                    faults.setdefault(name, Fault(f"needs {target}, which is not there", target))
            order[name] = None

        for root in roots:
            visit(root)
        return list(order)

    def _add_chain(
        self,
        name: str,
        place: Place,
        world: World,
        table: TableBody,
        places: dict[str, set[tuple[Place, str]]],
        faults: dict[str, Fault],
    ) -> None:
        entry = self._entries[name]
        lame = next((target for target in entry.targets if target in faults), None)
        if lame is not None:
            faults.setdefault(name, Fault(f"needs {lame}, which failed", lame))
        if name in faults:
            return
        if place not in entry.bodies:
            try:
                entry.bodies[place] = dict(_render_chain(entry, place, world))
            except Inexpressible as error:
                faults[name] = Fault(f"no form in iptables: {error}")
                return
        table.chains.update(entry.bodies[place])
        places[name].update((place, kernel_name) for kernel_name in entry.bodies[place])


def _render_chain(entry: _Entry, place: Place, world: World) -> Iterator[tuple[str, Body]]:
    """The chain, and before it those of the frontends that it leads to. Raises  Inexpressible."""
    for kernel_name, (balance, key) in entry.frontends.items():
        if balance.version == place.version:
            yield kernel_name, make_body((line, "") for line in _render_frontend(balance, key, world))
    yield (
        chain_kernel_name(entry.chain.name),
        make_body((line, rule.comment) for rule in entry.chain.rules for line in render_rule(rule, place, world)),
    )


def _render_frontend(balance: Balance, key: bytes, world: World) -> Iterator[str]:
    held = world.members(balance.map_name)
    slots = [held.get(key + slot.to_bytes(4, sys.byteorder)) for slot in range(balance.count)]
    return render_balance(balance, key, slots)


def make_body(rules: Iterable[tuple[str, str]]) -> Body:
    """Rules, each with a comment, as they go to the kernel."""
    lines, digests = [], []
    for spec, comment in rules:
        words = printable(comment, COMMENT_BYTES).replace("\\", "/")
        digest = blake2b(f"{ENCODING}\n{spec}\n{words}".encode(), digest_size=_DIGEST_BYTES).hexdigest()
        lines.append(f'-m comment --comment "{OWNER}{digest}{" " if words else ""}{words}" {spec}')
        digests.append(digest)
    return Body(tuple(lines), tuple(digests))


def _is_last(hook: BaseHook) -> bool:
    """Whether a base chain comes after the rules that others have in the kernel's chain."""
    return hook.hook == "forward" and hook.priority > _FILTER


def _builtins(hook: BaseHook) -> tuple[tuple[Table, str], ...]:
    """The kernel's chains in which a base chain hangs; none where iptables has no table."""
    builtin = hook.hook.upper()
    if hook.type == "nat":
        return ((Table.NAT, builtin),)
    if hook.hook in ("input", "forward"):
        return ((Table.FILTER, builtin),)
    if hook.hook == "postrouting":
        return ((Table.MANGLE, builtin),) if hook.priority < _POSTROUTING_BEFORE else ()
    if hook.priority < _RAW_BEFORE:
        return ((Table.RAW, builtin),)
    if hook.priority < _MANGLE_BEFORE or hook.type == "route":
        return ((Table.MANGLE, builtin),)
    if hook.hook == "output":
        return ((Table.FILTER, builtin),)
    return ((Table.FILTER, "INPUT"), (Table.FILTER, "FORWARD"))


def _hooks(chains: Iterable[Chain]) -> Mapping[tuple[Table, str], list[str]]:
    """The base chains of each of the kernel's own, in the order of their priorities."""
    found: dict[tuple[Table, str], list[tuple[int, str]]] = {}
    for chain in chains:
        for at in _builtins(chain.hook) if chain.hook is not None else ():
            found.setdefault(at, []).append((chain.hook.priority if chain.hook else 0, chain.name))
    if any(table is Table.NAT for table, _ in found):
        for at in _TRANSLATION_DROPS:
            found.setdefault(at, [])
    return {at: [name for _, name in sorted(names)] for at, names in found.items()}


def _add_hooks(
    place: Place,
    hooks: Mapping[tuple[Table, str], list[str]],
    table: TableBody,
    places: dict[str, set[tuple[Place, str]]],
    world: World,
) -> None:
    """A chain for each of the kernel's own, which leads to the base chains that hang there and have any rule."""
    translates = any(at is Table.NAT for at, _ in hooks)
    for (at, builtin), names in hooks.items():
        if at is not place.table:
            continue
        rules = [_TRANSLATION_DROPS[at, builtin]] if translates and (at, builtin) in _TRANSLATION_DROPS else []
        for name in names:
            hook = world.chains[name].hook
            if hook is not None and _is_last(hook):
                if chain_kernel_name(name) in table.chains:
                    table.last[builtin] = make_body(((f"-j {chain_kernel_name(name)}", ""),))
                    places[name].add((place, builtin))
                continue
            kernel_name = chain_kernel_name(name)
            body = table.chains.get(kernel_name)
            if body is not None and body.lines:
                rules.append((f"-j {kernel_name}", ""))
            if body is not None and hook is not None and hook.policy == "drop":
                rules += [(target, "end of the chain") for target in drop_targets(at)]
        hook_chain = chain_kernel_name(builtin)
        if rules:
            table.chains[hook_chain] = make_body(rules)
            table.jumps[builtin] = make_body(((f"-j {hook_chain}", ""),))
            for name in names:
                places[name].update(((place, hook_chain), (place, builtin)))
