"""Which steps of a way may concern an address, by what the way's rules say of it.

In: what Shifts knows of ways, and a Divider of all addresses; out: notes, and for a note the places of steps in the
tracks of both worlds. Each is made when it is first asked for. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from felixpy.addresses import Address
from felixpy.ctl.verdicts.classes import Divider, Division
from felixpy.ctl.verdicts.clauses import Filed
from felixpy.ctl.verdicts.shifts import Shifts
from felixpy.ctl.verdicts.ways import Ways
from felixpy.dataplane.rules import Side

Places = tuple[Sequence[int], Sequence[int]]
"""Of steps, in the tracks of both worlds."""


class Sieve:
    """What ways say of addresses at either of their sides."""

    def __init__(self, shifts: Shifts, divider: Divider) -> None:
        self._shifts = shifts
        self._divider = divider
        self._divisions: dict[tuple[Ways, Side], Division] = {}
        self._filed: dict[tuple[Ways, Side], tuple[Filed, Filed]] = {}

    def division(self, ways: Ways, side: Side) -> Division:
        """What a way's rules say of all addresses."""
        found = self._divisions.get((ways, side))
        if found is None:
            found = self._divisions[ways, side] = self._divider.divide(self._shifts.conditions(ways, side))
        return found

    def note(self, ways: Ways, side: Side, address: Address) -> tuple[int, ...]:
        """What they say of one."""
        return self.division(ways, side).notes.get(address, ())

    def files(self, ways: Ways, side: Side) -> tuple[Filed, Filed]:
        """The steps of both tracks by what they need of an address."""
        found = self._filed.get((ways, side))
        if found is None:
            narrow = frozenset(filter(self._divider.is_narrow, self._shifts.conditions(ways, side)))
            one, other = (track.filed(side, narrow) for track in self._shifts.tracks(ways))
            found = self._filed[ways, side] = one, other
        return found

    def places(self, ways: Ways, side: Side, note: tuple[int, ...]) -> Places:
        """The steps of either track that can concern what is noted so."""
        held = tuple(self.division(ways, side).held(note))
        one, other = (filed.places(held) for filed in self.files(ways, side))
        return one, other
