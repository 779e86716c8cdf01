"""Waiting for an effect: poll until it is there, or say what was there instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 4
"""How many times longer than its test says a wait may last: it is paid only by a failure, and on a busy machine."""


def eventually(probe: Callable[[], T | None], within_s: float = 10.0, every_s: float = 0.02, what: str = "") -> T:
    """The first truthy value of `probe`; an exception from it counts as not yet.

    A probe that takes its time is given half of that as a rest, so that what it waits for gets some, too.
    Raises  AssertionError once `within_s` has passed PATIENCE times, naming the last value or exception.
    """
    end = time.monotonic() + within_s * PATIENCE
    last: object
    while True:
        began = time.monotonic()
        try:
            value = probe()
        except Exception as error:  # whatever it is, it is shown when the time is up
            last = error
        else:
            if value:
                return value
            last = value
        now = time.monotonic()
        if now >= end:
            raise AssertionError(f"not within {within_s * PATIENCE} s: {what or probe}; last: {last!r}")
        time.sleep(max(every_s, (now - began) / 2))


async def eventually_async(
    probe: Callable[[], Awaitable[T | None]], within_s: float = 10.0, every_s: float = 0.02, what: str = ""
) -> T:
    """As `eventually`, for a coroutine function.

    Raises  AssertionError once `within_s` has passed PATIENCE times, naming the last value or exception.
    """
    end = time.monotonic() + within_s * PATIENCE
    last: object
    while True:
        began = time.monotonic()
        try:
            value = await probe()
        except Exception as error:  # whatever it is, it is shown when the time is up
            last = error
        else:
            if value:
                return value
            last = value
        now = time.monotonic()
        if now >= end:
            raise AssertionError(f"not within {within_s * PATIENCE} s: {what or probe}; last: {last!r}")
        await asyncio.sleep(max(every_s, (now - began) / 2))


async def until(condition: Callable[[], object], within_s: float = 30.0, every_s: float = 0.02, what: str = "") -> None:
    """As `eventually`, while the event loop goes on.

    Raises  AssertionError once `within_s` has passed PATIENCE times, naming the last value or exception.
    """

    async def probe() -> object:
        return condition()

    await eventually_async(probe, within_s, every_s, what or str(condition))
