"""BGPFilters on the wire: BIRD routers of another AS and of ours, GoBGP between them, and what comes out at the end.

source (BIRD, AS 65000) ──┐
                          ├── node (gobgpd, AS 64512) ── far (BIRD, AS 65010)
inside (BIRD, AS 64512) ──┘
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from birdpy.addresses import parse_prefix
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.versions import NO_LOCAL_PREF, find_impossible
from birdpy.intent import (
    Advertisement,
    BgpIntent,
    Change,
    Direction,
    Match,
    Neighbor,
    NextHopRule,
    Policy,
    RouteOrigin,
    Statement,
)
from birdpy.told import derive_told
from felixpy.calc.bgp.filters import Audience, OwnPath, Surroundings, derive_statements
from felixpy.resources.bgp_documents import BgpFilterDoc
from felixpy.resources.bgp_filters import read_bgp_filter
from felixpy.resources.bgp_types import BgpFilter
from tests.birdpy.conftest import QUICK_BIRD, Router, build_link, established, make_so, remove_link, session
from tests.support.wait import eventually_async

PLAIN, HALF, LARGE, LONG, SIX, SIX_INNER, PREFERRED = (
    "192.0.2.0/24",
    "192.0.2.128/25",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "100.64.0.0/24",
)
THEIRS = {PLAIN, HALF, LARGE, LONG, SIX, SIX_INNER, PREFERRED}
BLOCK, BORROWED = "10.64.1.0/26", "10.64.9.9/32"
OURS = {BLOCK, BORROWED}
ASN, SOURCE_ASN, FAR_ASN = 64512, 65000, 65010
TOP = (1 << 31) - 1

SOURCE = f"""
router id 10.99.0.2;
protocol device {{ }}
protocol static {{ ipv4; route {PLAIN} blackhole; route {HALF} blackhole; route {LARGE} blackhole;
  route {LONG} blackhole; }}
protocol static {{ ipv6; route {SIX} blackhole; route {SIX_INNER} blackhole; }}
filter tell {{
  if net = {HALF} then bgp_community.add((65000, 100));
  if net = {LARGE} then bgp_large_community.add((65000, 1, 2));
  if net = {LONG} then bgp_path.prepend(65001);
  accept;
}}
filter tell6 {{ accept; }}
protocol bgp node {{ local 10.99.0.2 as {SOURCE_ASN}; neighbor 10.99.0.1 as {ASN}; {QUICK_BIRD}
  ipv4 {{ import none; export filter tell; }}; }}
protocol bgp node6 {{ local fd99::2 as {SOURCE_ASN}; neighbor fd99::1 as {ASN}; {QUICK_BIRD}
  ipv6 {{ import none; export filter tell6; }}; }}
"""
FAR = f"""
router id 10.99.0.3;
protocol device {{ }}
protocol bgp node {{ local 10.99.0.3 as {FAR_ASN}; neighbor 10.99.0.1 as {ASN}; {QUICK_BIRD} enforce first as on;
  ipv4 {{ import all; export none; }}; }}
protocol bgp node6 {{ local fd99::3 as {FAR_ASN}; neighbor fd99::1 as {ASN}; {QUICK_BIRD} enforce first as on;
  ipv6 {{ import all; export none; }}; }}
"""
INSIDE = f"""
router id 10.99.0.4;
protocol device {{ }}
protocol static {{ ipv4; route {PREFERRED} blackhole; }}
protocol bgp node {{ local 10.99.0.4 as {ASN}; neighbor 10.99.0.1 as {ASN}; {QUICK_BIRD}
  ipv4 {{ import none; export filter {{ bgp_local_pref = {TOP - 512}; accept; }}; next hop self; }}; }}
