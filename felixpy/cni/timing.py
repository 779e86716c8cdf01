"""How long the CNI calls took, stage by stage: what one call says of itself, and the figures of all.

In → out: the beginning and end of each stage → words for the log, Families for whoever scrapes. Stages may overlap (a
pod's link is made while its address is chosen), so their sum may be more than the whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from time import perf_counter
from typing import TypeVar

from felixpy.metrics import Family, FamilyKind

T = TypeVar("T")
RECENT = 256
"""Calls of a verb that the quantiles are of."""
QUANTILES = (0.5, 0.9, 0.99)


class Stage(StrEnum):
    """What a call waits for."""

    QUEUE = "queue"
    """Earlier calls for the same interface, and an agent that is not ready."""
    POD = "pod"
    """What the datastore knows of the pod."""
    LINK = "link"
    """The veth pair, and all that needs no address."""
    ADDRESS = "address"
    """Addresses and endpoint, in one transaction of the datastore."""
    WIRING = "wiring"
    """The addresses in the pod."""
    PROGRAMMED = "programmed"
    """Route and policy in the kernel."""
    RETIRED = "retired"
    """The end of the pod's traffic."""
    RELEASED = "released"
    """Endpoint and addresses given back, in one transaction of the datastore."""


class Timing:
    """One call."""

    def __init__(self) -> None:
        self._began = perf_counter()
        self.stages_s: dict[Stage, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """What is inside counts as that stage; several times add up."""
        began = perf_counter()
        try:
            yield
        finally:
            self.stages_s[stage] = self.stages_s.get(stage, 0.0) + perf_counter() - began

    async def of(self, stage: Stage, work: Awaitable[T]) -> T:
        """What `work` gives; it counts as that stage."""
        with self.stage(stage):
            return await work

    def queued(self) -> None:
        """All until now was waiting for its turn."""
        self.stages_s[Stage.QUEUE] = self.whole_s

    @property
    def whole_s(self) -> float:
        """Until now."""
        return perf_counter() - self._began

    def __str__(self) -> str:
        parts = ", ".join(f"{stage} {seconds * 1e3:.1f}" for stage, seconds in self.stages_s.items())
        return f"{self.whole_s * 1e3:.1f} ms ({parts})"


class Timings:
    """All calls since the start."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, ...]] = Counter()
        self._stages_s: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._recent_s: dict[str, deque[float]] = {}

    def note(self, verb: str, timing: Timing, code: int = 0) -> None:
        """Takes a call that has ended; `code` is the error's, 0 where there was none."""
        self._calls[verb, str(code)] += 1
        if code:
            return
        for stage, seconds in timing.stages_s.items():
            self._stages_s[verb, stage] += seconds
        self._recent_s.setdefault(verb, deque(maxlen=RECENT)).append(timing.whole_s)

    def families(self) -> Iterator[Family]:
        """The figures as they are now."""
        counter = FamilyKind.COUNTER
        calls = {key: float(count) for key, count in self._calls.items()}
        yield Family("felixpy_cni_calls", "CNI calls by error code, 0 for none", counter, ("verb", "code"), calls)
        words = "What successful CNI calls waited for; stages overlap"
        yield Family("felixpy_cni_stage_seconds", words, counter, ("verb", "stage"), dict(self._stages_s))
        recent: dict[tuple[str, ...], float] = {
            (verb, str(quantile)): _quantile(sorted(times), quantile)
            for verb, times in self._recent_s.items()
            for quantile in QUANTILES
        }
        words = f"How long the last {RECENT} successful CNI calls took"
        yield Family("felixpy_cni_seconds", words, labels=("verb", "quantile"), rows=recent)


def _quantile(ordered: list[float], quantile: float) -> float:
    return ordered[min(int(len(ordered) * quantile), len(ordered) - 1)]
