"""As `Reconciler`, for routes that come by the hundred thousand and lead a few ways: no value is made for each of them.

In: prefixes and where they lead; out: messages to the kernel, nexthop objects first, and last those that nobody names
any more. What failed is set aside until `retry`, or until it is wanted otherwise; what is right is not touched. It
believes that a prefix has one route of ours in the main table; whatever else of ours is there is dropped as a leftover.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from birdpy.fib import NORMAL_METRIC
from felixpy.addresses import Prefix
from felixpy.agent.routing.next_hops import Target
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    TABLE_MAIN,
    Drop,
    Hop,
    Key,
    Kind,
    Op,
    Outcome,
    Put,
    Route,
)
from felixpy.reconcile import Driver, Reconciler, Report, key_of, same


class Lead(NamedTuple):
    """All of a learned route but its destination: what it names, and its metric as a Key has it."""

    target: Target
    metric: int = NORMAL_METRIC

    def route(self, destination: Prefix) -> Route:
        """The kernel's form of the route there."""
        destination = Prefix(*destination)  # one of birdpy's will do
        metric = 0 if destination.version == 6 and self.metric == NORMAL_METRIC else self.metric
        if isinstance(self.target, int):
            return Route(destination, ROUTE_PROTOCOL_LEARNED, nexthop_id=self.target, metric=metric)
        if len(self.target) == 1:
            hop = self.target[0]
            return Route(destination, ROUTE_PROTOCOL_LEARNED, gateway=hop.gateway, device=hop.device, metric=metric)
        return Route(destination, ROUTE_PROTOCOL_LEARNED, hops=self.target, metric=metric)


def lead_of(route: Route) -> Lead:
    """The Lead of a route as read; what no Lead says gives one that nothing is wanted to be."""
    target: Target = route.hops
    if route.nexthop_id is not None:
        target = route.nexthop_id
    elif route.gateway is not None:
        target = (Hop(route.gateway, route.device),)
    metric = route.metric or (NORMAL_METRIC if route.destination.version == 6 else 0)
    lead = Lead(target, metric)
    return lead if same(lead.route(route.destination), route) else Lead((), lead.metric)


