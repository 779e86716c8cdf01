"""Fixtures that every room may ask for; the code is in tests/support."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.etcd import Etcd
from tests.support.netns import Namespace

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
# The same examples every time, so that a red test is red for everyone; `HYPOTHESIS_PROFILE=new` looks for new ones.

KNOWN_SKIPS = frozenset({"GoBGP 3 takes a prefix of any length", "GoBGP 3 resets a session on every update"})
"""Every reason for which a test may be skipped; with any other it has failed, so nothing goes untested in silence."""


WAITING = ("uml", "lab", "agent", "birdpy", "datastore")
"""The rooms whose tests wait for daemons and timers most of their time, those of the longest files first."""


def room_of(path: Path) -> str:
    """The folder of tests/ that a file is in, or below."""
    return path.relative_to(Path(__file__).parent).parts[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait and files that calculate take turns, so that the waiting of one worker is another one's time."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for path in files if room_of(path) in WAITING]
    waiting.sort(key=lambda path: WAITING.index(room_of(path)))
    rest = [path for path in files if room_of(path) not in WAITING]
    turns = [((number + 0.5) / len(some), path) for some in (waiting, rest) for number, path in enumerate(some)]
    items[:] = [item for _, path in sorted(turns) for item in files[path]]


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes that a test failed; one that was skipped, and should not be, has."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in KNOWN_SKIPS:
            report.outcome, report.longrepr = "failed", f"skipped, and should not be: {reason}"
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """What a failed test may have left half done is nobody else's: what its module shares is made anew after it."""
    if item.stash.get(_failed, False):  # for which pytest has no public name: hooks cannot change what comes next
        item.session._setupstate.teardown_exact(None)


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
