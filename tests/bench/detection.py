"""How long a node goes on sending to a neighbour that fell silent, by BFD (100 ms, three times); RUNS times.

`python -m tests.bench.detection [RUNS]`: the whole agent and FRR; from the packet filter that mutes the neighbour to
the kernel's word that the route is gone, and from the end of the silence until it is there again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from tests.agent.bgp.rack import LONG, THEIRS, Rack, rack_of
from tests.support.wait import eventually

RUNS = 10


def silence_once(rack: Rack) -> tuple[float, float]:
    """Seconds until the route was gone, and until it was back."""
    with rack.node.namespace.popen("ip", "monitor", "route", stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        try:
            with rack.silence():
                muted = time.monotonic()
                await_line(watching, f"Deleted {THEIRS} ")
                gone = time.monotonic() - muted
            heard = time.monotonic()
            await_line(watching, f"{THEIRS} ")
            return gone, time.monotonic() - heard
        finally:
            watching.terminate()


def await_line(watching: subprocess.Popen[str], beginning: str) -> None:
    assert watching.stdout is not None
    for line in watching.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ip monitor ended before it said {beginning!r}")


def main(arguments: Sequence[str] = ()) -> None:
    runs = int(arguments[0]) if arguments else RUNS
    with rack_of(4, interval_ms=100) as rack:
        rack.profile()
        rack.peer(bfdProfile="fast", **LONG)
        measured: list[tuple[float, float]] = []
        for _ in range(runs):
            eventually(lambda: rack.met() and rack.session()["bfd"]["up"], within_s=60)
            measured.append(silence_once(rack))
        for what, column in zip(("gone", "back"), zip(*measured, strict=True), strict=True):
            ordered = sorted(column)
            print(f"{what}: median {ordered[len(ordered) // 2]:.3f} s, most {ordered[-1]:.3f} s, of {runs}")


if __name__ == "__main__":
    main(sys.argv[1:])
