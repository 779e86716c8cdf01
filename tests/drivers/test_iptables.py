"""Our tables of iptables and our ipsets in a real kernel, both variants: read back, changed, repaired, left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.iptables.names import set_kernel_name
from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import (
    BaseHook,
    Chain,
    ChainSeen,
    DataType,
    Drop,
    DropMembers,
    Key,
    Kind,
    Object,
    Op,
    Put,
    PutMembers,
    Set,
    SetType,
)
from felixpy.dataplane.rules import (
    Accept,
    Dispatch,
    Jump,
    Match,
    NetIn,
    NoTrack,
    PortIn,
    ProtocolIs,
    Rule,
    ServiceKnown,
    SetHas,
)
from felixpy.dataplane.rules import Drop as DropPacket
from felixpy.drivers import iptables
from felixpy.drivers.backend import find_programs
from felixpy.drivers.iptables import IptablesDriver, Programs, Variant
from felixpy.drivers.netlink.socket import in_namespace
from tests.dataplane.iptables_world import small_objects
from tests.drivers.nft_cases import ACTIONS, MATCHES, SETS, TARGETS
from tests.support.netns import Namespace

GOLDEN = Path(__file__).parents[1] / "dataplane" / "golden"
FORWARD = BaseHook("filter", "forward", 0)
PREROUTING = BaseHook("filter", "prerouting", -300)
NO_FORM = {"reset implies tcp", *(name for name in ACTIONS if name.startswith("balance"))}
"""Actions that iptables has no form for where that test uses them."""


@pytest.fixture(params=list(Variant))
def programs(request: pytest.FixtureRequest) -> Programs:
    found = find_programs(request.param)
    assert found is not None
    return found


@pytest.fixture
def driver(namespace: Namespace, programs: Programs) -> Iterator[IptablesDriver]:
    with restart(namespace, programs) as it:
        yield it


def restart(namespace: Namespace, programs: Programs) -> IptablesDriver:
    """A driver that knows nothing yet."""
    return in_namespace(namespace.path, lambda: IptablesDriver(programs))


def apply(driver: IptablesDriver, *ops: Op) -> list[str | None]:
    return [outcome.error for outcome in driver.apply(ops)]


def put(*objects: Object) -> list[Op]:
    return [Put(it) for it in objects]


def small_ops() -> list[Op]:
    objects, members = small_objects()
    return [*put(*objects), *(PutMembers(it, held) for it, held in members.items())]


def saved(namespace: Namespace, programs: Programs) -> list[str]:
    """Everything, of ours and of others."""
    return [line for save in programs.save.values() for line in namespace.run(save).splitlines()]


def seen_as(chain: Chain) -> ChainSeen:
    return ChainSeen(chain.name, chain_digests(chain), chain.hook)


def run(namespace: Namespace, programs: Programs, *words: str) -> None:
    """`iptables WORDS` of the variant."""
    namespace.run(f"iptables-{programs.variant}", *words)


@pytest.mark.parametrize("version", [4, 6])
def test_the_goldens_are_accepted(
    namespace: Namespace, driver: IptablesDriver, programs: Programs, version: int
) -> None:
    assert not any(apply(driver, *(op for op in small_ops() if not isinstance(op, Put) or isinstance(op.object, Set))))
    text = (GOLDEN / f"rules.v{version}").read_text()
    namespace.run(programs.restore[4 if version == 4 else 6], "--test", "--noflush", stdin=text)


def test_everything_reads_back_and_a_restart_writes_nothing(
    namespace: Namespace, driver: IptablesDriver, programs: Programs
) -> None:
    ops = small_ops()
    assert not any(apply(driver, *ops))
    objects, members = small_objects()
    seen = driver.read()
    assert seen.objects == {it.key: seen_as(it) if isinstance(it, Chain) else it for it in objects}
    held = {it.name: dict(members.get(it, {})) for it in objects if isinstance(it, Set)}
    held |= {it.name: dict(them) for it, them in members.items() if it.name in held}
    assert {name: dict(them) for name, them in seen.members.items()} == held
    with restart(namespace, replace(programs, restore=dict.fromkeys(programs.restore, "/bin/false"))) as again:
        again.read([it.key for it in objects])
        assert not any(apply(again, *ops)), "nothing is written"
        assert again.read() == seen


@pytest.mark.parametrize("name", MATCHES)
def test_every_match_is_accepted(driver: IptablesDriver, name: str) -> None:
    matches: tuple[Match, ...] = MATCHES[name]
    ops = [*put(*SETS, *TARGETS), *(PutMembers(it, held) for it, held in SETS.items())]
    chain = Chain("c", (Rule(Accept(), matches, name),), PREROUTING)
    assert not any(apply(driver, *ops, Put(chain)))
    assert driver.read().objects[chain.key] == ChainSeen("c", chain_digests(chain), PREROUTING)


@pytest.mark.parametrize("name", [name for name in ACTIONS if name not in NO_FORM])
def test_every_action_is_accepted(driver: IptablesDriver, name: str) -> None:
    hook, matches, action = ACTIONS[name]
    ops = [*put(*SETS, *TARGETS), *(PutMembers(it, held) for it, held in SETS.items())]
    chain = Chain("c", (Rule(action, matches, name),), hook or FORWARD)
    assert not any(apply(driver, *ops, Put(chain)))
    assert driver.read().objects[chain.key] == ChainSeen("c", chain_digests(chain), hook or FORWARD)


ADDRESSES = [f"127.0.0.{last}" for last in (1, 2, 3)]
MANY_PORTS = tuple((port, port) for port in range(5000, 5040, 2))


def sends(namespace: Namespace, source: str, destination: str, port: int) -> bool:
    """Whether a datagram gets out of the host itself."""
    with namespace.entered(), socket(AF_INET, SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        try:
            sender.sendto(b"?", (destination, port))
        except PermissionError:
            return False
        return True


@pytest.mark.parametrize("negate", [(False, False), (True, False), (False, True), (True, True)])
def test_lists_of_alternatives_mean_what_they_say(
    namespace: Namespace, driver: IptablesDriver, negate: tuple[bool, bool]
) -> None:
    sources, destinations = (tuple(map(parse_prefix, some)) for some in (ADDRESSES[:2], ADDRESSES[1:]))
    matches = NetIn("source", sources, negate[0]), NetIn("destination", destinations, negate[1])
    output = Chain("output", (Rule(DropPacket(), matches),), BaseHook("filter", "output", 0))
    assert apply(driver, Put(output)) == [None]
    for source in ADDRESSES:
        for destination in ADDRESSES:
            matched = ((source in ADDRESSES[:2]) != negate[0], (destination in ADDRESSES[1:]) != negate[1])
            assert sends(namespace, source, destination, 9) != all(matched), (source, destination)


@pytest.mark.parametrize("negate", [False, True])
def test_more_ports_than_a_match_holds(namespace: Namespace, driver: IptablesDriver, negate: bool) -> None:
    matches = ProtocolIs(17), PortIn("destination", MANY_PORTS, negate)
    output = Chain("output", (Rule(DropPacket(), matches),), BaseHook("filter", "output", 0))
    assert apply(driver, Put(output)) == [None]
    got_out = {port for port in range(5000, 5040) if sends(namespace, "127.0.0.1", "127.0.0.1", port)}
    assert got_out == set(range(5000 if negate else 5001, 5040, 2))


def test_what_has_no_form_holds_back_only_what_needs_it(namespace: Namespace, driver: IptablesDriver) -> None:
    bad, good = Chain("bad", (Rule(NoTrack()),)), Chain("good", (Rule(Accept()),))
    one, other = Chain("one", (Rule(Jump("bad")),), FORWARD), Chain("other", (Rule(Jump("good")),), FORWARD)
    errors = apply(driver, *put(bad, good, one, other))
    assert errors == [
        "bad: no form in iptables: CT works in the raw table only, not in filter",
        None,
        "one: needs bad, which failed",
        None,
    ]
    assert set(driver.read().objects) == {good.key, other.key}


def test_what_the_kernel_refuses_holds_back_only_what_needs_it(namespace: Namespace, driver: IptablesDriver) -> None:
    bad = Chain("bad", (Rule(Accept(), (SetHas("source", "nowhere", 4),)),), FORWARD)
    good = Chain("good", (Rule(Accept()),), FORWARD)
    first, second = apply(driver, *put(bad, good))
    assert second is None
    assert first is not None
    assert "fpx-nowhere" in first
    assert set(driver.read().objects) == {good.key}


def test_a_chain_in_use_stays_and_says_why(driver: IptablesDriver) -> None:
    target, user = Chain("target", (Rule(Accept()),)), Chain("user", (Rule(Jump("target")),), FORWARD)
    assert apply(driver, *put(target, user)) == [None, None]
    assert apply(driver, Drop(target.key, target)) == ["target: user still leads to it"]
    assert set(driver.read().objects) == {target.key, user.key}
    assert apply(driver, Drop(target.key, target), Drop(user.key, user)) == [None, None]
    assert driver.read().objects == {}


def test_rules_of_others_stay(namespace: Namespace, driver: IptablesDriver, programs: Programs) -> None:
    run(namespace, programs, "-N", "THEIRS")
    run(namespace, programs, "-A", "THEIRS", "-s", "192.0.2.1", "-j", "DROP")
    run(namespace, programs, "-A", "FORWARD", "-j", "THEIRS")
    namespace.run("ipset", "create", "theirs", "hash:ip")
    assert not any(apply(driver, *small_ops()))
    driver.destroy()
    rules = [line for line in saved(namespace, programs) if line.startswith("-A")]
    assert rules == ["-A FORWARD -j THEIRS", "-A THEIRS -s 192.0.2.1/32 -j DROP"]
    assert namespace.run("ipset", "list", "-n").split() == ["theirs"]


DAMAGES = {
    "a rule in our chain": ("-A", "fpx-ep-to-cali1", "-j", "ACCEPT"),
    "a rule taken out": ("-D", "fpx-ep-to-cali1", "4"),
    "a chain emptied": ("-F", "fpx-from-workload"),
    "a rule before ours": ("-I", "FORWARD", "1", "-j", "ACCEPT"),
    "the jump taken out": ("-F", "FORWARD"),
    "all chains emptied": ("-F",),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_and_repaired(
    namespace: Namespace, driver: IptablesDriver, programs: Programs, damage: str
) -> None:
    objects, _ = small_objects()
    assert not any(apply(driver, *small_ops()))
    before = driver.read()
    run(namespace, programs, *DAMAGES[damage])
    seen = driver.read()
    differ = {key for key, one in before.objects.items() if seen.objects[key] != one}
    assert differ
    assert not any(apply(driver, *put(*(it for it in objects if it.key in differ))))
    assert driver.read() == before


def test_what_nobody_asked_for_is_seen_and_dropped(
    namespace: Namespace, driver: IptablesDriver, programs: Programs
) -> None:
    assert not any(apply(driver, *small_ops()))
    before = driver.read()
    run(namespace, programs, "-N", "fpx-stray")
    namespace.run("ipset", "create", "fpx-lost", "hash:ip")
    seen = driver.read()
    chain, lost = Key(Kind.CHAIN, ("fpx-stray",)), Key(Kind.SET, ("fpx-lost",))
    assert seen.objects.keys() - before.objects.keys() == {chain, lost}
    assert apply(driver, Drop(chain, seen.objects[chain]), Drop(lost, seen.objects[lost])) == [None, None]
    assert driver.read() == before


def key(address: str, port: int) -> bytes:
    return parse_address(address) + b"\x06\0\0\0" + port.to_bytes(2, "big") + b"\0\0"


def test_after_a_restart_a_maps_set_has_no_keys_of_the_past(namespace: Namespace, programs: Programs) -> None:
    services = Set("svc4", SetType.IPV4_PORT, DataType.VERDICT)
    rules = (Rule(DropPacket(), (ServiceKnown("svc4", 4),)), Rule(Dispatch("service4", "svc4")))
    base = Chain("base", rules, FORWARD)
    with restart(namespace, programs) as driver:
        members = {key("10.96.0.1", 80): b"drop", key("10.96.0.2", 80): b"drop"}
        assert apply(driver, *put(services, base), PutMembers(services, members)) == [None] * 3
    with restart(namespace, programs) as driver:
        driver.read([services.key, base.key])
        kept = {key("10.96.0.1", 80): b"accept"}
        assert apply(driver, *put(services, base), PutMembers(services, kept)) == [None] * 3
        assert driver.read().members == {"svc4": kept}


@pytest.mark.parametrize(
    ("first", "then"), [(["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"]), (["0.0.0.0/1"], ["0.0.0.0/0"])]
)
def test_everything_is_two_halves(driver: IptablesDriver, first: Sequence[str], then: Sequence[str]) -> None:
    everything = Set("all", SetType.IPV4, interval=True)

    def members(texts: Sequence[str]) -> dict[bytes, bytes]:
        parts = (text.partition("/") for text in texts)
        return {parse_address(address) + bytes([int(length)]): b"" for address, _, length in parts}

    assert apply(driver, Put(everything), PutMembers(everything, members(first))) == [None, None]
    change = PutMembers(everything, members(then)), DropMembers(everything, members(first))
    assert apply(driver, *change) == [None, None]
    assert driver.read().members == {"all": members(["0.0.0.0/0"])}


def test_many_chains_go_in_parts(namespace: Namespace, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "NFT_CHAINS_PER_CALL", 7)
    chains = [Chain(f"c{number}", (Rule(Jump(f"d{number}"), (ProtocolIs(6),)),)) for number in range(20)]
    chains += [Chain(f"d{number}", (Rule(Accept()),)) for number in range(20)]
    chains.append(Chain("base", tuple(Rule(Jump(f"c{number}")) for number in range(20)), FORWARD))
    with restart(namespace, programs) as driver:
        assert not any(apply(driver, *put(*chains)))
        assert driver.read().objects == {it.key: seen_as(it) for it in chains}
        assert not any(apply(driver, *(Drop(it.key, it) for it in chains)))
    assert not any(line.startswith((":fpx", "-A")) for line in saved(namespace, programs))


def test_a_glance_tells_that_others_changed_sets(namespace: Namespace, driver: IptablesDriver) -> None:
    hosts, aging = Set("hosts", SetType.IPV4), Set("aging", SetType.IPV4, ages=True)
    assert not any(apply(driver, *put(hosts, aging), PutMembers(hosts, {parse_address("10.0.0.1"): b""})))
    driver.read()
    assert not driver.is_touched()
    assert not any(apply(driver, PutMembers(hosts, {parse_address("10.0.0.2"): b""})))
    assert not driver.is_touched(), "what we do ourselves is no touch"
    name = set_kernel_name("hosts")
    for words in (("add", name, "10.0.0.3"), ("del", name, "10.0.0.1"), ("flush", name), ("destroy", name)):
        namespace.run("ipset", *words)
        assert driver.is_touched(), words
        driver.read()
        assert not driver.is_touched()
    namespace.run("ipset", "add", set_kernel_name("aging"), "10.0.0.9", "timeout", "9")
    assert not driver.is_touched(), "of a set that ages, members come and go"


def test_a_glance_tells_that_others_changed_chains(
    namespace: Namespace, driver: IptablesDriver, programs: Programs
) -> None:
    chain = Chain("a", (Rule(Accept(), (ProtocolIs(6),)),))
    base = Chain("forward", (Rule(Jump("a")),), FORWARD)
    assert not any(apply(driver, *put(chain, base)))
    driver.read()
    assert not driver.is_touched()
    assert not any(apply(driver, *put(replace(chain, rules=()))))
    assert not driver.is_touched(), "what we do ourselves is no touch"
    for words in (("-I", "FORWARD", "-j", "ACCEPT"), ("-D", "FORWARD", "1"), ("-F", "FORWARD")):
        run(namespace, programs, *words)
        assert driver.is_touched()
        assert not any(apply(driver, *put(chain))), "a change of ours hides no touch"
        assert driver.is_touched()
        driver.read()
        assert not driver.is_touched()
