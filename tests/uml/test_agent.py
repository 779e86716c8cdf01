"""The whole agent in User-Mode-Linux (Debian package user-mode-linux), a kernel that has ipip and no nftables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.uml.inside import run_inside


@pytest.mark.timeout(640)
@pytest.mark.skipif(shutil.which("linux.uml") is None, reason="user-mode-linux is not installed")
def test_agents_without_nftables_in_user_mode_linux(tmp_path: Path) -> None:
    run_inside("agent_packets.py", 580, tmp_path)
