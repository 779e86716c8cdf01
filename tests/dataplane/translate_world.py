"""A node's desired objects, kept as the translator's changes say."""

from __future__ import annotations

from felixpy.calc.graph import Graph
from felixpy.dataplane.chains.base import base_objects
from felixpy.dataplane.chains.host import Guards
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import Chain, Key, Kind, Object, Set, SetType
from felixpy.dataplane.rules import Dispatch, Goto, Jump, SetHas
from felixpy.dataplane.translate import Translator
from tests.calc.policy_world import INTERFACES, NODE


class Kernel:
    """What a faithful kernel would hold after each Changes."""

    def __init__(self) -> None:
        self.graph = Graph(NODE)
        self.graph.put_interfaces(INTERFACES)
        self.translator = Translator(self.graph.sets.members)
        self.changes = Changes()
        self.objects: dict[Key, Object] = {}
        self.members: dict[Set, dict[bytes, bytes]] = {}
        self.guards: Guards | None = None

    def flush(self) -> None:
        changes = self.changes = Changes()
        self.translator.translate(self.graph.flush(), changes)
        if self.translator.guards != self.guards:
            self.guards = self.translator.guards
            self.translator.ledger.put("base", base_objects({}, self.guards), changes)
        for key, one in changes.objects.items():
            old = self.objects.pop(key, None)
            if isinstance(old, Set) and old != one:
                self.members.pop(old, None)
            if one is not None:
                self.objects[key] = one
        for target, change in changes.members.items():
            held = self.members.setdefault(target, {})
            assert change.removed.keys() <= held.keys()
            for member in change.removed:
                del held[member]
            held.update(change.added)
        self.check_references()

    def check_references(self) -> None:
        """Nothing refers to what is not there."""
        chains = {key.id[0] for key in self.objects if key.kind is Kind.CHAIN}
        sets = {key.id[0] for key in self.objects if key.kind is Kind.SET}
        for one in self.objects.values():
            if not isinstance(one, Chain):
                continue
            for rule in one.rules:
                if isinstance(rule.action, Jump | Goto):
                    assert rule.action.chain in chains
                if isinstance(rule.action, Dispatch):
                    assert rule.action.map_name in sets
                assert all(match.set_name in sets for match in rule.matches if isinstance(match, SetHas))
        assert {one.name for one in self.members} <= sets
        for target, members in self.members.items():
            if target.type is SetType.INTERFACE:
                assert {data.decode().removeprefix("goto ") for data in members.values()} <= chains

    def state(self) -> tuple[dict[Key, Object], dict[Set, dict[bytes, bytes]]]:
        return self.objects, {target: members for target, members in self.members.items() if members}
