"""The kernel of one network namespace as one driver: each op goes to the driver of its kind, in order.

In → out: `read(wanted)` → Seen; ops → Outcomes. Holds no state of its own and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Protocol, Self

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.nftables import TABLE
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_WORKLOAD,
    Counts,
    Key,
    Kind,
    Members,
    Object,
    Op,
    Outcome,
    Seen,
)
from felixpy.dataplane.order import NETFILTER, kind_of
from felixpy.drivers import sysctl
from felixpy.drivers.backend import BackendSetting
from felixpy.drivers.netfilter import open_netfilter
from felixpy.drivers.netlink import verbs
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.sysctl import SysctlDriver


class Driver(Protocol):
    """Effects on one part of a kernel."""

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """All that is ours, and of what is nobody's (sysctls) the `wanted` keys.

        Raises  OSError when the kernel does not answer.
        """

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order; what the kernel refuses is an outcome.

        Raises  OSError when the kernel does not answer.
        """


class KernelDriver:
    """Every kind of object of one namespace: the one it is made in. Routes only with one of `protocols`.

    Raises  BackendUnavailable when there is no back end of the kind asked for.
    """

    def __init__(
        self,
        protocols: Sequence[int] = (ROUTE_PROTOCOL_WORKLOAD,),
        table: str = TABLE,
        backend: BackendSetting = BackendSetting.NFTABLES,
    ) -> None:
        self._routes = RouteDriver(protocols=protocols)
        self._netfilter = open_netfilter(backend, table)
        self._drivers: dict[Kind, Driver] = {
            **dict.fromkeys(sysctl.KINDS, SysctlDriver()),
            **dict.fromkeys(verbs.KINDS, self._routes),
            **dict.fromkeys(NETFILTER, self._netfilter),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_events(self) -> bool:
        """Whether the kernel tells of changes that others make to chains and sets."""
        return self._netfilter.has_events

    def is_touched(self) -> bool:
        """Whether somebody else may have changed chains, where the kernel tells of no change."""
        return self._netfilter.is_touched()

    @property
    def shares_tables(self) -> bool:
        """Whether other programs have rules in the same tables."""
        return self._netfilter.shares_tables

    @property
    def takes_reports(self) -> bool:
        """Whether the kernel can tell of packets."""
        return self._netfilter.takes_reports

    def why_no_nexthops(self) -> str:
        """Why the kernel has no nexthop objects, found by making one; "" where it has them."""
        return self._routes.why_no_nexthops()

    @property
    def port_ids(self) -> frozenset[int]:
        """By which the kernel names us as the cause of an event."""
        return self._netfilter.port_ids | {self._routes.port_id}

    def close(self) -> None:
        """Gives the sockets back; the kernel stays as it is."""
        self._routes.close()
        self._netfilter.close()

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """What every driver reads.

        Raises  OSError when the kernel does not answer.
        """
        asked = tuple(wanted)
        objects: dict[Key, Object] = {}
        members: dict[str, Members] = {}
        for driver in dict.fromkeys(self._drivers.values()):
            seen = driver.read(asked)
            objects.update(seen.objects)
            members.update(seen.members)
        return Seen(objects, members)

    def read_counts(self, chains: Iterable[str]) -> Mapping[str, Counts]:
        """What passed these chains; may be called in a thread, one at a time. Raises  OSError."""
        return self._netfilter.read_counts(chains)

    def read_interfaces(self) -> Mapping[str, frozenset[Address]]:
        """Every device with its addresses.

        Raises  OSError when the kernel does not answer.
        """
        return self._routes.read_interfaces()

    def read_subnets(self) -> Mapping[str, frozenset[Prefix]]:
        """As `read_interfaces`, each address with the length of its subnet."""
        return self._routes.read_subnets()

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order. Ops of one driver that follow each other go to it together.

        Raises  OSError when the kernel does not answer.
        """
        outcomes: list[Outcome] = []
        for driver, run in groupby(ops, lambda op: self._drivers[kind_of(op)]):
            outcomes.extend(driver.apply(tuple(run)))
        return tuple(outcomes)
