"""What a neighbour at fault can do to a node: floods, flaps, garbage, too much, and a link that goes.

The whole agent with gobgpd 4 and 3, fed through etcd; the neighbour is a gobgpd that this test drives, or raw bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from birdpy.addresses import Prefix, parse_prefix
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Announce, Withdraw
from birdpy.intent import Advertisement, BgpIntent, Neighbor, Speaker
from birdpy.process import listener_pid
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED
from felixpy.drivers.netlink.codec import split_messages
from felixpy.drivers.netlink.routes import RTM_DELROUTE, RTM_NEWROUTE
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkSocket, in_namespace
from tests.agent.node import Node, resource
from tests.birdpy.conftest import GOBGPD, Router, announcing, make_so, own_prefixes
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually_async

WANTED = tuple(parse_prefix(f"198.51.100.{number}/32") for number in range(1, 4))
UNWANTED = [Advertisement(parse_prefix(f"{n >> 16 | 20}.{n >> 8 & 255}.{n & 255}.0/24")) for n in range(100_000)]
TABLE = UNWANTED[:4_000]
FLAPPING = [Advertisement(parse_prefix(f"203.0.113.{number}/32")) for number in range(200)]
MARKER = b"\xff" * 16
_ROUTES, _NEXTHOPS = 1 << 6, 1 << 31
"""Multicast groups: RTNLGRP_IPV4_ROUTE, RTNLGRP_NEXTHOP."""


def message(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    """A BGP message (RFC 4271 §4.1), with a length that is not its own where one is given."""
    return MARKER + (19 + len(body) if length is None else length).to_bytes(2, "big") + bytes([kind]) + body


CAPABILITIES = bytes.fromhex("0206 010400010001 0206 41040000fde8")
OPEN = message(1, bytes.fromhex("04 fde8 005a 0a610003") + bytes([len(CAPABILITIES)]) + CAPABILITIES)
KEEPALIVE = message(4)
BAD_ORIGIN = bytes.fromhex("0000 0014 40010109 400206020100 00fde8 4003040a610003 18c00002")
UNKNOWN_TYPE = "a message of no type"
GARBAGE = {
    "a length that runs out of the message": message(2, bytes.fromhex("ffffffff")),
    "a message that is too short": message(2, length=18),
    UNKNOWN_TYPE: message(77),
    "an origin that is none, and attributes that overrun": message(2, BAD_ORIGIN)
    + message(2, bytes.fromhex("0000 00ff 400101")),
}


@dataclass
class Rack:
    """The node n1 (10.97.0.1) with the bgp role, a ToR of AS 65000 that this test drives, and a stranger."""

    node: Node
    tor: Router
    stranger: Namespace
    generation: int

    def bgp(self) -> Any:
        return self.node.felixctl("bgp", "-o", "json").json()["nodes"][0]["bgp"]

    def session(self, address: str = "10.97.0.2") -> Any:
        return next(one for one in self.bgp()["sessions"] if one["address"] == address)

    def routes(self) -> set[str]:
        shown = self.node.namespace.ip("-4", "route", "show", "proto", "177")
        return {line.split()[0] for line in shown.splitlines()}

    def agent_kib(self) -> int:
        """How much memory the agent has had at most."""
        status = Path(f"/proc/{self.node.agent.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]

    def gobgpd_pid(self) -> int:
        return listener_pid(self.node.run_dir / "gobgp.sock") or 0

    def peer(self, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        body = resource("BGPPeer", "tor", {"peerIP": "10.97.0.2", "asNumber": 65000, "maxRestartTime": "0s", **spec})
        body["metadata"]["annotations"] = annotations or {}
        self.node.put("bgppeers", body)

    @asynccontextmanager
    async def driver(self, *prefixes: Prefix, restarts: bool = False) -> AsyncIterator[GobgpDriver]:
        """The ToR's gobgpd, with these announced and nothing that an earlier test left."""
        async with self.tor.driver() as driver:
            node = Neighbor(b"\x0aa\x00\x01", 64512, passive=True, connect_retry_s=2)
            restart = replace(node.graceful_restart, enabled=restarts)
            left = await own_prefixes(driver) if driver.actual.speaker else ()
            await driver.apply([Withdraw(left)] if left else [])
            neighbors = {node.address: replace(node, graceful_restart=restart)}
            await make_so(driver, BgpIntent(Speaker(65000, b"\x0aa\x00\x02"), neighbors, announcing(*prefixes)))
            yield driver


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def rack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    switch, namespace, stranger = (Namespace.create(name) for name in ("sw", "tor", "odd"))
    tor = Router(2, namespace, tmp_path_factory.mktemp("tor"))
    try:
        with Node("bgp") as node:
            switch.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
            switch.ip("link", "set", "br0", "up")
            for number, one in enumerate((node.namespace, namespace, stranger), start=1):
                link_namespaces(switch, f"p{number}", one, "eth0", right_addresses=[f"10.97.0.{number}/24"])
                switch.ip("link", "set", f"p{number}", "master", "br0")
            node.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.97.0.1/24"}}))
            rules = [{"action": "Accept", "cidr": "198.51.100.0/24", "matchOperator": "In"}, {"action": "Reject"}]
            node.put("bgpfilters", resource("BGPFilter", "some", {"importV4": rules}))
            tor.start_gobgpd()
            node.agent = node.make_agent("--gobgpd", GOBGPD[request.param])
            node.agent.start()
            yield Rack(node, tor, stranger, request.param)
    finally:
        tor.stop()
        for one in (switch, namespace, stranger):
            one.delete()


