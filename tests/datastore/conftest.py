"""Fixtures of the datastore tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from felixpy.datastore.client import EtcdStore
from felixpy.datastore.memory import MemoryStore
from tests.datastore.world import opened
from tests.support.etcd import Etcd


@pytest.fixture
async def etcd_store(etcd: Etcd) -> AsyncGenerator[EtcdStore, None]:
    """A client of the module's etcd, which is emptied before."""
    etcd.delete_prefix("/")
    async with opened(etcd.url) as store:
        yield store


@pytest.fixture(params=["etcd", "memory"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[EtcdStore | MemoryStore, None]:
    """Each kind of store, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    etcd: Etcd = request.getfixturevalue("etcd")
    etcd.delete_prefix("/")
    async with opened(etcd.url) as store:
        yield store


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """Where a node remembers its cluster."""
    return tmp_path / "cluster.json"
