"""The texts that go into `iptables-restore --noflush` and come out of `iptables-save`. Pure.

In → out: a table as it should be and as it was seen → the texts that make the one of the other, each one atomic;
the output of iptables-save → tables as seen. A rule of ours is known by the digest in its comment, a chain by its name.
Nothing of others is mentioned. Source: iptables-restore(8), iptables/iptables-restore.c.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from felixpy.dataplane.iptables.names import PREFIX
from felixpy.dataplane.iptables.tables import OWNER, TableBody
from felixpy.dataplane.iptables.terms import Table
from felixpy.dataplane.objects import Counts

FOREIGN = ""
"""Instead of a digest: a rule that is not ours."""
_TELLS = re.compile(r" -j N?F?LOG\b")
_DIGEST = re.compile(rf'--comment "?{OWNER}([0-9a-f]{{16}})')


@dataclass(slots=True)
class TableSeen:
    """Our chains with the digests of their rules, and our rules in the kernel's chains as they were saved.

    `first` are the kernel's chains in which such a rule comes first.
    """

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    jumps: dict[str, list[str]] = field(default_factory=dict)
    first: set[str] = field(default_factory=set)

    def has_chain(self, name: str, digests: tuple[str, ...]) -> bool:
        """Whether the chain is there with exactly these rules."""
        return self.chains.get(name) == digests

    def has_jumps(self, builtin: str, wanted: TableBody) -> bool:
        """Whether exactly the wanted rules of ours are there, that of `jumps` before all others.

        Who comes behind that of `last` later on does not matter: it is there to come before the chain's end.
        """
        first, last = wanted.jumps.get(builtin), wanted.last.get(builtin)
        digests = [body.digests[0] for body in (first, last) if body is not None]
        comes_first = first is None or builtin in self.first
        return comes_first and [find_digest(line) for line in self.jumps.get(builtin, [])] == digests


@dataclass(frozen=True, slots=True)
class Text:
    """What iptables-restore reads; `owners` says for each line which chain it is about."""

    lines: tuple[str, ...]
    owners: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def find_digest(line: str) -> str:
    """The digest in a saved rule's comment."""
    found = _DIGEST.search(line)
    return found[1] if found else FOREIGN


def parse_save(text: str) -> Mapping[Table, TableSeen]:
    """All that is ours in the output of iptables-save."""
    tables = {table: TableSeen() for table in Table}
    table: TableSeen | None = None
    begun: set[str] = set()
    digests: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            table = tables[Table(line[1:])] if line[1:] in set(Table) else None
            begun, digests = set(), {}
        elif table is not None and line.startswith(f":{PREFIX}"):
            digests[line[1:].split(maxsplit=1)[0]] = []
        elif table is not None and line == "COMMIT":
            table.chains.update((chain, tuple(found)) for chain, found in digests.items())
        elif table is not None and line.startswith("-A "):
            chain = line.split(maxsplit=2)[1]
            digest = find_digest(line)
            if chain in digests:
                digests[chain].append(digest)
            elif digest != FOREIGN:
                table.jumps.setdefault(chain, []).append(line)
                if chain not in begun:
                    table.first.add(chain)
            begun.add(chain)
    return tables


def parse_counts(text: str, kernel_names: Mapping[str, str]) -> Mapping[str, Counts]:
    """What passed the rules of some chains (by the kernel's names for them) that decide: those that tell do not count.

    In: the output of `iptables-save -c`; out: counts by chain, all tables together.
    """
    found: dict[str, Counts] = {}
    for line in text.splitlines():
        counted, _, rule = line.partition("] -A ")
        name = kernel_names.get(rule.partition(" ")[0])
        if name is None or _TELLS.search(rule):
            continue
        packets, _, octets = counted.removeprefix("[").partition(":")
        before = found.get(name, Counts(0, 0))
        found[name] = Counts(before.packets + int(packets), before.bytes + int(octets))
    return found


def render_changes(table: Table, wanted: TableBody, seen: TableSeen, most_chains: int | None = None) -> Iterator[Text]:
    """Texts that change `seen` into `wanted`; none where it is so already.

    Each is atomic. There is one, unless more than `most_chains` change: then chains come after those that they lead
    to, so that nothing leads to a chain that is not complete.
    """
    changed = [name for name, body in wanted.chains.items() if not seen.has_chain(name, body.digests)]
    gone = [name for name in seen.chains if name not in wanted.chains]
    jumps = _changed_jumps(wanted, seen)
    if not changed and not gone and not jumps:
        return
    parts: list[list[str]] = [changed]
    if most_chains is not None and len(changed) > most_chains:
        new = [name for name in changed if name not in seen.chains]
        yield _Writer(table).declare(new).text()
        parts = [changed[at : at + most_chains] for at in range(0, len(changed), most_chains)]
    for part in parts[:-1]:
        yield _Writer(table).declare(part).fill(part, wanted).text()
    last = _Writer(table).declare([*parts[-1], *gone]).fill(parts[-1], wanted)
    for builtin in jumps:
        for line in seen.jumps.get(builtin, []):
            last.add(f"-D{line.removeprefix('-A')}", builtin)
        if builtin in wanted.jumps:
            last.add(f"-I {builtin} 1 {wanted.jumps[builtin].lines[0]}", builtin)
        if builtin in wanted.last:
            last.add(f"-A {builtin} {wanted.last[builtin].lines[0]}", builtin)
    for name in gone:
        last.add(f"-X {name}", name)
    yield last.text()


def seen_after(wanted: TableBody) -> TableSeen:
    """What is to be seen once all changes are done."""
    return TableSeen(
        {name: body.digests for name, body in wanted.chains.items()},
        {
            builtin: [
                f"-A {builtin} {some[builtin].lines[0]}" for some in (wanted.jumps, wanted.last) if builtin in some
            ]
            for builtin in {*wanted.jumps, *wanted.last}
        },
        set(wanted.jumps),
    )


def _changed_jumps(wanted: TableBody, seen: TableSeen) -> Collection[str]:
    every = {*wanted.jumps, *wanted.last, *seen.jumps}
    return sorted(name for name in every if not seen.has_jumps(name, wanted))


class _Writer:
    """Lines of one text, each with the chain that it is about."""

    def __init__(self, table: Table) -> None:
        self._lines = [f"*{table}"]
        self._owners = [""]

    def add(self, line: str, owner: str) -> None:
        self._lines.append(line)
        self._owners.append(owner)

    def declare(self, names: Sequence[str]) -> _Writer:
        """The chains are there, and empty."""
        for name in names:
            self.add(f":{name} - [0:0]", name)
        return self

    def fill(self, names: Sequence[str], wanted: TableBody) -> _Writer:
        for name in names:
            for line in wanted.chains[name].lines:
                self.add(f"-A {name} {line}", name)
        return self

    def text(self) -> Text:
        return Text((*self._lines, "COMMIT"), (*self._owners, ""))
