"""iptables and ipset as one driver, for hosts without nftables: sets first, then chains, then what goes.

In → out: `read(wanted)` → Seen; ops on sets, members and chains → Outcomes. One `iptables-restore --noflush` per table
and family that changes; each is atomic, all of them together are not. What one call refuses is left out with what
needs it, and the rest goes again. Our prefix in names and comments is the mark of ownership; nothing else is touched.
Keeps what it was asked for, because maps have no form in the kernel: after a restart, chains are asked for again and
compared by digest, and what is right is not written.
Source: iptables-restore(8); measured: one call per table, not per chain (legacy rewrites the whole table each time).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from felixpy.dataplane.iptables.names import PREFIX, chain_kernel_name, set_kernel_name
from felixpy.dataplane.iptables.tables import Compiled, Compiler, Fault, World, has_kernel_set, is_expanded
from felixpy.dataplane.iptables.terms import Place, Table
from felixpy.dataplane.iptables.text import TableSeen, Text, parse_counts, parse_save, render_changes, seen_after
from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import (
    Chain,
    ChainSeen,
    Counts,
    Drop,
    DropMembers,
    Key,
    Kind,
    Members,
    Object,
    Op,
    Outcome,
    Put,
    PutMembers,
    Seen,
    Set,
)
from felixpy.dataplane.sets import VERSIONS, Version
from felixpy.drivers.netlink.ipset import IpsetClient, KernelSet
from felixpy.drivers.netlink.socket import in_namespace
from felixpy.drivers.touched import GenerationMarks, Marks, TableMarks

ROUNDS = 16
"""Compilations per apply: each but the last leaves out what failed."""
NFT_CHAINS_PER_CALL = 500
"""The time of one call of the nft variant grows with the square of its chains (20,000: 10 s; by 500: 3.2 s)."""
TIMEOUT_S = 60
LOCK_WAIT_S = 10
"""For the lock of the legacy variant, which is one for all network namespaces."""
GLANCED_SETS = 500
"""A glance costs 8 µs a set; where there are more, the next look finds what others did to them."""
REASON_CHARACTERS = 200
TABLE_ORDER = (Table.FILTER, Table.RAW, Table.MANGLE, Table.NAT)
"""Verdicts first: a packet must not be translated or marked for a chain that is not there."""

_LINE = re.compile(r"\bline:? (\d+)\b")


class Variant(StrEnum):
    """Which of the two iptables of a host."""

    NFT = "nft"
    LEGACY = "legacy"


class IptablesFailed(OSError):
    """A program of iptables did not do what it was asked; the text is its own."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one variant, by family."""

    variant: Variant
    save: Mapping[Version, str]
    restore: Mapping[Version, str]


