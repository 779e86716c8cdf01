"""Everything that fares otherwise in one of two worlds: between ends, on the way to Services, through nodes. Pure."""

from __future__ import annotations

from felixpy.ctl.verdicts.compare import compare_fields
from felixpy.ctl.verdicts.reach import compare_services
from felixpy.ctl.verdicts.shifts import Shifts
from felixpy.ctl.verdicts.through import Through, compare_through
from felixpy.ctl.verdicts.ways import fields_of
from felixpy.ctl.verdicts.world import World


def compare_all(before: World, after: World) -> Through:
    """All of it, and the nodes of which what passes through is left out."""
    worlds, shifts = (before, after), Shifts(before, after)
    fields = tuple(fields_of(before, after))
    found = tuple(compare_fields(worlds, shifts, fields))
    through = compare_through(worlds, shifts)
    services = compare_services(worlds, shifts, fields, found)
    return Through((*found, *services, *through.differences), through.left_out)
