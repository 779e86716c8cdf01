"""Fixtures that every room may ask for; the code is in tests/support."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.etcd import Etcd
from tests.support.netns import Namespace


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """A private etcd on loopback, one for the module."""
    with Etcd() as server:
        yield server


@pytest.fixture
def make_namespace() -> Iterator[Callable[..., Namespace]]:
    """Makes network namespaces that go when the test ends; takes what `Namespace.create` takes."""
    made: list[Namespace] = []

    def make(prefix: str = "t", *, name: str | None = None) -> Namespace:
        namespace = Namespace.create(prefix, name=name)
        made.append(namespace)
        return namespace

    yield make
    for namespace in reversed(made):
        namespace.delete()


@pytest.fixture
def namespace(make_namespace: Callable[..., Namespace]) -> Namespace:
    """A network namespace with nothing in it but its loopback."""
    return make_namespace()
