"""felixctl as people start it, against a real etcd; the packages of others are loaded already (support/forked.py)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import Etcd
from tests.support.forked import run_forked

FELIXCTL = Path(sys.executable).with_name("felixctl")
ENTRY = "felixpy.ctl.main:main"


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
    done = run_forked(ENTRY, [str(FELIXCTL), *arguments], clean | (environment or {}), stdin=stdin)
    return Answer(done.code, done.out, done.err)


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
