"""Everything that fares otherwise in one of two worlds: between ends themselves, and on the way to Services. Pure."""

from __future__ import annotations

from felixpy.ctl.verdicts.compare import Difference, compare_fields
from felixpy.ctl.verdicts.reach import compare_services
from felixpy.ctl.verdicts.shifts import Shifts
from felixpy.ctl.verdicts.ways import fields_of
from felixpy.ctl.verdicts.world import World


def compare_all(before: World, after: World) -> tuple[Difference, ...]:
    """All of it."""
    worlds, shifts = (before, after), Shifts(before, after)
    fields = tuple(fields_of(before, after))
    found = tuple(compare_fields(worlds, shifts, fields))
    return (*found, *compare_services(worlds, shifts, fields, found))