class IptablesDriver:
    """Reads and applies in the network namespace that it is made in."""

    def __init__(self, programs: Programs, versions: Sequence[Version] = VERSIONS) -> None:
        self._programs = programs
        self._versions = tuple(versions)
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._ipset = IpsetClient()
        self._compiler = Compiler(self._versions)
        self._world = World()
        self._compiled = Compiled({}, {}, {})
        self._tables: dict[Place, TableSeen] | None = None
        self._found: dict[str, frozenset[bytes]] = {}
        self._marks: Marks = GenerationMarks() if programs.variant is Variant.NFT else TableMarks(self._versions)
        self._mark: tuple[bytes, ...] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives descriptors back; tables and sets stay."""
        self._ipset.close()
        self._marks.close()
        os.close(self._namespace)

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """What was asked for and holds, and whatever else has our prefix.

        A chain that is not known to be right has a digest that no rule has.

        Raises  OSError.
        """
        asked = tuple(wanted)
        self._mark = self._read_mark()
        self._tables = self._read_tables()
        objects: dict[Key, Object] = {}
        members: dict[str, Members] = {}
        self._read_chains(asked, self._tables, objects)
        self._read_sets(asked, objects, members)
        return Seen(objects, members)

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order. `ops` name a chain or set only once.

        Raises  OSError when the programs cannot be run.
        """
        if self._tables is None:
            self._tables = self._read_tables()
        touched = self.is_touched()
        outcomes: dict[int, Outcome] = {}
        for position, op in enumerate(ops):
            if isinstance(op, Put | PutMembers):
                self._put_set(position, op, outcomes)
        self._apply_chains({at: op for at, op in enumerate(ops) if at not in outcomes}, outcomes)
        put = _keys_put(ops)
        for position, op in enumerate(ops):
            if position not in outcomes:
                outcomes[position] = self._after_chains(op, put)
        self._mark = None if touched else self._read_mark()
        return tuple(outcomes[position] for position in range(len(ops)))

    def is_touched(self) -> bool:
        """Whether somebody else may have changed chains or sets since they were read, as far as a glance tells."""
        return self._mark is None or self._mark != self._read_mark()

    def _read_mark(self) -> tuple[bytes, ...] | None:
        """None where the kernel does not say, so that only reading tells."""
        try:
            marks = self._marks.read(place for place, wanted in self._compiled.tables.items() if wanted.chains)
            few = len(self._world.sets) <= GLANCED_SETS
            sizes = sorted(self._ipset.read_sizes(PREFIX).items()) if few else []
            return (*marks, *(f"{name} {size}".encode() for name, size in sizes))
        except OSError:
            return None

    def read_counts(self, chains: Iterable[str]) -> Mapping[str, Counts]:
        """What passed these chains; may be called in a thread. Raises  OSError."""
        names = {chain_kernel_name(chain): chain for chain in chains}
        found: dict[str, Counts] = {}
        for version in self._versions:
            for chain, counts in parse_counts(self._save(version, "-c"), names).items():
                before = found.get(chain, Counts(0, 0))
                found[chain] = Counts(before.packets + counts.packets, before.bytes + counts.bytes)
        return found

    def destroy(self, keep_sets: bool = False) -> None:
        """Removes all chains and sets that are ours, whoever made them; `keep_sets` where another variant uses them.

        Raises  OSError.
        """
        self._tables = self._read_tables()
        empty = Compiler(self._versions).compile(World())
        for _, failure in self._write(empty):
            raise IptablesFailed(0, failure.reason)
        self._world, self._compiled = World(), empty
        for it in () if keep_sets else self._ipset.read(PREFIX):
            self._ipset.destroy(it.name)

    def _apply_chains(self, pending: dict[int, Op], outcomes: dict[int, Outcome]) -> None:
        """Takes the ops over, and writes the tables until they hold all but what failed."""
        before = {position: self._before(op) for position, op in pending.items()}
        for op in pending.values():
            self._world.take(op)
        for turn in range(ROUNDS):
            compiled = self._compiler.compile(self._world)
            faults = dict(compiled.faults) if compiled.faults else dict(self._write(compiled))
            if not faults:
                self._compiled = compiled
                return
            blamed = _blame(faults, pending) if turn < ROUNDS - 1 else {}
            for position, reason in (blamed or _blame_all(faults, pending)).items():
                op = pending.pop(position)
                self._world.restore(op, *before[position])
                outcomes[position] = Outcome(op, reason)
            if not blamed:
                return

    def _before(self, op: Op) -> tuple[Chain | None, Members]:
        match op:
            case Put(Chain(name)) | Drop(Key(Kind.CHAIN, (str() as name,))):
                return self._world.chains.get(name), {}
            case PutMembers(it, _) | DropMembers(it, _):
                return None, dict(self._world.members(it.name))
            case _:
                return None, {}

    def _write(self, compiled: Compiled) -> Iterator[tuple[str, Fault]]:
        """Makes the tables so; what could not be, by chain. The first failure of a table ends it."""
        tables = self._tables if self._tables is not None else {}
        kernel_names = {kernel: name for name, held in compiled.places.items() for _, kernel in held}
        most = NFT_CHAINS_PER_CALL if self._programs.variant is Variant.NFT else None
        for place in sorted(compiled.tables, key=lambda it: (TABLE_ORDER.index(it.table), it.version)):
            seen, wanted = tables.setdefault(place, TableSeen()), compiled.tables[place]
            failed = False
            for text in render_changes(place.table, wanted, seen, most):
                failure = self._restore(place.version, text)
                if failure is not None:
                    owner, reason = failure
                    yield kernel_names.get(owner, owner), Fault(f"{place.table} of IPv{place.version}: {reason}")
                    failed = True
                    break
            tables[place] = self._read_place(place) if failed else seen_after(wanted)

    def _restore(self, version: Version, text: Text) -> tuple[str, str] | None:
        """The chain that a refusal is about, and the program's words; None when it was done."""
        argv = (self._programs.restore[version], "--noflush", "--wait", str(LOCK_WAIT_S))
        done = self._run(argv, str(text))
        if done.returncode == 0:
            return None
        reason = shorten(done.stderr)
        found = _LINE.search(reason)
        line = int(found[1]) - 1 if found else 0
        if line < len(text.lines) and text.lines[line].startswith("-A "):
            return text.owners[line], f"{reason} ({text.lines[line]})"
        return "", reason

    def _read_tables(self) -> dict[Place, TableSeen]:
        return {
            Place(version, table): seen
            for version in self._versions
            for table, seen in parse_save(self._save(version)).items()
        }

    def _read_place(self, place: Place) -> TableSeen:
        return parse_save(self._save(place.version))[place.table]

    def _save(self, version: Version, *flags: str) -> str:
        done = self._run((self._programs.save[version], *flags), "")
        if done.returncode:
            raise IptablesFailed(0, done.stderr.strip())
        return done.stdout

    def _run(self, argv: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=TIMEOUT_S)

        try:
            return in_namespace(self._namespace, run)
        except subprocess.TimeoutExpired as error:
            raise IptablesFailed(0, str(error)) from None

    def _read_chains(self, asked: Iterable[Key], tables: Mapping[Place, TableSeen], objects: dict[Key, Object]) -> None:
        there = {name for seen in tables.values() for name in seen.chains}
        if not self._world.chains:
            for key in asked:
                if key.kind is Kind.CHAIN and chain_kernel_name(str(key.id[0])) in there:
                    objects[key] = ChainSeen(str(key.id[0]), (b"",))
            return
        wanted = {name for body in self._compiled.tables.values() for name in body.chains}
        for stray in there - wanted:
            objects[Key(Kind.CHAIN, (stray,))] = ChainSeen(stray, ())
        for name, chain in self._world.chains.items():
            right = all(self._is_right(place, it, tables) for place, it in self._compiled.places.get(name, ()))
            objects[chain.key] = ChainSeen(name, chain_digests(chain) if right else (b"",), chain.hook)

    def _is_right(self, place: Place, name: str, tables: Mapping[Place, TableSeen]) -> bool:
        wanted, seen = self._compiled.tables[place], tables.get(place, TableSeen())
        if name in wanted.jumps or name in wanted.last:
            return seen.has_jumps(name, wanted)
        return name not in wanted.chains or seen.has_chain(name, wanted.chains[name].digests)

    def _read_sets(self, asked: Iterable[Key], objects: dict[Key, Object], members: dict[str, Members]) -> None:
        """A set by its own name where that is known; of a map, the entries whose keys the kernel's set has."""
        names = {set_kernel_name(str(key.id[0])): str(key.id[0]) for key in asked if key.kind is Kind.SET}
        names |= {set_kernel_name(name): name for name in self._world.sets}
        there = {it.name: (it, found) for it, found in self._ipset.read(PREFIX).items()}
        self._found = {}
        for kernel_name, (it, found) in there.items():
            name = names.get(kernel_name, kernel_name)
            known = self._world.sets.get(name)
            self._found[name] = found
            one = known if known is not None else Set(name, it.type, interval=it.interval, ages=it.ages)
            objects[one.key] = one
            if known is not None and is_expanded(known):
                held = self._world.members(name)
                members[name] = {key: held.get(key, b"") for key in found}
            else:
                members[name] = dict.fromkeys(_join_halves(found), b"") if one.interval else dict.fromkeys(found, b"")
        for known in self._world.sets.values():
            if not has_kernel_set(known):
                objects[known.key] = known
                members[known.name] = dict(self._world.members(known.name))

    def _put_set(self, position: int, op: Put | PutMembers, outcomes: dict[int, Outcome]) -> None:
        """What chains may refer to is there before them."""
        it = op.object if isinstance(op, Put) else op.set
        if not isinstance(it, Set) or not has_kernel_set(it):
            return
        try:
            if isinstance(op, Put):
                self._ipset.create(_kernel_set(it))
            else:
                self._ipset.add(_kernel_set(it), _kernel_members(it, op.members))
        except OSError as error:
            outcomes[position] = Outcome(op, f"{it.name}: {error.strerror}", error.errno or 0)

    def _after_chains(self, op: Op, put: Mapping[str, frozenset[bytes]]) -> Outcome:
        """What nothing refers to any more goes; `put` is what must stay of each set."""
        try:
            match op:
                case DropMembers(it, members) if has_kernel_set(it):
                    gone = _kernel_members(it, members) - put.get(it.name, frozenset())
                    self._ipset.remove(_kernel_set(it), gone)
                case Put(Set() as it) if has_kernel_set(it):
                    self._remove_stale(it)
                case Drop(Key(Kind.SET, (str() as name,)), last):
                    if not isinstance(last, Set) or has_kernel_set(last):
                        self._ipset.destroy(set_kernel_name(name))
                case _:
                    pass
        except OSError as error:
            return Outcome(op, str(error.strerror), error.errno or 0)
        return Outcome(op)

    def _remove_stale(self, it: Set) -> None:
        """Of a map's set that an earlier process left: the keys that the map does not have."""
        stale = self._found.pop(it.name, frozenset())
        if is_expanded(it) and stale:
            self._ipset.remove(_kernel_set(it), stale - self._world.members(it.name).keys())


