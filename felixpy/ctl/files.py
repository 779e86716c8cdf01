"""Which files `-f` means, and their text. `-` is standard input; a directory stands for its YAML and JSON files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "stdin"


def read_files(names: Sequence[str], recursive: bool) -> Iterator[tuple[str, str]]:
    """Name and text of each file, directories in the order of their files' names.

    Raises  OSError when one cannot be read; UnicodeDecodeError when one is no UTF-8.
    """
    for name in names:
        if name == "-":
            yield STDIN, sys.stdin.read()
        elif (path := Path(name)).is_dir():
            for inner in sorted(path.rglob("*") if recursive else path.glob("*")):
                if inner.suffix in SUFFIXES and inner.is_file():
                    yield str(inner), inner.read_text(encoding="utf-8")
        else:
            yield name, path.read_text(encoding="utf-8")
