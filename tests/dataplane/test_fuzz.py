"""No object that anybody can write ends the agent, touches another one or is refused without a word.

`python -m tests.bench fuzz` tries 100,000.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, in_namespace
from tests.dataplane.fuzz import Fuzzer, load
from tests.support.netns import Namespace

MUTATIONS = 800
IN_KERNEL = 25


@pytest.fixture
def driver() -> Iterator[NftDriver]:
    namespace = Namespace.create("z")
    try:
        socket = in_namespace(namespace.path, lambda: NetlinkSocket(NETLINK_NETFILTER))
        with NftDriver(socket=socket) as driver:
            yield driver
    finally:
        namespace.delete()


def test_mutated_objects_are_named_or_harm_nobody(driver: NftDriver) -> None:
    fuzzer = Fuzzer(1)
    for number, kernel in enumerate(fuzzer.run(MUTATIONS)):
        if number < IN_KERNEL:
            assert not load(driver, kernel)
    counts = fuzzer.counts
    assert min(counts.refused, counts.taken, counts.changing) > MUTATIONS / 10
    assert len(counts.fields) > 30, "few fields were refused: the mutations do not reach them"
