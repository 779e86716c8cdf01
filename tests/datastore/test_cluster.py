"""Which datastore is obeyed, and what a node remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from felixpy.datastore.cluster import (
    Freeze,
    FreezeReason,
    Obey,
    Remembered,
    Seen,
    judge_cluster,
    parse_cluster_information,
)
from felixpy.datastore.remembered import ClusterMemory, MemoryBroken
from tests.datastore.world import cluster_information

KNOWN = Remembered("guid-1", cluster_id=7, revision=100)


@pytest.mark.parametrize(
    ("remembered", "seen", "verdict"),
    [
        (None, Seen("", False, 7, 1), Freeze(FreezeReason.UNINITIALISED)),
        (None, Seen("guid-1", True, 7, 1), Obey(continues=False)),
        (None, Seen("guid-1", False, 7, 1), Freeze(FreezeReason.NOT_READY)),
        (KNOWN, Seen("guid-1", True, 7, 100), Obey(continues=True)),
        (KNOWN, Seen("guid-1", True, 8, 100), Obey(continues=False)),
        (KNOWN, Seen("", False, 7, 101), Freeze(FreezeReason.EMPTY)),
        (KNOWN, Seen("", False, 8, 1), Freeze(FreezeReason.EMPTY)),
        (KNOWN, Seen("guid-1", False, 7, 101), Freeze(FreezeReason.NOT_READY)),
        (KNOWN, Seen("guid-2", True, 8, 101), Freeze(FreezeReason.OTHER_CLUSTER)),
        (KNOWN, Seen("guid-1", True, 7, 99), Freeze(FreezeReason.ROLLED_BACK)),
        (KNOWN, Seen("guid-1", True, 7, 500, mark_kept=False), Freeze(FreezeReason.ROLLED_BACK)),
        (KNOWN, Seen("guid-1", True, 7, 500, mark_kept=True), Obey(continues=True)),
    ],
)
def test_judgement(remembered: Remembered | None, seen: Seen, verdict: Obey | Freeze) -> None:
    assert judge_cluster(remembered, seen) == verdict


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (None, ("", False)),
        (b"not json", ("", False)),
        (b'{"spec":{"clusterGUID":"g"}}', ("g", False)),
        (cluster_information("g", ready=False), ("g", False)),
        (cluster_information("g"), ("g", True)),
    ],
)
def test_cluster_information(value: bytes | None, parsed: tuple[str, bool]) -> None:
    assert parse_cluster_information(value) == parsed


def test_a_node_remembers_what_it_wrote_and_nothing_at_first(tmp_path: Path) -> None:
    memory = ClusterMemory(tmp_path / "new" / "cluster.json")
    assert memory.read() is None
    memory.write(KNOWN)
    assert memory.read() == KNOWN
    memory.forget()
    assert memory.read() is None


def test_a_broken_memory_is_not_a_first_run(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_bytes(b'{"guid": "guid-1"')
    with pytest.raises(MemoryBroken):
        ClusterMemory(tmp_path / "cluster.json").read()
