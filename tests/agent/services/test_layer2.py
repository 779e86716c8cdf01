"""Service addresses at layer 2 through the whole agent: two nodes and a client on one segment, by real packets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client.parser import text_string_to_metric_families

from birdpy.l2.program import responder_environment
from felixpy.status.answers import control_socket
from tests.agent.node import Node, resource
from tests.agent.pages import fetch
from tests.agent.services.layer2_world import (
    BULK_PORT,
    L2_KEY,
    VIP,
    VIP6,
    World,
    make_world,
    owns,
    responder,
    status_of,
)
from tests.support.packets import ask_tcp
from tests.support.process import Daemon
from tests.support.wait import eventually

FELIXCTL = Path(sys.executable).with_name("felixctl")

EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"


@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    with make_world() as world:
        try:
            yield world
        finally:
            for node in world.nodes.values():
                print(node.log())


@pytest.fixture
def world(built: World) -> World:
    """Both agents run, both nodes have endpoints, and each address is where it belongs."""
    if not built.etcd.daemon.running:
        built.etcd.start()
    built.put_slices("n1", "n2")
    built.advertise(ipAddressPools=["default"])
    for node in built.nodes.values():
        if not node.agent.running:
            node.agent.start()
    for address in (VIP, VIP6):
        eventually(
            lambda address=address: [owns(node, address) for node in built.order(address)] == [True, False],
            within_s=30,
            what=f"the better node owns {address}",
        )
    return built


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_a_client_reaches_the_pod_behind_the_owner(world: World, address: str) -> None:
    eventually(lambda: world.answers(address) == world.order(address)[0].name)


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_the_other_node_takes_over_when_agent_and_responder_are_killed(world: World, address: str) -> None:
    first, second = world.order(address)
    eventually(lambda: world.answers(address) == first.name)
    first.agent.kill()
    os.kill(responder(first), signal.SIGKILL)
    eventually(lambda: world.answers(address) == second.name, within_s=5)
    said = f"default web.{second.name} {second.name} web eth0"
    eventually(lambda: felixctl(world, "get", "servicel2statuses")[1:] == [said], within_s=20, what="its lease ends")


def test_who_begins_to_answer_for_a_service_has_an_event(world: World) -> None:
    first, second = world.order()
    eventually(lambda: any(f"web.{first.name}" in line for line in felixctl(world, "get", "servicel2statuses")))
    world.put_slices(second.name)
    eventually(lambda: owns(second) and not owns(first))
    eventually(lambda: not any(f"web.{first.name}" in line for line in felixctl(world, "get", "servicel2statuses")))
    world.put_slices(first.name, second.name)
    eventually(lambda: owns(first), within_s=15)
    words = f'.* Normal nodeAssigned web .* announcing from node "{first.name}" with protocol "layer2"'
    eventually(lambda: any(re.fullmatch(words, line) for line in felixctl(world, "get", "events")))


def test_answers_go_on_while_the_agent_is_away_and_when_it_is_back(world: World) -> None:
    first, _ = world.order()
    pid, turns = responder(first), status_of(first).interfaces[0].turns
    taken_over = first.log().count("taking it over")
    first.agent.kill()
    assert "lladdr" in world.resolves()
    first.agent.start()
    eventually(lambda: first.log().count("taking it over") > taken_over)
    eventually(lambda: f"the responder {pid} has 2 addresses" in first.log().rpartition("taking it over")[2])
    assert responder(first) == pid
    assert world.answers() == first.name
    assert status_of(first).interfaces[0].turns == turns, "nobody took anything over"


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_a_node_that_leaves_hands_its_addresses_over(world: World, address: str) -> None:
    """An agent that ends keeps them; `felixctl leave` ends the responder, and the client is told of the next one."""
    first, second = world.order(address)
    theirs = json.loads(second.namespace.ip("-j", "link", "show", "eth0"))[0]["address"]
    eventually(lambda: world.answers(address) == first.name)
    first.agent.stop()
    pid = responder(first)
    assert theirs not in world.resolves(address)
    assert world.answers(address) == first.name
    left = first.felixctl("leave")
    assert (left.code, f"the responder of layer 2 {pid} ended" in left.out) == (0, True), left
    eventually(lambda: theirs in world.client.ip("neigh", "show", address), what="the client was told")
    eventually(lambda: owns(second, address) and world.answers(address) == second.name)
    assert responder(first) == 0


def test_a_responder_that_dies_is_replaced_and_told_again(world: World) -> None:
    first, _ = world.order()
    pid = responder(first)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: responder(first) not in (0, pid))
    eventually(lambda: owns(first), within_s=15)
    eventually(lambda: world.answers() == first.name)


def test_a_responder_that_hangs_is_replaced(world: World) -> None:
    first, second = world.order()
    eventually(lambda: owns(first), within_s=15)
    pid = responder(first)
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: owns(second), within_s=15, what="the next one has it meanwhile")
    eventually(lambda: responder(first) not in (0, pid), within_s=60)
    eventually(lambda: owns(first), within_s=15)
    eventually(lambda: world.answers() == first.name)


OLD_RESPONDER = """
import birdpy.l2.protocol as protocol
import birdpy.l2.responder as responder
protocol._vip = lambda *fields: 1 / 0
responder.VERSION = 1
responder.main()
"""


def test_a_responder_of_an_older_version_makes_way(world: World) -> None:
    node, _ = world.order()
    node.agent.kill()
    os.kill(responder(node), signal.SIGKILL)
    argv = [sys.executable, "-c", OLD_RESPONDER, str(node.run_dir / "l2.sock")]
    old = Daemon(argv, node.run_dir / "old.log", netns=node.namespace.name, env=responder_environment()).start()
    try:
        eventually(lambda: responder(node) == old.pid)
        node.agent.start()
        eventually(lambda: responder(node) not in (0, old.pid), within_s=20)
        eventually(lambda: owns(node), within_s=15)
    finally:
        old.kill()


def test_without_etcd_nothing_moves_and_fail_over_works(world: World) -> None:
    first, second = world.order()
    world.etcd.kill()
    eventually(lambda: "UNAVAILABLE" in first.log().upper())
    assert world.answers() == first.name
    first.agent.kill()
    os.kill(responder(first), signal.SIGKILL)
    eventually(lambda: world.answers() == second.name, within_s=5)
    world.etcd.start()
    said = f"default web.{second.name} {second.name} web eth0"
    eventually(
        lambda: felixctl(world, "get", "servicel2statuses")[1:] == [said], within_s=40, what="said when it can be"
    )


def test_an_address_follows_its_endpoints(world: World) -> None:
    first, second = world.order()
    eventually(lambda: world.answers() == first.name)
    world.put_slices(second.name)
    eventually(lambda: world.answers() == second.name and owns(second))
    assert VIP not in {one.address for one in status_of(first).vips if one.owns}


def test_without_an_advertisement_nobody_answers(world: World) -> None:
    eventually(lambda: world.answers())
    world.etcd.delete(L2_KEY)
    eventually(lambda: "lladdr" not in world.resolves())
    assert not any(one.owns for node in world.nodes.values() for one in status_of(node).vips)


def test_a_preferred_node_has_it(world: World) -> None:
    _, second = world.order()
    world.label(second, edge="yes")
    preference = {"weight": 100, "preference": {"matchLabels": {"edge": "yes"}}}
    world.advertise(preferredNodeSelectors=[preference])
    eventually(lambda: owns(second) and world.answers() == second.name, within_s=15)


@pytest.fixture
def apart(world: World) -> Iterator[World]:
    """The switch keeps the nodes from each other, and their responders are new, so they have never heard one."""
    for port in ("p1", "p2"):
        world.switch.run("bridge", "link", "set", "dev", port, "isolated", "on")
    for node in world.nodes.values():
        os.kill(responder(node), signal.SIGKILL)
    yield world
    for port in ("p1", "p2"):
        world.switch.run("bridge", "link", "set", "dev", port, "isolated", "off")


def test_nodes_that_do_not_hear_each_other_go_by_what_the_datastore_says(apart: World) -> None:
    first, second = apart.order()

    def one_owner() -> list[Node] | None:
        owners = [node for node in (first, second) if owns(node)]
        return owners if len(owners) == 1 else None

    (owner,) = eventually(lambda: one_owner() and settled(apart) and one_owner(), within_s=20)
    other = second if owner is first else first
    assert all(one_owner() == [owner] for _ in range(100))
    eventually(lambda: apart.answers() == owner.name)
    owner.agent.kill()
    os.kill(responder(owner), signal.SIGKILL)
    eventually(lambda: owns(other), within_s=20, what="its lease has run out")
    eventually(lambda: apart.resolves() and apart.answers() == other.name)


def settled(world: World) -> bool:
    """Whether each node has said what it answers for, and it is as it is."""
    said = {key.rpartition("/")[2]: value for key, value in world.etcd.get_prefix("/felixpy/answering/").items()}
    return all((VIP in said.get(node.name, "")) == owns(node) for node in world.nodes.values())


def test_a_kernel_that_answers_beside_the_responder_is_named(world: World) -> None:
    node, _ = world.order()
    for device in ("kube-ipvs0", "kube-ipvs1"):
        node.namespace.ip("link", "add", device, "type", "bridge")
    try:
        node.namespace.ip("address", "add", f"{VIP}/32", "dev", "kube-ipvs0")
        assert "kube-proxy in IPVS mode needs strictARP: true" in said(node)
        node.namespace.sysctl(ipv4__conf__all__arp_ignore=1)
        assert "strictARP" not in said(node)
        node.namespace.ip("address", "add", f"{VIP}/32", "dev", "kube-ipvs1")
        assert "a Service address belongs on no interface" in said(node)
    finally:
        node.namespace.sysctl(ipv4__conf__all__arp_ignore=0)
        for device in ("kube-ipvs0", "kube-ipvs1"):
            node.namespace.ip("link", "del", device)


def said(node: Node) -> str:
    """What the node says of itself, by its own socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(5)
        one.connect(str(node.run_dir / control_socket(("agent",))))
        one.sendall(b'{"op": "status"}\n')
        return one.makefile().readline()


