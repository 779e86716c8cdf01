"""BGPFilters as statements for GoBGP, against what Calico's rules mean: any rules, any paths, both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdpy.addresses import Prefix, parse_address, parse_prefix, version_of
from birdpy.fib import LOCAL_PREF_TOP
from birdpy.intent import Advertisement, Direction, RouteOrigin, Statement, parse_community, parse_large_community
from birdpy.ranges import is_meant
from felixpy.addresses import parse_prefix as read_cidr
from felixpy.calc.bgp.filters import Audience, OwnPath, Surroundings, derive_statements
from felixpy.resources.bgp_documents import BgpFilterDoc
from felixpy.resources.bgp_filters import read_bgp_filter
from felixpy.resources.bgp_types import (
    AddCommunity,
    BgpFilter,
    FilterOperation,
    FilterRule,
    MatchOperator,
    PrependAsPath,
    SetPriority,
)
from felixpy.resources.scalars import FieldError

ASN = 64512
NEAR, FAR = parse_address("10.1.0.2"), parse_address("10.2.0.2")
NEAR6, FAR6 = parse_address("fd01::2"), parse_address("fd02::2")
LINKS = {
    "eth0": (parse_prefix("10.1.0.0/16"), parse_prefix("fd01::/64")),
    "eth1": (parse_prefix("10.2.0.0/16"), parse_prefix("fd02::/64")),
}
NEIGHBOR = parse_address("192.0.2.1")


@dataclass(frozen=True)
class Path:
    """A path as the filter meets it; `device` is where it leads to."""

    prefix: Prefix
    origin: RouteOrigin
    as_path: tuple[int, ...] = ()
    communities: frozenset[str] = frozenset()
    local_pref: int = 100
    next_hop: bytes = NEAR
    device: str = ""


def meant(rules: Iterable[FilterRule], path: Path, external: bool, exporting: bool) -> tuple[bool, Path] | None:
    """What Calico's rules say, as BIRD would read them."""
    for rule in rules:
        if not applies(rule, path, external, exporting):
            continue
        for one in rule.operations:
            match one:
                case AddCommunity(community):
                    path = replace(path, communities=path.communities | {community})
                case PrependAsPath(numbers):
                    path = replace(path, as_path=(*numbers, *path.as_path))
                case SetPriority(priority):
                    path = replace(path, local_pref=LOCAL_PREF_TOP - priority)
        return rule.accept, path
    return None


def applies(rule: FilterRule, path: Path, external: bool, exporting: bool) -> bool:
    if rule.cidr is not None and not prefix_applies(rule, path.prefix):
        return False
    if rule.external_peers not in (None, external):
        return False
    if exporting and rule.from_peers and path.origin is RouteOrigin.LOCAL:
        return False
    if rule.interface and not (path.device and fnmatchcase(path.device, rule.interface)):
        return False
    if rule.community and rule.community not in path.communities:
        return False
    if path.as_path[: len(rule.as_path_prefix)] != rule.as_path_prefix:
        return False
    return rule.priority is None or path.local_pref == LOCAL_PREF_TOP - rule.priority


def prefix_applies(rule: FilterRule, prefix: Prefix) -> bool:
    cidr = rule.cidr
    assert cidr is not None
    bits = len(cidr.address) * 8
    inside = (
        prefix.length >= cidr.length and bits_of(prefix.address)[: cidr.length] == bits_of(cidr.address)[: cidr.length]
    )
    if rule.operator in (MatchOperator.EQUAL, MatchOperator.NOT_EQUAL):
        inside = inside and prefix.length == cidr.length
    longest = bits if rule.longest is None else rule.longest
    inside = inside and (rule.shortest or 0) <= prefix.length <= longest
    return inside is not (rule.operator in (MatchOperator.NOT_EQUAL, MatchOperator.NOT_IN))


def bits_of(address: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in address)


def judged(statements: Iterable[Statement], path: Path) -> tuple[bool, Path] | None:
    """What GoBGP makes of the statements."""
    for one in statements:
        if not holds(one, path):
            continue
        change = one.change
        if change.prepend is not None:
            asn, repeat = change.prepend
            path = replace(path, as_path=(*(asn for _ in range(repeat)), *path.as_path))
        added = {f"{c >> 16}:{c & 0xFFFF}" for c in change.add_communities}
        added |= {":".join(map(str, c)) for c in change.add_large_communities}
        removed = {f"{c >> 16}:{c & 0xFFFF}" for c in change.remove_communities}
        path = replace(path, communities=(path.communities | added) - removed)
        if change.local_pref is not None:
            path = replace(path, local_pref=change.local_pref)
        if one.accept is not None:
            return one.accept, path
    return None


