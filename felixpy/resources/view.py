"""The View: every resource as it is now, by table and name. Pure state; the codec feeds it, calculations read it."""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table


class View:
    """All resources. `tables` is for reading; `put` is the only way to change it."""

    def __init__(self) -> None:
        self._tables: dict[Table, dict[Name, Resource]] = {table: {} for table in Table}

    @property
    def tables(self) -> Mapping[Table, Mapping[Name, Resource]]:
        return self._tables

    def get(self, ref: Ref) -> Resource | None:
        return self._tables[ref.table].get(ref.name)

    def put(self, ref: Ref, value: Resource | None) -> bool:
        """Sets or (None) removes one; whether that changed anything."""
        table = self._tables[ref.table]
        if value is None:
            return table.pop(ref.name, None) is not None
        if table.get(ref.name) == value:
            return False
        table[ref.name] = value
        return True
