"""Which Service gets which address, and what is said when it gets none: on the Store in memory."""

from __future__ import annotations

import pytest

from felixpy.controllers.leader import LeadershipLost
from felixpy.controllers.loadbalancer import LEADER_KEY, settle_all
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect
from tests.controllers.world import (
    EVENTS,
    GRANTS,
    POOL_STATUS,
    POOLS,
    RESTING,
    SERVICES,
    STATUS,
    Cluster,
    observe_all,
    run_once,
    take_leadership,
)


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def fence(store: MemoryStore) -> Expect:
    return await take_leadership(store)


@pytest.fixture
async def cluster(store: MemoryStore) -> Cluster:
    made = Cluster(store)
    await made.initialise()
    await made.put_pool("default", "203.0.113.10-203.0.113.12")
    return made


async def test_a_service_gets_the_lowest_free_address_and_its_status(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    assert await cluster.read(GRANTS) == {
        "203.0.113.10": {"address": "203.0.113.10", "services": ["a/x"], "pool": "default"}
    }
    assert await cluster.read(STATUS) == {
        "a/x": {
            "loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]},
            "conditions": [{"type": "AddressGranted", "status": "True", "reason": "GRANTED", "message": ""}],
        }
    }


async def test_the_oldest_is_served_first_and_the_rest_is_told_why(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    for number, age in enumerate(("04", "02", "01", "03")):
        await cluster.put_service(f"a/{number}", created=f"2024-01-{age}T00:00:00Z")
    await run_once(store, fence)
    assert await cluster.addresses() == {
        "a/2": ["203.0.113.10"],
        "a/1": ["203.0.113.11"],
        "a/3": ["203.0.113.12"],
        "a/0": [],
    }
    assert await cluster.reason("a/0") == "FULL"


async def test_a_release_serves_who_waits(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    for number in range(4):
        await cluster.put_service(f"a/{number}")
    await run_once(store, fence)
    await cluster.delete_service("a/1")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/0": ["203.0.113.10"], "a/2": ["203.0.113.12"], "a/3": ["203.0.113.11"]}


async def test_a_release_serves_who_waits_at_once(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    for number in range(4):
        await cluster.put_service(f"a/{number}")
    running = await run_once(store, fence)
    await cluster.delete_service("a/1")
    running.observe((SERVICES + "a/1").encode(), None, store.revision)
    await settle_all(store, fence, running)
    assert (await cluster.addresses())["a/3"] == ["203.0.113.11"]
    assert not running.waiting


async def test_a_restart_moves_nobody_and_writes_nothing(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("z/late")
    await run_once(store, fence)
    await cluster.put_service("a/early")
    await run_once(store, fence)
    before, revision = await cluster.addresses(), store.revision
    await run_once(store, fence)
    assert before == {"z/late": ["203.0.113.10"], "a/early": ["203.0.113.11"]}
    assert store.revision == revision


@pytest.mark.parametrize(
    "spec", [{"type": "ClusterIP"}, {"loadBalancerClass": "other"}, {"loadBalancerClass": "calico"}]
)
async def test_a_service_that_is_not_ours_any_more_gives_back(
    store: MemoryStore, fence: Expect, cluster: Cluster, spec: dict[str, str]
) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    await cluster.put_service("a/x", **spec)
    await run_once(store, fence)
    assert (await cluster.grants(), await cluster.addresses()) == ({}, {})


async def test_our_own_class_is_served(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x", loadBalancerClass="felixpy")
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.10": ["a/x"]}


async def test_an_address_can_be_asked_for_and_changed(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x", loadBalancerIP="203.0.113.12")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/x": ["203.0.113.12"]}
    await cluster.put_service("a/x", loadBalancerIP="203.0.113.11")
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.11": ["a/x"]}


async def test_what_cannot_be_had_leaves_what_is_held(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    await cluster.put_service("a/x", loadBalancerIP="198.51.100.1")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/x": ["203.0.113.10"]}
    assert await cluster.reason("a/x") == "NOT_IN_POOL"


async def test_a_pool_can_be_asked_for(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_pool("gold", "198.51.100.0/30", autoAssign=False)
    await cluster.put_service("a/x", annotations={"address-pool": "gold"})
    await cluster.put_service("a/y", annotations={"address-pool": "silver"})
    await run_once(store, fence)
    assert await cluster.grants() == {"198.51.100.0": ["a/x"]}
    assert await cluster.reason("a/y") == "UNKNOWN_POOL"


async def test_annotations_of_the_old_prefix_are_heeded_and_the_new_one_counts_first(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_pool("kept", "198.51.100.0/30", autoAssign=False)
    old = "metallb.universe.tf/"
    await cluster.put_service("a/address", calico={f"{old}loadBalancerIPs": "203.0.113.12"})
    await cluster.put_service("a/pool", calico={f"{old}address-pool": "kept"})
    await cluster.put_service("a/both", annotations={"address-pool": "kept"}, calico={f"{old}address-pool": "default"})
    shared = {f"{old}allow-shared-ip": "k"}
    await cluster.put_service("a/one", calico=shared, ports=[{"port": 80}])
    await cluster.put_service("a/other", annotations={"allow-shared-ip": "k"}, ports=[{"port": 443}])
    await run_once(store, fence)
    assert await cluster.addresses() == {
        "a/address": ["203.0.113.12"],
        "a/pool": ["198.51.100.1"],
        "a/both": ["198.51.100.0"],
        "a/one": ["203.0.113.10"],
        "a/other": ["203.0.113.10"],
    }


async def test_services_share_an_address_under_one_key_on_different_ports(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    for name, port in (("a/x", 80), ("b/y", 443), ("c/z", 80)):
        await cluster.put_service(name, annotations={"allow-shared-ip": "k"}, ports=[{"port": port}])
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.10": ["a/x", "b/y"], "203.0.113.11": ["c/z"]}
    await cluster.delete_service("a/x")
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.10": ["b/y"], "203.0.113.11": ["c/z"]}


async def test_dual_stack_has_both_or_none(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x", ipFamilyPolicy="RequireDualStack")
    await run_once(store, fence)
    assert await cluster.reason("a/x") == "LACKS_FAMILY"
    await cluster.put_pool("default", "203.0.113.10-203.0.113.12", "2001:db8::10/124")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/x": ["203.0.113.10", "2001:db8::10"]}


async def test_a_pool_for_other_namespaces_serves_by_their_labels(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    allocation = {"namespaceSelectors": [{"matchLabels": {"team": "one"}}]}
    await cluster.put_pool("default", "203.0.113.10/32", serviceAllocation=allocation)
    await cluster.put_service("a/x")
    await run_once(store, fence)
    assert await cluster.reason("a/x") == "OTHER_NAMESPACE"
    await cluster.put("/felixpy/resources/core/v1/namespaces/a", {"metadata": {"name": "a", "labels": {"team": "one"}}})
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/x": ["203.0.113.10"]}


async def test_a_pool_that_goes_keeps_its_holders_where_there_is_no_other(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    await cluster.delete(POOLS + "default")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/x": ["203.0.113.10"]}
    assert await cluster.reason("a/x") == "NO_POOL"


async def test_who_keeps_what_no_pool_has_is_told_so(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_pool("default", "203.0.113.0/32")
    await cluster.put_service("a/1")
    await run_once(store, fence)
    await cluster.put_pool("default", "198.51.100.0/32", autoAssign=False)
    await run_once(store, fence)
    condition = (await cluster.read(STATUS))["a/1"]["conditions"][0]  # type: ignore[index]
    wanted = "keeps 203.0.113.0, which is of no pool any more; default: the pool is only for Services that ask for it"
    assert condition["message"] == wanted
    assert (await cluster.grants(), condition["reason"]) == ({"203.0.113.0": ["a/1"]}, "NOT_AUTOMATIC")


async def test_who_has_to_leave_with_nowhere_to_go_is_told_so(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_pool("default", "203.0.113.0/32")
    shared = {"allow-shared-ip": "k"}
    await cluster.put_service("a/1", annotations=shared)
    await cluster.put_service("a/2", annotations=shared, ports=[{"port": 443}])
    await run_once(store, fence)
    await cluster.put_service("a/2", annotations={}, ports=[{"port": 443}])
    await run_once(store, fence)
    told = [body for body in (await cluster.read(EVENTS)).values() if body["reason"] == "ClearAssignment"]
    assert [(body["involvedObject"]["name"], body["type"]) for body in told] == [("2", "Warning")]  # type: ignore[index]


async def test_of_pools_of_one_priority_the_first_by_name_gives(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    for name, address, priority in (("z", "203.0.113.1/32", 5), ("b", "203.0.113.2/32", 5), ("a", "203.0.113.3/32", 0)):
        await cluster.put_pool(name, address, serviceAllocation={"priority": priority})
    for number in range(3):
        await cluster.put_service(f"x/{number}")
    await run_once(store, fence)
    assert await cluster.addresses() == {"x/0": ["203.0.113.2"], "x/1": ["203.0.113.1"], "x/2": ["203.0.113.3"]}


async def test_a_pool_for_some_namespaces_and_some_services_wants_both(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    allocation = {"namespaces": ["a"], "serviceSelectors": [{"matchLabels": {"tier": "gold"}}]}
    await cluster.put_pool("default", "203.0.113.0/30", serviceAllocation=allocation)
    for name, tier in (("a/gold", "gold"), ("a/tin", "tin"), ("b/gold", "gold")):
        await cluster.put_service(name, labels={"tier": tier})
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/gold": ["203.0.113.0"], "a/tin": [], "b/gold": []}
    assert [await cluster.reason(name) for name in ("a/tin", "b/gold")] == ["OTHER_SERVICES", "OTHER_NAMESPACE"]


async def test_a_pool_of_no_address_and_an_endless_one(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_pool("default", "2001:db8::/64")
    await cluster.put_pool("none", "203.0.113.0/32", avoidBuggyIPs=True)
    await cluster.put_service("a/4")
    await cluster.put_service("a/6", ipFamilies=["IPv6"])
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/4": [], "a/6": ["2001:db8::"]}
    assert await cluster.reason("a/4") == "LACKS_FAMILY"
    said = await cluster.read(POOL_STATUS)
    assert (said["none"]["availableIPv4"], said["default"]["availableIPv6"]) == (0, 2**63 - 1)


async def test_what_cannot_be_read_moves_nobody(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x")
    await cluster.put_service("a/y")
    await run_once(store, fence)
    await cluster.put_pool("other", "198.51.100.0/24")
    await cluster.put(POOLS + "default", {"metadata": {"name": "default"}, "spec": {"addresses": ["nonsense"]}})
    await cluster.put(SERVICES + "a/y", b"{")
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.10": ["a/x"], "203.0.113.11": ["a/y"]}
    assert await cluster.reason("a/x") == "POOL_UNREADABLE"


async def test_a_service_that_cannot_be_read_is_told_why_and_keeps_what_it_has(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/has")
    await run_once(store, fence)
    for name in ("a/has", "a/new"):
        await cluster.put_service(name, annotations={"loadBalancerIPs": "203.0.113.300"})
    await cluster.put_service("a/other", annotations={"loadBalancerIPs": "x"}, loadBalancerClass="other")
    await cluster.put_service("a/inside", annotations={"loadBalancerIPs": "x"}, type="ClusterIP")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/has": ["203.0.113.10"], "a/new": []}
    assert {await cluster.reason(name) for name in ("a/has", "a/new")} == {"UNREADABLE"}
    told = {
        (one["involvedObject"]["name"], one["reason"]): one["message"] for one in (await cluster.read(EVENTS)).values()
    }
    assert "'203.0.113.300'" in told["new", "AllocationFailed"]
    await cluster.put_service("a/new")
    await run_once(store, fence)
    assert await cluster.reason("a/new") == "GRANTED"


async def test_a_grant_that_cannot_be_read_still_takes_its_address(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put(GRANTS + "203.0.113.10", b"?")
    await cluster.put_service("a/x")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/x": ["203.0.113.11"]}


async def test_a_grant_to_a_service_that_is_gone_is_collected(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put(GRANTS + "203.0.113.10", {"address": "203.0.113.10", "services": ["a/gone"], "pool": "default"})
    await run_once(store, fence)
    assert await cluster.grants() == {}


@pytest.mark.parametrize("ready", [False, None])
async def test_a_cluster_that_is_not_to_be_obeyed_is_left_alone(
    store: MemoryStore, fence: Expect, cluster: Cluster, ready: bool | None
) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    await cluster.delete_service("a/x")
    if ready is None:
        await cluster.delete(CLUSTER_INFORMATION_KEY.decode())
    else:
        await cluster.initialise(ready=ready)
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.10": ["a/x"]}


async def test_who_no_longer_leads_writes_nothing(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x")
    allocation = await observe_all(store)
    await store.put(LEADER_KEY, b"another")
    with pytest.raises(LeadershipLost):
        await settle_all(store, fence, allocation)
    assert await cluster.grants() == {}


async def test_a_service_deleted_meanwhile_gets_nothing(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x")
    allocation = await observe_all(store)
    await cluster.delete_service("a/x")
    await settle_all(store, fence, allocation)
    assert (await cluster.grants(), await cluster.addresses()) == ({}, {})


async def test_one_more_service_costs_a_transaction_and_its_pool_s_count_another(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_pool("default", "203.0.113.0/24")
    for number in range(50):
        await cluster.put_service(f"a/{number}")
    allocation = await run_once(store, fence)
    await cluster.put_service("b/new")
    pair = await store.get((SERVICES + "b/new").encode())
    assert pair is not None
    allocation.observe(pair.key, pair.value, pair.mod_revision)
    before = store.revision
    await settle_all(store, fence, allocation)
    assert store.revision == before + 2


async def test_an_address_given_back_rests_while_there_are_others(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/old")
    await run_once(store, fence)
    await cluster.delete_service("a/old")
    await run_once(store, fence)
    assert await cluster.read(RESTING) == {"203.0.113.10": {"service": "a/old"}}
    for name in ("a/1", "a/2", "a/3"):
        await cluster.put_service(name)
        await run_once(store, fence)
    assert (await cluster.addresses())["a/1"] == ["203.0.113.11"]
    assert (await cluster.addresses())["a/3"] == ["203.0.113.10"], "the last resort"
    assert await cluster.read(RESTING) == {}


async def test_a_service_that_comes_back_has_the_address_that_it_had(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/1")
    await cluster.put_service("a/2")
    await run_once(store, fence)
    for name in ("a/1", "a/2"):
        await cluster.delete_service(name)
    await run_once(store, fence)
    await cluster.put_service("a/2")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/2": ["203.0.113.11"]}


async def test_of_resting_addresses_the_longest_rested_goes_first(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    for number in range(3):
        await cluster.put_service(f"a/{number}")
    running = await run_once(store, fence)
    for number in (2, 0, 1):
        await cluster.delete_service(f"a/{number}")
        running.observe(f"{SERVICES}a/{number}".encode(), None, store.revision)
        await settle_all(store, fence, running)
    await cluster.put_service("b/next")
    for controller in (running, await observe_all(store)):
        pair = await store.get(f"{SERVICES}b/next".encode())
        assert pair is not None
        controller.observe(pair.key, pair.value, pair.mod_revision)
        batch = controller.next_batch("")
        assert batch is not None
        assert batch.steps[0].why == "b/next has 203.0.113.12", "restarted or not"
        controller.refuse(batch)


async def test_what_rests_is_put_under_a_lease(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    await cluster.delete_service("a/x")
    await run_once(store, fence)
    assert store.data[f"{RESTING}203.0.113.10".encode()].lease


async def test_what_another_controller_gave_stays_where_it_may(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_pool("closed", "198.51.100.0/30", autoAssign=False)
    await cluster.put_pool("default", "203.0.113.0/29", "2001:db8::/125")
    await cluster.put_service("a/older", created="2020-01-01T00:00:00Z")
    await cluster.put_service("a/has", created="2026-01-01T00:00:00Z", had=["203.0.113.0"])
    await cluster.put_service("a/later", created="2026-01-02T00:00:00Z", had=["203.0.113.0"])
    await cluster.put_service("a/of-closed", had=["198.51.100.2"])
    await cluster.put_service("a/of-none", created="2026-01-03T00:00:00Z", had=["192.0.2.1"])
    await cluster.put_service("a/asks", had=["203.0.113.3"], loadBalancerIP="203.0.113.4")
    await cluster.put_service("a/both", had=["203.0.113.6", "2001:db8::5"], ipFamilyPolicy="RequireDualStack")
    await run_once(store, fence)
    assert await cluster.addresses() == {
        "a/has": ["203.0.113.0"],
        "a/later": ["203.0.113.1"],
        "a/of-none": ["203.0.113.2"],
        "a/older": ["203.0.113.3"],
        "a/asks": ["203.0.113.4"],
        "a/both": ["203.0.113.6", "2001:db8::5"],
        "a/of-closed": ["198.51.100.2"],
    }
    await cluster.put_service("a/has", created="2026-01-01T00:00:00Z", had=["203.0.113.7"])
    await run_once(store, fence)
    assert (await cluster.addresses())["a/has"] == ["203.0.113.0"], "what is held counts, not what was had"


async def test_a_draining_pool_keeps_its_holders_and_gives_nothing_more(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/x")
    await run_once(store, fence)
    body = {"metadata": {"name": "default", "annotations": {"felixpy.io/draining": "true"}}}
    await cluster.put(POOLS + "default", {**body, "spec": {"addresses": ["203.0.113.10-203.0.113.12"]}})
    await cluster.put_service("a/y")
    await cluster.put_service("a/z", loadBalancerIP="203.0.113.12")
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.10": ["a/x"]}
    assert (await cluster.reason("a/y"), await cluster.reason("a/z")) == ("DRAINING", "DRAINING")
    assert await cluster.reason("a/x") == "GRANTED"
    await cluster.put_pool("other", "198.51.100.0/30")
    await run_once(store, fence)
    assert (await cluster.addresses())["a/y"] == ["198.51.100.0"]


async def test_pools_say_how_full_they_are(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_pool("six", "2001:db8::/64", "198.51.100.0/24", avoidBuggyIPs=True)
    await cluster.put_service("a/x")
    await cluster.put_service("a/y", annotations={"address-pool": "six"}, ipFamilies=["IPv6"])
    running = await run_once(store, fence)
    assert await cluster.read(POOL_STATUS) == {
        "default": {"assignedIPv4": 1, "availableIPv4": 2, "assignedIPv6": 0, "availableIPv6": 0},
        "six": {"assignedIPv4": 0, "availableIPv4": 254, "assignedIPv6": 1, "availableIPv6": (1 << 63) - 1},
    }
    await cluster.delete_service("a/x")
    running.observe((SERVICES + "a/x").encode(), None, store.revision)
    await settle_all(store, fence, running)
    assert (await cluster.read(POOL_STATUS))["default"]["availableIPv4"] == 3
    await cluster.delete(POOLS + "six")
    await run_once(store, fence)
    assert set(await cluster.read(POOL_STATUS)) == {"default"}


async def test_what_was_decided_is_told_as_events(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    for number in range(4):
        await cluster.put_service(f"a/{number}", created=f"2026-01-01T00:00:0{number}Z")
    await run_once(store, fence)
    events = list((await cluster.read(EVENTS)).values())
    told = {(one["involvedObject"]["name"], one["type"], one["reason"], one["message"]) for one in events}  # type: ignore[index]
    assert ("0", "Normal", "IPAllocated", "has 203.0.113.10 of pool default") in told
    assert ("3", "Warning", "AllocationFailed", "default: the pool has no free address") in told
    assert all(store.data[key].lease for key in store.data if key.startswith(EVENTS.encode()))


async def test_a_refused_batch_is_as_if_it_had_never_been(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    for number in range(3):
        await cluster.put_service(f"a/{number}")
    allocation = await observe_all(store)
    await cluster.put_service("a/1", loadBalancerIP="203.0.113.10")
    await settle_all(store, fence, allocation)
    assert await cluster.grants() == {}, "one of the three has changed, and they were one transaction"
    pair = await store.get((SERVICES + "a/1").encode())
    assert pair is not None
    allocation.observe(pair.key, pair.value, pair.mod_revision)
    allocation.resume()
    await settle_all(store, fence, allocation)
    assert await cluster.addresses() == {"a/0": ["203.0.113.10"], "a/1": [], "a/2": ["203.0.113.11"]}
    assert (await observe_all(store)).next_batch("") is None


async def test_many_services_share_a_transaction(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_pool("default", "203.0.113.0/24")
    for number in range(90):
        await cluster.put_service(f"a/{number}")
    before = store.revision
    await run_once(store, fence)
    assert store.revision - before <= 4
    assert len(await cluster.grants()) == 90