@contextmanager
def connection(world: World, address: str, node: Node) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection of the client to the address, and its other end in the node's pod."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with node.pods[0].namespace.entered():
        server = socket.create_server(("", BULK_PORT), family=family)
    with server:
        server.settimeout(5)
        with world.client.entered():
            near = socket.create_connection((address, BULK_PORT), timeout=5)
        far, _ = server.accept()
        far.settimeout(5)
        with near, far:
            yield near, far


def download(near: socket.socket, far: socket.socket) -> int:
    """Bytes that arrive of so many sent."""
    data = bytes(1 << 20)
    sender = Thread(target=far.sendall, args=(data,))
    sender.start()
    got = 0
    while got < len(data):
        got += len(near.recv(1 << 16))
    sender.join()
    return got


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_a_download_goes_on_while_its_node_drains_and_new_clients_go_elsewhere(world: World, address: str) -> None:
    first, second = world.order(address)
    eventually(lambda: world.answers(address) == first.name)
    with connection(world, address, first) as (near, far):
        assert download(near, far) == 1 << 20
        world.label(first, **{EXCLUDE: ""})
        try:
            eventually(lambda: owns(second, address) and not owns(first, address))
            world.machine.ip("neigh", "flush", "to", address)
            said = eventually(lambda: ask_tcp(world.machine, address, 80, wait_s=0.5))
            assert said.split()[0] == second.name
            world.client.ip("neigh", "change", address, "dev", "eth0", "nud", "probe")
            for _ in range(5):
                assert download(near, far) == 1 << 20
            eventually(lambda: "REACHABLE" in world.client.ip("neigh", "show", address), what="confirmed by unicast")
        finally:
            world.label(first)


