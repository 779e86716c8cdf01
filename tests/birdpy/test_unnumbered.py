"""A neighbour that is known by its link: found by advertisements, named with its device, and by policies without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from birdpy.addresses import parse_prefix
from birdpy.intent import ANY_AS, BgpIntent, GracefulRestart, Match, Neighbor, Policy, Statement
from birdpy.link_routers import LinkRouters
from tests.birdpy.conftest import Router, announcing, established, learned, make_so
from tests.support.frr import running_frr
from tests.support.wait import eventually, eventually_async

BLOCK, BLOCK6 = parse_prefix("10.64.1.0/26"), parse_prefix("fd64:1::/122")

FRR = """
router bgp 65000
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor eth0 interface remote-as external
 neighbor eth0 password open-sesame
 address-family ipv4 unicast
  network 192.0.2.0/24
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:2::/48
  neighbor eth0 activate
 exit-address-family
"""


@asynccontextmanager
async def router_on_link(router: Router) -> AsyncIterator[bytes]:
    """Who is heard on its eth0, which hears of it meanwhile."""
    heard = asyncio.Event()
    with router.namespace.entered():
        routers = LinkRouters(heard.set)
        routers.want(frozenset({"eth0"}))
    try:
        async with asyncio.timeout(80):
            await heard.wait()
        yield routers.routers["eth0"]
    finally:
        routers.want(frozenset())


async def test_a_neighbour_on_a_link_has_a_password_and_a_policy_of_its_own(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    a.start_gobgpd()
    with running_frr(b.namespace, FRR) as frr:
        async with router_on_link(a) as address, a.driver() as driver:
            tor = Neighbor(
                address,
                ANY_AS,
                password="open-sesame",
                versions=(4, 6),
                graceful_restart=GracefulRestart(enabled=False),
            )
            hidden = Policy(exports=(Statement(Match((address,), version=6), accept=False),))
            intent = BgpIntent(a.speaker(), {address: tor}, announcing(BLOCK, BLOCK6), hidden)
            await make_so(driver, intent)
            await established(driver)
            eventually(lambda: frr.told_by(64512) == {str(BLOCK)})
            assert await make_so(driver, intent) == [], "what is read back is what was asked for"
            done = await make_so(driver, replace(intent, policy=Policy()))
            assert not any("neighbor del" in one for one in done), "the session stays"
            eventually(lambda: frr.told_by(64512) == {str(BLOCK), str(BLOCK6)})

            async def next_hops() -> bool:
                routes = await learned(driver)
                found = {str(prefix): route.next_hops for prefix, route in routes.items()}
                assert found == {"192.0.2.0/24": (address,), "2001:db8:2::/48": (address,)}
                return True

            await eventually_async(next_hops)
