"""The files that `-f` means, as bytes. `-` is standard input; a directory stands for its YAML and JSON files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "stdin"


class NoText(ValueError):
    """A file is no UTF-8 text; says where."""


def read_files(names: Sequence[str], recursive: bool) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, directories in the order of their files' names.

    Raises  OSError when one cannot be read.
    """
    for name in names:
        if name == "-":
            yield STDIN, sys.stdin.buffer.read()
        elif (path := Path(name)).is_dir():
            for inner in sorted(path.rglob("*") if recursive else path.glob("*")):
                if inner.suffix in SUFFIXES and inner.is_file():
                    yield str(inner), inner.read_bytes()
        else:
            yield name, path.read_bytes()


def decode(content: bytes) -> str:
    """The text of a file.

    Raises  NoText.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise NoText(f"is no UTF-8 text: {error.reason} at byte {error.start}") from None