def test_no_responder_where_there_is_nothing_at_layer_2() -> None:
    with Node("agent") as node:
        node.agent.start()
        eventually(lambda: "in sync" in node.log())
        assert responder(node) == 0


def felixctl(world: World, *arguments: str) -> list[str]:
    """What felixctl says on the machine that etcd is on, its blanks made one."""
    clean = {key: value for key, value in os.environ.items() if "ETCD" not in key}
    argv = world.machine.enter_argv([FELIXCTL, *arguments])
    environment = {**clean, "FELIXPY_ETCD": "http://10.9.0.8:2379"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, env=environment, check=False)
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_what_is_asked_and_answered_is_counted_in_metallb_s_names(world: World) -> None:
    owner, other = world.order(VIP)
    spec = {"prometheusMetricsEnabled": True, "prometheusMetricsHost": "127.0.0.1"}
    owner.put("felixconfigurations", resource("FelixConfiguration", "default", spec))

    def figure(node: Node, name: str, /, **labels: str) -> float:
        page = fetch(node, "/metrics")
        families = text_string_to_metric_families(page.body if page is not None else "")
        found = [s.value for f in families for s in f.samples if s.name == f"metallb_{name}" and s.labels == labels]
        return sum(found)

    def asked(node: Node) -> float:
        return figure(node, "layer2_requests_received", ip=VIP)

    eventually(lambda: figure(owner, "layer2_gratuitous_sent", ip=VIP) > 0)
    before, before_other = asked(owner), asked(other)
    world.client.ip("neigh", "flush", "to", VIP)
    eventually(lambda: world.answers() == owner.name, what="a client asks and connects")
    eventually(lambda: asked(owner) > before)
    eventually(
        lambda: figure(owner, "layer2_responses_sent", ip=VIP) >= asked(owner),
        what="as many answers, and those to who knew it while it drained",
    )
    assert asked(other) == before_other, "deputies ask the owner, and nobody asks them"
    rows = {"service": "default/web", "protocol": "layer2", "ip": VIP}
    eventually(lambda: [figure(node, "speaker_announced", node=node.name, **rows) for node in (owner, other)] == [1, 0])


def test_people_are_told_who_answers_and_on_which_interface(world: World) -> None:
    first, second = world.order()
    eventually(lambda: owns(first) and not owns(second), within_s=20)
    line = next(line for line in felixctl(world, "lb") if line.startswith(f"default/web {VIP} "))
    assert f"{first.name} on eth0" in line
    assert second.name not in line, "it stands by"
    assert f"answered at layer 2 by {first.name} on eth0" in felixctl(world, "explain", VIP)
    wanted = [f"default web.{name} {name} web eth0" for name in sorted({first.name, world.order(VIP6)[0].name})]
    eventually(lambda: felixctl(world, "get", "servicel2statuses")[1:] == wanted, what="each says what it answers for")
    assert f"{VIP} tcp/80 grant 1 outside, 2 inside n1, n2 -" in felixctl(world, "svc", "web")