async def until(probe: Callable[[], object], within_s: float = 40) -> None:
    """Waits for what a probe that runs programs says; the ToR's driver goes on meanwhile."""
    await eventually_async(lambda: asyncio.to_thread(probe), within_s=within_s, every_s=0.1)


async def test_what_nobody_wants_stays_before_the_kernel_and_the_agent(rack: Rack) -> None:
    rack.peer(filters=["some"])
    texts = {str(prefix) for prefix in WANTED}
    async with rack.driver(*WANTED) as tor:
        await until(lambda: len(rack.routes()) == 3, within_s=40)
        before = rack.agent_kib()
        await tor.apply([Announce(UNWANTED), Withdraw(WANTED[:1])])

        def told() -> bool:
            session = rack.session()
            return (session["received"], session["accepted"]) == (len(UNWANTED) + 2, 2)

        await until(told, within_s=90)
        await until(lambda: len(rack.routes()) == 2, within_s=20)
        assert rack.routes() < {text.removesuffix("/32") for text in texts}
        assert rack.bgp()["learned"] == 2
        assert rack.agent_kib() - before < 20_000, "the agent hears nothing of them"
        await tor.apply([Withdraw(tuple(one.prefix for one in UNWANTED))])


async def test_a_table_that_a_neighbour_tells_is_read_once(rack: Rack) -> None:
    """Its first paths come one by one, until they are known for a table's beginning; its end-of-RIB is the end.

    GoBGP 3 tells nobody of that, so when it has come is a guess.
    """
    if rack.generation == 3:
        return
    rack.peer(maxRestartTime="30s")
    await until(lambda: rack.bgp()["generation"])
    pid = rack.gobgpd_pid()
    assert pid > 1
    rack.node.agent.stop()
    os.kill(pid, signal.SIGKILL)
    for what in ("route", "nexthop"):
        rack.node.namespace.ip(what, "flush", "proto", str(ROUTE_PROTOCOL_LEARNED))
    async with rack.driver(*(one.prefix for one in TABLE), restarts=True):
        rack.node.agent.start()
        await until(lambda: len(rack.routes()) == len(TABLE) and rack.bgp()["phase"] == "live", within_s=60)
        heard = rack.bgp()
    assert heard["tablesHeard"] <= 3, "one without any neighbour, one where little of it had come by then, and one"
    assert heard["pathsHeard"] >= len(TABLE)


@contextmanager
def kernel_messages(namespace: Namespace) -> Iterator[Callable[[], Counter[int]]]:
    """Counts what the kernel tells of learned routes and of nexthop objects, by type of message."""
    with in_namespace(namespace.path, lambda: NetlinkSocket(NETLINK_ROUTE, groups=_ROUTES | _NEXTHOPS)) as heard:
        counted: Counter[int] = Counter()

        def count() -> Counter[int]:
            with suppress(BlockingIOError):
                while True:
                    for one in split_messages(heard.receive(wait=False)):
                        if one.type not in (RTM_NEWROUTE, RTM_DELROUTE) or one.body[5] == ROUTE_PROTOCOL_LEARNED:
                            counted[one.type] += 1
            return counted

        yield count


