"""One real node in a cluster of 200: full mesh with simulated speakers, 50,000 endpoints in etcd.

`python -m tests.bench scale`: the node is felixpy as people start it, with its own gobgpd; the others are one ExaBGP
with a session, an address and four blocks for each, which takes part in the time that an announcement needs. Prints
what start, one announcement, a restart, and the end of all speakers take.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.agent.node import Node, resource
from tests.bench.bgp import cpu_seconds
from tests.bench.calc import cluster
from tests.lab.ground import REPOSITORY
from tests.support.netns import Namespace, link_namespaces
from tests.support.process import Daemon
from tests.support.wait import eventually

SPEAKERS, BLOCKS, ENDPOINTS, POLICIES = 200, 4, 50_000, 3_000
ASN = 64512
EXABGP = Path(sys.executable).with_name("exabgp")
NEIGHBOUR = """
neighbor 10.50.0.1 {{
    router-id {address};
    local-address {address};
    local-as {asn};
    peer-as {asn};
    hold-time 90;
    capability {{ graceful-restart 120; }}
    family {{ ipv4 unicast; }}
    {api}
    static {{ {routes} }}
}}
"""
HEARER = """
process hearer {{ run {program}; encoder json; }}
"""


def address_of(speaker: int) -> str:
    """Speakers count from 0."""
    return f"10.50.{1 + speaker // 250}.{1 + speaker % 250}"


def blocks_of(speaker: int) -> Iterator[str]:
    """The blocks that a speaker announces."""
    for number in range(speaker * BLOCKS, (speaker + 1) * BLOCKS):
        yield f"10.{80 + (number >> 10)}.{number >> 2 & 255}.{(number & 3) * 64}/26"


def configuration(heard: Path) -> str:
    """ExaBGP's, for all speakers; what they hear goes to a file."""
    api = "api { processes [ hearer ]; receive { parsed; update; } }"
    neighbours = (
        NEIGHBOUR.format(
            address=address_of(speaker),
            asn=ASN,
            api=api,
            routes=" ".join(f"route {block} next-hop {address_of(speaker)};" for block in blocks_of(speaker)),
        )
        for speaker in range(SPEAKERS)
    )
    program = heard.with_suffix(".sh")
    program.write_text(f"#!/bin/sh\nexec 3>&1 cat >>{heard}\n")
    program.chmod(0o755)
    return HEARER.format(program=program) + "".join(neighbours)


def fill(node: Node) -> None:
    """Nodes, endpoints and policies of the cluster, and the block that this node announces."""
    node.etcd.put_all(cluster(ENDPOINTS, POLICIES))
    own = {"bgp": {"ipv4Address": "10.50.0.1/16", "asNumber": str(ASN)}}
    node.put("nodes", resource("Node", "n1", own))
    for speaker in range(SPEAKERS):
        spec = {"bgp": {"ipv4Address": f"{address_of(speaker)}/16", "asNumber": str(ASN)}}
        node.put("nodes", resource("Node", f"s{speaker}", spec))
    pool = {"cidr": "10.64.0.0/12", "ipipMode": "Never", "vxlanMode": "Never"}
    node.put("ippools", resource("IPPool", "pods", pool))
    node.put("ippools", resource("IPPool", "others", {**pool, "cidr": "10.80.0.0/12"}))


def routes(node: Node) -> int:
    """Learned routes in the node's kernel."""
    return node.namespace.ip("-4", "-N", "route", "show", "proto", "177").count("\n")


def memory_mb(pid: int) -> float:
    """Resident megabytes of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def say(what: str, figure: float, unit: str = "s") -> None:
    print(f"  {what:<58} {figure:9.2f} {unit}", flush=True)


def say_processes(node: Node) -> None:
    for pid in node.namespace.pids():
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name in ("felixpy", "gobgpd"):
            say(f"{name}: memory", memory_mb(pid), "MB")
            say(f"{name}: processor time so far", cpu_seconds(pid))


def measure(node: Node, heard: Path, exabgp: Daemon) -> None:
    total = SPEAKERS * BLOCKS
    begin = time.perf_counter()
    node.agent.start()
    eventually(lambda: routes(node), 120, 0.02)
    say("start to the first learned route", time.perf_counter() - begin)
    eventually(lambda: routes(node) == total, 180, 0.05)
    say(f"start to {SPEAKERS} sessions and {total} routes in the kernel", time.perf_counter() - begin)
    say_processes(node)

    before = heard.stat().st_size
    block = {"cidr": "10.64.200.0/26", "affinity": "host:n1", "strictAffinity": False, "allocations": [None] * 64,
             "unallocated": list(range(64)), "attributes": [], "deleted": False, "sequenceNumber": 0}  # fmt: skip
    node.etcd.put("/calico/ipam/v2/host/n1/ipv4/block/10.64.200.0-26", json.dumps({"state": "confirmed"}))
    begin = time.perf_counter()
    node.etcd.put("/calico/ipam/v2/assignment/ipv4/block/10.64.200.0-26", json.dumps(block))
    mark = b"10.64.200.0/26"

    def hearers() -> int:
        with heard.open("rb") as file:
            file.seek(before)
            return file.read().count(mark)

    eventually(lambda: hearers() >= 1, 30, 0.002)
    say("one block written to etcd, heard by the first speaker", (time.perf_counter() - begin) * 1e3, "ms")
    eventually(lambda: hearers() >= SPEAKERS, 60, 0.01)
    say(f"heard by all {SPEAKERS}", (time.perf_counter() - begin) * 1e3, "ms")

    begin = time.perf_counter()
    node.agent.kill()
    node.agent.start()
    eventually(lambda: "in sync" in node.agent.tail(400).rpartition("start")[2], 60, 0.02)
    eventually(lambda: hearers() >= SPEAKERS and routes(node) == total, 60, 0.02)
    say("agent killed and started: in sync, nothing lost", time.perf_counter() - begin)

    begin = time.perf_counter()
    exabgp.stop()
    eventually(lambda: routes(node) != total, 180, 0.05)
    say("all speakers ended: their routes go, restart time 120 s", time.perf_counter() - begin)


def main() -> None:
    """Prints the figures."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="felixpy-scale")))
        directory.chmod(0o755)
        node = stack.enter_context(Node("agent,bgp"))
        others = Namespace.create("s")
        stack.callback(others.delete)
        link_namespaces(node.namespace, "eth0", others, "eth0", left_addresses=["10.50.0.1/16"])
        addresses = "".join(f"address add {address_of(one)}/16 dev eth0\n" for one in range(SPEAKERS))
        others.run("ip", "-batch", "-", stdin=addresses)
        fill(node)
        node.agent = node.make_agent("--gobgpd", str(REPOSITORY / "build/gobgpd"))
        heard = directory / "heard"
        heard.touch()
        (directory / "exabgp.conf").write_text(configuration(heard))
        environment = {"exabgp_daemon_user": "root", "exabgp_log_level": "ERROR", "exabgp_api_cli": "false"}
        exabgp = Daemon(
            [EXABGP, "server", directory / "exabgp.conf"], directory / "log", netns=others.name, env=environment
        )
        stack.enter_context(exabgp.start())
        try:
            measure(node, heard, exabgp)
        except AssertionError:
            print(exabgp.tail(20), node.log()[-3000:])
            raise
