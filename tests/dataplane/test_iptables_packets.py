"""The kernel agrees through iptables too: generated clusters in its tables, and frames between real devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from felixpy.drivers.backend import find_programs
from felixpy.drivers.iptables import IptablesDriver, Variant
from felixpy.drivers.netlink.socket import in_namespace
from tests.dataplane import test_verdict_packets as packets
from tests.dataplane.ground import Ground

CLUSTERS = 20


@pytest.fixture(scope="module", params=list(Variant))
def iptables(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """The same ground, its rules in iptables."""
    programs = find_programs(request.param)
    assert programs is not None
    with in_namespace(ground.node.path, lambda: IptablesDriver(programs)) as driver:
        yield replace(ground, driver=driver)
        driver.destroy()


@pytest.mark.parametrize("seed", range(CLUSTERS))
def test_the_kernel_does_what_verdict_says(iptables: Ground, seed: int) -> None:
    packets.test_the_kernel_does_what_verdict_says(iptables, seed)
