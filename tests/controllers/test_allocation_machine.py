"""Over any sequence of changes, a controller that has seen them all has left nothing for a new one to do."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.controllers.loadbalancer import settle_all
from felixpy.datastore.memory import MemoryStore
from tests.controllers.world import POOLS, SERVICES, Cluster, observe_all, take_leadership

_NAMES = st.sampled_from(["a/1", "a/2", "b/3", "b/4"])
_rich_specs = st.fixed_dictionaries(
    {},
    optional={
        "loadBalancerIP": st.sampled_from(["203.0.113.1", "198.51.100.0", "192.0.2.1"]),
        "externalTrafficPolicy": st.sampled_from(["Cluster", "Local"]),
        "type": st.sampled_from(["LoadBalancer", "ClusterIP"]),
        "ipFamilyPolicy": st.sampled_from(["SingleStack", "PreferDualStack", "RequireDualStack"]),
        "ports": st.sampled_from([[{"port": 80}], [{"port": 443}]]),
        "created": st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]),
    },
)
_specs = st.one_of(st.just({}), _rich_specs)
_annotations = st.fixed_dictionaries(
    {}, optional={"allow-shared-ip": st.just("k"), "address-pool": st.sampled_from(["one", "two"])}
)
_pools = st.builds(
    dict,
    addresses=st.sampled_from(
        [["203.0.113.0/31"], ["198.51.100.0/32"], ["198.51.100.0/32"], ["203.0.113.0/32", "2001:db8::/127"], ["bad"]]
    ),
    autoAssign=st.sampled_from([True, True, False]),
    serviceAllocation=st.sampled_from(
        [None, {"namespaces": ["a"]}, {"namespaceSelectors": [{"matchLabels": {"t": "1"}}]}]
    ),
)
_steps = st.one_of(
    st.tuples(st.just("service"), _NAMES, _specs, _annotations),
    st.tuples(st.just("service"), _NAMES, _specs, _annotations),
    st.tuples(st.just("no service"), _NAMES),
    st.tuples(st.just("pool"), st.sampled_from(["one", "two"]), _pools),
    st.tuples(st.just("no pool"), st.sampled_from(["one", "two"])),
    st.tuples(st.just("namespace"), st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"])),
)


async def _do(cluster: Cluster, step: tuple[object, ...]) -> str:
    """Makes one change; the key that it concerns."""
    match step:
        case ("service", str(name), dict(spec), dict(annotations)):
            await cluster.put_service(name, annotations=annotations, **spec)
            return SERVICES + name
        case ("no service", str(name)):
            await cluster.delete_service(name)
            return SERVICES + name
        case ("pool", str(name), dict(spec)):
            await cluster.put(POOLS + name, {"metadata": {"name": name}, "spec": spec})
            return POOLS + name
        case ("no pool", str(name)):
            await cluster.delete(POOLS + name)
            return POOLS + name
        case (_, str(name), str(label)):
            key = f"/felixpy/resources/core/v1/namespaces/{name}"
            await cluster.put(key, {"metadata": {"name": name, "labels": {"t": label}}})
            return key
    raise AssertionError(step)


async def _follow(steps: list[tuple[object, ...]]) -> None:
    store = MemoryStore()
    cluster = Cluster(store)
    await cluster.initialise()
    fence = await take_leadership(store)
    allocation = await observe_all(store)
    for step in steps:
        key = (await _do(cluster, step)).encode()
        pair = await store.get(key)
        allocation.observe(key, pair.value if pair else None, store.revision)
        await settle_all(store, fence, allocation)
        grants = await cluster.grants()
        assert {name: sorted(held) for name, held in (await cluster.addresses()).items() if held} == {
            name: sorted(address for address, names in grants.items() if name in names)
            for name in {name for names in grants.values() for name in names}
        }
        assert (await observe_all(store)).next_batch("") is None, "a new controller would change something"
        families = Counter((name, ":" in address) for address, names in grants.items() for name in names)
        assert not [one for one, count in families.items() if count > 1], "two addresses of one family"


@settings(max_examples=250, deadline=None)
@given(st.lists(_steps, max_size=14))
def test_the_state_alone_decides(steps: list[tuple[object, ...]]) -> None:
    asyncio.run(_follow(steps))
