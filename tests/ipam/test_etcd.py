"""The same transactions on a real etcd: nodes at once, and a Calico-shaped second look at what they leave behind."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from ipam.audit import audit
from ipam.engine import Allocator
from ipam.model import node_owner, pool_key
from ipam.request import PoolExhausted
from ipam.store import Versioned
from tests.ipam.cluster import pod, texts

NOW = datetime(2026, 8, 22, 6, 33, 20, tzinfo=UTC)


@pytest.fixture
async def stored(etcd):
    """An empty datastore with one pool of sixteen addresses in four blocks."""
    etcd.delete_prefix("/calico/")
    etcd.put(pool_key("p"), {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/28", "blockSize": 30}})
    client = open_store(EtcdSettings(endpoints=parse_endpoints(etcd.url)))
    yield IpamStore(client)
    await client.close()


def node(store, name):
    return Allocator(store, node_owner(name), now=lambda: NOW, rng=random.Random(name))


def look(etcd):
    return audit({key: value.encode() for key, value in etcd.get_prefix("/calico/").items()})


async def test_nodes_at_once_get_every_address_once_and_not_one_more(etcd, stored):
    nodes = [node(stored, f"n{number}") for number in range(6)]
    wants = [nodes[number % 6].assign(pod(f"p{number}")) for number in range(20)]
    got = await asyncio.gather(*wants, return_exceptions=True)
    given = [text for each in got if not isinstance(each, BaseException) for text in texts(each)]
    assert len(given) == len(set(given)) == 16
    assert [type(each) for each in got if isinstance(each, BaseException)] == [PoolExhausted] * 4
    assert look(etcd).is_clean


async def test_all_is_given_back_by_whoever_asks(etcd, stored):
    got = await asyncio.gather(*(node(stored, f"n{number}").assign(pod(f"p{number}")) for number in range(4)))
    assert len({texts(each)[0] for each in got}) == 4
    await asyncio.gather(*(node(stored, f"m{number}").release(f"p{number}") for number in range(4)))
    assert not etcd.get_prefix("/calico/ipam/v2/handle/")
    assert look(etcd).is_clean


async def test_a_refused_commit_says_what_is_there_and_writes_nothing(etcd, stored):
    etcd.put("/calico/x", "1")
    refused = await stored.commit({"/calico/x": 0, "/calico/y": 0}, {"/calico/y": b"2"})
    assert not refused.succeeded
    found = refused.current["/calico/x"]
    assert isinstance(found, Versioned)
    assert (found.value, refused.current["/calico/y"]) == (b"1", None)
    assert etcd.get("/calico/y") is None
