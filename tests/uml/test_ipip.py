"""IPIP in a kernel that has it: this machine's own, or else User-Mode-Linux (Debian package user-mode-linux)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.uml.inside import run_inside


@pytest.mark.timeout(640)
@pytest.mark.skipif(shutil.which("linux.uml") is None, reason="user-mode-linux is not installed")
def test_ipip_by_packets_in_user_mode_linux(tmp_path: Path) -> None:
    run_inside("ipip_packets.py", 580, tmp_path)
