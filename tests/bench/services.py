"""Services by the thousand: derive, render and program them, then change one endpoint of one.

python -m tests.bench.services [SERVICES] [BACKENDS] [STICKY]   prints seconds per stage, in a network namespace of its
own; the first STICKY Services have client affinity.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

from felixpy.calc.announcing.announce import AnnounceCalc
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.dataplane.chains.base import HOOKS
from felixpy.dataplane.chains.services import ServiceTables, service_base_rules, service_objects
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import Chain, Drop, DropMembers, Op, Put, PutMembers
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, in_namespace
from tests.calc.service_world import ME, backend, grant, service, service_of, slice_of
from tests.support.netns import Namespace


def make_ops(changes: Changes) -> Sequence[Op]:
    """What a reconciler would send."""
    ops: list[Op] = [Drop(key) if one is None else Put(one) for key, one in changes.objects.items()]
    for target, change in changes.members.items():
        ops += [DropMembers(target, change.removed)] if change.removed else []
        ops += [PutMembers(target, change.added)] if change.added else []
    return ops


def address(base: str, number: int) -> str:
    return str(IPv4Address(base) + number)


def main(services: int = 5000, backends: int = 2, sticky: int = 0) -> None:
    """Runs it once."""
    with Namespace.create("bench") as namespace:
        driver = NftDriver(socket=in_namespace(namespace.path, lambda: NetlinkSocket(NETLINK_NETFILTER)))
        rules = service_base_rules()
        bases = (Chain(name, rules.get(name, ()), hook) for name, hook in HOOKS.items())
        driver.apply([Put(one) for one in (*service_objects(), *bases)])
        calc, tables, announce = ServiceCalc(ME), ServiceTables(), AnnounceCalc(ME)
        world = [
            change
            for number in range(services)
            for change in (
                grant(address("172.16.0.0", number), f"a/{number}"),
                service(f"a/{number}", service_of(affinity_s=10800 if number < sticky else 0)),
                slice_of(
                    f"a/{number}",
                    str(number),
                    *(backend(address("10.0.0.0", number * backends + one)) for one in range(backends)),
                ),
            )
        ]

        def run(what: str, changes: list[object]) -> None:
            start, cpu = time.perf_counter(), time.process_time()
            for change in changes:
                calc.update(*change)  # type: ignore[misc]
                announce.update(*change)  # type: ignore[misc]
            delta = calc.flush()
            announce.update_frontends(delta)
            derived = time.perf_counter()
            announce.flush()
            announced = time.perf_counter()
            ops = make_ops(tables.update(delta))
            rendered = time.perf_counter()
            failed = [outcome.error for outcome in driver.apply(ops) if outcome.error]
            programmed = time.perf_counter()
            print(
                f"{what}: derive {derived - start:.4f} announce {announced - derived:.4f} "
                f"render {rendered - announced:.4f} program {programmed - rendered:.4f} s, "
                f"processor {time.process_time() - cpu:.4f} s {failed or ''}"
            )

        run(f"{services} services of {backends} backends", list(world))
        for number in range(3):
            run(
                "one backend of one",
                [slice_of(f"a/{number}", str(number), backend("10.200.0.1"), backend("10.200.0.2"))],
            )
        driver.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
