"""Keeps the mtu of pods what the way between nodes leaves, while they run.

In: the mtu that is wanted now, and the devices that follow the node (a network's own mtu stays); out: both ends of each
pair with that mtu. A change is looked at once it settles, beside the event loop; what could not be done is tried again.
Source: felix/dataplane/linux/int_dataplane.go (which sets the mtu of new pods only).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import NoReturn

from felixpy.drivers.netlink.pods.mtu import set_pod_mtus

_log = logging.getLogger(__name__)

SETTLES_S = 0.1
RETRY_S = 5.0


class PodMtus:
    """`changed` whenever the mtu may be another one, `seen` when a device shows its own; `serve` does the work."""

    def __init__(self, wanted: Callable[[], int], list_devices: Callable[[], Collection[str]]) -> None:
        self._wanted = wanted
        self._list_devices = list_devices
        self._wake = asyncio.Event()
        self._done = 0
        self.failed: Collection[str] = ()

    def changed(self) -> None:
        """The underlay, the pools or the settings changed."""
        self._wake.set()

    def seen(self, mtu: int) -> None:
        """A pod's device has this mtu: it may have been made by what was true before, or changed by somebody."""
        if self._done and mtu != self._done:
            self._done = 0
            self._wake.set()

    async def serve(self) -> NoReturn:
        """Puts the mtu right whenever it may not be, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(SETTLES_S)
            self._wake.clear()
            try:
                mtu = self._wanted()
                if not mtu or mtu == self._done:
                    continue
                failed = await asyncio.to_thread(set_pod_mtus, frozenset(self._list_devices()), mtu)
            except OSError as error:
                _log.warning("the mtu of pods cannot be looked at, which is tried again: %s", error)
            else:
                if not failed:
                    self._done, self.failed = mtu, ()
                    _log.info("pods have an mtu of %d", mtu)
                    continue
                if set(failed) != set(self.failed):
                    first = next(iter(failed))
                    _log.warning("%d pods keep another mtu than %d: %s: %s", len(failed), mtu, first, failed[first])
                self.failed = tuple(failed)
            await asyncio.sleep(RETRY_S)
            self._wake.set()
