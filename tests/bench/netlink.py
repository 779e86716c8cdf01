"""Routes and nftables by our own netlink, beside `ip -batch` and `nft -f`, in a namespace of its own.

python -m tests.bench.netlink [ROUTES] [CHAINS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from felixpy.addresses import Address, format_address, host_prefix, parse_address
from felixpy.dataplane.nftables import render_rule, render_table
from felixpy.dataplane.objects import (
    Chain,
    Drop,
    DropMembers,
    Members,
    Op,
    Outcome,
    Put,
    PutMembers,
    Route,
    Set,
    SetType,
)
from felixpy.dataplane.rules import Accept, CtState, CtStateIn, MarkIs, NetIn, PortIn, ProtocolIs, Return, Rule, SetMark
from felixpy.dataplane.rules import Drop as DropPacket
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace

ROUTES = 100_000
CHAINS = 20_000
GATEWAY = parse_address("192.0.2.9")


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def say(what: str, seconds: Sequence[float], each: int = 1) -> None:
    """One line: the median in milliseconds and, for bulk work, per second."""
    median = statistics.median(seconds)
    rate = f"{each / median / 1000:9.0f} k/s" if each > 1 else ""
    print(f"  {what:44} {median * 1000:10.2f} ms {rate}", flush=True)


def checked(outcomes: Sequence[Outcome]) -> None:
    """Raises  RuntimeError at the first op that was refused."""
    for outcome in outcomes:
        if outcome.error:
            raise RuntimeError(f"{outcome.op}: {outcome.error}")


def route(number: int) -> Route:
    address = (0x0A000000 + number * 4 + 1).to_bytes(4, "big")
    return Route(host_prefix(address), 176, device="up0", gateway=GATEWAY)


def measure_routes(namespace: Namespace, number: int) -> None:
    routes = [route(i) for i in range(number)]
    puts: list[Op] = [Put(it) for it in routes]
    drops: list[Op] = [Drop(it.key, it) for it in routes]
    lines = "".join(f"route add {format_address(it.destination.address)} via 192.0.2.9 dev up0\n" for it in routes)
    times: dict[str, list[float]] = {}
    with in_namespace(namespace.path, RouteDriver) as driver:
        for _ in range(3):
            work: Mapping[str, Callable[[], object]] = {
                "put": lambda: checked(driver.apply(puts)),
                "put again": lambda: checked(driver.apply(puts)),
                "read": driver.read,
                "drop": lambda: checked(driver.apply(drops)),
                "ip -batch, add": lambda: namespace.run("ip", "-batch", "-", stdin=lines),
            }
            for name, function in work.items():
                times.setdefault(name, []).append(timed(function))
            checked(driver.apply(puts))
            checked(driver.apply(drops))
    for name, seconds in times.items():
        say(f"{number} routes: {name}", seconds, number)


def policy_chain(number: int, version: int = 0) -> Chain:
    """Five rules, as a policy's chain has them."""
    source = host_prefix((0x0A000000 + number).to_bytes(4, "big"))
    port = 80 + version
    return Chain(
        f"po-{number:06d}",
        (
            Rule(Accept(), (CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED})),)),
            Rule(DropPacket(), (CtStateIn(frozenset({CtState.INVALID})),)),
            Rule(
                SetMark(0x10000, 0x10000),
                (NetIn("source", (source,)), ProtocolIs(6), PortIn("destination", ((port, port),))),
                comment=f"policy {number}",
            ),
            Rule(Return(), (MarkIs(0x10000, 0x10000),)),
            Rule(DropPacket(), comment="end of policy"),
        ),
    )


def measure_chains(namespace: Namespace, number: int) -> None:
    chains = [policy_chain(i) for i in range(number)]
    text = render_table(chains, (), {})
    with in_namespace(namespace.path, NftDriver) as driver:
        say(f"{number} chains: put", [timed(lambda: checked(driver.apply([Put(it) for it in chains])))])
        say(f"{number} chains: read", [timed(driver.read)])
        numbers = count(1)

        def change() -> None:
            turn = next(numbers)
            checked(driver.apply([Put(policy_chain(turn * 31 % number, turn))]))

        say(f"one chain among {number}: put", [timed(change) for _ in range(51)])

        def change_by_text() -> None:
            turn = next(numbers)
            chain = policy_chain(turn * 31 % number, turn)
            rules = "".join(f"add rule inet felixpy {chain.name} {render_rule(rule)}\n" for rule in chain.rules)
            namespace.run("nft", "-f", "-", stdin=f"flush chain inet felixpy {chain.name}\n{rules}")

        say(f"one chain among {number}: nft -f", [timed(change_by_text) for _ in range(5)])
        driver.destroy()
    say(f"{number} chains: nft -f", [timed(lambda: namespace.run("nft", "-f", "-", stdin=text, timeout_s=120))])
    namespace.run("nft", "flush", "ruleset")


def addresses(first: int, number: int) -> Members:
    return {Address((0x0B000000 + 3 * i).to_bytes(4, "big")): b"" for i in range(first, first + number)}


def prefixes(first: int, number: int) -> Members:
    return {(0x0B000000 + 512 * i).to_bytes(4, "big") + b"\x18": b"" for i in range(first, first + number)}


def measure_members(namespace: Namespace) -> None:
    hosts, nets = Set("hosts", SetType.IPV4), Set("nets", SetType.IPV4, interval=True)
    with in_namespace(namespace.path, NftDriver) as driver:
        for it, members in ((hosts, addresses), (nets, prefixes)):
            checked(driver.apply([Put(it)]))
            numbers = count(0, 5000)

            def add_5000(
                it: Set = it, members: Callable[[int, int], Members] = members, numbers: count = numbers
            ) -> None:
                checked(driver.apply([PutMembers(it, members(next(numbers), 5000))]))

            def one(kind: type[PutMembers | DropMembers], it: Set = it, members: Callable = members) -> None:
                checked(driver.apply([kind(it, members(300_000, 1))]))

            say(f"{it.name}: 5000 members added, up to 100000", [timed(add_5000) for _ in range(20)], 5000)
            came, went = [], []
            for _ in range(31):
                came.append(timed(lambda one=one: one(PutMembers)))
                went.append(timed(lambda one=one: one(DropMembers)))
            say(f"{it.name}: one more than 100000", came)
            say(f"{it.name}: back to 100000", went)
        say("both sets read", [timed(driver.read)])


def main(number_of_routes: int = ROUTES, number_of_chains: int = CHAINS) -> None:
    namespace = Namespace.create("nlb")
    try:
        namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        for name in ("up0", "far0"):
            namespace.ip("link", "set", name, "up")
        namespace.ip("address", "add", "192.0.2.1/24", "dev", "up0")
        measure_routes(namespace, number_of_routes)
        measure_members(namespace)
        measure_chains(namespace, number_of_chains)
    finally:
        namespace.delete()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
