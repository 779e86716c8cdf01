"""Pod wiring for an event loop: drivers/netlink/pods/ in threads, and the deletion of what is retired.

Imperative. In → out: wiring values and a namespace's descriptor → the kernel made so. Retired pairs are deleted a
moment later, together, so that no DEL waits for the kernel's CPUs, nor many DELs for each other.
Must never choose names or addresses. Source: drivers/netlink/pods/.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from felixpy.cni.leaks import Place
from felixpy.dataplane.pod import PodWiring
from felixpy.drivers.netlink.pods.check import check_pod
from felixpy.drivers.netlink.pods.link import delete_retired_links, list_pod_links, retire_pod_link
from felixpy.drivers.netlink.pods.wiring import add_pod_addresses, configure_pod, make_pod

T = TypeVar("T")
log = logging.getLogger(__name__)

_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000
KERNEL_THREADS = 4
"""The kernel makes links under one lock; more threads would only wait for it."""
DELETE_AFTER_S = 0.2
"""Long enough that the DELs of one burst share a deletion: it holds the kernel's lock, which ADDs need too."""


def read_place() -> Place:
    """This boot of the machine, and the namespace of the calling thread."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Place(boot, str(os.stat("/proc/thread-self/ns/net").st_ino))


def is_own_namespace(netns: int) -> bool:
    """Whether a descriptor is of the network namespace that the calling thread is in."""
    return os.path.samestat(os.fstat(netns), os.stat("/proc/thread-self/ns/net"))


def is_network_namespace(descriptor: int) -> bool:
    """Whether a descriptor is of a network namespace, and not of another kind or of a file (ioctl_ns(2))."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


class Wirer:
    """The pod links of the node whose namespace the calling thread is in."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(KERNEL_THREADS, thread_name_prefix="pod")
        self._retired = asyncio.Event()

    async def make(self, wiring: PodWiring, netns: int) -> bool:
        """Makes what needs no address; whether the pair had to be made. Raises as `make_pod`."""
        return await self._in_pod(lambda descriptor: make_pod(wiring, descriptor), netns)

    async def finish(self, wiring: PodWiring, netns: int, *, made: bool) -> None:
        """Gives both ends all that they are to hold. Raises as `configure_pod`."""
        finish = add_pod_addresses if made else configure_pod
        await self._in_pod(lambda descriptor: finish(wiring, descriptor), netns)

    async def check(self, wiring: PodWiring, netns: int) -> tuple[str, ...]:
        """What is not as it should be, in words. Raises as `check_pod`."""
        return await self._in_pod(lambda descriptor: check_pod(wiring, descriptor), netns)

    async def retire(self, device: str, owner: str) -> bool:
        """No packet passes over the owner's pair any more; the device goes later. Whether there was one.

        Raises  PodError.
        """
        retired = await self._in_thread(lambda: retire_pod_link(device, owner))
        if retired:
            self._retired.set()
        return retired

    async def list_links(self, prefix: str) -> Mapping[str, str]:
        """Owner by device of the pairs in service."""
        return await self._in_thread(lambda: list_pod_links(prefix))

    async def serve_retired(self) -> None:
        """Deletes what is retired, and first of all what an agent before this one has left; never returns."""
        while True:
            try:
                await self._in_thread(delete_retired_links)
            except OSError as error:
                log.warning("retired devices stay for now: %s", error)
            await self._retired.wait()
            await asyncio.sleep(DELETE_AFTER_S)
            self._retired.clear()

    def close(self) -> None:
        """Waits for no kernel work; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _in_pod(self, function: Callable[[int], T], netns: int) -> T:
        """Gives the thread a descriptor of its own: it may outlive the call, and a number may come to mean another."""
        own = os.dup(netns)
        running = self._threads.submit(function, own)
        running.add_done_callback(lambda _: os.close(own))
        return await asyncio.wrap_future(running)
