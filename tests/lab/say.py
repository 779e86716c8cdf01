"""What the lab tells the person who watches: steps with their time, a table of results, colour on a terminal only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

_GREEN, _RED, _DIM, _BOLD, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_WIDTH = 84


class Teller:
    """Writes to `output`."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._live = self._output.isatty() and "NO_COLOR" not in os.environ

    def line(self, text: str = "") -> None:
        print(text, file=self._output, flush=True)

    def heading(self, text: str) -> None:
        self.line(f"\n{self._paint(_BOLD, text)}")

    def note(self, text: str) -> None:
        """A detail of the step before."""
        self.line(self._paint(_DIM, f"  {text}"))

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Says what is being done, and whether and in what time it was."""
        begin = time.monotonic()
        if self._live:
            self._output.write(f"{self._paint(_DIM, '…')} {what}")
            self._output.flush()
        try:
            yield
        except BaseException:
            self._close("✗", _RED, what, begin)
            raise
        self._close("✓", _GREEN, what, begin)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as they need to be; a cell that is ✓ or begins with ✗ is coloured."""
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        self.line(self._paint(_DIM, "  ".join(cell.ljust(w) for cell, w in zip(header, widths, strict=True)).rstrip()))
        for row in rows:
            cells = [self._cell(cell, width) for cell, width in zip(row, widths, strict=True)]
            self.line("  ".join(cells).rstrip())

    def _cell(self, text: str, width: int) -> str:
        padded = text.ljust(width)
        if text.startswith("✓"):
            return self._paint(_GREEN, padded)
        return self._paint(_RED, padded) if text.startswith("✗") else padded

    def _close(self, mark: str, colour: str, what: str, begin: float) -> None:
        took = f"{time.monotonic() - begin:6.2f} s"
        start = "\r\x1b[2K" if self._live else ""
        self.line(f"{start}{self._paint(colour, mark)} {what.ljust(_WIDTH)}{self._paint(_DIM, took)}")

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._live else text
