"""Which datastore is obeyed, and what a node remembers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
DOUBTED = replace(KNOWN, frozen=FreezeReason.ROLLED_BACK)
MISSED = replace(KNOWN, frozen=FreezeReason.EMPTY)
STRAYED = replace(KNOWN, frozen=FreezeReason.OTHER_CLUSTER)


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
        (KNOWN, Seen("guid-1", True, 7, 500, mark_kept=None), Obey(continues=True)),
        (DOUBTED, Seen("guid-1", True, 7, 99, mark_kept=True), Freeze(FreezeReason.ROLLED_BACK)),
        (DOUBTED, Seen("guid-1", True, 7, 100, mark_kept=None), Freeze(FreezeReason.ROLLED_BACK)),
        (DOUBTED, Seen("guid-1", True, 7, 500, mark_kept=None), Freeze(FreezeReason.ROLLED_BACK)),
        (DOUBTED, Seen("guid-1", True, 7, 500, mark_kept=False), Freeze(FreezeReason.ROLLED_BACK)),
        (DOUBTED, Seen("guid-1", True, 7, 100, mark_kept=True), Obey(continues=True)),
        (DOUBTED, Seen("", False, 7, 500), Freeze(FreezeReason.EMPTY)),
        (DOUBTED, Seen("guid-1", False, 7, 500, mark_kept=True), Freeze(FreezeReason.NOT_READY)),
        (MISSED, Seen("guid-1", True, 7, 500, mark_kept=None), Freeze(FreezeReason.EMPTY)),
        (MISSED, Seen("guid-1", True, 8, 500, mark_kept=True), Obey(continues=False)),
        (STRAYED, Seen("guid-1", True, 7, 500, mark_kept=None), Freeze(FreezeReason.OTHER_CLUSTER)),
        (STRAYED, Seen("guid-1", True, 7, 500, mark_kept=True), Obey(continues=True)),
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
    memory.write(DOUBTED)
    assert memory.read() == DOUBTED
    memory.forget()
    assert memory.read() is None


def test_processes_of_one_node_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    with ThreadPoolExecutor(2) as both:
        memories = [ClusterMemory(path, roles) for roles in ("agent", "bgp")]
        written = [both.submit(lambda memory: [memory.write(KNOWN) for _ in range(100)], one) for one in memories]
        while not all(one.done() for one in written):
            assert ClusterMemory(path).read() in (None, KNOWN)
        assert [one.result() for one in written] == [[None] * 100] * 2


def test_a_state_file_without_a_doubt_is_read(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_bytes(b'{"guid": "guid-1", "cluster_id": 7, "revision": 100, "mark": null}')
    assert ClusterMemory(tmp_path / "cluster.json").read() == KNOWN


@pytest.mark.parametrize("reason", FreezeReason)
def test_the_texts_in_the_state_file_stay(tmp_path: Path, reason: FreezeReason) -> None:
    texts = {
        FreezeReason.UNINITIALISED: "the datastore holds no cluster yet, and this node has never obeyed one",
        FreezeReason.EMPTY: "the datastore holds no cluster any more",
        FreezeReason.NOT_READY: "the datastore is marked as not ready",
        FreezeReason.OTHER_CLUSTER: "the datastore holds another cluster than this node last obeyed",
        FreezeReason.ROLLED_BACK: "the datastore is older than what this node last obeyed",
    }
    text = f'{{"guid": "guid-1", "cluster_id": 7, "revision": 100, "frozen": "{texts[reason]}"}}'
    (tmp_path / "cluster.json").write_text(text)
    assert ClusterMemory(tmp_path / "cluster.json").read() == replace(KNOWN, frozen=reason)


def test_a_broken_memory_is_not_a_first_run(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_bytes(b'{"guid": "guid-1"')
    with pytest.raises(MemoryBroken):
        ClusterMemory(tmp_path / "cluster.json").read()