async def test_flaps_end_as_they_are_and_cost_no_memory_and_at_most_a_message_each(rack: Rack) -> None:
    rack.peer()
    prefixes = tuple(one.prefix for one in FLAPPING)
    async with rack.driver(*WANTED) as tor:
        await until(lambda: len(rack.routes()) == 3, within_s=40)
        before = rack.agent_kib()
        with kernel_messages(rack.node.namespace) as count:
            for _ in range(50):  # 20,000 changes, each of which the agent hears of, or reads as part of a whole
                await tor.apply([Announce(FLAPPING), Withdraw(prefixes)])
            await tor.apply([Announce(FLAPPING), Withdraw(prefixes[50:])])
            await until(lambda: len(rack.routes()) == 53, within_s=30)
            counted = count()
        assert rack.agent_kib() - before < 20_000
        assert 50 <= counted[RTM_NEWROUTE] <= 51 * len(FLAPPING)
        assert counted[RTM_NEWROUTE] - counted[RTM_DELROUTE] == 50
        assert counted.keys() == {RTM_NEWROUTE, RTM_DELROUTE}, "what all routes share is not touched"
        await tor.apply([Withdraw(prefixes)])
        await until(lambda: len(rack.routes()) == 3, within_s=30)


async def test_too_many_prefixes_end_the_session_and_are_named(rack: Rack) -> None:
    rack.peer({"felixpy.io/prefix-limit": "10"})
    async with rack.driver(*WANTED) as tor:
        await until(lambda: len(rack.routes()) == 3, within_s=40)
        await tor.apply([Announce(FLAPPING[:20])])

        def named() -> bool:
            assert "more prefixes than its limit" in (found := rack.session())["lastError"], found
            return True

        await until(named)
        await until(lambda: not rack.routes())
        await tor.apply([Withdraw(tuple(one.prefix for one in FLAPPING[:20]))])
        rack.peer()
        await until(lambda: len(rack.routes()) == 3, within_s=40)


async def test_a_link_that_goes_takes_its_routes_and_brings_them_back(rack: Rack) -> None:
    rack.peer()
    async with rack.driver(*WANTED):
        await until(lambda: len(rack.routes()) == 3)
        rack.node.namespace.ip("link", "set", "eth0", "down")
        await until(lambda: not rack.routes(), within_s=20)
        rack.node.namespace.ip("link", "set", "eth0", "up")
        await until(lambda: len(rack.routes()) == 3)


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_in_an_established_session_ends_that_one_only(rack: Rack, what: str) -> None:
    rack.peer()
    odd = {"peerIP": "10.97.0.3", "asNumber": 65000, "maxRestartTime": "0s"}
    rack.node.put("bgppeers", resource("BGPPeer", "odd", odd))
    async with rack.driver(*WANTED):
        await until(lambda: len(rack.routes()) == 3 and rack.session("10.97.0.3"))
        pid = rack.gobgpd_pid()
        if rack.generation == 3 and what == UNKNOWN_TYPE:
            await until(lambda: is_refused(rack.stranger, GARBAGE[what]) or rack.gobgpd_pid() not in (0, pid))
            assert rack.gobgpd_pid() != pid, "GoBGP 3.10 dies of it, and is there again"
        else:
            await until(lambda: is_refused(rack.stranger, GARBAGE[what]))
            assert rack.gobgpd_pid() == pid, "gobgpd lives"
            assert (await asyncio.to_thread(rack.session))["established"]
        assert len(rack.routes()) == 3
        rack.node.drop("bgppeers", "odd")
        await until(lambda: [one["established"] for one in rack.bgp()["sessions"]] == [True])
        assert len(rack.routes()) == 3


def is_refused(stranger: Namespace, garbage: bytes) -> bool:
    """Whether a session that comes up ends with a NOTIFICATION once it hears garbage."""
    with stranger.entered():
        talker = socket.create_connection(("10.97.0.1", 179), 2)
    with talker:
        talker.settimeout(5)
        talker.sendall(OPEN)
        heard = b""
        while KEEPALIVE not in heard:
            if not (part := talker.recv(4096)):
                return False
            heard += part
        talker.sendall(KEEPALIVE + garbage)
        heard = b""
        while part := talker.recv(4096):
            heard += part
    return re.search(MARKER + rb"..\x03", heard, re.S) is not None
