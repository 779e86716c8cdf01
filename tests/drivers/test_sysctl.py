"""Sysctls of a network namespace, without a mount namespace."""

from __future__ import annotations

import errno
from pathlib import Path

from felixpy.dataplane.objects import Drop, Outcome, Put, Sysctl
from felixpy.drivers.netlink.socket import in_namespace
from felixpy.drivers.sysctl import SysctlDriver
from tests.support.netns import Namespace

FORWARDING = Sysctl("net/ipv4/conf/lo/forwarding", "1")
PORTS = Sysctl("net/ipv4/ip_local_port_range", "20000 30000")


def test_value_is_written_and_read_in_the_thread_s_namespace(namespace: Namespace) -> None:
    driver = SysctlDriver()
    here = driver.read([PORTS.key])
    outcomes = in_namespace(namespace.path, lambda: driver.apply([Put(FORWARDING), Put(PORTS)]))
    assert outcomes == (Outcome(Put(FORWARDING)), Outcome(Put(PORTS)))
    seen = in_namespace(namespace.path, lambda: driver.read([FORWARDING.key, PORTS.key]))
    assert seen.objects == {FORWARDING.key: FORWARDING, PORTS.key: PORTS}
    assert driver.read([PORTS.key]) == here


def test_missing_device_is_an_outcome_and_reads_as_nothing(namespace: Namespace) -> None:
    lost = Sysctl("net/ipv4/conf/nowhere/forwarding", "1")
    outcome = in_namespace(namespace.path, lambda: SysctlDriver().apply([Put(lost)]))[0]
    assert (outcome.errno, outcome.error) == (errno.ENOENT, f"{lost.path}: No such file or directory")
    assert SysctlDriver().read([lost.key]).objects == {}


def test_refused_value_is_an_outcome(namespace: Namespace) -> None:
    wrong = Sysctl(PORTS.path, "much")
    assert in_namespace(namespace.path, lambda: SysctlDriver().apply([Put(wrong)]))[0].errno == errno.EINVAL


def test_drop_leaves_the_value(namespace: Namespace) -> None:
    driver = SysctlDriver()
    in_namespace(namespace.path, lambda: driver.apply([Put(FORWARDING)]))
    assert driver.apply([Drop(FORWARDING.key)]) == (Outcome(Drop(FORWARDING.key)),)
    assert in_namespace(namespace.path, lambda: driver.read([FORWARDING.key])).objects == {FORWARDING.key: FORWARDING}


def test_a_value_that_is_right_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "ports").write_text("20000\t30000\n")
    assert SysctlDriver(str(tmp_path)).apply([Put(Sysctl("ports", "20000 30000"))])[0].error is None
    assert (tmp_path / "ports").read_text() == "20000\t30000\n"
