"""The clock, in one place."""

from __future__ import annotations

from datetime import UTC, datetime

TIMER_EARLY_S = 0.01
"""Timers of an event loop may come this much before their time."""


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
