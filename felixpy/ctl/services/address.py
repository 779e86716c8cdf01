"""One Service address as a person asks about it: who has it, from where, who announces it, and who does not and why.

In: the datastore's pools, grants and Services, and what the nodes said; out: lines. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from felixpy.addresses import Address, format_address
from felixpy.controllers.resting import RESTING, parse_rest
from felixpy.ctl.cells import align_rows, list_some
from felixpy.ctl.services.reach import derive_reach
from felixpy.ctl.services.text import frontend_cells, render_reach
from felixpy.ctl.services.view import PREFIXES as SERVICE_PREFIXES
from felixpy.ctl.services.view import Facts, derive_frontends, describe_dead, read_facts
from felixpy.ctl.services.vips import POOLS
from felixpy.datastore.model import KeyValue
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import AddressPool
from felixpy.resources.tables import Decoded
from felixpy.status.answers import NodeStatus

PREFIXES = (*SERVICE_PREFIXES, POOLS.prefix.encode())
Nodes = Mapping[str, NodeStatus | None]


class AddressView:
    """What the datastore and the nodes say about addresses."""

    def __init__(self, pairs: Sequence[KeyValue], nodes: Nodes) -> None:
        self._nodes = nodes
        self._facts = read_facts(pairs)
        self._pools = dict(_read_pools(pairs))
        self._rested = {
            pair.key.decode("utf-8", "replace").removeprefix(RESTING): parse_rest(pair.value)
            for pair in pairs
            if pair.key.startswith(RESTING.encode())
        }

    def addresses_of(self, name: Name) -> tuple[Address, ...]:
        """What a Service was granted."""
        facts = self._facts.get(name)
        return tuple(grant.address for grant in facts.grants) if facts is not None else ()

    def knows(self, address: Address) -> bool:
        """Whether it is an address of a Service or of a pool."""
        return bool(self._holders(address) or self._pools_of(address))

    def render(self, address: Address) -> Iterator[str]:
        """All there is to say of one address."""
        text = format_address(address)
        holders = self._holders(address)
        pools = self._pools_of(address)
        if not holders:
            yield f"{text}: no Service has it"
            yield f"  {self._why_free(text, pools)}"
            return
        granted = next((grant for grant in holders[0].grants if grant.address == address), None)
        source = f"granted from pool {granted.pool}" if granted is not None else "an address of its own"
        yield f"{text}: {', '.join(str(one.name) for one in holders)} ({source})"
        if granted is not None and granted.pool not in pools:
            yield f"  pool {granted.pool} has it no more; it is kept as nothing else is to be had"
        for one in holders:
            yield from self._render_holder(one, text)
        if granted is not None:
            yield from (f"  {line}" for line in render_reach(derive_reach(address, self._nodes)))

    def _render_holder(self, facts: Facts, text: str) -> Iterator[str]:
        trouble = facts.find_trouble()
        if trouble:
            yield f"  {facts.name}: {trouble}"
        frontends = [one for one in derive_frontends(facts.name, self._nodes) if one.address == text]
        rows = [(f"  {cells[0]}", *cells[2:]) for cells in map(frontend_cells, frontends)]
        yield from align_rows([("  FRONTEND", "ENDPOINTS", "IN THE KERNEL OF", "NOT OF"), *rows]) if rows else ()
        houses = {backend.node for backend in facts.backends}
        for node, words in describe_dead(self._nodes).items():
            if node in houses:
                yield f"  endpoints on {node} are used only where no other node has any: it {words}"

    def _why_free(self, text: str, pools: Sequence[str]) -> str:
        if not pools:
            return "no pool has it either"
        of = f"it is of pool {list_some(pools)}"
        if text in self._rested:
            return f"{of}, and rests: {self._rested[text] or 'somebody'} gave it back of late"
        return f"{of}, and free"

    def _holders(self, address: Address) -> list[Facts]:
        return [
            one
            for one in self._facts.values()
            if any(grant.address == address for grant in one.grants)
            or address in (*one.service.cluster_addresses, *one.service.external_addresses)
        ]

    def _pools_of(self, address: Address) -> list[str]:
        return [
            name
            for name, pool in sorted(self._pools.items())
            if any(len(one.first) == len(address) and one.first <= address <= one.last for one in pool.ranges)
        ]


def _read_pools(pairs: Iterable[KeyValue]) -> Iterator[tuple[str, AddressPool]]:
    decoder = Decoder("")
    for pair in pairs:
        if pair.key.startswith(POOLS.prefix.encode()):
            decoded = decoder.decode(pair.key, pair.value)
            if isinstance(decoded, Decoded) and isinstance(decoded.value, AddressPool):
                yield decoded.ref.name.name, decoded.value
