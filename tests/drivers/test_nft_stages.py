"""What goes ahead of a transaction or after it, so that packets find in interval sets what the rules look for.

A stream of packets from a namespace to itself is let out by one rule, whatever it looks into while that changes; what
no rule lets out is counted.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import cycle, islice

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import BaseHook, Chain, ChainSeen, Drop, DropMembers, Op, Put, PutMembers, Set, SetType
from felixpy.dataplane.rules import Accept, Goto, Jump, NetIn, PortIn, Rule, SetHas
from felixpy.dataplane.rules import Drop as DropPacket
from felixpy.drivers.netlink.nft.counters import NftCounters
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.nft.stages import find_after, find_ahead
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace

PORT = 7801
CHANGES = 120
"""One in twenty lost packets, or one in five, when sets and rules came together."""
PORTS = tuple((low, low + 5) for low in range(10, 7000, 20))
ELSEWHERE = tuple(f"10.{i}.0.0/24" for i in range(200))
OUT = Chain("out", (Rule(Jump("judge"), (PortIn("destination", ((PORT, PORT),)),)),), BaseHook("filter", "output", 0))
LOST = Chain("lost", (Rule(DropPacket(), counter=True),))
_SEND = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
while True:
    try:
        one.sendto(b"", ("127.0.0.1", int(sys.argv[1])))
    except PermissionError:
        pass
"""


def nets(*texts: str) -> NetIn:
    return NetIn("source", tuple(map(parse_prefix, texts)))


def judge(*matches: NetIn | PortIn | SetHas) -> Chain:
    return Chain("judge", (*(Rule(Accept(), (match,)) for match in matches), Rule(Goto("lost"))))


def put(*objects: Set | Chain) -> list[Op]:
    return [Put(one) for one in objects]


def of(name: str, kind: str = "interval") -> tuple[Set, SetHas]:
    return Set(name, SetType.IPV4, interval=kind == "interval"), SetHas("source", name, 4)


def members(it: Set, *texts: str) -> dict[bytes, bytes]:
    return {
        parse_address(one[: one.index("/")]) + (bytes([int(one[one.index("/") + 1 :])]) if it.interval else b""): b""
        for one in texts
    }


NETS, IN_NETS = of("nets")
OTHERS, IN_OTHERS = of("others")
HOSTS, IN_HOSTS = of("hosts", "hash")
HERE, HERE_ALONE = "127.0.0.0/8", "127.0.0.1/32"
ALL_NETS, ALL_OTHERS = members(NETS, HERE, *ELSEWHERE), members(OTHERS, HERE, *ELSEWHERE)
AT_HOME = members(HOSTS, HERE_ALONE)
EITHER = judge(IN_OTHERS, IN_NETS)
TURNS = {
    "a set of hosts becomes one of prefixes, and back": (
        [Put(NETS), PutMembers(NETS, ALL_NETS), Put(judge(IN_NETS)), Drop(HOSTS.key)],
        [Put(HOSTS), PutMembers(HOSTS, AT_HOME), Put(judge(IN_HOSTS)), Drop(NETS.key)],
    ),
    "prefixes beside rules": (
        [Put(judge(nets(HERE, *ELSEWHERE)))],
        [Put(judge(nets("127.0.0.0/9", *ELSEWHERE), nets("192.168.0.0/16", "172.16.0.0/12")))],
    ),
    "ranges of ports": (
        [Put(judge(PortIn("destination", (*PORTS, (7000, PORT)))))],
        [Put(judge(PortIn("destination", (*PORTS, (PORT, PORT), (8000, 9000)))))],
    ),
    "from one set to another": (
        [*put(NETS, OTHERS, EITHER), PutMembers(OTHERS, ALL_OTHERS), DropMembers(NETS, ALL_NETS)],
        [PutMembers(NETS, ALL_NETS), DropMembers(OTHERS, ALL_OTHERS)],
    ),
}


@pytest.fixture
def driver(namespace: Namespace) -> Iterator[NftDriver]:
    with in_namespace(namespace.path, NftDriver) as it:
        yield it


@contextmanager
def stream(namespace: Namespace) -> Iterator[subprocess.Popen[str]]:
    """Packets as fast as one process sends them."""
    argv = namespace.enter_argv([sys.executable, "-I", "-S", "-c", _SEND, str(PORT)])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.poll() is None, "it sent to the end"
    finally:
        process.kill()
        process.communicate()


