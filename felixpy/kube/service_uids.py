"""Which Services the API has, and the uid of each: what is told about a Service names it by both."""

from __future__ import annotations

from collections.abc import Callable

from felixpy.kube.client import Json
from felixpy.kube.convert import name_of
from felixpy.resources.kinds import Name


class ServiceUids:
    """A Reader of the API's Services; tells `listeners` which of them came, went or were made anew."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[set[Name]], None]] = []
        self.known = False
        """Whether the API has told of all of them."""
        self._uids: dict[Name, str] = {}

    def get(self, name: Name) -> str | None:
        """The uid of a Service; None where the API does not have it."""
        return self._uids.get(name)

    def listed(self, objects: list[Json]) -> None:
        before, self._uids = self._uids, {name_of(body): _uid_of(body) for body in objects}
        self.known = True
        self._tell({name for name, _ in before.items() ^ self._uids.items()})

    def changed(self, body: Json) -> None:
        if self._uids.get(name_of(body)) != _uid_of(body):
            self._uids[name_of(body)] = _uid_of(body)
            self._tell({name_of(body)})

    def deleted(self, body: Json) -> None:
        if self._uids.pop(name_of(body), None) is not None:
            self._tell({name_of(body)})

    def _tell(self, names: set[Name]) -> None:
        for listener in self.listeners:
            listener(names)


def _uid_of(body: Json) -> str:
    return str(body["metadata"].get("uid", ""))
