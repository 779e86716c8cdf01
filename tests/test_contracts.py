"""The contracts that hold the whole tree: style, types, and who may import whom."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "--output-format", "concise", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=["ruff", "format", "mypy", "imports"],
)
def test_the_tree_keeps_its_contracts(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_birdpy_and_ipam_work_without_the_rest(tmp_path: Path) -> None:
    """A leaf is a leaf at run time, too: importing it brings in nothing of the others."""
    for leaf, others in (("birdpy.speaker", ("felixpy", "ipam")), ("ipam.engine", ("felixpy", "birdpy"))):
        code = f"import sys, {leaf}; print([m for m in sys.modules if m.split('.')[0] in {others!r}])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", f"{leaf} brings in {done.stdout}"


def test_the_agent_starts_without_what_only_people_need() -> None:
    """The agent role alone pulls in neither pydantic, click, yaml nor GoBGP's part."""
    code = (
        "import sys, felixpy.agent.agent, felixpy.agent.process;"
        "print(sorted({'pydantic', 'click', 'yaml', 'pyroute2', 'birdpy.gobgp.fields'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_files_that_the_architecture_names_are_there() -> None:
    listed = [str(path.relative_to(ROOT)) for top in ("felixpy", "birdpy", "ipam", "tests") for path in python(top)]
    there = {name[place:] for name in listed for place in (0, *(at.end() for at in re.finditer("/", name)))}
    named = set(re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)`", (ROOT / "docs/architecture.md").read_text()))
    assert len(named) > 20
    assert not named - there


def python(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")
