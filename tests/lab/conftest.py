"""A lab beside any that is up: an instance of its own, removed whatever happens."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from tests.lab.build import Lab
from tests.lab.ground import REPOSITORY, Ground
from tests.lab.say import Teller
from tests.lab.topology import Topology, load_topology
from tests.lab.world import World


def clean_ground(instance: str) -> Ground:
    """Without what a killed run may have left there, whose process had the number of this one."""
    ground = Ground(instance)
    ground.clear()
    return ground


@pytest.fixture(scope="module")
def topology() -> Topology:
    """The topology of the module's lab; a module that looks at another one says so with a fixture of this name."""
    return load_topology(REPOSITORY / "containerlab/one-subnet.clab.yml")


@pytest.fixture(scope="module")
def world(topology: Topology) -> Iterator[World]:
    """The topology with everything of its manifest in it. Each test leaves it as it found it."""
    ground = clean_ground(f"m{os.getpid()}")
    told = io.StringIO()
    world = World(Lab(topology, ground))
    try:
        world.lab.build(Teller(told))
        world.populate(Teller(told))
        yield world
    except Exception:
        print(told.getvalue())
        raise
    finally:
        world.stop()
        ground.clear()


@pytest.fixture
def ground() -> Iterator[Ground]:
    """The place of a lab that no other test has."""
    place = clean_ground(f"t{os.getpid()}")
    yield place
    place.clear()
