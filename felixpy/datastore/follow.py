"""The keys below some prefixes, all of them and then each change: what a controller reads.

One snapshot, then one watch from there on. Where the history that the watch needs is not to be had, everything is read
anew. The agent itself does not read so: whether a datastore may be obeyed at all is `syncer.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from felixpy.datastore.model import Compacted, Event, FutureRevision, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """`events` follow those before; with `anew` nothing of before counts; with `whole` they make a state that was."""

    events: tuple[Event, ...]
    anew: bool
    whole: bool


async def follow(store: Store, prefixes: Sequence[bytes], what: str) -> AsyncGenerator[Turn, None]:
    """Never ends. `what` names the keys in the log. The first state comes a page a turn, and then `whole`.

    Raises  DatastoreError when the datastore cannot be read now.
    """
    while True:
        try:
            anew, revision = True, 0
            async with aclosing(store.pages(prefixes)) as pages:
                async for page in pages:
                    revision = page.revision
                    events = tuple(Event(pair.key, pair.value, pair.mod_revision) for pair in page.items)
                    yield Turn(events, anew, whole=False)
                    anew = False
            yield Turn((), anew, whole=True)
            async with aclosing(store.watch(prefixes, revision + 1)) as batches:
                async for events in batches:
                    yield Turn(events, anew=False, whole=True)
        except (Compacted, FutureRevision) as error:
            _log.info("%s: read anew: %s", what, error)
