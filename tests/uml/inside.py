"""A test file run by pytest inside User-Mode-Linux, which can write nothing but what `run` brings back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run_inside(packets: str, limit_s: int, out: Path) -> None:
    """Run the one test in the file `packets` of this folder; what it leaves is in `out`.

    Raises  AssertionError with the end of what it printed, where it did not pass.
    """
    test = [sys.executable, "-m", "pytest", "-q", "-o", "cache_dir=/tmp/pytest", "--timeout", str(limit_s - 30)]
    done = subprocess.run(
        [HERE / "run", "-t", str(limit_s), *test, str(HERE / packets)],
        cwd=ROOT,
        env={**os.environ, "UML_OUT": str(out), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=limit_s + 40,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "1 passed" in done.stdout
