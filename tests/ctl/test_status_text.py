"""Status in words: what counts as a problem, how several nodes are told of, and the pieces that tables are made of."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import format_address, parse_address
from felixpy.ctl.cells import align_rows, format_duration, list_some, render_bar
from felixpy.ctl.node_text import NO_ANSWER, render_node, render_nodes, render_problems, survey_tree
from felixpy.ctl.services.reach import derive_reach
from felixpy.ctl.services.vips import NOT_DECIDED, derive_balance
from felixpy.datastore.model import KeyValue
from felixpy.resources.kinds import grant_key
from felixpy.status.answers import (
    AnnouncedPrefix,
    Ask,
    BgpStatus,
    BrokenResource,
    Failure,
    KernelStatus,
    NodeStatus,
    SessionStatus,
    SilentPrefix,
    Want,
    control_socket,
    merge_answers,
    parse,
    parse_ask_key,
    render,
)
from felixpy.status.problems import find_problems, find_unprogrammed, find_unready, missing_roles

UP = SessionStatus("10.0.0.2", 64512, "Established", True, 60)
DOWN = SessionStatus("10.0.0.3", 64512, "Active", False, 5, "hold timer expired")
BGP = BgpStatus(generation=4, sessions=(UP,))
KERNEL = KernelStatus(started=True, endpoints=2, objects=40)


def status(node: str = "n1", **changes: object) -> NodeStatus:
    """A node with which all is well, but for `changes`."""
    well = {"roles": ("agent", "bgp"), "revision": 7, "datastore": "in sync", "in_sync": True}
    return NodeStatus(node, **{**well, "kernel": KERNEL, "bgp": BGP, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sessions", "starting", "ready"),
    [
        ((), True, True),
        ((UP,), True, True),
        ((UP, DOWN), True, False),
        ((UP, DOWN), False, True),
        ((DOWN,), False, False),
    ],
)
def test_a_dead_neighbour_keeps_a_node_from_being_ready_at_its_start_only(
    sessions: tuple[SessionStatus, ...], starting: bool, ready: bool
) -> None:
    found = find_unready(status(bgp=BgpStatus(generation=4, sessions=sessions)), starting)
    assert [DOWN.address in problem for problem in found] == ([] if ready else [True])


def test_nodes_whose_pods_have_another_mtu_are_named() -> None:
    nodes = {name: status(name, kernel=KernelStatus(True, pod_mtu=mtu)) for name, mtu in (("n1", 1450), ("n2", 1450))}
    assert render_problems(nodes) == []
    nodes["n3"] = status("n3", kernel=KernelStatus(True, pod_mtu=1430))
    assert render_problems(nodes) == ["warning: pods have not the same mtu everywhere: 1430 on n3; 1450 on n1, n2"]


def test_a_node_with_which_all_is_well() -> None:
    assert find_problems(status()) == ()
    assert find_unprogrammed(status(), 7) == ()
    assert find_unprogrammed(status(), 8) == ("has applied revision 7 only, not yet 8",)


@pytest.mark.parametrize(
    ("changes", "problem", "holds_back"),
    [
        ({"in_sync": False, "datastore": "frozen: it is older"}, "datastore: frozen: it is older", True),
        ({"expected_roles": ("agent", "bgp", "controllers")}, "role controllers ran here and does not answer", True),
        ({"kernel": KernelStatus(False)}, "kernel: nothing is written before the datastore has been read", True),
        (
            {"kernel": KernelStatus(True, failed=1, failures=(Failure("ip route replace x", "no device"),))},
            "kernel: not done: ip route replace x: no device",
            True,
        ),
        ({"kernel": KernelStatus(True, failed=3)}, "kernel: 3 more not done", True),
        (
            {"kernel": KernelStatus(True, contested=(Failure("packet rules", "somebody keeps undoing it"),))},
            "kernel: packet rules: somebody keeps undoing it",
            False,
        ),
        ({"bgp": BgpStatus(generation=0)}, "BGP: gobgpd does not answer", True),
        (
            {"bgp": BgpStatus(generation=4, announced=3, advertised=1)},
            "BGP: gobgpd has 1 of 3 prefixes to announce",
            True,
        ),
        (
            {"bgp": BgpStatus(generation=4, sessions=(UP, DOWN))},
            "BGP: the session with 10.0.0.3 (AS 64512) is Active: hold timer expired",
            False,
        ),
        ({"cni_unready": "frozen"}, "CNI: frozen", False),
        (
            {"broken": 1, "broken_resources": (BrokenResource("/k", "spec", "no"),)},
            "counts as missing: /k: spec: no",
            False,
        ),
    ],
)
def test_what_is_wrong_is_said_and_only_what_is_not_done_holds_a_wait_back(
    changes: dict[str, object], problem: str, holds_back: bool
) -> None:
    assert find_problems(status(**changes)) == (problem,)
    assert find_unprogrammed(status(**changes), 7) == ((problem,) if holds_back else ())


def test_a_gobgpd_that_was_asked_nothing_yet_is_not_said_to_be_silent() -> None:
    frozen = status(in_sync=False, datastore="frozen: it is older", revision=0, bgp=BgpStatus(generation=0))
    said = find_problems(frozen)
    assert "BGP: gobgpd is asked nothing, and goes on as it was, before the datastore has been read" in said
    assert not any("does not answer" in words for words in (*said, *render_node(frozen, {})))


def test_a_node_without_bgp_is_well() -> None:
    assert find_problems(status(bgp=BgpStatus(no_speaker="there is no Node resource"))) == ()


def test_processes_of_one_node_are_told_of_as_one() -> None:
    agent = status(roles=("agent",), bgp=None, expected_roles=("agent", "bgp"))
    bgp = status(roles=("bgp",), kernel=None, revision=5, expected_roles=("agent", "bgp"))
    assert missing_roles(agent) == ("bgp",)
    whole = merge_answers([agent, bgp])
    assert (whole.roles, whole.revision, whole.kernel, whole.bgp) == (("agent", "bgp"), 5, KERNEL, BGP)
    assert find_problems(whole) == ()
    frozen = status(roles=("bgp",), kernel=None, in_sync=False, datastore="frozen")
    assert merge_answers([agent, frozen]).datastore == "frozen"


def test_a_problem_of_many_nodes_is_one_line() -> None:
    broken = {"broken": 1, "broken_resources": (BrokenResource("/k", "", "not JSON"),)}
    nodes = {f"n{number}": status(f"n{number}", **broken) for number in range(5)} | {"n5": None}
    assert render_problems(nodes) == [
        "n0, n1, n2 and 2 more: counts as missing: /k: not JSON",
        f"n5: {NO_ANSWER}",
    ]


def test_the_table_has_a_line_per_node() -> None:
    head, rows = render_nodes({"n1": status(), "n2": None, "n3": status("n3", revision=4)}, 7)
    assert head.split() == ["NODE", "ROLES", "REVISION", "ENDPOINTS", "OBJECTS", "FAILED", "BGP", "UP", "NOTE"]
    assert [row.text.split() for row in rows] == [
        ["n1", "agent,bgp", "7", "2", "40", "0", "1/1", "ok"],
        ["n2", "-", "-", "-", "-", "-", "-", "no", "answer"],
        ["n3", "agent,bgp", "4", "(-3)", "2", "40", "0", "1/1", "ok"],
    ]
    assert [row.well for row in rows] == [True, False, True]


def test_what_is_said_reads_back_and_newer_words_are_passed_over() -> None:
    assert parse(render(status()), NodeStatus) == status()
    assert parse(b'{"lease": 5, "want": ["learned", "newer"], "more": 1}', Ask).want == (Want.LEARNED, "newer")
    tree = survey_tree({"n1": status(), "n2": None}, 9)
    assert tree["revision"] == 9
    with pytest.raises(ValueError):
        parse(b"[]", NodeStatus)


def test_only_a_question_is_a_question() -> None:
    assert parse_ask_key(b"/felixpy/ask/x1") == "x1"
    assert [parse_ask_key(key) for key in (b"/felixpy/ask/", b"/felixpy/ask/a/b", b"/felixpy/grants/x", b"\xff")] == [
        None
    ] * 4


def test_a_process_listens_under_the_name_of_its_first_role() -> None:
    assert control_socket(["bgp", "agent"]) == "agent.sock"
    assert control_socket(["controllers", "bgp"]) == "bgp.sock"


@given(st.integers(0, 300), st.integers(1, 300))
def test_a_bar_is_as_wide_as_every_other_and_never_hides_use(used: int, size: int) -> None:
    bar = render_bar(min(used, size), size, 10).partition(" ")[0]
    assert len(bar) == 10
    assert (bar == "·" * 10) == (min(used, size) == 0)
    assert (bar == "█" * 10) == (used >= size)


def test_figures_and_lists() -> None:
    assert [format_duration(seconds) for seconds in (None, 0, 59, 61, 3_600, 90_061)] == [
        "-", "0s", "59s", "1m1s", "1h", "1d1h",
    ]  # fmt: skip
    assert render_bar(0, 1 << 80).endswith(" 0/2^80")
    assert list_some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert align_rows([("A", "B"), ("long", "x")]) == ["A      B", "long   x"]


def pool(ranges: list[str], avoid_buggy: bool) -> KeyValue:
    spec = {"addresses": ranges, "avoidBuggyIPs": avoid_buggy}
    body = {"metadata": {"name": "p", "namespace": "m"}, "spec": spec}
    key = b"/felixpy/resources/metallb.io/v1beta1/ipaddresspools/m/p"
    return KeyValue(key, json.dumps(body).encode(), 1)


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_a_pool_counts_what_it_may_give(first: int, length: int) -> None:
    base = int.from_bytes(parse_address("10.0.0.0"), "big")
    addresses = [(base + first + place).to_bytes(4, "big") for place in range(length + 1)]
    text = f"{format_address(addresses[0])}-{format_address(addresses[-1])}"
    assert derive_balance([pool([text], False)], {}).pools[0].size == len(addresses)
    good = [one for one in addresses if one[3] not in (0, 255)]
    assert derive_balance([pool([text], True)], {}).pools[0].size == len(good)


def pair(key: str, body: dict[str, object]) -> KeyValue:
    return KeyValue(key.encode(), json.dumps(body).encode(), 1)


def test_an_address_that_the_pool_has_no_more_is_not_counted() -> None:
    grants = (
        pair(grant_key(one), {"address": one, "services": ["default/a"], "pool": "p"})
        for one in ("10.0.0.1", "10.0.0.9", "fd00::1")
    )
    use = derive_balance([pool(["10.0.0.0-10.0.0.3"], False), *grants], {}).pools[0]
    assert (use.used, use.size) == (1, 4)


def test_why_a_service_has_no_address() -> None:
    services = (
        pair(
            f"/felixpy/resources/core/v1/services/default/{name}",
            {"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "LoadBalancer", **spec}},
        )
        for name, spec in (("ours", {}), ("theirs", {"loadBalancerClass": "foo"}))
    )
    ours, theirs = derive_balance(services, {}).addresses
    assert (ours.waiting, theirs.waiting) == (NOT_DECIDED, "left to class foo")


def test_who_announces_an_address_and_who_does_not() -> None:
    vip = AnnouncedPrefix("172.25.1.0/30", "a Service address with endpoints")
    silent = SilentPrefix("172.25.1.1/32", "no endpoint")
    nodes = {
        "announces": status(bgp=BgpStatus(generation=4, sessions=(UP,), announcements=(vip,))),
        "alone": status(bgp=BgpStatus(generation=4, sessions=(DOWN,), announcements=(vip,))),
        "silent": status(bgp=BgpStatus(generation=4, sessions=(UP,), silences=(silent,))),
        "mute": status(bgp=BgpStatus(no_speaker="no address")),
        "other": status(bgp=None),
        "gone": None,
    }
    reach = derive_reach(parse_address("172.25.1.1"), nodes)
    assert reach.announced_by == ("announces", "alone (no session up)")
    assert reach.silent == {"no endpoint": ("silent",), "no address": ("mute",)}
