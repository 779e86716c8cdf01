"""Layer 2 of the agent role: what the View says about Service addresses, told to the process that answers for them.

In      resources and frontends; out: one responder (birdpy/l2) that contends for the addresses it should, told anew
        whenever it is another process. Nothing is told before the first complete View, and nothing at all where there
        is no address at layer 2. The responder outlives the agent, so answers go on while it restarts.
Never   answers ARP or ND, and settles nothing between nodes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from birdpy.l2.election import Standing
from birdpy.l2.program import responder_program
from birdpy.l2.protocol import (
    LINE_MOST_BYTES,
    VERSION,
    Ask,
    ProtocolError,
    Replace,
    Request,
    Status,
    Update,
    Vip,
    Watch,
    parse_status,
    render_request,
)
from birdpy.process import find_strays, listener_pid
from birdpy.supervisor import Supervisor
from felixpy.addresses import Address, Prefix, format_address, parse_address
from felixpy.agent.services.answering import Answering, Segments, find_segments
from felixpy.agent.settings import Settings
from felixpy.calc.announcing.layer2 import Layer2Calc, Layer2Delta, Layer2Vip
from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.metrics import Family
from felixpy.resources.documents import AnsweringDoc
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref

_log = logging.getLogger(__name__)

SOCKET_NAME = "l2.sock"
LOG_NAME = "l2.log"
RECONNECT_S = 0.05
ANSWER_TIMEOUT_S = 5.0
PULSE_S = 10.0
"""So long nothing is told at the most: one that hangs is found out by what it does not answer."""
HANGS_MOST_S = 10.0
"""A responder that answers nothing for so long, counted from the first silence, makes way for another one."""
FIGURES_TIMEOUT_S = 1.0


class ResponderGone(Exception):
    """The responder does not answer, or not as agreed."""


class ResponderHangs(ResponderGone):
    """The responder takes a connection, and what it is asked, and does not answer."""


class Layer2Role:
    """Starts its tasks in `group`; fed by whoever reads the syncer."""

    def __init__(
        self,
        settings: Settings,
        group: asyncio.TaskGroup,
        answering: Answering,
        read_subnets: Callable[[], Mapping[str, frozenset[Prefix]]],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._calc = Layer2Calc(settings.node)
        path = settings.run_dir / SOCKET_NAME
        self._path = path
        self._supervisor = Supervisor(responder_program(path, settings.run_dir / LOG_NAME))
        self._group = group
        self._running = self._looked = self._telling = False
        self._told = told
        self._drain_s = settings.layer2_drain_s
        self._answering = answering
        self._read_subnets = read_subnets
        self._segments: Segments = {}
        self._owned: frozenset[tuple[str, Address]] = frozenset()
        self._ending: set[Address] = set()
        self._changed = asyncio.Event()
        self._pending: dict[Address, Layer2Vip | None] = {}
        self._draining: set[Address] = set()
        self._complaint = ""
        self._silent_since: float | None = None

    @property
    def calc(self) -> Layer2Calc:
        """Which addresses it should contend for, and why not for the others."""
        return self._calc

    async def ask(self) -> Status | None:
        """How the responder says that things stand; None where there is none.

        Raises  OSError, ProtocolError, ResponderGone.
        """
        if not self._running:
            return None
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_MOST_BYTES)
        answer = asyncio.ensure_future(reader.readline())
        try:
            return await _tell(writer, answer, Ask())
        finally:
            answer.cancel()
            writer.close()

    @property
    def answered(self) -> frozenset[Address]:
        """What this node answers for, on whatever interface."""
        return frozenset(address for _, address in self._owned)

    @property
    def answered_on(self) -> Mapping[Address, Collection[str]]:
        """What this node answers for, and on which interfaces."""
        found: dict[Address, set[str]] = {}
        for interface, address in self._owned:
            found.setdefault(address, set()).add(interface)
        return found

    async def families(self) -> Iterable[Family]:
        """What went to and fro for each address; nothing where the responder does not answer in time."""
        from felixpy.agent.services.figures import answered_families

        try:
            async with asyncio.timeout(FIGURES_TIMEOUT_S):
                status = await self.ask()
        except (OSError, TimeoutError, ProtocolError, ResponderGone):
            status = None
        return answered_families(status) if status is not None else ()

    @property
    def settled(self) -> bool:
        """Whether the responder was told all, and answers for nothing that it should not; so it is without one."""
        if not self._running:
            return True
        return not (self._changed.is_set() or self._telling or any(one in self._ending for _, one in self._owned))

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        self._calc.update(ref, value)

    def flush(self, services: ServiceDelta) -> None:
        """Everything so far has been given, and is in the kernel: tells the responder what came of it."""
        self._calc.update_frontends(services)
        delta = self._calc.flush()
        self._pending.update(delta.puts)
        self._pending.update(dict.fromkeys(delta.drops))
        ended = self._note_drains(delta)
        self._pending.update(dict.fromkeys(ended))
        self._ending.update(delta.drops - self._draining)
        self._ending.difference_update(delta.puts)
        survived = not self._looked and bool(listener_pid(self._path) or find_strays(self._path))
        self._looked = True
        if not self._running and (self._calc.vips or survived):
            self._running = True
            self._group.create_task(self._supervisor.run())
            self._group.create_task(self._feed())
            self._group.create_task(self._follow())
            self._group.create_task(self._answering.serve())
        if delta or ended:
            self._changed.set()

    def _note_drains(self, delta: Layer2Delta) -> list[Address]:
        """Addresses that this node went on serving, although excluded, and now cannot serve any more."""
        self._draining.update(address for address in delta.drops if self._is_excluded(address))
        ended = [address for address in self._draining if not self._is_excluded(address)]
        self._draining.difference_update(ended)
        return [address for address in ended if address not in self._calc.vips]

    def _is_excluded(self, address: Address) -> bool:
        silent = self._calc.silences.get(address)
        return silent is not None and silent.reason is Reason.NODE_EXCLUDED

    async def _follow(self) -> None:
        """Hears for ever what the responder answers for, and has it said to the other nodes."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_MOST_BYTES)
                try:
                    writer.write(render_request(Watch()))
                    while line := await reader.readline():
                        self._note_owned(parse_status(line))
                finally:
                    writer.close()
            except (OSError, ProtocolError) as error:
                _log.debug("the responder says nothing: %s", error)
            self._note_owned(Status())
            await asyncio.sleep(RECONNECT_S)

    def _note_owned(self, status: Status) -> None:
        owned = frozenset((one.interface, parse_address(one.address)) for one in status.vips if one.owns)
        if owned == self._owned:
            return
        self._owned = owned
        self._ending &= {address for _, address in owned}
        self._read_segments()
        scores: dict[str, dict[str, int]] = {}
        for interface, address in sorted(owned):
            if address in self._calc.vips:
                for segment in self._segments.get(interface, ()):
                    scores.setdefault(segment, {})[format_address(address)] = self._calc.vips[address].score
        self._answering.say(AnsweringDoc(scores))
        self._told()

    def _read_segments(self) -> None:
        try:
            self._segments = find_segments(self._read_subnets())
        except OSError as error:
            _log.warning("the host's subnets cannot be read: %s", error)

    async def _feed(self) -> None:
        """Tells one responder after the other, for ever."""
        while True:
            try:
                await self._converse()
            except (OSError, ProtocolError, ResponderGone) as error:
                self._note_silence(error)
                words = f"{type(error).__name__}: {error}"
                if words != self._complaint:
                    self._complaint = words
                    _log.info("the responder is away: %s", words)
            await asyncio.sleep(RECONNECT_S)

    def _note_silence(self, error: Exception) -> None:
        """Ends one that hangs: whose connections are full of what it did not take looks as if it reset them."""
        now = time.monotonic()
        if not isinstance(error, ResponderHangs | ConnectionResetError):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since >= HANGS_MOST_S:
            self._silent_since = None
            _log.warning("the responder is there and answers nobody: another one takes its place")
            self._supervisor.end(signal.SIGKILL)

    async def _converse(self) -> None:
        """Tells one responder everything, then what changes, until it is gone.

        Raises  OSError, ProtocolError, ResponderGone.
        """
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_MOST_BYTES)
        answer = asyncio.ensure_future(reader.readline())
        try:
            await self._check_version(writer, answer)
            answer = asyncio.ensure_future(reader.readline())
            self._pending.clear()
            self._changed.clear()
            self._telling = True
            self._read_segments()
            status = await _tell(writer, answer, Replace(self._vips(self._calc.vips)))
            self._telling = False
            self._complaint, self._silent_since = "", None
            _log.info("layer 2: the responder %d has %d addresses", status.pid, status.wanted)
            self._told()
            while True:
                answer = asyncio.ensure_future(reader.readline())
                await self._until_changed(answer)
                self._telling = changed = self._changed.is_set()
                await _tell(writer, answer, self._take_update())
                self._telling = False
                if changed:
                    self._told()
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            writer.close()

    async def _check_version(self, writer: asyncio.StreamWriter, answer: asyncio.Future[bytes]) -> None:
        """Ends a responder of another version, which may not understand what it is told; a new one follows.

        Raises  OSError, ResponderGone.
        """
        try:
            version = str((await _tell(writer, answer, Ask())).version)
        except ProtocolError as error:
            version = f"an unknown version ({error})"
        if version != str(VERSION):
            self._supervisor.end()
            raise ResponderGone(f"it is of version {version}, not {VERSION}, and makes way for a new one")

    async def _until_changed(self, answer: asyncio.Future[bytes]) -> None:
        """Waits for something to tell, or for the next pulse; an answer to nothing is the end of the connection."""
        changed = asyncio.ensure_future(self._changed.wait())
        awaited: list[asyncio.Future[Any]] = [changed, answer]
        try:
            await asyncio.wait(awaited, timeout=PULSE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if answer.done():
            raise ResponderGone("it has closed the connection")

    def _take_update(self) -> Update:
        pending, self._pending = self._pending, {}
        self._changed.clear()
        puts = {address: vip for address, vip in pending.items() if vip is not None}
        left = [address for address, vip in pending.items() if vip is None]
        drains = tuple(address for address in left if address in self._draining)
        return Update(self._vips(puts), tuple(address for address in left if address not in self._draining), drains)

    def _vips(self, vips: Mapping[Address, Layer2Vip]) -> tuple[Vip, ...]:
        return tuple(
            Vip(address, Standing(vip.rank, vip.score, drain_s=self._drain_s), vip.interfaces, self._elsewhere(vip))
            for address, vip in sorted(vips.items())
        )

    def _elsewhere(self, vip: Layer2Vip) -> tuple[tuple[str, int], ...]:
        """By interface the greatest score of another node that answers on its segment."""
        on = {
            interface: max((score for segment, score in vip.elsewhere if segment in segments), default=0)
            for interface, segments in (self._segments.items() if vip.elsewhere else ())
        }
        return tuple((interface, score) for interface, score in on.items() if score)


async def _tell(writer: asyncio.StreamWriter, answer: asyncio.Future[bytes], request: Request) -> Status:
    """One request and its answer.

    Raises  OSError, ProtocolError, ResponderGone.
    """
    writer.write(render_request(request))
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await writer.drain()
            line = await answer
    except TimeoutError:
        raise ResponderHangs("it does not answer") from None
    if not line:
        raise ResponderGone("it has closed the connection")
    status = parse_status(line)
    if status.error:
        raise ResponderGone(status.error)
    return status
