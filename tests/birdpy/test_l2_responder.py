"""The responder on a real segment: questions answered, one owner, fail-over seen by a client's own kernel."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from birdpy.addresses import parse_address
from birdpy.l2.election import BURST_S, Standing
from birdpy.l2.protocol import Ask, Update, Vip, Watch, parse_status, render_request
from tests.birdpy.l2_world import VIP4, VIP6, Lan, lan
from tests.support.wait import eventually


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """Two nodes and a client."""
    with lan(2, tmp_path_factory.mktemp("l2")) as made:
        yield made


@pytest.fixture
def two(segment: Lan) -> Iterator[Lan]:
    """Two nodes that contend for a VIP of either family; node 1 owns both. Their responders are new."""
    yield segment.start().contend(VIP4, VIP6)
    for node in segment.nodes:
        node.responder.kill()
    for address in (VIP4, VIP6):
        segment.client.namespace.ip("neigh", "flush", "to", address)


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_a_client_finds_the_owner(two: Lan, address: str) -> None:
    eventually(lambda: two.client.resolves_to(address, two.nodes[0]))
    assert not two.nodes[1].owns(address)


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_a_neighbour_that_is_known_is_confirmed_by_unicast(two: Lan, address: str) -> None:
    eventually(lambda: two.client.resolves_to(address, two.nodes[0]))
    before = two.nodes[0].ask_status().interfaces[0].answers
    two.client.namespace.ip("neigh", "change", address, "dev", "eth0", "nud", "probe")
    eventually(lambda: "REACHABLE" in two.client.neighbour(address))
    assert two.nodes[0].ask_status().interfaces[0].answers > before


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_a_client_follows_when_the_owner_dies(two: Lan, address: str) -> None:
    first, second = two.nodes
    eventually(lambda: two.client.resolves_to(address, first))
    first.responder.kill()
    eventually(lambda: second.mac in two.client.neighbour(address), within_s=5, what="told by the burst, not by asking")


def test_a_client_follows_when_the_owner_hangs_and_again_when_it_is_back(two: Lan) -> None:
    first, second = two.nodes
    eventually(lambda: two.client.resolves_to(VIP4, first))
    os.kill(first.responder.pid, signal.SIGSTOP)
    eventually(lambda: second.mac in two.client.neighbour(VIP4))
    os.kill(first.responder.pid, signal.SIGCONT)
    eventually(lambda: second.owns(VIP4) and not first.owns(VIP4), what="the late one yields")
    eventually(lambda: first.owns(VIP4) and not second.owns(VIP4), within_s=15, what="the better one has it back")
    eventually(lambda: first.mac in two.client.neighbour(VIP4))


def test_a_client_follows_when_the_owners_link_goes_down_and_comes_up(two: Lan) -> None:
    first, second = two.nodes
    eventually(lambda: two.client.resolves_to(VIP4, first))
    two.switch.ip("link", "set", first.port, "down")
    eventually(lambda: second.mac in two.client.neighbour(VIP4))
    assert first.vip(VIP4) is None, "an interface without carrier is not in use"
    two.switch.ip("link", "set", first.port, "up")
    eventually(lambda: first.mac in two.client.neighbour(VIP4), within_s=20)


def test_two_halves_have_an_owner_each_and_one_when_they_meet(two: Lan) -> None:
    first, second = two.nodes
    eventually(lambda: two.client.resolves_to(VIP4, first))
    two.switch.run("bridge", "link", "set", "dev", first.port, "isolated", "on")
    two.switch.run("bridge", "link", "set", "dev", second.port, "isolated", "on")
    eventually(lambda: first.owns(VIP4) and second.owns(VIP4))
    two.switch.run("bridge", "link", "set", "dev", first.port, "isolated", "off")
    two.switch.run("bridge", "link", "set", "dev", second.port, "isolated", "off")
    eventually(lambda: [first.owns(VIP4), second.owns(VIP4)].count(True) == 1)
    eventually(lambda: first.owns(VIP4) and not second.owns(VIP4), within_s=15)
    eventually(lambda: first.mac in two.client.neighbour(VIP4))


def test_an_owner_that_is_told_to_end_hands_over_first(two: Lan) -> None:
    first, second = two.nodes
    eventually(lambda: two.client.resolves_to(VIP4, first))
    os.kill(first.responder.pid, signal.SIGTERM)
    while first.responder.running:
        two.client.namespace.ip("neigh", "flush", "to", VIP4)
        eventually(lambda: "lladdr" in (two.client.ask(VIP4), two.client.neighbour(VIP4))[1], within_s=10)
    assert second.owns(VIP4)


def test_an_address_is_never_on_an_interface(two: Lan) -> None:
    for node in two.nodes:
        assert VIP4 not in node.namespace.ip("address")
        assert VIP6 not in node.namespace.ip("address")


def test_what_is_told_later_changes_only_that(two: Lan) -> None:
    first, second = two.nodes
    vip = Vip(parse_address("10.9.0.101"), Standing(0, 7))
    second.say(Update((vip,), ()))
    eventually(lambda: two.client.resolves_to("10.9.0.101", second))
    first.say(Update((), (parse_address(VIP4),)))
    assert first.owns(VIP4), "answered for until another does"
    eventually(lambda: second.owns(VIP4) and first.vip(VIP4) is None)
    assert first.owns(VIP6)


def test_only_interfaces_that_are_named_and_usable(tmp_path: Path) -> None:
    with lan(1, tmp_path) as made:
        (node,) = made.start().nodes
        for name in ("eth1", "cali1", "docker0"):
            node.namespace.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
            node.namespace.ip("link", "set", name, "up")
            node.namespace.ip("link", "set", f"{name}p", "up")
        node.want(0, VIP4)
        eventually(lambda: node.owns(VIP4) and node.vip(VIP4, "eth1"))
        used = {one.interface for one in node.ask_status().vips}
        assert used == {"eth0", "eth1", "eth1p"}
        node.want(0, VIP4, interfaces=["eth1"])
        eventually(lambda: {one.interface for one in node.ask_status().vips} == {"eth1"})
        node.namespace.ip("link", "add", "br9", "type", "bridge")
        node.namespace.ip("link", "set", "eth1", "master", "br9")
        eventually(lambda: not node.ask_status().vips, what="a port of a bridge is not used")


def test_another_ethernet_address_is_told_to_all(two: Lan) -> None:
    first = two.nodes[0]
    eventually(lambda: two.client.resolves_to(VIP4, first))
    burst = 2 * (1 + len(BURST_S))
    eventually(lambda: first.ask_status().interfaces[0].announcements >= burst, what="the burst of its take-over ends")
    old, new = first.mac, "02:00:00:00:00:77"
    two.client.namespace.ip("neigh", "change", VIP4, "lladdr", old, "dev", "eth0", "nud", "stale")
    first.namespace.ip("link", "set", "eth0", "address", new)
    eventually(lambda: new in two.client.neighbour(VIP4), what="told by the burst: nothing was asked")


def test_more_groups_than_one_socket_takes(tmp_path: Path) -> None:
    with lan(1, tmp_path) as made:
        (node,) = made.start().nodes
        many = [f"fd09::1:{number:x}" for number in range(1, 5000)]
        node.want(0, *many)
        eventually(lambda: node.namespace.ip("maddress", "show", "dev", "eth0").count("ff02::1:ff01:") == len(many))
        node.want(0)
        eventually(lambda: "ff02::1:ff01:" not in node.namespace.ip("maddress", "show", "dev", "eth0"))


def test_peers_that_take_no_answer_hold_up_nobody_and_get_it_whole_when_they_do(tmp_path: Path) -> None:
    with lan(1, tmp_path) as made:
        (node,) = made.start().nodes
        many = [f"10.9.{number >> 8}.{number & 255}" for number in range(256, 4256)]
        node.want(0, *many)
        peers = []
        for _ in range(20):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.connect(str(node.socket_path))
            one.settimeout(20)
            one.sendall(4 * render_request(Ask()) + render_request(Watch()))
            peers.append(one)
        eventually(lambda: sum(one.owns for one in node.ask_status().vips) == len(many), what="asked meanwhile")
        node.want(0, VIP4)
        for one in peers:
            with one, one.makefile("rb") as lines:
                whole = [parse_status(lines.readline()) for _ in range(4)]
                assert len(whole[0].vips) == len(many)
                eventually(lambda lines=lines: len(parse_status(lines.readline()).vips) == 1, what="watches")


def test_only_its_user_may_speak_to_it(two: Lan) -> None:
    assert stat.S_IMODE(two.nodes[0].socket_path.stat().st_mode) == 0o600


def test_a_request_that_is_none_is_said_to_be_so(two: Lan) -> None:
    for line in (b"{}", b"\xff", b'{"op":"dance"}', b'{"op":"replace","vips":[["x",0,1,null]]}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.settimeout(5)
            one.connect(str(two.nodes[0].socket_path))
            one.sendall(line + b"\n")
            assert parse_status(one.makefile("rb").readline()).error
    assert two.nodes[0].owns(VIP4)
