"""Our nftables table in a real kernel: read back as it was put, changed atomically, each refusal kept to itself."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.aging import WHOLES, Part, owner_numbers
from felixpy.dataplane.nftables import TABLE, chain_digests
from felixpy.dataplane.objects import (
    BaseHook,
    Chain,
    ChainSeen,
    DataType,
    Drop,
    DropMembers,
    Members,
    Object,
    Op,
    Put,
    PutMembers,
    Seen,
    Set,
    SetType,
)
from felixpy.dataplane.rules import (
    Accept,
    Dispatch,
    Jump,
    Log,
    Masquerade,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    SetHas,
)
from felixpy.dataplane.rules import Drop as DropPacket
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.nft.encode import MSG_GETSETELEM
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, in_namespace
from tests.support.netns import Namespace
from tests.support.wait import eventually

FORWARD = BaseHook("filter", "forward", 0, "drop")
A, B, C = (Chain(name, (Rule(Accept(), comment=name), Rule(Return()))) for name in "abc")
HOSTS = Set("hosts", SetType.IPV4)
NETS = Set("nets", SetType.IPV4, interval=True)
NETS6 = Set("nets6", SetType.IPV6, interval=True)
DISPATCH = Set("dispatch", SetType.INTERFACE, DataType.VERDICT)


@pytest.fixture
def driver(namespace: Namespace) -> Iterator[NftDriver]:
    with in_namespace(namespace.path, NftDriver) as it:
        yield it


def apply(driver: NftDriver, *ops: Op) -> list[str | None]:
    return [outcome.error for outcome in driver.apply(ops)]


def put(*objects: Object) -> list[Op]:
    return [Put(it) for it in objects]


def drop(*objects: Object) -> list[Op]:
    return [Drop(it.key) for it in objects]


def seen_as(chain: Chain) -> ChainSeen:
    return ChainSeen(chain.name, chain_digests(chain), chain.hook)


def prefix(text: str) -> bytes:
    return parse_address(text.partition("/")[0]) + bytes([int(text.partition("/")[2])])


def hosts(*numbers: int) -> Members:
    return {bytes([10, 0, number >> 8, number & 255]): b"" for number in numbers}


def test_without_a_table_there_is_nothing(driver: NftDriver) -> None:
    assert driver.read() == Seen()
    driver.destroy()


def test_chains_sets_and_members_read_back(driver: NftDriver) -> None:
    base = Chain("forward", (Rule(Dispatch("in_interface", "dispatch")),), FORWARD)
    dispatch = {b"cali1": b"jump a", b"cali2": b"goto b", b"eth0": b"accept", b"eth1": b"drop", b"eth2": b"return"}
    members = {HOSTS: hosts(1, 2, 3), DISPATCH: dispatch}
    ops = [*put(base, A, B, HOSTS, DISPATCH), *(PutMembers(it, them) for it, them in members.items())]
    assert apply(driver, *ops) == [None] * len(ops)
    seen = driver.read()
    assert seen.objects == {it.key: it for it in (HOSTS, DISPATCH, *map(seen_as, (base, A, B)))}
    assert seen.members == {it.name: them for it, them in members.items()}


@pytest.mark.parametrize(
    ("match", "word", "count"),
    [
        (
            NetIn("source", tuple(parse_prefix(f"10.{one >> 7}.{2 * one & 255}.0/24") for one in range(3000))),
            "/24",
            3000,
        ),
        (NetIn("source", tuple(parse_prefix(f"fd00:0:0:{2 * one:x}::/64") for one in range(1500))), "/64", 1500),
        (PortIn("source", tuple((one, one) for one in range(1, 20000, 2))), "", 0),
    ],
    ids=["IPv4", "IPv6", "ports"],
)
def test_a_rule_of_more_than_a_message_holds(
    driver: NftDriver, namespace: Namespace, match: Match, word: str, count: int
) -> None:
    chain = Chain("a", (Rule(Accept(), (ProtocolIs(6), match)),))
    assert apply(driver, *put(chain)) == [None]
    assert driver.read().objects == {chain.key: seen_as(chain)}
    assert not word or namespace.run("nft", "list", "chain", "inet", TABLE, "a").count(word) == count


@pytest.mark.parametrize("kind", [kind for kind in SetType if kind not in (SetType.IPV4, SetType.INTERFACE)])
def test_sets_of_every_type_read_back(driver: NftDriver, kind: SetType) -> None:
    size = {"ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 4, "inet_service": 4, "mark": 4}
    it = Set("s", kind)
    member = bytes(range(1, 1 + sum(size[word] for word in kind.split(" . "))))
    if "inet_proto" in kind:
        address = size[kind.split(" . ")[0]] if kind.startswith("ipv") else 0
        member = member[:address] + b"\x06\0\0\0\0\x50\0\0" + member[address + 8 :]
    assert apply(driver, Put(it), PutMembers(it, {member: b""})) == [None, None]
    assert driver.read() == Seen({it.key: it}, {"s": {member: b""}})


@pytest.mark.parametrize(
    ("it", "texts"),
    [
        (NETS, ["10.0.0.0/8", "11.0.0.0/9", "11.128.0.0/9", "192.168.0.1/32", "255.255.255.255/32", "0.0.0.0/32"]),
        (NETS, ["0.0.0.0/0"]),
        (NETS, ["0.0.0.0/1", "128.0.0.0/1"]),
        (NETS6, ["fd00::/8", "2001:db8::1/128", "ffff::/16"]),
        (NETS6, ["::/0"]),
    ],
)
def test_prefixes_read_back_and_go(driver: NftDriver, it: Set, texts: Sequence[str]) -> None:
    members = {prefix(text): b"" for text in texts}
    assert apply(driver, Put(it), PutMembers(it, members)) == [None, None]
    assert driver.read().members == {it.name: members}
    first = prefix(texts[0])
    assert apply(driver, DropMembers(it, {first: b""})) == [None]
    assert driver.read().members == {it.name: {key: b"" for key in members if key != first}}
    assert apply(driver, PutMembers(it, members), PutMembers(it, members)) == [None, None]
    assert driver.read().members == {it.name: members}


def test_prefix_gives_way_to_one_that_overlaps_it(driver: NftDriver) -> None:
    wide, narrow = {prefix("10.0.0.0/8"): b""}, {prefix("10.0.0.0/9"): b"", prefix("10.129.0.0/16"): b""}
    assert apply(driver, Put(NETS), PutMembers(NETS, wide)) == [None, None]
    assert apply(driver, PutMembers(NETS, narrow), DropMembers(NETS, wide)) == [None, None]
    assert driver.read().members == {"nets": narrow}
    assert apply(driver, DropMembers(NETS, narrow), PutMembers(NETS, wide)) == [None, None]
    assert driver.read().members == {"nets": wide}


def test_put_replaces_all_rules_of_a_chain(driver: NftDriver) -> None:
    assert apply(driver, *put(A)) == [None]
    changed = replace(A, rules=(Rule(DropPacket()),))
    assert apply(driver, *put(changed)) == [None]
    assert driver.read().objects[A.key] == seen_as(changed)


def test_foreign_rule_in_our_chain_has_no_digest(namespace: Namespace, driver: NftDriver) -> None:
    apply(driver, *put(A))
    namespace.run("nft", "insert", "rule", "inet", "felixpy", "a", "drop")
    assert driver.read().objects[A.key] == ChainSeen("a", (b"", *chain_digests(A)))


def test_foreign_tables_are_neither_read_nor_touched(namespace: Namespace, driver: NftDriver) -> None:
    for family in ("inet", "ip"):
        namespace.run("nft", "add", "table", family, "other")
        namespace.run("nft", "add", "chain", family, "other", "a")
    assert driver.read() == Seen()
    apply(driver, *put(A))
    assert driver.read().objects == {A.key: seen_as(A)}
    driver.destroy()
    assert namespace.run("nft", "list", "tables").split() == ["table", "inet", "other", "table", "ip", "other"]


HOOKS = (
    None,
    FORWARD,
    BaseHook("filter", "forward", 0),
    BaseHook("filter", "forward", 7),
    BaseHook("filter", "input", 0, "drop"),
    BaseHook("nat", "postrouting", 7),
)


@pytest.mark.parametrize("after", HOOKS, ids=str)
@pytest.mark.parametrize("before", HOOKS[:2], ids=str)
def test_chain_takes_any_other_hook(driver: NftDriver, before: BaseHook | None, after: BaseHook | None) -> None:
    assert apply(driver, *put(replace(A, hook=before))) == [None]
    assert apply(driver, *put(replace(A, hook=after))) == [None]
    assert driver.read().objects[A.key] == seen_as(replace(A, hook=after))


def test_hook_goes_though_another_driver_set_it(namespace: Namespace, driver: NftDriver) -> None:
    apply(driver, *put(replace(A, hook=FORWARD)))
    with in_namespace(namespace.path, NftDriver) as restarted:
        assert apply(restarted, *put(A)) == [None]
        assert restarted.read().objects[A.key] == seen_as(A)


def test_map_entry_changes_its_data(driver: NftDriver) -> None:
    apply(driver, *put(A, B, DISPATCH), PutMembers(DISPATCH, {b"cali1": b"jump a", b"cali2": b"jump a"}))
    changed = {b"cali1": b"jump b", b"cali2": b"jump a", b"cali3": b"drop"}
    assert apply(driver, PutMembers(DISPATCH, changed)) == [None]
    assert driver.read().members == {"dispatch": changed}


def test_a_chain_goes_with_the_entry_that_leads_to_it_while_an_interval_set_gains_a_member(driver: NftDriver) -> None:
    apply(driver, *put(A, B, DISPATCH, NETS), PutMembers(DISPATCH, {b"cali1": b"jump a", b"cali2": b"jump b"}))
    gone = [*drop(A), DropMembers(DISPATCH, {b"cali1": b"jump a"})]
    assert apply(driver, *gone, PutMembers(NETS, {prefix("10.1.0.0/16"): b""})) == [None] * 3
    assert driver.read().members["dispatch"] == {b"cali2": b"jump b"}


def test_members_that_are_there_already_or_no_more_are_no_error(driver: NftDriver) -> None:
    apply(driver, Put(HOSTS), PutMembers(HOSTS, hosts(1, 2)))
    assert apply(driver, PutMembers(HOSTS, hosts(2, 3)), DropMembers(HOSTS, hosts(1, 9))) == [None, None]
    assert apply(driver, DropMembers(HOSTS, hosts(1, 9))) == [None]
    assert driver.read().members == {"hosts": hosts(2, 3)}


def test_members_by_the_thousand(driver: NftDriver) -> None:
    many = hosts(*range(20_000))
    assert apply(driver, Put(HOSTS), PutMembers(HOSTS, many)) == [None, None]
    assert eventually(lambda: driver.read().members == {"hosts": many}), "once the kernel's table has grown"
    assert apply(driver, DropMembers(HOSTS, many)) == [None]
    assert driver.read().members == {"hosts": {}}


def test_everything_comes_and_goes_in_one_transaction_whatever_the_order(driver: NftDriver) -> None:
    a = Chain("a", (Rule(Jump("b")), Rule(Accept(), (SetHas("source", "hosts", 4),))))
    base = Chain("forward", (Rule(Dispatch("in_interface", "dispatch")), Rule(Jump("a"))), FORWARD)
    members = PutMembers(DISPATCH, {b"cali1": b"jump a"})
    assert apply(driver, members, *put(base, a, B, DISPATCH, HOSTS)) == [None] * 6
    assert len(driver.read().objects) == 5
    assert apply(driver, *drop(HOSTS, B, a, DISPATCH, base)) == [None] * 5
    assert driver.read() == Seen()


def test_dropping_what_is_not_there_is_no_error(driver: NftDriver) -> None:
    assert apply(driver, *drop(A, HOSTS), DropMembers(HOSTS, hosts(1)), Put(B)) == [None] * 4
    assert driver.read().objects == {B.key: seen_as(B)}


def test_refused_chain_holds_back_only_what_needs_it(driver: NftDriver) -> None:
    bad = Chain("bad", (Rule(Masquerade()),), FORWARD)
    lost = Chain("lost", (Rule(Jump("nowhere")),))
    needy = Chain("needy", (Rule(Jump("lost")),))
    last = Chain("last", (Rule(Jump("needy")),))
    entry = PutMembers(DISPATCH, {b"cali1": b"jump last"})
    outcomes = driver.apply([*put(A, bad, last, needy, lost, DISPATCH, HOSTS), entry, PutMembers(HOSTS, hosts(1))])
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, True, True, True, False, False, True, False]
    assert outcomes[4].errno == errno.ENOENT
    assert "needs lost, which failed" in (outcomes[3].error or "")
    assert "needs last, which failed" in (outcomes[7].error or "")
    assert driver.read().objects.keys() == {A.key, DISPATCH.key, HOSTS.key}


def test_refused_change_leaves_the_chain_as_it_was(driver: NftDriver) -> None:
    apply(driver, *put(A, B))
    outcomes = driver.apply(put(replace(A, rules=(Rule(Accept()), Rule(Jump("nowhere")))), replace(B, rules=())))
    assert [bool(outcome.error) for outcome in outcomes] == [True, False]
    assert driver.read().objects == {A.key: seen_as(A), B.key: seen_as(replace(B, rules=()))}


def test_what_is_in_use_is_not_dropped(driver: NftDriver) -> None:
    user = Chain("user", (Rule(Jump("a")), Rule(Accept(), (SetHas("source", "hosts", 4),))))
    apply(driver, *put(A, B, HOSTS, user))
    outcomes = driver.apply(drop(A, B, HOSTS))
    assert [outcome.errno for outcome in outcomes] == [errno.EBUSY, 0, errno.EBUSY]
    assert driver.read().objects.keys() == {A.key, HOSTS.key, user.key}


def test_set_of_another_type_under_the_name_is_an_error(driver: NftDriver) -> None:
    apply(driver, Put(HOSTS))
    outcomes = driver.apply([Put(Set("hosts", SetType.IPV6)), Put(A)])
    assert [outcome.errno for outcome in outcomes] == [errno.EEXIST, 0]


def test_loop_of_chains_is_refused(driver: NftDriver) -> None:
    there, back = Chain("there", (Rule(Jump("back")),)), Chain("back", (Rule(Jump("there")),))
    base = Chain("forward", (Rule(Jump("there")),), FORWARD)
    outcomes = driver.apply(put(there, back, base, A))
    assert any(outcome.error for outcome in outcomes[:3])
    assert outcomes[3].error is None
    assert A.key in driver.read().objects


def test_many_refusals_at_once(driver: NftDriver) -> None:
    chains = [Chain(f"c{i}", (Rule(Jump("nowhere" if i % 3 == 0 else "a")),)) for i in range(600)]
    outcomes = driver.apply(put(A, *chains))
    assert [bool(outcome.error) for outcome in outcomes] == [False, *(i % 3 == 0 for i in range(600))]


def test_log_prefix_and_comment_of_any_length_are_taken(driver: NftDriver) -> None:
    chain = Chain("c", (Rule(Log("ü" * 200), (ProtocolIs(6),), comment="ü" * 200),))
    assert apply(driver, *put(chain)) == [None]
    assert driver.read().objects[chain.key] == seen_as(chain)


def test_one_bad_entry_of_a_map_keeps_no_other_out(driver: NftDriver) -> None:
    hub = Chain("hub", (Rule(Dispatch("in_interface", "dispatch")),))
    base = Chain("forward", (Rule(Jump("hub")),), FORWARD)
    apply(driver, *put(base, hub, A, DISPATCH))
    good = {b"cali%d" % number: b"goto a" for number in range(50)}
    bad = {b"caliLoop": b"goto hub", b"caliVoid": b"goto nowhere"}
    (outcome,) = driver.apply([PutMembers(DISPATCH, bad | good)])
    assert outcome.error
    assert outcome.refused == bad
    assert driver.read().members == {DISPATCH.name: good}
    lost = Chain("lost", (Rule(Jump("nowhere")),))
    outcomes = driver.apply([Put(lost), PutMembers(DISPATCH, {b"caliLost": b"goto lost", b"caliNew": b"goto a"})])
    assert outcomes[1].refused == {b"caliLost": b"goto lost"}
    assert driver.read().members == {DISPATCH.name: {**good, b"caliNew": b"goto a"}}


class _Interrupted(NetlinkSocket):
    """Before it asks for the members of a set, someone deletes the last set that there is."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(NETLINK_NETFILTER)
        self._namespace = namespace
        self._done = False

    def dump(self, kind: int, body: bytes, *, torn: bool = False) -> list[bytes]:
        if kind & 0xFF == MSG_GETSETELEM and not self._done:
            self._done = True
            self._namespace.run("nft", "delete", "set", "inet", TABLE, "hosts")
        return super().dump(kind, body, torn=torn)


