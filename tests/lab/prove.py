"""What a lab proves, with packets: each claim is checked from where it would be noticed.

In: a World; out: Checks. A proof says what it saw, or raises AssertionError; nothing here knows how the agent does it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab.say import Teller
from tests.lab.topology import Node
from tests.lab.world import SERVER_PORT, Pod, Service, World
from tests.support.netns import CommandFailed
from tests.support.packets import FlowMeter, ask_tcp_often, ping_ok, tcp_ok
from tests.support.wait import eventually

_DENY_KEY = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.lab-deny"
_DENY = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "GlobalNetworkPolicy",
    "metadata": {
        "name": "default.lab-deny",
        "uid": "00000000-0000-4000-8000-000000000001",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "tier": "default",
        "order": 10,
        "selector": "app == 'web'",
        "types": ["Ingress"],
        "ingress": [{"action": "Deny", "source": {"selector": "app == 'shell'"}}, {"action": "Allow"}],
    },
}


@dataclass(frozen=True, slots=True)
class Check:
    """One claim and what was seen."""

    claim: str
    seen: str
    holds: bool


Proof = Callable[[World], str]


def prove(world: World, say: Teller) -> list[Check]:
    """Checks every claim, in order; one that fails does not stop the next."""
    checks = []
    for claim, proof in PROOFS:
        try:
            with say.step(claim):
                seen = proof(world)
            checks.append(Check(claim, seen, True))
        except (AssertionError, OSError, KeyError, ValueError) as error:
            say.note(str(error).splitlines()[0][:200])
            checks.append(Check(claim, str(error).splitlines()[0][:90], False))
    return checks


def show(checks: Sequence[Check], say: Teller) -> None:
    """The table of results."""
    say.heading("Results")
    say.table(("", "what", "seen"), [("✓" if c.holds else "✗", c.claim, c.seen) for c in checks])
    say.line(f"\n{sum(c.holds for c in checks)} of {len(checks)} hold")


def reachability(world: World, version: int = 4) -> dict[tuple[str, str], bool]:
    """Which pod gets an answer from which: by the two names."""
    return {
        (source.name, target.name): ping_ok(world.pod_namespace(source), address, wait_s=0.5)
        for source in world.pods
        for target in world.pods
        if source != target and (address := world.pod_address(target, version))
    }


def router_sessions(world: World) -> dict[str, str]:
    """BGP sessions as the routers see them: a router's name for each neighbour, and the session's state."""
    several = len(world.routers) > 1
    return {
        f"{router.name}:{neighbour}" if several else neighbour: state
        for router in world.routers
        for neighbour, state in (_of_bird if router.command[0] == "bird" else _of_frr)(world, router).items()
    }


def _of_bird(world: World, router: Node) -> dict[str, str]:
    text = world.lab.run(router, "birdc", "-s", "/run/bird/bird.ctl", "show", "protocols")
    rows = [line.split() for line in text.splitlines() if " BGP " in line]
    return {row[0]: row[-1] for row in rows}


def _of_frr(world: World, router: Node) -> dict[str, str]:
    try:
        text = world.lab.run(router, "vtysh", "--vty_socket", "/run/frr", "-c", "show bgp neighbors json")
    except CommandFailed:
        return {"bgpd": "does not answer"}
    return {name: one["bgpState"] for name, one in json.loads(text).items() if isinstance(one, dict)}


@contextmanager
def write_denial(world: World) -> Iterator[None]:
    """A policy that denies app=shell the way to app=web, written with etcdctl; deleted with it at the end."""
    world.etcdctl("put", _DENY_KEY, json.dumps(_DENY))
    try:
        yield
    finally:
        world.etcdctl("del", _DENY_KEY)


def _until(probe: Callable[[], bool], wanted: bool, within_s: float = 20.0) -> float:
    """When the attempt began that first was as wanted, in seconds of the monotonic clock.

    Raises  AssertionError when none was in time.
    """
    end = time.monotonic() + within_s
    while (begin := time.monotonic()) < end:
        if probe() == wanted:
            return begin
    raise AssertionError(f"still {'no ' if wanted else 'an '}answer after {within_s:.0f} s")


def _underlay(world: World) -> str:
    places = [*(world.lab.namespace(node.name) for node in world.nodes), world.client]
    targets = [dict(node.environment)["WAIT_FOR_ADDRESS"] for node in world.nodes]

    def silent() -> list[str]:
        return [f"{place.name}→{target}" for place in places for target in targets if not ping_ok(place, target)]

    try:
        eventually(lambda: not silent(), 20, 0.2)
    except AssertionError:
        raise AssertionError(f"no answer: {', '.join(silent())}") from None
    return f"{len(places) * len(targets)} pings, all answered"


def _sessions(world: World) -> str:
    def established() -> list[str] | None:
        sessions = router_sessions(world)
        return sorted(sessions) if set(sessions.values()) == {"Established"} else None

    try:
        names = eventually(established, 30, 0.2)
    except AssertionError:
        raise AssertionError(f"the routers see {_words(router_sessions(world))}") from None
    return f"{len(names)} of {len(names)} up: {', '.join(names)}"


def _pods(version: int) -> Proof:
    def proof(world: World) -> str:
        def all_reached() -> Mapping[tuple[str, str], bool] | None:
            matrix = reachability(world, version)
            return matrix if matrix and all(matrix.values()) else None

        try:
            return f"{len(eventually(all_reached, 20, 0.2))} ordered pairs, all answered"
        except AssertionError:
            lost = [f"{a}→{b}" for (a, b), ok in reachability(world, version).items() if not ok]
            raise AssertionError(f"no answer: {', '.join(lost) or 'no pod has an address'}") from None

    return proof


def _policy(world: World) -> str:
    source, target = _across(world)
    place, address = world.pod_namespace(source), world.pod_address(target)
    assert address is not None, f"{target.name} has no address"

    def answers() -> bool:
        return tcp_ok(place, address, SERVER_PORT, wait_s=0.1)

    eventually(answers, 10, what=f"{address} before the policy")
    begin = time.monotonic()
    with write_denial(world):
        denied_s = _until(answers, False) - begin
        begin = time.monotonic()
    allowed_s = _until(answers, True) - begin
    return f"denied {denied_s * 1000:.0f} ms, allowed {allowed_s * 1000:.0f} ms after etcdctl was started"


def _services(version: int) -> Proof:
    def proof(world: World) -> str:
        return "; ".join(_spread(world, one, version) for one in world.named_services if version in one.versions)

    return proof


def _spread(world: World, service: Service, version: int) -> str:
    what = f"an IPv{version} address for Service {service.name}"
    address = eventually(lambda: world.service_address(version, service.namespace, service.name), 20, 0.2, what)
    where = f"{address} port {service.port}"
    eventually(lambda: tcp_ok(world.client, address, service.port), 20, 0.1, f"{where} from the client")
    answers = Counter(said.split()[0] for said in ask_tcp_often(world.client, address, service.port, 40))
    wanted = {pod.name for pod in world.backends(service)}
    assert set(answers) == wanted, f"{where} answered by {_words(answers)}, wanted {_words(wanted)}"
    return f"{address}, 40 of 40 answered: {', '.join(f'{n} by {name}' for name, n in sorted(answers.items()))}"


def _client_to_pods(world: World) -> str:
    addresses = [address for pod in world.pods if (address := world.pod_address(pod))]
    eventually(lambda: all(ping_ok(world.client, address) for address in addresses), 10, 0.1, f"{_words(addresses)}")
    return f"{len(addresses)} of {len(addresses)} pods"


def _crash(world: World) -> str:
    source, target = _across(world)
    node, address = world.lab.topology.node(target.node), world.pod_address(target)
    assert address is not None, f"{target.name} has no address"
    with FlowMeter(world.pod_namespace(source), world.pod_namespace(target), address) as meter:
        world.lab.crash(node)
        world.lab.start(node)
        world.wait_ready(node)
        report = meter.stop()
    assert report.lost == 0, f"{report.lost} of {report.sent} packets lost, the first was {report.gaps[0].first}"
    return f"{report.sent} packets to {target.name} meanwhile, none lost"


def _across(world: World) -> tuple[Pod, Pod]:
    """A pod that is no server, and a server on another node."""
    source = next(pod for pod in world.pods if dict(pod.labels).get("app") == "shell")
    target = next(pod for pod in world.pods if dict(pod.labels).get("app") == "web" and pod.node != source.node)
    return source, target


def _words(things: Mapping[str, object] | set[str] | list[str]) -> str:
    items = [f"{key} {value}" for key, value in things.items()] if isinstance(things, Mapping) else sorted(things)
    return ", ".join(items) or "nothing"


PROOFS: tuple[tuple[str, Proof], ...] = (
    ("the nodes' own network works", _underlay),
    ("the routers have their BGP sessions", _sessions),
    ("pod to pod, on one node and across nodes, IPv4", _pods(4)),
    ("pod to pod, on one node and across nodes, IPv6", _pods(6)),
    ("client behind the router to every pod", _client_to_pods),
    ("a policy written by etcdctl put denies, its deletion allows", _policy),
    ("client to each Service's address, spread over its pods, IPv4", _services(4)),
    ("client to each Service's address, spread over its pods, IPv6", _services(6)),
    ("an agent killed and started again, under a steady flow", _crash),
)