def shorten(words: str) -> str:
    """What a program said, on one line and without its advice."""
    kept = " ".join(line.strip() for line in words.splitlines() if line.strip() and not line.startswith("Try `"))
    return kept if len(kept) <= REASON_CHARACTERS else f"{kept[:REASON_CHARACTERS]}..."


def _blame_all(faults: Mapping[str, Fault], pending: Iterable[int]) -> dict[int, str]:
    """Where nothing points at an op, nothing is written any more: what is in the kernel stays."""
    return dict.fromkeys(pending, "; ".join(f"{name}: {fault.reason}" for name, fault in sorted(faults.items())))


def _blame(faults: Mapping[str, Fault], pending: Mapping[int, Op]) -> dict[int, str]:
    """The ops that are the reason: those on a chain that failed, else those that took away or asked for its target."""
    found: dict[int, str] = {}
    for position, op in pending.items():
        match op:
            case Put(Chain(name)) if name in faults:
                found[position] = f"{name}: {faults[name].reason}"
    if found:
        return found
    missing = {fault.needs: name for name, fault in faults.items() if fault.needs}
    for position, op in pending.items():
        match op:
            case Drop(Key(Kind.CHAIN, (str() as name,))) if name in missing:
                found[position] = f"{name}: {missing[name]} still leads to it"
            case PutMembers(it, members):
                for verdict in members.values():
                    target = verdict.decode(errors="replace").partition(" ")[2]
                    if target in missing:
                        found[position] = f"{it.name}: needs {target}, which is not there"
    return found


