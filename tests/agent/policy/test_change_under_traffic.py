"""Change under traffic: no packet that the old and the new policy allow is lost, and none that both deny passes.

Every packet is a connection of its own. Each change leaves pod a able to reach b at one port, and unable at another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.agent.conftest import Scene
from tests.agent.node import Json, Pod, resource
from tests.support.new_flows import NewFlows
from tests.support.wait import eventually

ALLOWED, DENIED = 7801, 7802
RED = {"team": "red"}
ROUNDS = {"nftables": 12, "iptables-legacy": 3, "iptables-nft": 3}


def allow(selector: str = "team == 'red'", ports: object = ALLOWED) -> Json:
    return {"action": "Allow", "protocol": "UDP", "source": {"selector": selector}, "destination": {"ports": [ports]}}


def beside(*nets: str, ports: Sequence[object] = (ALLOWED,)) -> Json:
    return {**allow(), "source": {"nets": [*nets]}, "destination": {"ports": [*ports]}}


def deny() -> Json:
    return {"action": "Deny", "protocol": "UDP", "destination": {"ports": [DENIED]}}


def changes(scene: Scene, c: Pod) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is done, and how; in the end all is as it was."""
    node, b = scene.node, scene.b

    def policy(*rules: Json, name: str = "traffic", **spec: object) -> Callable[[], None]:
        return lambda: node.policy(name, "name == 'b'", ingress=[*rules], **spec)

    def tier(order: int, action: str) -> Callable[[], None]:
        return lambda: node.put("tiers", resource("Tier", "first", {"order": order, "defaultAction": action}))

    def networks(*nets: str) -> Callable[[], None]:
        return lambda: node.put("globalnetworksets", resource("GlobalNetworkSet", "n", {"nets": [*nets]}, RED))

    yield "other rules of the policy", policy(deny(), allow("team in {'red', 'blue'}", f"7000:{ALLOWED}"))
    yield "a rule with another set", policy(allow("has(team)"), deny())
    yield "networks in a rule", policy(beside("10.65.0.0/24", "172.16.0.0/12"), deny())
    yield (
        "others, and ranges of ports",
        policy(beside("10.64.0.0/10", "192.168.0.0/16", ports=["1:9", f"7000:{ALLOWED}"])),
    )
    yield "back", policy(allow())
    yield "a member more", lambda: c.write(RED)
    yield "a member less", lambda: c.write({"team": "blue"})
    yield "prefixes in the set", networks("10.66.0.0/16", "10.66.1.0/24", "10.65.0.0/30")
    yield "other prefixes that overlap", networks("10.66.0.0/17", "10.66.0.0/16", "10.65.0.2/32")
    yield "no prefixes", lambda: node.drop("globalnetworksets", "n")
    yield "a tier", tier(10, "Pass")
    through = {"tier": "first", "selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Pass"}]}
    yield (
        "with a policy",
        lambda: node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "first.t", through)),
    )
    yield "that denies at its end", tier(10, "Deny")
    yield "and goes last", tier(2_000_000, "Deny")
    yield "and first again", tier(5, "Deny")
    yield "its policy goes", lambda: node.drop("globalnetworkpolicies", "first.t")
    yield "the tier goes", lambda: node.drop("tiers", "first")
    yield "a second policy", policy(deny(), allow("all()", ALLOWED), name="more", order=1)
    yield (
        "one that selects nobody",
        lambda: node.policy("servers", "kind == 'server'", ingress=[allow("all()")], order=0),
    )
    yield "an endpoint that it selects", lambda: b.write({"kind": "server"})
    yield "of other profiles", lambda: b.write(profiles=())
    yield "the second policy goes", lambda: node.drop("globalnetworkpolicies", "default.more")
    yield "as it was", lambda: b.write()
    yield "nobody's policy goes", lambda: node.drop("globalnetworkpolicies", "default.servers")


UNSEEN = ("a tier", "the tier goes", "one that selects nobody", "nobody's policy goes")
"""Changes that concern no endpoint, so that the kernel hears of none."""


def batches(scene: Scene) -> int:
    """How often the agent has changed the kernel."""
    return scene.node.agent.log.read_text().count(" ops in ")


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FELIXPY_BACKEND", request.param)
    return str(request.param)


@pytest.mark.parametrize("backend", ROUNDS, indirect=True)
def test_nothing_is_lost_and_nothing_leaks(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    c = node.pod("c", "10.65.0.4")
    node.policy("traffic", "name == 'b'", ingress=[allow()])
    a.write(RED)
    c.write({"team": "blue"})
    eventually(lambda: not a.reaches(b), what="only one port of UDP is open")
    with NewFlows(a.namespace, b.namespace, b.addresses[0], ALLOWED, DENIED) as flows:
        for what, change in [one for _ in range(ROUNDS[backend]) for one in changes(scene, c)]:
            before = batches(scene)
            change()
            if what not in UNSEEN:
                eventually(lambda before=before: batches(scene) > before, what=what)
        passed = flows.stop()
    assert passed.sent > 300
    assert (passed.lost, passed.leaked) == ((), ())
