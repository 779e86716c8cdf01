"""The cluster that most tests begin with."""

import pytest

from tests.ipam.cluster import Cluster


@pytest.fixture
def cluster():
    """One pool, 10.0.0.0/24, in four blocks."""
    cluster = Cluster()
    cluster.pool()
    return cluster
