"""What the calls say of themselves, and the figures that they add up to."""

from __future__ import annotations

import re

from felixpy.cni.timing import Stage, Timing, Timings


def figures(timings: Timings) -> dict[str, dict[tuple[str, ...], float]]:
    return {family.name: dict(family.rows) for family in timings.families()}


async def test_a_call_tells_its_stages() -> None:
    timing = Timing()
    timing.queued()
    with timing.stage(Stage.LINK):
        pass

    async def seven() -> int:
        return 7

    assert await timing.of(Stage.ADDRESS, seven()) == 7
    assert re.fullmatch(r"[0-9.]+ ms \(queue [0-9.]+, link [0-9.]+, address [0-9.]+\)", str(timing))


def test_figures_grow_with_the_calls() -> None:
    timings = Timings()
    for _ in range(3):
        timing = Timing()
        with timing.stage(Stage.LINK):
            pass
        timings.note("ADD", timing)
    timings.note("ADD", Timing(), 100)
    found = figures(timings)
    assert found["felixpy_cni_calls"] == {("ADD", "0"): 3, ("ADD", "100"): 1}
    assert set(found["felixpy_cni_stage_seconds"]) == {("ADD", "link")}
    assert {key[1] for key in found["felixpy_cni_seconds"]} == {"0.5", "0.9", "0.99"}
    assert found["felixpy_cni_seconds"]["ADD", "0.5"] <= found["felixpy_cni_seconds"]["ADD", "0.99"]
