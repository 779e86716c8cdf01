"""What staged policies would do to flows that nodes told of. Reads the datastore only where there are staged policies.

In: a Store, and nodes' answers; out: for each flow, what would become of it, where that is something else. The cluster
is read again when what was read is REFRESH_S old, so that one who follows sees changes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from felixpy.ctl.explain.staged_kinds import STAGED_PREFIXES
from felixpy.datastore.model import Store
from felixpy.flows.records import FlowsAnswer

if TYPE_CHECKING:
    from felixpy.ctl.explain.cluster import Cluster
    from felixpy.ctl.explain.staged import Otherwise

REFRESH_S = 10.0


class StagedJudge:
    """Judges flows by the staged policies that there are now."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_at = float("-inf")
        self._clusters: tuple[Cluster, Cluster] | None = None

    async def judge(self, answer: FlowsAnswer) -> tuple[Otherwise | None, ...]:
        """One for each flow of an answer."""
        if answer.flows and time.monotonic() - self._read_at > REFRESH_S:
            await self._read()
        if self._clusters is None:
            return (None,) * len(answer.flows)
        from felixpy.ctl.explain.staged import judge_records

        return judge_records(*self._clusters, answer.node, answer.flows)

    async def _read(self) -> None:
        self._read_at, self._clusters = time.monotonic(), None
        staged = await self._store.snapshot(STAGED_PREFIXES)
        if not staged.items:
            return
        from felixpy.ctl.explain.cluster import PREFIXES, read_cluster
        from felixpy.ctl.explain.staged import stage

        cluster = read_cluster((await self._store.snapshot(PREFIXES)).items)
        with_staged = stage(cluster, staged.items)
        if with_staged is not None:
            self._clusters = cluster, with_staged
