"""Which address a Service gets, and why it gets none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.addresses import format_address, parse_address
from ipam.ledger import Ledger, Port, Range, Sharer, is_buggy, parse_range, without_ranges
from ipam.loadbalancer import (
    FamilyPolicy,
    Granted,
    Refused,
    VipPool,
    VipRefusal,
    VipService,
    choose_addresses,
    explain_sharing,
)

HTTP, DNS = Port("TCP", 80), Port("UDP", 53)


def pool(name="p", *ranges, **options):
    return VipPool(name, tuple(map(parse_range, ranges or ["10.0.0.1-10.0.0.3"])), **options)


def service(name="s", ports=(HTTP,), key="", backend="", requested=(), rank=0, **options):
    options.setdefault("namespace", "default")
    sharer = Sharer(name, key, frozenset(ports), backend, rank)
    return VipService(sharer, requested=tuple(map(parse_address, requested)), **options)


def dual(name="s", policy=FamilyPolicy.REQUIRE_DUAL, **options):
    return service(name, families=(4, 6), policy=policy, **options)


def settle(ledger, pools, *services):
    """Chooses for each in turn and records the grant; the answers as texts."""
    answers = []
    for each in services:
        answer = choose_addresses(each, pools, ledger)
        if isinstance(answer, Granted):
            ledger.grant(each.sharer, tuple(vip.address for vip in answer.vips))
            answers.append([format_address(vip.address) for vip in answer.vips])
        else:
            ledger.revoke(each.sharer.name)
            answers.append(dict(answer.reasons))
    return answers


def test_the_lowest_free_address_is_given():
    ledger = Ledger()
    assert settle(ledger, [pool()], service("a"), service("b")) == [["10.0.0.1"], ["10.0.0.2"]]
    ledger.revoke("a")
    assert settle(ledger, [pool()], service("c")) == [["10.0.0.1"]]


def test_what_a_service_has_it_keeps():
    ledger = Ledger()
    settle(ledger, [pool()], service("a"), service("b"))
    ledger.revoke("a")
    assert settle(ledger, [pool()], service("b")) == [["10.0.0.2"]]
    assert settle(ledger, [pool(auto_assign=False)], service("b")) == [["10.0.0.2"]]
    assert settle(ledger, [pool("renamed")], service("b")) == [["10.0.0.2"]]
    assert settle(ledger, [pool("p", "10.0.0.9-10.0.0.9")], service("b")) == [["10.0.0.9"]]


def test_a_full_pool_and_no_pool_say_so():
    ledger = Ledger()
    full = settle(ledger, [pool("p", "10.0.0.1/32")], service("a"), service("b"))
    assert full[1] == {"p": VipRefusal.FULL}
    assert settle(ledger, [], service("c")) == [{"": VipRefusal.NO_POOL}]


def test_pools_set_aside_come_first_by_priority_then_the_rest_by_name():
    pools = [
        pool("z", "10.0.1.1/32"),
        pool("a", "10.0.2.1/32"),
        pool("low", "10.0.3.1/32", priority=20),
        pool("high", "10.0.4.1/32", priority=10),
        pool("mine", "10.0.5.1/32", namespaces=frozenset({"default"})),
        pool("other", "10.0.6.1/32", namespaces=frozenset({"else"})),
        pool("chosen", "10.0.7.1/32", selects_services=True, priority=1),
    ]
    named = [service(name) for name in "bcdefgh"]
    got = settle(Ledger(), pools, *named)
    assert [answer[0] for answer in got[:5]] == ["10.0.4.1", "10.0.3.1", "10.0.5.1", "10.0.2.1", "10.0.1.1"]
    assert got[5]["other"] == VipRefusal.OTHER_NAMESPACE
    assert got[5]["chosen"] == VipRefusal.OTHER_SERVICES
    assert settle(Ledger(), pools, service("i", selected_by=frozenset({"chosen"}))) == [["10.0.7.1"]]


def test_a_pool_without_auto_assign_gives_to_those_who_ask():
    pools = [pool(auto_assign=False)]
    assert settle(Ledger(), pools, service()) == [{"p": VipRefusal.NOT_AUTOMATIC}]
    assert settle(Ledger(), pools, service(requested_pool="p")) == [["10.0.0.1"]]
    assert settle(Ledger(), pools, service(requested=["10.0.0.3"])) == [["10.0.0.3"]]
    assert settle(Ledger(), pools, service(requested_pool="q")) == [{"q": VipRefusal.UNKNOWN_POOL}]


def test_asking_for_another_address_moves_and_asking_no_more_stays():
    ledger = Ledger()
    settle(ledger, [pool()], service("a"))
    assert settle(ledger, [pool()], service("a", requested=["10.0.0.3"])) == [["10.0.0.3"]]
    assert settle(ledger, [pool()], service("a")) == [["10.0.0.3"]]


@pytest.mark.parametrize(
    ("wishes", "reasons"),
    [
        ({"requested": ["10.0.9.9"]}, {"10.0.9.9": VipRefusal.NOT_IN_POOL}),
        ({"requested": ["10.0.0.2"], "requested_pool": "q"}, {"10.0.0.2": VipRefusal.NOT_IN_POOL}),
        ({"requested": ["10.0.0.1"]}, {"10.0.0.1": VipRefusal.TAKEN}),
        ({"requested": ["fd00::1"]}, {"": VipRefusal.FAMILIES}),
        ({"requested": ["10.0.0.2", "10.0.0.3"]}, {"": VipRefusal.FAMILIES}),
        ({"requested": ["10.0.7.255"]}, {"10.0.7.255": VipRefusal.BUGGY}),
        ({"requested": ["10.0.8.1"]}, {"10.0.8.1": VipRefusal.OTHER_NAMESPACE}),
    ],
)
def test_an_address_that_cannot_be_had_says_why(wishes, reasons):
    ledger = Ledger()
    pools = [
        pool(),
        pool("q", "10.0.7.0/24", avoid_buggy=True),
        pool("r", "10.0.8.0/24", namespaces=frozenset({"else"})),
    ]
    settle(ledger, pools, service("first", requested=["10.0.0.1"]))
    assert settle(ledger, pools, service("s", **wishes)) == [reasons]


def test_buggy_addresses_are_passed_over_and_left_when_that_is_turned_on():
    ledger = Ledger()
    assert settle(ledger, [pool("p", "10.0.0.0/24")], service("a")) == [["10.0.0.0"]]
    assert settle(ledger, [pool("p", "10.0.0.0/24", avoid_buggy=True)], service("a")) == [["10.0.0.1"]]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (service("b", [DNS], key="k"), None),
        (service("b", [HTTP], key="k"), VipRefusal.PORT_TAKEN),
        (service("b", [DNS], key="l"), VipRefusal.TAKEN),
        (service("b", [DNS]), VipRefusal.TAKEN),
        (service("b", [DNS], key="k", backend="app=x"), VipRefusal.BACKENDS_DIFFER),
    ],
)
def test_services_share_an_address_under_one_key(other, reason):
    ledger = Ledger()
    settle(ledger, [pool()], service("a", [HTTP], key="k"))
    assert explain_sharing(other, parse_address("10.0.0.1"), ledger) == reason
    assert settle(ledger, [pool()], other) == [["10.0.0.1" if reason is None else "10.0.0.2"]]


def test_an_address_shared_without_ports_stays_shared_when_one_leaves():
    ledger = Ledger()
    settle(ledger, [pool()], service("a", [], key="k"), service("b", [], key="k"))
    ledger.revoke("a")
    assert explain_sharing(service("c", []), parse_address("10.0.0.1"), ledger) == VipRefusal.TAKEN


def test_dual_stack_comes_from_one_pool():
    pools = [pool("four"), pool("six", "fd00::1-fd00::9"), pool("two", "10.1.0.1/32", "fd01::1/128")]
    assert settle(Ledger(), pools, dual()) == [["10.1.0.1", "fd01::1"]]
    assert settle(Ledger(), pools[:2], dual()) == [{"four": VipRefusal.LACKS_FAMILY, "six": VipRefusal.LACKS_FAMILY}]


def test_a_service_that_prefers_both_takes_its_primary_family_alone():
    prefer = dual(policy=FamilyPolicy.PREFER_DUAL)
    ledger = Ledger()
    assert settle(ledger, [pool("four")], prefer) == [["10.0.0.1"]]
    assert settle(ledger, [pool("four"), pool("two", "10.1.0.1/32", "fd01::1/128")], prefer) == [["10.0.0.1"]]
    grown = pool("four", "10.0.0.1-10.0.0.3", "fd02::1/128")
    assert settle(ledger, [grown], prefer) == [["10.0.0.1", "fd02::1"]]


def test_a_required_family_that_is_lost_moves_both():
    ledger = Ledger()
    both = pool("p", "10.0.0.1/32", "fd00::1/128")
    settle(ledger, [both], dual())
    assert settle(ledger, [pool("p", "10.0.0.1/32"), pool("q", "10.1.0.1/32", "fd01::1/128")], dual()) == [
        ["10.1.0.1", "fd01::1"]
    ]


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.9-10.0.0.1", "x", "", "10.0.0.0/33", "-"])
def test_what_is_not_a_range_is_refused(text):
    with pytest.raises(ValueError):
        parse_range(text)


def test_ranges_are_read_with_and_without_blanks():
    assert parse_range("10.0.0.1 - 10.0.0.9") == parse_range("10.0.0.1-10.0.0.9")
    assert parse_range("10.0.0.7/30").size == 4


COMMANDS = st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["", "k", "l"]), st.booleans(), st.booleans()))


@given(COMMANDS)
def test_any_history_keeps_addresses_apart_and_lowest(history):
    ledger, live = Ledger(), {}
    pools = [pool("p", "10.0.0.254-10.0.1.2", avoid_buggy=True)]
    for rank, (number, key, http, gone) in enumerate(history):
        each = service(f"s{number}", [HTTP if http else DNS], key=key, rank=rank)
        if gone:
            ledger.revoke(each.sharer.name)
            live.pop(each.sharer.name, None)
            continue
        before = ledger.held_by(each.sharer.name)
        usable = [
            address
            for address in map(parse_address, ["10.0.0.254", "10.0.1.1", "10.0.1.2"])
            if explain_sharing(each, address, ledger) is None
        ]
        answer = choose_addresses(each, pools, ledger)
        if isinstance(answer, Refused):
            assert not usable
            ledger.revoke(each.sharer.name)
            live.pop(each.sharer.name, None)
            continue
        (vip,) = answer.vips
        assert vip.address == (before[0] if before and before[0] in usable else usable[0])
        assert not is_buggy(vip.address)
        ledger.grant(each.sharer, (vip.address,))
        live[each.sharer.name] = (vip.address, each)
        for address, other in live.values():
            assert explain_sharing(other, address, ledger) is None


def span(low, size, width=4):
    first, last = (number.to_bytes(width, "big") for number in (low, low + size))
    return Range(first, last)


_spans = st.builds(span, st.integers(0, 40), st.integers(0, 12), st.sampled_from([4, 4, 4, 16]))


def _numbers(one):
    last = int.from_bytes(one.last, "big")
    return [(len(one.first), number) for number in range(int.from_bytes(one.first, "big"), last + 1)]


@given(st.lists(_spans, max_size=3), st.lists(_spans, max_size=5))
def test_what_is_left_of_ranges_is_what_is_in_no_hole(wholes, holes):
    left = list(without_ranges(wholes, holes))
    wanted = [[n for n in _numbers(whole) if not any(n in _numbers(hole) for hole in holes)] for whole in wholes]
    assert [n for one in left for n in _numbers(one)] == [n for some in wanted for n in some]
    assert all(one.first <= one.last for one in left)