def holds(statement: Statement, path: Path) -> bool:
    match = statement.match
    plain = {parse_community(word) for word in path.communities if word.count(":") == 1}
    large = {parse_large_community(word) for word in path.communities if word.count(":") == 2}
    text = " ".join(map(str, path.as_path))
    conditions = [
        match.version in (None, version_of(path.prefix.address)),
        match.origin in (None, path.origin),
        match.prefixes is None
        or any(is_meant(path.prefix, one) for one in match.prefixes) is not match.prefixes_negated,
        match.communities is None or bool(plain & set(match.communities)),
        match.large_communities is None or bool(large & set(match.large_communities)),
        match.as_path is None or any(re.search(one.replace("_", r"(^|[,{}() ]|$)"), text) for one in match.as_path),
        match.next_hops is None or path.next_hop in match.next_hops,
        match.local_pref in (None, path.local_pref),
    ]
    return all(conditions)


COMMUNITIES = st.sampled_from(["65000:1", "65000:1:1"])
MARKS = st.sampled_from(["65535:65025", "65000:1"])
NUMBERS = st.sampled_from([ASN, 65001])
PRIORITIES = st.sampled_from([512, 1024])
CIDRS = {
    4: ["10.0.0.0/8", "10.64.0.0/16", "10.64.1.0/24", "0.0.0.0/0", "10.64.1.1/32"],
    6: ["fd00::/8", "fd64::/16", "::/0", "fd64:1::/32", "fd64:1::1/128"],
}
OPERATIONS: st.SearchStrategy[FilterOperation] = st.one_of(
    st.builds(AddCommunity, COMMUNITIES),
    st.builds(PrependAsPath, st.lists(NUMBERS, min_size=1, max_size=3).map(tuple)),
    st.builds(SetPriority, PRIORITIES),
)


CONDITIONS = ("cidr", "source", "interface", "peers", "community", "path", "priority")


@st.composite
def rules(draw: st.DrawFn, version: int) -> FilterRule:
    """A rule with few conditions, so that paths often meet them."""
    accept = draw(st.booleans())
    asked = draw(st.sets(st.sampled_from(CONDITIONS), max_size=3))
    lengths = st.none() | st.sampled_from([0, 8, 16, 24, 32])
    return FilterRule(
        accept=accept,
        cidr=draw(st.sampled_from(CIDRS[version]).map(read_cidr)) if "cidr" in asked else None,
        operator=draw(st.sampled_from(MatchOperator)),
        shortest=draw(lengths) if "cidr" in asked else None,
        longest=draw(lengths) if "cidr" in asked else None,
        from_peers="source" in asked,
        interface=draw(st.sampled_from(["eth0", "eth*", "cali*"])) if "interface" in asked else "",
        external_peers=draw(st.booleans()) if "peers" in asked else None,
        community=draw(COMMUNITIES) if "community" in asked else "",
        as_path_prefix=draw(st.lists(NUMBERS, min_size=1, max_size=2).map(tuple)) if "path" in asked else (),
        priority=draw(PRIORITIES) if "priority" in asked else None,
        operations=tuple(draw(st.lists(OPERATIONS, max_size=3))) if accept else (),
    )


@st.composite
def paths(draw: st.DrawFn, version: int, exporting: bool) -> Path:
    prefix = parse_prefix(draw(st.sampled_from(CIDRS[version])))
    origins = list(RouteOrigin) if exporting else [RouteOrigin.INTERNAL, RouteOrigin.EXTERNAL]
    origin = draw(st.sampled_from(origins))
    priority = draw(PRIORITIES)
    communities = frozenset(draw(st.sets(COMMUNITIES, max_size=2)))
    if origin is RouteOrigin.LOCAL:
        device = draw(st.sampled_from(["", "cali1"]))
        return Path(prefix, origin, (), communities, LOCAL_PREF_TOP - priority, bytes(4), device)
    number = draw(st.sampled_from([0, 1]))
    hop = ((NEAR, FAR) if version == 4 else (NEAR6, FAR6))[number]
    return Path(
        prefix,
        origin,
        tuple(draw(st.lists(NUMBERS, max_size=3))),
        communities,
        LOCAL_PREF_TOP - priority,
        hop,
        f"eth{number}",
    )


