"""golden/*.yaml → what lands in etcd (the .json beside it), and the agent's codec reads every object of it.

FELIXPY_GOLDEN=write makes the files anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from felixpy.resources.codec import Decoder
from felixpy.resources.resource import Broken
from tests.ctl.conftest import Answer
from tests.support.etcd import Etcd

GIVEN = sorted(Path(__file__).with_name("golden").glob("*.yaml"))
UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def landed(store: Etcd) -> dict[str, Any]:
    """Every key and object, with uid and time made the same."""
    objects = {}
    for key, text in store.get_prefix("/").items():
        body = json.loads(text)
        metadata = body["metadata"]
        assert UID.fullmatch(metadata["uid"])
        assert TIME.fullmatch(metadata["creationTimestamp"])
        metadata |= {"uid": "UID", "creationTimestamp": "TIME"}
        objects[key] = body
    return objects


def unexpected(err: str) -> list[str]:
    """What was said beside the warnings of what is kept and not acted on."""
    return [line for line in err.splitlines() if not ("warning: " in line and "not acted on yet" in line)]


@pytest.mark.parametrize("given", GIVEN, ids=lambda path: path.stem)
def test_what_lands_in_etcd(given: Path, felixctl: Callable[..., Answer], store: Etcd) -> None:
    answer = felixctl("apply", "-f", str(given))

    assert (answer.code, unexpected(answer.err)) == (0, [])
    golden = given.with_suffix(".json")
    if os.environ.get("FELIXPY_GOLDEN") == "write":
        golden.write_text(json.dumps(landed(store), indent=2) + "\n")
    assert landed(store) == json.loads(golden.read_text())


@pytest.mark.parametrize("given", GIVEN, ids=lambda path: path.stem)
def test_the_agent_reads_what_was_written(given: Path, felixctl: Callable[..., Answer], store: Etcd) -> None:
    felixctl("apply", "-f", str(given))

    decoder = Decoder("n1")
    read = {key: decoder.decode(key.encode(), text.encode()) for key, text in store.get_prefix("/").items()}
    assert [value for value in read.values() if isinstance(value, Broken)] == []


@pytest.mark.parametrize("given", GIVEN, ids=lambda path: path.stem)
def test_what_get_prints_can_be_applied_again_and_changes_nothing(
    given: Path, felixctl: Callable[..., Answer], store: Etcd
) -> None:
    felixctl("apply", "-f", str(given))
    before = store.get_prefix("/")

    printed = felixctl("get", "all", "-A", "-o", "yaml")
    again = felixctl("apply", "-f", "-", stdin=printed.out)

    assert (again.code, unexpected(again.err)) == (0, [])
    assert {line.rpartition(" ")[2] for line in again.lines} == {"unchanged"}
    assert store.get_prefix("/") == before
