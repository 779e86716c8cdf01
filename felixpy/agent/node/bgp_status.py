"""CalicoNodeStatus: how a node's BGP stands, written where somebody asks for it, as often as they ask.

In: wishes for this node, and its status; out: the `status` of each CalicoNodeStatus, in Calico's form, the rest of the
object as it is. Written only while the datastore is obeyed; of a wish that asks for nothing periodic once. Nobody's
wish costs nothing. Source: api/pkg/apis/projectcalico/v3/nodestatus.go, node/pkg/status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import msgspec

from felixpy.agent.doors.status import StatusReader
from felixpy.datastore.model import DatastoreError, Expect, Store, Write
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kinds import BY_TYPE, CALICO, Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import NodeStatusWish
from felixpy.status.answers import BgpStatus, LearnedPrefix, NodeStatus, SessionStatus, Want

_log = logging.getLogger(__name__)

PERIOD_LEAST_S = 1
RETRY_S = 5.0
_KIND = BY_TYPE[CALICO, "CalicoNodeStatus"]
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class NodeStatusWriter:
    """Fulfils the wishes for one node: `update` takes them, `serve` writes."""

    def __init__(self, node: str, store: Store, reader: StatusReader, now: Callable[[], datetime]) -> None:
        self._node = node
        self._store = store
        self._reader = reader
        self._now = now
        self._due: dict[Name, float] = {}
        self._wishes: dict[Name, NodeStatusWish] = {}
        self._wake = asyncio.Event()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View; our own writing comes back as no change of a wish."""
        if ref.table is not Table.NODE_STATUS:
            return
        wish = value if isinstance(value, NodeStatusWish) and value.node == self._node else None
        if wish == self._wishes.get(ref.name):
            return
        self._due.pop(ref.name, None)
        self._wishes.pop(ref.name, None)
        if wish is not None:
            self._wishes[ref.name] = wish
            self._due[ref.name] = 0.0
            self._wake.set()

    async def serve(self) -> NoReturn:
        """Writes whatever is due, for ever."""
        while True:
            soonest = min(self._due.values(), default=None)
            self._wake.clear()
            try:
                async with asyncio.timeout(None if soonest is None else max(0.0, soonest - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            for name in [name for name, due in self._due.items() if due <= time.monotonic()]:
                await self._fulfil(name)

    async def _fulfil(self, name: Name) -> None:
        wish = self._wishes.get(name)
        if wish is None:  # gone while another was fulfilled
            return
        try:
            done = await self._write(name, wish)
        except (DatastoreError, *UNREADABLE) as error:
            _log.debug("%s is not written now: %s", _KIND.key(name), error)
            done = False
        if self._wishes.get(name) != wish:
            return
        if done and not wish.period_s:
            self._due.pop(name, None)
        else:
            pause_s = max(wish.period_s, PERIOD_LEAST_S) if done else RETRY_S
            self._due[name] = time.monotonic() + pause_s

    async def _write(self, name: Name, wish: NodeStatusWish) -> bool:
        """Whether the status stands there now."""
        want = (Want.LEARNED, Want.ANNOUNCED) if "Routes" in wish.classes else ()
        status = await self._reader.read(want)
        if not status.in_sync:
            return False
        key = _KIND.key(name).encode()
        pair = await self._store.get(key)
        if pair is None:
            return False
        document = msgspec.json.decode(pair.value, type=dict[str, Any])
        document["status"] = render_status(status, wish.classes, self._now())
        write = Write(key, msgspec.json.encode(document), pair.lease)
        return (await self._store.transact([Expect(key, pair.mod_revision)], [write])).succeeded


def render_status(status: NodeStatus, classes: Iterable[str], now: datetime) -> dict[str, Any]:
    """The status in Calico's words; `classes` are those that are asked for."""
    bgp = status.bgp or BgpStatus()
    rendered: dict[str, Any] = {"lastUpdated": now.strftime(_TIME), "agent": {}, "bgp": {}, "routes": {}}
    if "Agent" in classes:
        rendered["agent"] = {f"birdV{version}": _daemon(bgp) for version in (4, 6)}
    for version in (4, 6) if "BGP" in classes else ():
        sessions = [one for one in bgp.sessions if _version(one.address) == version]
        up = sum(one.established for one in sessions)
        rendered["bgp"][f"numberEstablishedV{version}"] = up
        rendered["bgp"][f"numberNotEstablishedV{version}"] = len(sessions) - up
        if sessions:
            rendered["bgp"][f"peersV{version}"] = [_peer(one, now) for one in sessions]
    for version in (4, 6) if "Routes" in classes else ():
        routes = _routes(bgp, version)
        if routes:
            rendered["routes"][f"routesV{version}"] = routes
    return rendered


def _daemon(bgp: BgpStatus) -> Mapping[str, str]:
    ready = bgp.generation > 0 and not bgp.no_speaker
    version = f"GoBGP {bgp.generation}" if bgp.generation else ""
    return {"state": "Ready" if ready else "NotReady", "version": version, "routerID": bgp.router_id}


def _peer(session: SessionStatus, now: datetime) -> Mapping[str, str]:
    since = "" if session.since_s is None else (now - timedelta(seconds=session.since_s)).strftime(_TIME)
    kind = "nodePeer" if session.asked_by else "nodeMesh"
    return {"peerIP": session.address, "type": kind, "state": session.state, "since": since}


def _routes(bgp: BgpStatus, version: int) -> Sequence[Mapping[str, Any]]:
    """Learned routes, in the kernel (FIB) or not (RIB), and what this node originates."""
    asked_by = {session.address: session.asked_by for session in bgp.sessions}
    learned = [_learned(one, asked_by) for one in bgp.routes if _version(one.prefix) == version]
    own = [
        {
            "type": "FIB",
            "destination": one.prefix,
            "gateway": "",
            "interface": "",
            "learnedFrom": {"sourceType": "Static"},
        }
        for one in bgp.announcements
        if _version(one.prefix) == version
    ]
    return [*learned, *own]


def _learned(route: LearnedPrefix, asked_by: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    teacher = route.teachers[0] if route.teachers else ""
    source = "BGPPeer" if asked_by.get(teacher) else "NodeMesh"
    return {
        "type": "RIB" if route.error else "FIB",
        "destination": route.prefix,
        "gateway": route.next_hops[0] if route.next_hops else "",
        "interface": route.devices[0] if route.devices else "",
        "learnedFrom": {"sourceType": source, **({"peerIP": teacher} if teacher else {})},
    }


def _version(text: str) -> int:
    return 6 if ":" in text else 4