@settings(max_examples=400)
@given(st.data())
def test_statements_do_what_the_rules_mean(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([4, 6]))
    exporting, external = data.draw(st.booleans()), data.draw(st.booleans())
    chain = [data.draw(st.lists(rules(version), max_size=3).map(tuple)) for _ in range(data.draw(st.integers(1, 2)))]
    path = data.draw(paths(version, exporting))
    field = ("export" if exporting else "import") + str(version)
    own = ()
    if path.origin is RouteOrigin.LOCAL:
        own = (OwnPath(Advertisement(path.prefix), LOCAL_PREF_TOP - path.local_pref, path.device),)
    around = Surroundings(own, LINKS, (NEAR, FAR, NEAR6, FAR6))
    direction = Direction.EXPORT if exporting else Direction.IMPORT
    audience = Audience((NEIGHBOR,), external, ASN)
    statements = list(derive_statements([BgpFilter(**{field: some}) for some in chain], audience, around, direction))
    before = (ASN,) if exporting and external else ()
    want = meant([rule for some in chain for rule in some], path, external, exporting)
    found = judged(statements, replace(path, as_path=(*before, *path.as_path)))
    assert (found and found[0]) == (want and want[0])
    if want is not None and want[0]:
        assert found is not None
        added = want[1].as_path[: len(want[1].as_path) - len(path.as_path)]
        foreign = bool(added and before and added[0] != ASN)
        rest = (*added, *before, *path.as_path) if not foreign else (ASN, *added, *before, *path.as_path)
        assert found[1].as_path == (rest if added else (*before, *path.as_path))
        assert (found[1].communities, found[1].local_pref) == (want[1].communities, want[1].local_pref)


def test_every_statement_names_its_neighbours_and_is_of_one_family() -> None:
    rule = FilterRule(False)
    one = BgpFilter(import4=(rule,), import6=(rule,))
    found = list(derive_statements([one], Audience((NEIGHBOR,), True, ASN), Surroundings(), Direction.IMPORT))
    assert [(s.match.neighbors, s.match.version) for s in found] == [((NEIGHBOR,), 4), ((NEIGHBOR,), 6)]


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"action": "Allow"}, "action"),
        ({"action": "Accept", "cidr": "10.0.0.0/8"}, "cidr"),
        ({"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"}, "cidr"),
        ({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Around"}, "matchOperator"),
        ({"action": "Accept", "prefixLength": {"min": 8}}, "prefixLength"),
        (
            {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}},
            "prefixLength.max",
        ),
        ({"action": "Accept", "source": "Elsewhere"}, "source"),
        ({"action": "Accept", "interface": "eth0; accept"}, "interface"),
        ({"action": "Accept", "peerType": "ebgp"}, "peerType"),
        ({"action": "Accept", "communities": {"values": ["1:2", "1:3"]}}, "communities.values"),
        ({"action": "Accept", "communities": {"values": ["70000:2"]}}, "communities.values[0]"),
        ({"action": "Accept", "asPathPrefix": ["x"]}, "asPathPrefix[0]"),
        ({"action": "Accept", "priority": 0}, "priority"),
        ({"action": "Reject", "operations": [{"addCommunity": {"value": "1:2"}}]}, "operations"),
        ({"action": "Accept", "operations": [{}]}, "operations[0]"),
        ({"action": "Accept", "operations": [{"prependASPath": {"prefix": []}}]}, "operations[0].prependASPath.prefix"),
        ({"action": "Accept", "operations": [{"setPriority": {"value": 1 << 31}}]}, "operations[0].setPriority.value"),
    ],
)
def test_one_wrong_rule_makes_the_filter_missing(rule: dict[str, object], place: str) -> None:
    body = {"metadata": {"name": "f"}, "spec": {"exportV4": [rule]}}
    with pytest.raises(FieldError) as caught:
        read_bgp_filter(msgspec.convert(body, BgpFilterDoc))
    assert caught.value.field == f"spec.exportV4[0].{place}"


def test_a_condition_that_is_not_known_makes_the_filter_missing() -> None:
    body = {"metadata": {"name": "f"}, "spec": {"exportV4": [{"action": "Accept", "weather": "fine"}]}}
    with pytest.raises(msgspec.ValidationError, match="weather"):
        msgspec.convert(body, BgpFilterDoc)
