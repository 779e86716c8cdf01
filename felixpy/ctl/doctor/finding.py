"""What a check found. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: something does not work; something may not; or only good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing, in words for a person: what it is, and what to do (or what it leads to)."""

    level: Level
    subject: str
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}" + (f"; {self.advice}" if self.advice else "")


def worst(findings: Iterable[Finding]) -> Level | None:
    """The worst level; None where nothing was found."""
    found = {one.level for one in findings}
    return next((level for level in Level if level in found), None)
