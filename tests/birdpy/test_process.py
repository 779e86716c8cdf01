"""Who listens at a path that nobody can reach any more, and whom that table cannot be made to name."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from birdpy.process import find_strays, listener_pid

ROOT = Path(__file__).parents[2]
LISTENER = """
import pathlib, sys
from birdpy.unix_socket import listen
held = listen(pathlib.Path(sys.argv[1]))
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: an abstract name has 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="s"))
    yield made
    shutil.rmtree(made)


@contextmanager
def listening(path: Path) -> Iterator[int]:
    """A process that listens there, as the responder does; its id."""
    argv = [sys.executable, "-c", LISTENER, str(path)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "there\n"
            yield process.pid
        finally:
            process.kill()


@contextmanager
def abstract(name: bytes) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(b"\0" + name)
        yield


def test_a_listener_whose_file_is_gone_is_a_stray_and_nobody_else(directory: Path) -> None:
    path, other = directory / "x", directory / "y"
    with ExitStack() as stack:
        stray, innocent = (stack.enter_context(listening(one)) for one in (path, other))
        assert find_strays(path) == (), "its file is there"
        links = [os.readlink(one) for one in Path(f"/proc/{innocent}/fd").iterdir()]
        (inode,) = {found[1] for one in links if (found := re.fullmatch(r"socket:\[(\d+)\]", one))}
        stack.enter_context(abstract(f"z\n0: 0 0 00010000 1 01 {inode} {path}".encode()))
        stack.enter_context(abstract(b"\xff\xfe no text"))
        path.unlink()
        assert find_strays(path) == (stray,)
        again = stack.enter_context(listening(path))
        assert listener_pid(path) == again
        assert find_strays(path) == (stray,)
