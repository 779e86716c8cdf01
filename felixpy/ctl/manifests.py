"""What people hand to felixctl, as values: documents, the resources found in them, and what is wrong with either.

Owns    the types that the other modules of `ctl` pass to each other.
Never   reads a file or a datastore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from felixpy.resources.kinds import KindInfo, Name

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
Body: TypeAlias = Mapping[str, Json]
Path: TypeAlias = tuple[str | int, ...]

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a document was written: file (or `stdin`), its number in it from 1, its first line (0: unknown)."""

    file: str
    document: int = 0
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} (document {self.document})" if self.document else place


def _no_line(path: Path) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Document:
    """One document as parsed. `line_of` finds the line of a field (0: unknown)."""

    body: Body
    source: Source
    line_of: Callable[[Path], int] = field(default=_no_line, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A document that is a resource of a kind that we hold: its kind, its name as typed, and all that was written."""

    info: KindInfo
    name: Name
    body: Body
    source: Source
    line_of: Callable[[Path], int] = field(default=_no_line, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.info.kind} {self.name}"


class Severity(StrEnum):
    """Whether a problem stops its object."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a field of one object; `path` leads to it from the object's top."""

    path: Path
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.message}" if self.path else self.message


@dataclass(frozen=True, slots=True)
class Report:
    """A problem, with the object (as words) and the place that it is about."""

    subject: str
    source: Source
    problem: Problem

    def __str__(self) -> str:
        subject = f"{self.subject}: " if self.subject else ""
        return f"{self.source}: {subject}{self.problem}"


def format_path(path: Path) -> str:
    """`("spec", "ingress", 2, "ports")` as people write it: `spec.ingress[2].ports`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("-", "").replace("_", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def describe(value: object) -> str:
    """What a value is, in the words of YAML."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value!r}"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"
