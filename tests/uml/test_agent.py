"""The whole agent in User-Mode-Linux (Debian package user-mode-linux), a kernel that has ipip and no nftables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.timeout(320)
@pytest.mark.skipif(shutil.which("linux.uml") is None, reason="user-mode-linux is not installed")
def test_agents_without_nftables_in_user_mode_linux(tmp_path: Path) -> None:
    packets = [sys.executable, "-m", "pytest", "-q", "--timeout", "240", str(HERE / "agent_packets.py")]
    done = subprocess.run(
        [HERE / "run", "-t", "270", *packets],
        cwd=ROOT,
        env={**os.environ, "UML_OUT": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=310,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "1 passed" in done.stdout
