"""Keeps the stored endpoints of this node's pods as their Pods are: labels, service account, named ports.

In: events of endpoints and Pods; out: writes of endpoints that differ, each if it is still the one that was read. Our
own agents join the two by themselves (calc/policy/pods.py); this is for Calico's nodes and for people who look. A Pod
that is gone changes nothing. Source: kube-controllers/pkg/controllers/pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from felixpy.agent.pods.facts import read_pod_facts
from felixpy.agent.pods.own_objects import OwnObjects, pod_key_of
from felixpy.cni.endpoint import follow_pod
from felixpy.cni.errors import CniError
from felixpy.datastore.model import DatastoreError, Event, Expect, Store, Write

_log = logging.getLogger(__name__)

SETTLES_S = 0.1
"""An endpoint that is written and its Pod's changes come together when a pod starts."""
RETRY_S = 1.0


class PodFollower:
    """`own` has taken an event before `observe` gets it; nothing is written while `find_unready` gives a reason."""

    def __init__(self, own: OwnObjects, store: Store, find_unready: Callable[[], Awaitable[CniError | None]]) -> None:
        self._own = own
        self._store = store
        self._find_unready = find_unready
        self._dirty: set[bytes] = set()
        self._wake = asyncio.Event()

    def observe(self, event: Event) -> None:
        """Takes an event of any key."""
        if event.value is None:
            return
        touched = self._own.endpoints_of(event.key)
        if touched:
            self._dirty |= touched
            self._wake.set()

    async def serve(self) -> NoReturn:
        """Writes what differs, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(SETTLES_S)
            self._wake.clear()
            while self._dirty:
                key = self._dirty.pop()
                try:
                    if unready := await self._find_unready():
                        raise unready
                    await self._follow(key)
                    await asyncio.sleep(0)
                except (DatastoreError, CniError, TimeoutError) as error:
                    self._dirty.add(key)
                    _log.debug("endpoints do not follow their Pods now: %s", error)
                    await asyncio.sleep(RETRY_S)

    async def _follow(self, key: bytes) -> None:
        pair = self._own.endpoints.get(key)
        pod_key = pod_key_of(pair) if pair is not None else None
        pod = self._own.get(pod_key) if pod_key is not None else None
        if pair is None or pod is None:
            return
        wanted = follow_pod(pair.value, read_pod_facts(pod, None))
        if wanted is None:
            return
        done = await self._store.transact([Expect(key, pair.mod_revision)], [Write(key, wanted)])
        if done.succeeded:
            _log.info("%s has the labels of its Pod now", key.decode("utf-8", "replace").rpartition("/")[2])
