"""Whether gobgpd answers at all: one that hangs keeps sessions which nobody can change, and says nothing of it.

In: a connected client. Out: GobgpUnavailable once a question is not answered in time. Decides nothing else.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from birdpy.gobgp.client import GobgpClient, GobgpError, GobgpUnavailable

BEAT_S = 5.0
"""Between two questions, the cheapest that there are (1 ms)."""


async def feel_pulse(client: GobgpClient, patience_s: float) -> NoReturn:
    """Asks for as long as there are answers.

    Raises  GobgpUnavailable, GobgpError.
    """
    while True:
        await asyncio.sleep(min(BEAT_S, patience_s))
        await client.call("GetBgp", client.message("Empty"), "GlobalCall", patience_s)


def is_silence(error: GobgpError) -> bool:
    """Whether somebody listens, and does not answer."""
    return isinstance(error, GobgpUnavailable) and error.detail.startswith("DEADLINE_EXCEEDED")
