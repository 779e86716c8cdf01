"""The node's kernel as one driver: each op goes to the driver of its kind.

In → out: `read(wanted)` → Seen; ops of one kind family → Outcomes. Routes that BGP taught are not here: the bgp role
has a driver of its own for them, so that two roles never prune each other's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from felixpy.dataplane.objects import ROUTE_PROTOCOL_WORKLOAD, Key, Kind, Op, Outcome, Seen
from felixpy.dataplane.order import NETFILTER, kind_of
from felixpy.drivers.netlink.nft import NftDriver
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.sysctl import SysctlDriver


class KernelDriver:
    """Reads and applies in the network namespace that it is made in."""

    def __init__(self) -> None:
        self._nft = NftDriver()
        self._routes = RouteDriver(protocols=(ROUTE_PROTOCOL_WORKLOAD,))
        self._sysctl = SysctlDriver()

    def read(self, wanted: Iterable[Key]) -> Seen:
        """All that is ours, and of what is nobody's (sysctls) the `wanted` keys."""
        tables, routes = self._nft.read(), self._routes.read()
        sysctls = self._sysctl.read(key for key in wanted if key.kind is Kind.SYSCTL)
        return Seen({**routes.objects, **tables.objects, **sysctls}, tables.members)

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order; netfilter ops that follow each other take effect together."""
        outcomes: list[Outcome] = []
        for family, run in groupby(ops, _family):
            batch = tuple(run)
            match family:
                case "netfilter":
                    outcomes.extend(self._nft.apply(batch))
                case "sysctl":
                    outcomes.extend(self._sysctl.apply(batch))
                case _:
                    outcomes.extend(self._routes.apply(batch))
        return tuple(outcomes)


def _family(op: Op) -> str:
    kind = kind_of(op)
    return "netfilter" if kind in NETFILTER else "sysctl" if kind is Kind.SYSCTL else "route"
