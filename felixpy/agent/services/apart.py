"""Agent and BGP in two processes of one node: what the kernel serves is told over a socket in the run directory.

In      the agent's side: what may be announced, as it changes, and that somebody has withdrawn what may not. The other
        side: what it may announce. Out: the same order as in one process (calc/announcing/gate.py): announced once the
        kernel serves it, withdrawn before it ceases to.
Away    the agent: what its kernel served last still is served, so it stays announced, and nothing new is; whoever
        starts meanwhile asks the kernel itself. BGP: gobgpd may go on announcing, so nothing is withdrawn until it is
        back, for as long as Serving waits. Where a role never ran nobody waits for it. That the agent did is kept over
        a boot, after which whoever comes first would take itself to be alone: the kernel holds nothing then. At the
        very first boot nobody can know, unless the settings say it.
Words   one JSON line a change from the agent, numbered, the first of a connection with everything; a number comes back
        once all up to it is withdrawn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

import msgspec

from birdpy.unix_socket import listen
from felixpy.addresses import format_address, parse_address
from felixpy.agent.settings import Beside, Role, Settings
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend
from felixpy.dataplane.chains.service_sets import encode_frontend
from felixpy.drivers.served import read_served_keys

_log = logging.getLogger(__name__)

SOCKET_NAME = "serving.sock"
LINE_MOST_BYTES = 16 * 1024 * 1024
"""A hundred thousand frontends in one line are 4 MB."""
UNREAD_MOST_BYTES = 64 * 1024 * 1024
RECONNECT_S = 0.2
HEARD_WITHIN_S = 1.0
"""How long the agent has at the start to say what its kernel serves, before the kernel is asked."""
_AGENT_RAN = "agent.ran"


class Served(msgspec.Struct, frozen=True):
    """What the kernel serves to the outside: all of it, or what changed."""

    number: int
    whole: bool = False
    puts: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()


def known_roles(settings: Settings) -> tuple[str, ...]:
    """The roles that some process has had since the run directory was made, and an agent of its own that ran before.

    Whether there is an agent beside a process without that role is as the settings say, where they do.
    """
    ran = {role for role in Role if (settings.run_dir / f"{role}.lock").exists()}
    match settings.beside:
        case Beside.APART:
            ran.add(Role.AGENT)
        case Beside.NONE if Role.AGENT not in settings.roles:
            ran.discard(Role.AGENT)
        case _ if _mark_of(settings).exists():
            ran.add(Role.AGENT)
    return tuple(sorted(ran))


def _mark_of(settings: Settings) -> Path:
    return settings.state_file.with_name(_AGENT_RAN)


class Withdrawn(msgspec.Struct, frozen=True):
    """Nothing is announced that was dropped up to this number."""

    number: int


class ServedDoor:
    """The agent's side: an announcer to Serving, as the roles of its own process are."""

    def __init__(self, settings: Settings, told: Callable[[], None]) -> None:
        self._path = settings.run_dir / SOCKET_NAME
        self._mark = _mark_of(settings)
        self._bgp_lock = settings.run_dir / f"{Role.BGP}.lock"
        self._told = told
        self._served: set[str] = set()
        self._number = self._dropped = self._withdrawn = 0
        self._peer: asyncio.StreamWriter | None = None
        self._begun = False

    @property
    def settled(self) -> bool:
        """Whether nobody announces any more what may not be."""
        if self._peer is None and not self._bgp_lock.exists():
            return True
        return self._withdrawn >= self._dropped

    def begin(self) -> None:
        """All has been told of a kernel that was read: an agent that has just started knows nothing before."""
        if not self._begun:
            self._begun = True
            self._send_all()

    def flush(self, services: ServiceDelta) -> None:
        """What may be announced is otherwise now."""
        wanted = {_write(one): bool(intent.outside) for one, intent in services.puts.items()}
        wanted |= {_write(one): False for one in services.drops}
        puts = [one for one, serves in wanted.items() if serves and one not in self._served]
        drops = [one for one, serves in wanted.items() if not serves and one in self._served]
        if not puts and not drops:
            return
        self._served.update(puts)
        self._served.difference_update(drops)
        self._number += 1
        if drops:
            self._dropped = self._number
        self._send(Served(self._number, False, tuple(puts), tuple(drops)))

    async def serve(self) -> None:
        """Listens until cancelled.

        Raises  OSError when there can be no socket in the run directory.
        """
        server = await asyncio.start_unix_server(self._converse, sock=listen(self._path))
        try:
            self._mark.touch()
        except OSError as error:
            _log.warning("that the agent runs here is not kept for the next boot: %s", error)
        async with server:
            await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One process at a time: a new one takes the place of the old."""
        if self._peer is not None:
            self._peer.close()
        self._peer = writer
        try:
            self._send_all()
            while line := await reader.readline():
                self._withdrawn = msgspec.json.decode(line, type=Withdrawn).number
                self._told()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _log.info("the process that speaks BGP is away: %s", error)
        finally:
            if self._peer is writer:
                self._peer = None
            writer.close()

    def _send_all(self) -> None:
        self._send(Served(self._number, True, tuple(sorted(self._served))))

    def _send(self, served: Served) -> None:
        if self._peer is None or not self._begun:
            return
        self._peer.write(msgspec.json.encode(served) + b"\n")
        if self._peer.transport.get_write_buffer_size() > UNREAD_MOST_BYTES:
            _log.warning("the process that speaks BGP does not listen: it must ask anew")
            self._peer.transport.abort()
            self._peer = None


class ServedElsewhere:
    """The side of BGP: what the agent's kernel serves, and `withdrawn` when all that it does not is withdrawn.

    `doubt` hears which frontends may be held otherwise than before; None: any.
    """

    def __init__(self, settings: Settings, doubt: Callable[[Collection[Frontend] | None], None]) -> None:
        self._path = settings.run_dir / SOCKET_NAME
        self._settings = settings
        self._alone = settings.beside is Beside.NONE
        self._doubt = doubt
        self._served: set[Frontend] = set()
        self._keys: frozenset[bytes] | None = None
        self._heard = False
        self._peer: asyncio.StreamWriter | None = None
        self._number = self._said = 0

    @property
    def started(self) -> bool:
        """Whether something is known of the kernel, or that nobody can be asked."""
        return self._heard or self._keys is not None or self._alone

    def holds(self, frontend: Frontend) -> bool | None:
        """Whether the kernel serves a frontend to the outside, as far as was heard last."""
        if self._heard:
            return frontend in self._served
        if self._keys is not None:
            return encode_frontend(frontend) in self._keys
        return True if self._alone else None

    def withdrawn(self) -> None:
        """All that was asked for so far is announced, and nothing else."""
        if self._peer is not None and self._said != self._number:
            self._said = self._number
            self._peer.write(msgspec.json.encode(Withdrawn(self._number)) + b"\n")

    async def serve(self) -> NoReturn:
        """Listens to one agent after the other."""
        asyncio.get_running_loop().call_later(HEARD_WITHIN_S, self._ask_kernel)
        while True:
            try:
                await self._hear()
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                _log.debug("the agent says nothing of its kernel: %s", error)
            await asyncio.sleep(RECONNECT_S)

    async def _hear(self) -> None:
        """Raises  OSError, ValueError, MsgspecError."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_MOST_BYTES)
        try:
            while line := await reader.readline():
                told = msgspec.json.decode(line, type=Served)
                self._peer = writer
                self._take(told)
        finally:
            self._peer = None
            writer.close()

    def _take(self, told: Served) -> None:
        puts = set(map(_read, told.puts))
        changed: set[Frontend] | None = None
        if told.whole:
            self._served, self._said, self._heard = puts, -1, True
        else:
            drops = set(map(_read, told.drops))
            self._served |= puts
            self._served -= drops
            changed = puts | drops
        self._number = told.number
        self._doubt(changed)

    def _ask_kernel(self) -> None:
        """The agent has said nothing so far: it is away, or there is none in this run directory."""
        if self._heard:
            return
        if Role.AGENT in known_roles(self._settings):
            self._keys = _read_keys()
            _log.info("the agent is away: what the kernel serves is announced, %d frontends", len(self._keys))
        else:
            self._alone = True
        self._doubt(None)


def _read_keys() -> frozenset[bytes]:
    try:
        return read_served_keys()
    except OSError as error:
        _log.warning("what the kernel serves cannot be read: %s", error)
        return frozenset()


def _write(frontend: Frontend) -> str:
    return f"{format_address(frontend.address)} {frontend.protocol} {frontend.port}"


def _read(text: str) -> Frontend:
    """Raises  ValueError."""
    address, protocol, port = text.split()
    return Frontend(parse_address(address), int(protocol), int(port))
