"""Where other nodes say that they answer for Service addresses at layer 2, kept up to date. Pure.

In: what each node says while it lives (its lease), by segment. Out: by address, the segments that another node answers
on, with the greatest score. A segment is the subnet of the interface that leads to it. Never says who is to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from felixpy.addresses import Address
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import Answering
from felixpy.resources.tables import Table


class Elsewhere:
    """What all nodes but `node` say; `update` gives the addresses that a change is about."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._said: dict[str, Answering] = {}
        self._nodes_of: dict[Address, set[str]] = {}

    def update(self, node: str, said: Answering | None) -> Set[Address]:
        """Takes what one node says now; None: it does not live."""
        if node == self._node:
            return set()
        old = self._said.pop(node, None)
        if said is not None:
            self._said[node] = said
        before, after = ({one.address for one in some.claims} if some else set() for some in (old, said))
        for address in before - after:
            self._nodes_of[address].discard(node)
            if not self._nodes_of[address]:
                del self._nodes_of[address]
        for address in after:
            self._nodes_of.setdefault(address, set()).add(node)
        return before | after

    def find(self, address: Address) -> tuple[tuple[str, int], ...]:
        """Segments with the greatest score of a node that answers there, in order."""
        return _greatest(address, (self._said[node] for node in self._nodes_of.get(address, ())))


def derive_elsewhere(
    tables: Mapping[Table, Mapping[Name, Resource]], node: str, address: Address
) -> tuple[tuple[str, int], ...]:
    """The same from scratch."""
    said = tables.get(Table.ANSWERING, {}).items()
    return _greatest(address, (one for name, one in said if name.name != node and isinstance(one, Answering)))


def _greatest(address: Address, said: Iterable[Answering]) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for one in said:
        for claim in one.claims:
            if claim.address == address:
                found[claim.segment] = max(claim.score, found.get(claim.segment, 0))
    return tuple(sorted(found.items()))
