"""100,000 mutated policies, endpoints and sets through decoder, calculation, translation and, some, the kernel.

`python -m tests.bench fuzz`: ends with an error at the first that crashes, touches another object, or is not named.
"""

from __future__ import annotations

import time

from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, in_namespace
from tests.dataplane.fuzz import Fuzzer, load
from tests.support.netns import Namespace

MUTATIONS = 100_000
WORLDS = 20
ONE_IN = 50
"""Of those that change the kernel, how many go there."""


def main() -> None:
    """Prints a line."""
    begin, refused, taken, changing, loaded = time.monotonic(), 0, 0, 0, 0
    fields: set[str] = set()
    namespace = Namespace.create("z")
    try:
        socket = in_namespace(namespace.path, lambda: NetlinkSocket(NETLINK_NETFILTER))
        with NftDriver(socket=socket) as driver:
            for seed in range(WORLDS):
                fuzzer = Fuzzer(seed)
                for number, kernel in enumerate(fuzzer.run(MUTATIONS // WORLDS)):
                    if number % ONE_IN == 0:
                        loaded += 1
                        assert not (failed := load(driver, kernel)), failed
                counts = fuzzer.counts
                refused, taken, changing = refused + counts.refused, taken + counts.taken, changing + counts.changing
                fields |= counts.fields
                print(f"world {seed + 1} of {WORLDS}: {refused} refused, {taken} taken so far", flush=True)
    finally:
        namespace.delete()
    print(f"{refused} refused in {len(fields)} fields, {taken} taken, {changing} of them seen in the kernel's rules")
    print(f"{loaded} put into a kernel; {time.monotonic() - begin:.0f} s")
