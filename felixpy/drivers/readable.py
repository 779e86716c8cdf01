"""Waits for a descriptor without taking anything from it."""

from __future__ import annotations

import asyncio
from typing import Protocol


class HasDescriptor(Protocol):
    """A socket, or what holds one."""

    def fileno(self) -> int:
        """Its descriptor."""


async def until_readable(source: HasDescriptor) -> None:
    """Returns when there is something to read, or nothing more will come."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def seen() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(source.fileno(), seen)
    try:
        await readable
    finally:
        loop.remove_reader(source.fileno())
