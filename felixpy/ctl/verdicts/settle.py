"""What becomes of all packets between two addresses at once: Clauses and Cells in, who says what of which cells out.

Cells are bits of a number, so that a clause costs a few operations however many cells there are. `follow` does the same
for one packet. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from felixpy.ctl.explain.reading import Statement
from felixpy.ctl.verdicts.cells import Cells, holds
from felixpy.ctl.verdicts.clauses import Clause, Verb
from felixpy.dataplane.judging.packet import Packet


class Settled(NamedTuple):
    """The cells that are let go on in the end, and what was said, in order, each with its cells."""

    allowed: int
    said: tuple[tuple[int, Statement], ...]

    def of(self, cell: int) -> tuple[Statement, ...]:
        """What was said about a cell, given as a number of one bit."""
        return tuple(statement for some, statement in self.said if some & cell)


def settle(clauses: Sequence[Clause], cells: Cells) -> Settled:
    """What clauses do with every cell; without any, all go on."""
    onward: dict[int, int] = {}
    said: list[tuple[int, Statement]] = []
    group, here = 0, cells.everything
    for clause in clauses:
        if clause.group != group:
            group = clause.group
            here |= _arrived(onward, group)
        if not here:
            continue
        taken = here & cells.satisfying(clause.matches)
        if not taken:
            continue
        here ^= taken
        if clause.verb is not Verb.DENY:
            onward[clause.to] = onward.get(clause.to, 0) | taken
        if clause.verb is not Verb.PASS:
            said.append((taken, clause.statement))
    for some in onward.values():
        here |= some
    return Settled(here, tuple(said))


def _arrived(onward: dict[int, int], group: int) -> int:
    """What goes on in a group, or in one before it that has no clause; it is no longer on its way."""
    found = 0
    for to in [one for one in onward if one <= group]:
        found |= onward.pop(to)
    return found


def follow(clauses: Sequence[Clause], packet: Packet) -> tuple[bool, tuple[Statement, ...]]:
    """Whether one packet is let go on in the end, and what was said about it."""
    said: list[Statement] = []
    here = 0
    for clause in clauses:
        if clause.group < here or not all(holds(match, packet) for match in clause.matches):
            continue
        if clause.verb is not Verb.PASS:
            said.append(clause.statement)
        if clause.verb is Verb.DENY:
            return False, tuple(said)
        here = clause.to
    return True, tuple(said)