class RoutesDriver(Driver, Protocol):
    """A driver that has a short way for routes that are alike."""

    def read_alike(self) -> Iterable[tuple[Prefix, Route]]:
        """The learned routes of all tables: each destination, and a route that is the same in all else."""

    def put_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """Puts a route like the example to each, all of one length; what was refused, by position."""

    def put_ahead(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """As `put_alike`, or what is refused is told later (`note_refused`)."""

    def drop_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """Drops the route to each that has the example's metric; as `put_alike`."""


class RouteReconciler:
    """Owns the belief about the kernel's learned routes, and (`base`) about nexthops and single routes beside them."""

    def __init__(self, driver: RoutesDriver) -> None:
        self.base = Reconciler(driver, lambda _: {})
        self._driver = driver
        self._desired: dict[Prefix, Lead] = {}
        self._actual: dict[Prefix, Lead] = {}
        self._dirty: dict[Prefix, Lead | None] = {}
        self._failed: dict[Prefix, Outcome] = {}
        self._strays: list[Route] = []
        self._later = Changes()
        self._stale = False
        self._prune = True

    @property
    def desired(self) -> Mapping[Prefix, Lead]:
        """All learned routes that should be in the kernel."""
        return self._desired

    @property
    def failed(self) -> Mapping[Key, Outcome]:
        """What is desired and does not hold, with why."""
        return {**self.base.failed, **{key_of(one.op): one for one in self._failed.values()}}

    @property
    def installed(self) -> int:
        """How many learned routes hold, or are still to be put."""
        return len(self._desired) - len(self._failed.keys() & self._desired.keys())

    def why_failed(self, prefix: Prefix) -> str:
        """Why the route to a prefix does not hold; "" where nothing is known against it."""
        failed = self._failed.get(prefix)
        return (failed.error or "") if failed is not None else ""

    def wants(self, key: Key) -> bool:
        """Whether an object is desired."""
        return self.base.wants(key) or self._find_prefix(key) is not None

    def _find_prefix(self, key: Key) -> Prefix | None:
        """The prefix of a learned route that is desired."""
        if key.kind is not Kind.ROUTE or key.id[0] != TABLE_MAIN:
            return None
        prefix = _prefix_of(key)
        lead = self._desired.get(prefix)
        return prefix if lead is not None and lead.metric == key.id[3] else None

    def want(self, changes: Changes, put: Mapping[Prefix, Lead], drop: Iterable[Prefix] = ()) -> None:
        """Takes over what the desired state became.

        Dropped nexthops go last: routes that name them would go with them.
        """
        now = Changes()
        for key, one in changes.objects.items():
            self._later.objects.pop(key, None)
            (self._later if one is None and key.kind is Kind.NEXTHOP else now).objects[key] = one
        self.base.want(now)
        self._desired.update(put)
        self._dirty.update(put)
        for prefix in drop:
            if self._desired.pop(prefix, None) is not None:
                self._dirty[prefix] = None

    def touch(self, key: Key) -> None:
        """Marks an object as not known to hold any more."""
        prefix = self._find_prefix(key)
        if prefix is None:
            self.base.touch((key,))
            return
        self._actual.pop(prefix, None)
        self._look_at((prefix,))

    def _look_at(self, prefixes: Iterable[Prefix]) -> None:
        """What the kernel has to these is compared at the next apply."""
        self._dirty.update((prefix, self._desired.get(prefix)) for prefix in prefixes)

    def retry(self, keys: Collection[Key] | None = None) -> bool:
        """Takes up again what failed, or of it what has one of `keys`; whether there is anything."""
        known = None if keys is None else {_prefix_of(key) for key in keys if key.kind is Kind.ROUTE}
        again = [prefix for prefix in self._failed if known is None or prefix in known]
        self._look_at(again)
        return self.base.retry(keys) or bool(again)

    def note_refused(self, refused: Iterable[Outcome]) -> Report:
        """Sets aside what a driver had seemed to put, and the kernel refused. What is there instead is not known."""
        report = Report()
        for outcome in refused:
            match outcome.op:
                case Put(object=Route() as route):
                    prefix, lead = route.destination, lead_of(route)
                case _:
                    raise TypeError(f"no route to put: {outcome.op}")
            if self._actual.get(prefix) == lead:
                self._actual[prefix] = Lead((), lead.metric)
            if self._desired.get(prefix) == lead:
                self._failed[prefix] = outcome
                report.failed.append(outcome)
        return report

    def distrust(self, prune: bool = True) -> None:
        """Has the next apply read the kernel first."""
        self._stale, self._prune = True, prune

    def prune(self) -> None:
        """Has the next apply drop what is ours and not desired, and was left alone until now."""
        self._prune = True
        self._look_at(self._actual.keys() - self._desired.keys())

    def apply(self) -> Report:
        """Makes the kernel what is desired, as far as it lets us; reads it first where that is due.

        Raises  OSError when the kernel does not answer: what it did is not known, so the next apply reads it.
        """
        report = Report()
        if self._stale:
            self.base.distrust(prune=False)
        _add(report, self.base.apply())
        if self._stale:
            self._adopt()
        if self._dirty or self._strays:
            self._stale = True
            self._apply_routes(report)
        self._stale = False
        if self._prune:
            self.base.prune()
        self.base.want(self._later)
        self._later = Changes()
        _add(report, self.base.apply())
        return report

    def _adopt(self) -> None:
        self._actual, self._failed, self._strays = {}, {}, []
        others = {key.id for key in self.base.desired if key.kind is Kind.ROUTE}
        leads: dict[int, tuple[Lead, Route]] = {}
        for destination, alike in self._driver.read_alike():
            known = leads.get(id(alike))
            if known is None:
                known = leads[id(alike)] = (lead_of(alike), alike)
            lead, wanted = known[0], self._desired.get(destination)
            if others and (alike.table, *destination, lead.metric) in others:
                continue
            displaced = wanted is not None and wanted.metric != lead.metric
            if displaced or alike.table != TABLE_MAIN or destination in self._actual:
                self._strays.append(replace(alike, destination=destination))
            else:
                self._actual[destination] = lead
        self._dirty.update((one, lead) for one, lead in self._desired.items() if self._actual.get(one) != lead)
        if self._prune:
            self.prune()

    def _apply_routes(self, report: Report) -> None:
        put_routes = self._driver.put_alike if self._failed else self._driver.put_ahead
        put, drop = self._difference()
        for (lead, *_), prefixes in put.items():
            self._note(report, Put(lead.route(prefixes[0])), Put(lead.route(prefixes[-1])), len(prefixes))
            refused = put_routes(lead.route(prefixes[0]), prefixes)
            held = self._note_refusals(report, prefixes, refused)
            self._actual.update(dict.fromkeys(held, lead))
        for (lead, *_), prefixes in drop.items():
            first, last = (lead.route(prefix) for prefix in (prefixes[0], prefixes[-1]))
            self._note(report, Drop(first.key, first), Drop(last.key, last), len(prefixes))
            refused = self._driver.drop_alike(first, prefixes)
            self._strays += [lead.route(prefixes[at]) for at in refused if prefixes[at] in self._desired]
            for prefix in self._note_refusals(report, prefixes, refused):
                if prefix not in self._desired:
                    self._actual.pop(prefix, None)
        self._dirty.clear()
        if self._prune and self._strays:
            strays, self._strays = self._strays, []
            ops = [Drop(one.key, one) for one in strays]
            self._note(report, ops[0], ops[-1], len(ops))
            report.failed += [outcome for outcome in self._driver.apply(ops) if outcome.error]

    def _difference(self) -> tuple[_Batches, _Batches]:
        """What to put, and then what to drop: prefixes that one message repeated will do for."""
        put: _Batches = {}
        drop: _Batches = {}
        actual, failed = self._actual, self._failed
        last: tuple[Lead | None, int, int] = (None, 0, 0)
        batch: list[Prefix] = []
        for prefix, wanted in self._dirty.items():
            there = actual.get(prefix)
            if failed:
                failed.pop(prefix, None)
            if wanted == there:
                continue
            address, length = prefix
            if wanted is not None:
                if wanted is not last[0] or length != last[1] or len(address) != last[2]:
                    last = (wanted, length, len(address))
                    batch = put.setdefault((wanted, length, len(address)), [])
                batch.append(prefix)
            if there is not None and (wanted is None or wanted.metric != there.metric):
                drop.setdefault((there, length, len(address)), []).append(prefix)
        return put, drop

    def _note_refusals(
        self, report: Report, prefixes: Sequence[Prefix], refused: Mapping[int, Outcome]
    ) -> Sequence[Prefix]:
        """Sets aside what the kernel refused; the rest of the prefixes."""
        if not refused:
            return prefixes
        self._failed.update((prefixes[at], outcome) for at, outcome in refused.items())
        report.failed += refused.values()
        return [prefix for at, prefix in enumerate(prefixes) if at not in refused]

    @staticmethod
    def _note(report: Report, first: Op, last: Op, count: int) -> None:
        report.applied += count
        report.first, report.last = report.first or describe_op(first), describe_op(last)


_Batches = dict[tuple[Lead, int, int], list[Prefix]]
"""Prefixes by where they lead, their length, and their address's in bytes."""


def _prefix_of(key: Key) -> Prefix:
    _, address, length, _ = key.id
    return Prefix(address, length)  # type: ignore[arg-type]


def _add(report: Report, other: Report) -> None:
    report.applied += other.applied
    report.first, report.last = report.first or other.first, other.last or report.last
    report.failed += other.failed