def _kernel_set(it: Set) -> KernelSet:
    return KernelSet(set_kernel_name(it.name), it.type, it.interval, it.ages)


def _kernel_members(it: Set, members: Iterable[bytes]) -> frozenset[bytes]:
    """The keys as ipset takes them: it has no prefix of length 0, so that one is its two halves."""
    if not it.interval:
        return frozenset(members)
    return frozenset(half for key in members for half in (_halves(key) if key[-1] == 0 else (key,)))


def _keys_put(ops: Iterable[Op]) -> Mapping[str, frozenset[bytes]]:
    """What these ops put into interval sets, where different prefixes may come to the same keys."""
    return {
        op.set.name: _kernel_members(op.set, op.members) for op in ops if isinstance(op, PutMembers) and op.set.interval
    }


def _halves(everything: bytes) -> tuple[bytes, bytes]:
    size = len(everything) - 1
    return bytes(size) + b"\x01", b"\x80" + bytes(size - 1) + b"\x01"


def _join_halves(members: frozenset[bytes]) -> frozenset[bytes]:
    """The reverse of `_kernel_members`; the two halves of everything are read as one."""
    for size in (4, 16):
        halves = frozenset(_halves(bytes(size + 1)))
        if halves <= members:
            return members - halves | {bytes(size + 1)}
    return members
