"""A lab beside any that is up: an instance of its own, removed whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.ground import REPOSITORY, Ground
from tests.lab.topology import Topology, load_topology


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/one-subnet.clab.yml")


@pytest.fixture
def ground() -> Iterator[Ground]:
    """The place of a lab that no other test has."""
    place = Ground(f"t{os.getpid()}")
    yield place
    place.clear()