ONE, OTHER, STRAY = (Part(4, digits * 8) for digits in (b"\x01", b"\xfe", b"\x77"))


def learn(namespace: Namespace, part: Part, *clients: str) -> None:
    """Puts clients where a rule would have put them."""
    numbers = " . ".join(map(str, owner_numbers(part.owner)))
    members = ", ".join(f"{client} . {numbers} timeout 1h" for client in clients)
    namespace.run("nft", "add", "element", "inet", TABLE, WHOLES[4].name, f"{{ {members} }}")


def clients(namespace: Namespace) -> set[str]:
    """Which clients are known, and whose."""
    shown = json.loads(namespace.run("nft", "-j", "list", "set", "inet", TABLE, WHOLES[4].name))
    members = (one["elem"]["val"]["concat"] for one in shown["nftables"][1]["set"].get("elem", ()))
    return {f"{client} {first:#x}" for client, first, _ in members}


def test_sets_that_age_are_parts_of_one_and_each_goes_with_its_own_members(
    driver: NftDriver, namespace: Namespace
) -> None:
    wanted = [ONE.set, OTHER.set]
    assert apply(driver, *put(*wanted)) == [None, None]
    assert namespace.run("nft", "list", "sets").count("\tset ") == 1
    learn(namespace, ONE, "10.0.0.1", "10.0.0.2")
    learn(namespace, OTHER, "10.0.0.1")
    assert apply(driver, *drop(ONE.set)) == [None]
    assert clients(namespace) == {"10.0.0.1 0xfefefefe"}
    assert apply(driver, *put(ONE.set), *drop(ONE.set)) == [None, None]


def test_after_a_restart_parts_that_nobody_wants_any_more_go(driver: NftDriver, namespace: Namespace) -> None:
    apply(driver, *put(ONE.set))
    learn(namespace, ONE, "10.0.0.1")
    learn(namespace, STRAY, *(f"10.1.{high}.{low}" for high in range(4) for low in range(250)))
    seen = driver.read([ONE.set.key, OTHER.set.key]).objects
    assert seen == {part.set.key: part.set for part in (ONE, OTHER, STRAY)}, "what is wanted is there with the whole"
    assert apply(driver, *drop(STRAY.set)) == [None]
    assert clients(namespace) == {"10.0.0.1 0x1010101"}


def test_a_set_that_goes_during_the_read_takes_nothing_else_with_it(driver: NftDriver, namespace: Namespace) -> None:
    apply(driver, *put(A, DISPATCH, HOSTS), PutMembers(DISPATCH, {b"cali1": b"goto a"}))
    socket = in_namespace(namespace.path, lambda: _Interrupted(namespace))
    with NftDriver(socket=socket) as other:
        seen = other.read()
    assert seen == Seen({A.key: seen_as(A), DISPATCH.key: DISPATCH}, {DISPATCH.name: {b"cali1": b"goto a"}})
