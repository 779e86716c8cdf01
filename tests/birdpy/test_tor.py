"""A top-of-rack router of another AS: FRR with MD5 and TTL security, BIRD over several hops."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from birdpy.addresses import parse_prefix
from birdpy.gobgp.plan import plan
from birdpy.intent import (
    ANY_AS,
    Advertisement,
    BgpIntent,
    Change,
    LinkBandwidth,
    Match,
    Neighbor,
    Policy,
    RouteOrigin,
    Statement,
)
from tests.birdpy.conftest import QUICK_BIRD, Router, established, make_so, session
from tests.support.process import Daemon
from tests.support.wait import eventually, eventually_async

BLOCK = parse_prefix("10.64.1.0/26")
VIP = parse_prefix("172.25.1.100")
TOR_ASN = 65000

FRR = """
router bgp 65000
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.99.0.1 remote-as 64512
 neighbor 10.99.0.1 password secret
 neighbor 10.99.0.1 ttl-security hops 1
 neighbor 10.99.0.1 timers connect 1
 address-family ipv4 unicast
  network 192.0.2.0/24
 exit-address-family
"""

BIRD = f"""
router id 10.99.0.2;
protocol device {{ }}
protocol direct {{ ipv4; }}
protocol static {{ ipv4; route 192.0.2.0/24 blackhole; }}
protocol bgp node1 {{
    local 10.99.0.2 as 65000;
    neighbor 10.99.0.1 as 64512; {QUICK_BIRD}
    multihop 3;
    password "secret";
    ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
"""


def start_frr(router: Router) -> None:
    config = router.directory / "frr.conf"
    config.write_text(FRR)
    argv = ["/usr/lib/frr/bgpd", "-S", "-Z", "-f", str(config), "-i", str(router.directory / "bgpd.pid")]
    argv += ["--vty_socket", str(router.directory), "-P", "0"]
    bgpd = Daemon(argv, router.directory / "bgpd.log", netns=router.namespace.name).start()
    router.others.append(bgpd)
    bgpd.wait_ready(lambda: (router.directory / "bgpd.vty").exists())


def frr_paths(router: Router) -> dict[str, list[dict[str, object]]]:
    shown = router.namespace.run("vtysh", "--vty_socket", router.directory, "-c", "show bgp ipv4 unicast json")
    routes: dict[str, list[dict[str, object]]] = json.loads(shown)["routes"]
    return routes


async def peer_with_tor(router: Router, intent: BgpIntent) -> None:
    """Carries `intent` out, and waits for the session and the one route that the ToR has."""
    async with router.driver() as driver:
        await make_so(driver, intent)
        await established(driver)

        async def probe() -> bool:
            (found,) = (await driver.read_sessions()).values()
            return found.accepted == 1

        await eventually_async(probe)


@pytest.fixture
def vip_intent(routers: list[Router]) -> BgpIntent:
    a, b = routers[:2]
    tor = replace(session(a, b, TOR_ASN, password="secret"), source=None)
    bandwidth = LinkBandwidth(64512, 3 * 125_000_000.0)
    vip = Advertisement(VIP, communities=(TOR_ASN << 16 | 100,), link_bandwidth=bandwidth)
    given = {BLOCK: Advertisement(BLOCK), VIP: vip}
    return BgpIntent(a.speaker(), {b.address: tor}, given)


def with_neighbor(intent: BgpIntent, **settings: object) -> BgpIntent:
    neighbors: dict[bytes, Neighbor] = {
        address: replace(neighbor, **settings)  # type: ignore[arg-type]
        for address, neighbor in intent.neighbors.items()
    }
    return replace(intent, neighbors=neighbors)


async def test_frr_as_top_of_rack(routers: list[Router], vip_intent: BgpIntent) -> None:
    a, b = routers[:2]
    start_frr(b)
    a.start_gobgpd()
    await peer_with_tor(a, with_neighbor(vip_intent, ttl_security_hops=1))
    paths = eventually(lambda: (found := frr_paths(b)).keys() >= {str(BLOCK), str(VIP)} and found)
    (vip,) = paths[str(VIP)]
    assert (vip["path"], vip["nexthops"][0]["ip"]) == ("64512", a.text)  # type: ignore[index]
    shown = b.namespace.run("vtysh", "--vty_socket", b.directory, "-c", f"show bgp ipv4 unicast {VIP} json")
    assert json.loads(shown)["paths"][0]["extendedCommunity"]["string"] == "LB:64512:375000000 (3.000 Gbps)"


async def test_bird_as_top_of_rack_over_several_hops(routers: list[Router], vip_intent: BgpIntent) -> None:
    a, b = routers[:2]
    b.start_bird(BIRD)
    a.start_gobgpd()
    await peer_with_tor(a, with_neighbor(vip_intent, multihop_ttl=3))
    shown = eventually(
        lambda: "64512" in (text := b.birdc("show", "route", "172.25.1.100/32", "all")) and text, within_s=10
    )
    assert "community: (65000,100)" in shown
    assert f"next_hop: {a.text}" in shown


BOTH = f"""
router id 10.99.0.2;
protocol device {{ }}
protocol bgp node1 {{
    local 10.99.0.2 as 65000;
    neighbor 10.99.0.1 as 64512; {QUICK_BIRD}
    ipv4 {{ import all; export none; }};
    ipv6 {{ import all; export none; }};
}}
"""


async def test_a_session_of_any_as_that_carries_both_families_gives_each_our_address(routers: list[Router]) -> None:
    a, b = routers[:2]
    b.start_bird(BOTH)
    a.start_gobgpd()
    tor = replace(session(a, b, ANY_AS), versions=(4, 6))
    six = parse_prefix("fd64:1::/122")
    crossing = Statement(Match((b.address,), version=6, origin=RouteOrigin.LOCAL), change=Change(next_hop=a.address6))
    given = {prefix: Advertisement(prefix) for prefix in (BLOCK, six)}
    intent = BgpIntent(a.speaker(), {b.address: tor}, given, Policy(exports=(crossing,)))
    async with a.driver() as driver:
        await make_so(driver, intent)
        await established(driver)
        assert [one.asn for one in (await driver.read_sessions()).values()] == [TOR_ASN]
        assert plan(intent, driver.actual, driver.client.wire.generation) == []
        shown = eventually(lambda: str(six) in (text := b.birdc("show", "route", "all")) and text, within_s=10)
    assert f"BGP.next_hop: {a.text}" in shown
    assert "BGP.next_hop: fd99::1" in shown
