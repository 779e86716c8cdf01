"""Where somebody else's routes are: of one destination and metric the kernel has one route, and theirs is left alone.

In: the main table's routes of others, as they are read and as the kernel tells of them; leads of ours. Out: the leads,
each with the next metric that is free. What the kernel does not tell of (routes that go with their device) counts until
all are read again: ours then come one behind nobody. Does no input or output.
Source: net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c (NLM_F_REPLACE takes whichever route is there).
"""

from __future__ import annotations

from collections.abc import Iterable

from felixpy.addresses import Address, Prefix
from felixpy.agent.routing.route_reconciler import Lead
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, ROUTE_PROTOCOL_WORKLOAD, TABLE_MAIN, Key, Kind

OURS = (ROUTE_PROTOCOL_LEARNED, ROUTE_PROTOCOL_WORKLOAD)


class TakenPlaces:
    """Metrics of others' routes, by destination."""

    def __init__(self) -> None:
        self._metrics: dict[Prefix, set[int]] = {}

    @property
    def destinations(self) -> frozenset[Prefix]:
        """To which there are routes of others."""
        return frozenset(self._metrics)

    def reset(self, routes: Iterable[tuple[Prefix, Key]]) -> None:
        """Takes all that there are: the destination, and the key of a route that is the same in all else."""
        self._metrics = {}
        for destination, alike in routes:
            if alike.id[0] == TABLE_MAIN and isinstance(metric := alike.id[3], int) and metric:
                self._metrics.setdefault(destination, set()).add(metric)

    def note(self, key: Key, gone: bool) -> Prefix | None:
        """Takes one that came or went; the destination where that is news."""
        match key:
            case Key(Kind.ROUTE, (table, bytes() as address, int(length), int(metric))) if (
                table == TABLE_MAIN and metric
            ):
                prefix = Prefix(Address(address), length)
                known = self._metrics.get(prefix, set())
                if (metric in known) is not gone:
                    return None
                self._metrics[prefix] = known - {metric} if gone else known | {metric}
                if not self._metrics[prefix]:
                    del self._metrics[prefix]
                return prefix
            case _:
                return None

    def give_way(self, leads: dict[Prefix, Lead]) -> None:
        """Has those of our routes whose place is taken come after it."""
        for prefix in self._metrics.keys() & leads.keys():
            lead, taken = leads[prefix], self._metrics[prefix]
            metric = lead.metric
            while metric in taken:
                metric += 1
            leads[prefix] = lead._replace(metric=metric)
