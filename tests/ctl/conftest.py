"""felixctl through its real door: a subprocess against a real etcd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import Etcd

FELIXCTL = Path(sys.executable).with_name("felixctl")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(*arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> Answer:
    """Runs felixctl with nothing of the test's own environment that speaks of etcd."""
    clean = {key: value for key, value in os.environ.items() if "ETCD" not in key}
    done = subprocess.run(
        [str(FELIXCTL), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        env=clean | (environment or {}),
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store(etcd: Etcd) -> Etcd:
    """The module's etcd, empty before each test."""
    etcd.delete_prefix("/")
    return etcd


@pytest.fixture
def felixctl(store: Etcd) -> Callable[..., Answer]:
    def command(*arguments: str, stdin: str = "") -> Answer:
        return run(*arguments, stdin=stdin, environment={"FELIXPY_ETCD": store.url})

    return command


def body_at(store: Etcd, key: str) -> dict[str, Any]:
    """The object at a key; an empty mapping when there is none."""
    return dict(json.loads(store.get(key) or "{}"))
