"""Pieces of text for tables: aligned rows, bars, durations, short lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence

BAR_WIDTH = 20
NAMES_SHOWN = 3
_EIGHTHS = " ▏▎▍▌▋▊▉"
_GAP = "   "


def align_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, the cells of a column equally wide; the last cell of a row may be as long as it is."""
    widths = [0] * max((len(row) for row in rows), default=0)
    for row in rows:
        for place, cell in enumerate(row[:-1]):
            widths[place] = max(widths[place], len(cell))
    return [_GAP.join(cell.ljust(widths[place]) for place, cell in enumerate(row)).rstrip() for row in rows]


def render_bar(used: int, size: int, width: int = BAR_WIDTH) -> str:
    """How much of `size` is used, as a bar of `width` characters and in figures; more than nothing is always seen."""
    eighths = min(width * 8, max(used * width * 8 // size if size else 0, int(used > 0)))
    whole, rest = divmod(eighths, 8)
    bar = ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width, "·")
    return f"{bar} {used}/{format_count(size)}"


def count_words(count: int, noun: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_count(count: int) -> str:
    """A number as it is where a person can read it, else as a power of two."""
    return str(count) if count < 1 << 32 else f"2^{count.bit_length() - 1}"


def format_duration(seconds: int | None) -> str:
    """The two largest units of a time."""
    if seconds is None:
        return "-"
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    units = [(days, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    first = next((place for place, (number, _) in enumerate(units) if number), 3)
    return "".join(f"{number}{unit}" for number, unit in units[first : first + 2] if number or first == 3)


def list_some(names: Sequence[str], most: int = NAMES_SHOWN) -> str:
    """The first names, and how many others there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