def apply(driver: NftDriver, ops: Sequence[Op]) -> None:
    assert [outcome.error for outcome in driver.apply(ops)] == [None] * len(ops)


@pytest.mark.parametrize("turns", TURNS.values(), ids=TURNS)
def test_no_packet_is_lost_while_that_changes_which_lets_it_out(
    namespace: Namespace, driver: NftDriver, turns: Sequence[Sequence[Op]]
) -> None:
    apply(driver, [Put(HOSTS), PutMembers(HOSTS, AT_HOME), Put(LOST), Put(judge(IN_HOSTS)), Put(OUT)])
    with closing(in_namespace(namespace.path, NftCounters)) as counters, stream(namespace):
        for ops in islice(cycle(turns), CHANGES):
            apply(driver, ops)
        assert counters.read(["lost"])["lost"].packets == 0


@pytest.mark.parametrize("there", [(), (OUT, LOST, judge(IN_HOSTS))], ids=["new", "changed"])
def test_what_went_in_stages_reads_back_as_it_was_put(driver: NftDriver, there: Sequence[Chain]) -> None:
    apply(driver, [Put(HOSTS), *map(Put, there)])
    for change in (judge(IN_NETS, nets(HERE, *ELSEWHERE)), judge(nets(HERE, "10.0.0.0/8")), judge()):
        apply(driver, [Put(NETS), PutMembers(NETS, ALL_NETS), *map(Put, (OUT, LOST, change))])
        assert driver.read().objects[change.key] == ChainSeen("judge", chain_digests(change))
    assert driver.read().members == {"hosts": {}, "nets": ALL_NETS}


def test_a_refused_chain_keeps_its_rules_and_holds_back_no_other(driver: NftDriver) -> None:
    before, other = judge(nets(HERE, "10.0.0.0/8")), Chain("other", (Rule(Accept(), (nets(HERE, "10.0.0.0/8"),)),))
    apply(driver, [Put(LOST), Put(before), Put(other)])
    nowhere = Chain("judge", (Rule(Jump("nowhere"), (nets(HERE, "172.16.0.0/12"),)),))
    changed = Chain("other", (Rule(Accept(), (nets(HERE, "172.16.0.0/12"),)),))
    outcomes = driver.apply([Put(nowhere), Put(changed), Put(NETS)])
    assert [bool(outcome.error) for outcome in outcomes] == [True, False, False]
    seen = driver.read().objects
    assert seen[before.key] == ChainSeen("judge", chain_digests(before))
    assert seen[changed.key] == ChainSeen("other", chain_digests(changed))


def test_rules_behind_others_that_were_left_there_are_not_what_was_put(namespace: Namespace, driver: NftDriver) -> None:
    apply(driver, [Put(LOST), Put(judge(nets(HERE, "10.0.0.0/8")))])
    namespace.run("nft", "add", "rule", "inet", "felixpy", "judge", "return")
    change = judge(nets(HERE, "172.16.0.0/12"))
    apply(driver, [Put(change)])
    assert driver.read().objects[change.key] == ChainSeen("judge", chain_digests(change))


def test_only_what_no_packet_comes_to_goes_ahead() -> None:
    ops = [
        Put(NETS),
        PutMembers(NETS, ALL_NETS),
        PutMembers(OTHERS, ALL_OTHERS),
        Put(OUT),
        Put(LOST),
        Put(judge(IN_NETS)),
    ]
    ranged = Put(Chain("ranged", (Rule(Accept(), (nets(HERE, *ELSEWHERE),)),)))
    ops += [ranged, DropMembers(HOSTS, AT_HOME), DropMembers(OTHERS, {})]
    ahead = find_ahead(ops, {"judge": None, "ranged": None})
    assert {at: way.behind for at, way in ahead.items()} == {0: False, 1: False, 4: False, 6: True}
    assert find_after(ops) == {7}
    assert find_after([*ops, Drop(LOST.key, LOST)]) == {7, 9}
    assert not find_ahead([Put(HOSTS), PutMembers(HOSTS, AT_HOME), Put(judge(IN_HOSTS))], {"judge": None})
    assert not find_after([PutMembers(HOSTS, AT_HOME), DropMembers(NETS, ALL_NETS)])
