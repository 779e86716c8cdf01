"""Changes under use: what moves, that nothing else does, and that `felixctl diff` says so before."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import pytest

from felixpy.addresses import format_address
from felixpy.controllers.allocation import WATCHED
from felixpy.ctl.applying.moves import derive_moves
from felixpy.datastore.client import EtcdStore
from felixpy.datastore.memory import MemoryStore
from tests.controllers.world import POOLS, SERVICES, Cluster, run_once, take_leadership
from tests.datastore.world import opened
from tests.support.etcd import Etcd

Json = Mapping[str, object]
USED = {"default": {"addresses": ["203.0.113.0/30"]}}
TWO = {"a/1": {}, "a/2": {}}


def pool(*addresses: str, **spec: object) -> Json:
    return {"addresses": list(addresses), **spec}


def shared(port: int, key: str = "k") -> Json:
    return {"annotations": {"metallb.io/allow-shared-ip": key}, "ports": [{"port": port}]}


def local(port: int, app: str) -> Json:
    """Shares, and keeps its traffic local."""
    return {**shared(port), "externalTrafficPolicy": "Local", "selector": {"app": app}}


@dataclass(frozen=True)
class Scenario:
    """Pools and Services at first, what then becomes of them (None: it goes), and who moves where."""

    change: Mapping[str, Json | None]
    moves: Mapping[str, str]
    pools: Mapping[str, Json] = field(default_factory=lambda: USED)
    services: Mapping[str, Json] = field(default_factory=lambda: TWO)


SCENARIOS = {
    "a pool is renamed": Scenario({"pool default": None, "pool other": USED["default"]}, {}),
    "a pool is split": Scenario({"pool default": pool("203.0.113.0/31"), "pool other": pool("203.0.113.2/31")}, {}),
    "a pool is split through its holders": Scenario(
        {"pool default": pool("203.0.113.0/32"), "pool other": pool("203.0.113.1/32")}, {}
    ),
    "a pool grows": Scenario({"pool default": pool("203.0.113.0/24")}, {}),
    "a pool shrinks under use": Scenario(
        {"pool default": pool("203.0.113.1-203.0.113.3")}, {"a/1": "203.0.113.0 → 203.0.113.2"}
    ),
    "a pool shrinks to nothing free": Scenario({"pool default": pool("203.0.113.1/32")}, {}),
    "a pool goes": Scenario({"pool default": None}, {}),
    "a pool moves away": Scenario(
        {"pool default": pool("198.51.100.0/30")},
        {"a/1": "203.0.113.0 → 198.51.100.0", "a/2": "203.0.113.1 → 198.51.100.1"},
    ),
    "buggy addresses are avoided from now on": Scenario(
        {"pool default": pool("203.0.113.0/30", avoidBuggyIPs=True)}, {"a/1": "203.0.113.0 → 203.0.113.2"}
    ),
    "a pool is no longer automatic": Scenario({"pool default": pool("203.0.113.0/30", autoAssign=False)}, {}),
    "a pool is for other namespaces, and there is another": Scenario(
        {
            "pool default": pool("203.0.113.0/30", serviceAllocation={"namespaces": ["b"]}),
            "pool other": pool("198.51.100.0/30"),
        },
        {"a/1": "203.0.113.0 → 198.51.100.0", "a/2": "203.0.113.1 → 198.51.100.1"},
    ),
    "a service asks for another address": Scenario(
        {"service a/2": {"loadBalancerIP": "203.0.113.3"}}, {"a/2": "203.0.113.1 → 203.0.113.3"}
    ),
    "a service asks for what is taken": Scenario({"service a/2": {"loadBalancerIP": "203.0.113.0"}}, {}),
    "services begin to share": Scenario({"service a/1": shared(80), "service a/2": shared(443)}, {}),
    "a sharer takes another key": Scenario(
        {"service a/2": shared(443, "other")},
        {"a/2": "203.0.113.0 → 203.0.113.1"},
        services={"a/1": shared(80), "a/2": shared(443)},
    ),
    "a sharer takes another key, and nothing else is free": Scenario(
        {"service a/1": shared(80, "other")},
        {"a/1": "203.0.113.0 → none (default: the pool has no free address)"},
        pools={"default": pool("203.0.113.0/32")},
        services={"a/1": shared(80), "a/2": shared(443)},
    ),
    "a sharer takes a port that is used": Scenario(
        {"service a/2": shared(80)},
        {"a/2": "203.0.113.0 → 203.0.113.1"},
        services={"a/1": shared(80), "a/2": shared(443)},
    ),
    "a pool gains a family": Scenario(
        {"pool default": pool("203.0.113.0/30", "2001:db8::/126")},
        {"a/2": "203.0.113.1 → 203.0.113.1 2001:db8::"},
        services={"a/1": {}, "a/2": {"ipFamilyPolicy": "PreferDualStack"}},
    ),
    "a service wants both families": Scenario(
        {"service a/1": {"ipFamilyPolicy": "RequireDualStack"}},
        {"a/1": "203.0.113.0 → 203.0.113.0 2001:db8::"},
        pools={"default": pool("203.0.113.0/30", "2001:db8::/126")},
    ),
    "a pool loses a family that is required": Scenario(
        {"pool default": pool("203.0.113.0/30")},
        {},
        pools={"default": pool("203.0.113.0/30", "2001:db8::/126")},
        services={"a/1": {"ipFamilyPolicy": "RequireDualStack"}},
    ),
    "a service wants one family no more": Scenario(
        {"service a/1": {}},
        {"a/1": "203.0.113.0 2001:db8:: → 203.0.113.0"},
        pools={"default": pool("203.0.113.0/30", "2001:db8::/126")},
        services={"a/1": {"ipFamilyPolicy": "RequireDualStack"}},
    ),
    "a service takes another class": Scenario(
        {"service a/1": {"loadBalancerClass": "other"}}, {"a/1": "203.0.113.0 → none"}
    ),
    "a service takes our class": Scenario({"service a/1": {"loadBalancerClass": "felixpy"}}, {}),
    "a service leaves another class": Scenario(
        {"service a/1": {}},
        {"a/1": "none → 203.0.113.1"},
        services={"a/1": {"loadBalancerClass": "other"}, "a/2": {}},
    ),
    "another class is ours too": Scenario(
        {"classes felixpy,none,metallb.io/l2": {}},
        {"a/2": "none → 203.0.113.1"},
        services={"a/1": {}, "a/2": {"loadBalancerClass": "metallb.io/l2"}, "a/3": {"loadBalancerClass": "other"}},
    ),
    "services without a class are another's": Scenario(
        {"classes metallb": {}},
        {"a/1": "203.0.113.0 → none", "a/2": "none → 203.0.113.1"},
        services={"a/1": {}, "a/2": {"loadBalancerClass": "metallb"}},
    ),
    "a sharer keeps its traffic local": Scenario(
        {"service a/2": local(443, "x")},
        {"a/2": "203.0.113.0 → 203.0.113.1"},
        services={"a/1": shared(80), "a/2": shared(443)},
    ),
    "local sharers of the same pods go on": Scenario(
        {"service a/2": {**local(443, "x"), "internalTrafficPolicy": "Local"}},
        {},
        services={"a/1": local(80, "x"), "a/2": local(443, "x")},
    ),
    "local sharers of two namespaces have different pods": Scenario(
        {"service b/2": local(443, "x")},
        {"b/2": "none → 203.0.113.1"},
        services={"a/1": local(80, "x")},
    ),
    "a local sharer selects other pods": Scenario(
        {"service a/2": local(443, "y")},
        {"a/2": "203.0.113.0 → 203.0.113.1"},
        services={"a/1": local(80, "x"), "a/2": local(443, "x")},
    ),
    "a pool has no address that may be given": Scenario(
        {"pool default": pool("203.0.113.0/32", avoidBuggyIPs=True)}, {}, services={"a/1": {}}
    ),
    "a service goes": Scenario({"service a/1": None}, {"a/1": "203.0.113.0 → none"}),
    "one more service than addresses": Scenario(
        {"service a/3": {}, "service a/4": {}, "service a/5": {}},
        {
            "a/3": "none → 203.0.113.2",
            "a/4": "none → 203.0.113.3",
            "a/5": "none → none (default: the pool has no free address)",
        },
    ),
}


@pytest.fixture
async def store(etcd: Etcd) -> AsyncGenerator[EtcdStore, None]:
    """A real etcd, empty."""
    etcd.delete_prefix("/")
    async with opened(etcd.url) as store:
        yield store


async def held(cluster: Cluster) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for address, names in (await cluster.grants()).items():
        for name in names:
            found.setdefault(name, []).append(address)
    return {name: sorted(addresses, key=lambda one: (":" in one, one)) for name, addresses in found.items()}


async def configure_classes(cluster: Cluster, listed: str) -> str:
    """Says whose Services are ours; the key where that is said."""
    key = "/calico/resources/v3/projectcalico.org/kubecontrollersconfigurations/default"
    await cluster.put(key, {"metadata": {"annotations": {"felixpy.io/load-balancer-classes": listed}}})
    return key


async def write(cluster: Cluster, what: str, value: Json | None) -> str:
    """Makes one change; the key that it is of."""
    kind, _, name = what.partition(" ")
    if kind == "classes":
        return await configure_classes(cluster, name)
    key = (POOLS if kind == "pool" else SERVICES) + name
    if value is None:
        await cluster.delete(key)
    elif kind == "pool":
        await cluster.put(key, {"metadata": {"name": name}, "spec": value})
    else:
        annotations = dict(value.get("annotations", {}))  # type: ignore[call-overload]
        plain = {word.removeprefix("metallb.io/"): text for word, text in annotations.items()}
        spec = {word: one for word, one in value.items() if word != "annotations"}
        await cluster.put_service(name, annotations=plain, **spec)
    return key


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
async def test_only_what_must_moves_and_that_is_said_before(scenario: Scenario, store: EtcdStore) -> None:
    cluster = Cluster(store)
    await cluster.initialise()
    for name, spec in scenario.pools.items():
        await write(cluster, f"pool {name}", spec)
    for name, spec in scenario.services.items():
        await write(cluster, f"service {name}", spec)
    fence = await take_leadership(store)
    await run_once(store, fence)
    before, pairs = await held(cluster), (await store.snapshot(WATCHED)).items
    keys = [await write(cluster, what, value) for what, value in scenario.change.items()]
    changes = {key: pair.value if (pair := await store.get(key.encode())) else None for key in keys}
    told = derive_moves(pairs, changes)
    assert {str(one.service): str(one).partition(": ")[2] for one in told} == scenario.moves
    await run_once(store, fence)
    after = await held(cluster)
    moved = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert moved == {str(one.service) for one in told if one.before != one.after}
    assert all(after.get(str(one.service), []) == [format_address(it) for it in one.after] for one in told)


async def test_a_cluster_that_has_work_to_do_is_taken_to_have_done_it() -> None:
    store = MemoryStore()
    cluster = Cluster(store)
    await cluster.initialise()
    await cluster.put_pool("default", "203.0.113.0/30")
    await cluster.put_service("a/1")
    pairs = (await store.snapshot(WATCHED)).items
    body = {"metadata": {"name": "default"}, "spec": {"addresses": ["198.51.100.0/30"]}}
    (move,) = derive_moves(pairs, {POOLS + "default": json.dumps(body).encode()})
    assert str(move) == "Service a/1: 203.0.113.0 → 198.51.100.0"
