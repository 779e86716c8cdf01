"""The helpers themselves: a meter that cannot see a loss, or a wait that never fails, would prove nothing."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import netns
from tests.support.etcd import Etcd
from tests.support.netns import CommandFailed, Namespace, add_bridge, link_namespaces
from tests.support.packets import FlowMeter, NameServer, ask_tcp, ask_udp, ping_ok, tcp_ok
from tests.support.process import Daemon
from tests.support.wait import eventually, eventually_async

Make = Callable[..., Namespace]


@pytest.fixture
def pair(make_namespace: Make) -> tuple[Namespace, Namespace]:
    left, right = make_namespace("l"), make_namespace("r")
    link_namespaces(
        left, "e0", right, "e0",
        left_addresses=["10.1.0.1/24", "fd01::1/64"], right_addresses=["10.1.0.2/24", "fd01::2/64"],
    )  # fmt: skip
    return left, right


def test_eventually_returns_the_value_and_names_what_was_missing() -> None:
    values = iter([None, 0, "here"])
    assert eventually(lambda: next(values), 1) == "here"
    with pytest.raises(AssertionError, match="last: StopIteration"):
        eventually(lambda: next(values), 0.05)


async def test_eventually_async() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(AssertionError, match="last: False"):
        await eventually_async(never, 0.05)


def test_a_deleted_namespace_takes_its_processes_along(make_namespace: Make) -> None:
    namespace = make_namespace()
    process = namespace.popen("sleep", "60")
    eventually(lambda: namespace.pids() == [process.pid], what="it has entered")
    namespace.delete()
    assert process.wait(5) == -9
    assert not namespace.exists


def test_a_name_that_a_killed_run_has_left_is_passed_over(
    make_namespace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        monkeypatch.setattr(netns, "_numbers", itertools.count(10_000))
        assert make_namespace().exists


def test_a_failed_command_says_what_it_printed(namespace: Namespace) -> None:
    with pytest.raises(CommandFailed, match="No such"):
        namespace.run("ls", "/none", env={"LC_ALL": "C"})


def test_sysctls_and_sockets_are_the_namespaces_own(namespace: Namespace) -> None:
    here = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    namespace.sysctl(ipv4__ip_forward=1)
    assert namespace.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == here


def test_packets_and_answers_of_both_families(pair: tuple[Namespace, Namespace]) -> None:
    left, right = pair
    with NameServer(right, "web-1", 80):
        assert ping_ok(left, "10.1.0.2")
        assert ping_ok(left, "fd01::2")
        assert ask_tcp(left, "10.1.0.2", 80) == "web-1 10.1.0.1"
        assert ask_tcp(left, "fd01::2", 80) == "web-1 fd01::1"
        assert ask_udp(left, "10.1.0.2", 80) == "web-1"
        assert not tcp_ok(left, "10.1.0.2", 81)
        assert not ping_ok(left, "10.1.0.3", wait_s=0.2)
        assert not ping_ok(left, "10.1.0.2", size_bytes=1473)


def test_a_bridge_joins_its_ports(make_namespace: Make) -> None:
    switch, left, right = make_namespace("s"), make_namespace("l"), make_namespace("r")
    link_namespaces(left, "e0", switch, "p1", left_addresses=["10.2.0.1/24"])
    link_namespaces(right, "e0", switch, "p2", left_addresses=["10.2.0.2/24"])
    add_bridge(switch, "br0", ["p1", "p2"], ["10.2.0.254/24"])
    assert ping_ok(left, "10.2.0.2")
    assert ping_ok(left, "10.2.0.254")


def test_the_meter_counts_every_packet_and_shows_where_some_are_missing(pair: tuple[Namespace, Namespace]) -> None:
    left, right = pair
    with FlowMeter(left, right, "10.1.0.2") as meter:
        before = _packets(right)
        eventually(lambda: _packets(right) > before + 100)
        right.run(
            "nft",
            "-f",
            "-",
            stdin="table ip t { chain c { type filter hook input priority 0; udp dport 7700 drop; }; }",
        )
        before = _packets(right)
        eventually(lambda: _packets(right) > before + 100)
        right.run("nft", "delete", "table", "ip", "t")
        before = _packets(right)
        eventually(lambda: _packets(right) > before + 100)
        report = meter.stop()
    assert len(report.gaps) == 1
    assert report.lost == report.gaps[0].count > 50
    assert report.gaps[0].first > 50
    assert report.longest_silence_ms > 50


def test_the_meter_finds_nothing_where_nothing_is_lost(pair: tuple[Namespace, Namespace]) -> None:
    left, right = pair
    with FlowMeter(left, right, "fd01::2") as meter:
        eventually(lambda: _packets(right) > 300)
        report = meter.stop()
    assert (report.lost, report.gaps) == (0, ())


def test_a_daemon_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    daemon = Daemon(["sh", "-c", "echo no such thing; exit 3"], tmp_path / "log")
    with pytest.raises(AssertionError, match=r"(?s)ended with 3.*no such thing"):
        daemon.start().wait_ready(lambda: False, within_s=5)


def test_a_daemon_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    daemon = Daemon(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], tmp_path / "log")
    daemon.start().wait_ready(lambda: "up" in daemon.tail())
    assert daemon.stop(within_s=0.2) == -9


def test_etcd_keeps_its_data_over_a_restart(etcd: Etcd) -> None:
    etcd.put("/a/1", {"x": 1})
    etcd.put("/a/2", "two")
    etcd.kill()
    assert not etcd.healthy
    etcd.start()
    assert etcd.get_prefix("/a/") == {"/a/1": '{"x": 1}', "/a/2": "two"}
    assert etcd.delete("/a/1")
    assert etcd.get("/a/1") is None
    assert etcd.delete_prefix("/a/") == 1


def test_etcd_in_a_namespace_is_reached_through_it(namespace: Namespace) -> None:
    with Etcd(namespace) as etcd:
        etcd.put("/k", "v")
        output = namespace.run("etcdctl", "--endpoints=http://127.0.0.1:2379", "get", "/k", env={"ETCDCTL_API": "3"})
    assert output == "/k\nv\n"


def _packets(namespace: Namespace) -> int:
    """Packets that the namespace's device has received, dropped ones too."""
    text = namespace.run("cat", "/proc/net/dev")
    return int(next(line for line in text.splitlines() if line.strip().startswith("e0:")).split()[2])


def test_nothing_of_this_module_is_left() -> None:
    """Runs last: every namespace that a fixture made is gone."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert str(os.getpid()) not in names