"""


@dataclass(frozen=True)
class Seen:
    """A route as the far router has it."""

    path: str
    communities: str = ""
    large: str = ""
    next_hop: str = ""


@dataclass
class Lab:
    """The node with its sessions up. `apply` changes its filters, `sees` waits for what the far router is told."""

    node: Router
    source: Router
    far: Router
    inside: Router
    driver: GobgpDriver
    wanted: BgpIntent = field(default_factory=lambda: BgpIntent(None))

    def neighbors(self) -> dict[bytes, Neighbor]:
        found: dict[bytes, Neighbor] = {}
        for router, asn in ((self.source, SOURCE_ASN), (self.far, FAR_ASN), (self.inside, ASN)):
            plain = session(self.node, router, asn)
            found[router.address] = plain
            if router is not self.inside:
                found[router.address6] = replace(plain, address=router.address6, source=self.node.address6)
        return found

    def intent(self, policy: Policy) -> BgpIntent:
        given = {one.advertisement.prefix: one.advertisement for one in self.own()}
        return BgpIntent(self.node.speaker(), self.neighbors(), given, policy)

    def own(self) -> tuple[OwnPath, ...]:
        pref = TOP - 1024
        block, borrowed = (Advertisement(parse_prefix(text), local_pref=pref) for text in (BLOCK, BORROWED))
        return OwnPath(block, 1024), OwnPath(borrowed, 1024, "cali123")

    async def apply(self, direction: str, *rules: dict[str, object]) -> list[str]:
        self.wanted = self.intent(self.policy(direction, *rules))
        return await make_so(self.driver, self.wanted)

    def policy(self, direction: str, *rules: dict[str, object]) -> Policy:
        """`direction` as in a BGPFilter: importV4 from the source and inside, exportV4 to the far router, ..."""
        found = read_filter(direction, *rules)
        links = {"eth0": (parse_prefix("10.99.0.0/24"), parse_prefix("fd99::/64"))}
        around = Surroundings(self.own(), links, tuple(self.neighbors()))
        if direction.startswith("import"):
            outside = Audience((self.source.address, self.source.address6), True, ASN)
            inside = Audience((self.inside.address,), False, ASN)
            statements = [
                one for some in (outside, inside) for one in derive_statements([found], some, around, Direction.IMPORT)
            ]
            return Policy(imports=tuple(statements))
        audience = Audience((self.far.address, self.far.address6), True, ASN)
        return Policy(exports=tuple(derive_statements([found], audience, around, Direction.EXPORT)))

    async def sees(self, *prefixes: str) -> dict[str, Seen]:
        """Waits until the far router has exactly these."""

        async def probe() -> bool:
            assert set(self.told()) == set(prefixes)
            return True

        await eventually_async(probe, within_s=20)
        due = derive_told(self.wanted)[self.far.address]
        assert {str(one) for one in due} == set(prefixes) & set(OURS), "what we say that it should be told"
        return self.told()

    def told(self) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        shown = self.far.birdc("show", "route", "all")
        for prefix, body in re.findall(r"^(\S+/\d+)\s+unicast(.*?)(?=^\S+/\d+\s|\Z)", shown, re.S | re.M):
            values = dict(re.findall(r"BGP\.(\w+): (.*)", body))
            words = ("as_path", "community", "large_community", "next_hop")
            found[prefix] = Seen(*(values.get(word, "") for word in words))
        return found


def read_filter(direction: str, *rules: dict[str, object]) -> BgpFilter:
    body = {"metadata": {"name": "f"}, "spec": {direction: list(rules)}}
    return read_bgp_filter(msgspec.convert(body, BgpFilterDoc))


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def lab_routers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Router]]:
    switch, routers = build_link(tmp_path_factory.mktemp("filters"), 4)
    try:
        node, source, far, inside = routers
        node.generation = request.param
        for router, config in ((source, SOURCE), (far, FAR), (inside, INSIDE)):
            router.start_bird(config)
        node.start_gobgpd()
        yield routers
    finally:
        remove_link(switch, routers)


@pytest.fixture
async def lab(lab_routers: list[Router]) -> AsyncIterator[Lab]:
    """Sessions up, no filters, everything told."""
    node, source, far, inside = lab_routers
    async with node.driver() as driver:
        lab = Lab(node, source, far, inside, driver)
        lab.wanted = lab.intent(Policy())
        await make_so(driver, lab.wanted)
        await established(driver)
        await lab.sees(*THEIRS, *OURS)
        yield lab


REJECT: dict[str, object] = {"action": "Reject"}


def inside_of(cidr: str, operator: str = "In", **lengths: int) -> dict[str, object]:
    given: dict[str, object] = {"cidr": cidr, "matchOperator": operator}
    return {**given, "prefixLength": lengths} if lengths else given


HELD_BACK: tuple[tuple[str, dict[str, object], set[str]], ...] = (
    ("importV4", inside_of(PLAIN, min=25), {HALF}),
    ("importV4", inside_of(PLAIN, "NotEqual"), {HALF, LARGE, LONG, PREFERRED}),
    ("importV4", inside_of(PLAIN, "NotIn"), {LARGE, LONG, PREFERRED}),
    ("importV4", inside_of("0.0.0.0/0", max=24), {PLAIN, LARGE, LONG, PREFERRED}),
    ("importV4", {"communities": {"values": ["65000:100"]}}, {HALF}),
    ("importV4", {"communities": {"values": ["65000:1:2"]}}, {LARGE}),
    ("importV4", {"asPathPrefix": [65000, 65001]}, {LONG}),
    ("importV4", {"asPathPrefix": [6500]}, set()),
    ("importV4", {"peerType": "iBGP"}, {PREFERRED}),
    ("importV4", {"interface": "eth*"}, {PLAIN, HALF, LARGE, LONG, PREFERRED}),
    ("importV4", {"interface": "bond*"}, set()),
    ("importV6", inside_of(SIX, min=33), {SIX_INNER}),
    ("importV6", inside_of("2001:db8:1::/48", "NotIn"), {SIX}),
    ("importV6", {"interface": "eth0"}, {SIX, SIX_INNER}),
    ("exportV4", {"source": "RemotePeers"}, {PLAIN, HALF, LARGE, LONG, PREFERRED}),
    ("exportV4", {"interface": "cali*"}, {BORROWED}),
    ("exportV4", {"interface": "eth0"}, {PLAIN, HALF, LARGE, LONG, PREFERRED}),
    ("exportV4", {"asPathPrefix": [65000, 65001]}, {LONG}),
    ("exportV4", {"communities": {"values": ["65000:100"]}}, {HALF}),
    ("exportV4", {"peerType": "iBGP"}, set()),
    ("exportV6", inside_of(SIX, "Equal"), {SIX}),
)


@pytest.mark.parametrize("direction", ["import", "export"])
async def test_what_a_rejecting_rule_holds_back(lab: Lab, direction: str) -> None:
    """Each filter in the place of the one before: tightened and loosened, on version 4 without a session's end.

    On version 3 a tighter export ends the session, which takes seconds: a few of those do.
    """
    few = lab.node.generation == 3 and direction == "export"
    for where, rule, lost in HELD_BACK[-3:] if few else HELD_BACK:
        if where.startswith(direction):
            done = await lab.apply(where, REJECT | rule)
            await lab.sees(*((THEIRS | OURS) - lost))
            assert lab.node.generation == 3 or not any(" add " in one or " del " in one for one in done), done


async def test_the_first_rule_that_matches_decides(lab: Lab) -> None:
    await lab.apply("importV4", {"action": "Accept", **inside_of(HALF)}, REJECT)
    await lab.sees(HALF, SIX, SIX_INNER, *OURS)


@pytest.mark.parametrize(
    ("direction", "rule", "lost"),
    [
        ("importV4", {"priority": 512}, {PREFERRED}),
        ("importV4", {"priority": 513}, set()),
        ("exportV4", {"priority": 512}, {PREFERRED}),
        ("exportV4", {"priority": 1024}, OURS),
    ],
)
async def test_a_priority_is_a_local_pref(lab: Lab, direction: str, rule: dict[str, object], lost: set[str]) -> None:
    if lab.node.generation == 3:
        intent = lab.intent(lab.policy(direction, REJECT | rule))
        concerned = {one for one, why in find_impossible(intent, 3).items() if why == NO_LOCAL_PREF}
        named = {one for some in (*intent.policy.imports, *intent.policy.exports) for one in some.match.neighbors or ()}
        assert concerned == {one for one in named if len(one) == 4}, "sessions over IPv6 carry IPv6 alone"
        return
    await lab.apply(direction, REJECT | rule)
    await lab.sees(*((THEIRS | OURS) - lost))


async def test_operations_change_what_is_accepted(lab: Lab) -> None:
    rule = inside_of(PLAIN, "Equal") | {
        "action": "Accept",
        "operations": [
            {"addCommunity": {"value": "65000:7"}},
            {"addCommunity": {"value": "65000:7:8"}},
            {"prependASPath": {"prefix": [65003, 65003, 65002]}},
            {"setPriority": {"value": 512}},
        ],
    }
    await lab.apply("importV4", rule)
    want = Seen("64512 65003 65003 65002 65000", "(65000,7)", "(65000, 7, 8)", lab.node.text)

    async def told() -> bool:
        assert lab.told()[PLAIN] == want
        return True

    await eventually_async(told, within_s=20)
    assert lab.told()[LARGE].path == "64512 65000"


@pytest.mark.parametrize(
    ("prefix", "path"), [([64512, 64512], "64512 64512 64512"), ([65002, 65003], "64512 65002 65003 64512")]
)
async def test_what_is_prepended_for_another_as_comes_after_ours(lab: Lab, prefix: list[int], path: str) -> None:
    """GoBGP has ours there before the filter: a foreign AS costs the path one more of ours than with BIRD."""
    rule = {"action": "Accept", "asPathPrefix": [65000], "operations": [{"prependASPath": {"prefix": prefix}}]}
    await lab.apply("exportV4", rule)

    async def told() -> bool:
        assert lab.told()[PLAIN].path == f"{path} 65000"
        return True

    await eventually_async(told, within_s=20)
    assert lab.told()[BLOCK].path == "64512"


async def test_a_next_hop_is_kept_or_made_ours(lab: Lab) -> None:
    """To another AS it is ours by default; what we originate has none to keep."""
    keep = Change(next_hop=NextHopRule.UNCHANGED)
    kept = [Statement(Match((lab.far.address,), origin=one), change=keep) for one in (RouteOrigin.EXTERNAL,)]
    assert {one.next_hop for prefix, one in lab.told().items() if ":" not in prefix} == {lab.node.text}
    lab.wanted = lab.intent(Policy(exports=tuple(kept)))
    await make_so(lab.driver, lab.wanted)

    async def told() -> bool:
        seen = lab.told()
        assert (seen[PLAIN].next_hop, seen[BLOCK].next_hop) == (lab.source.text, lab.node.text)
        return True

    await eventually_async(told, within_s=20)
