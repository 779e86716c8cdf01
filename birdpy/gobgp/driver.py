"""Makes one gobgpd as intended: reads what it holds, carries operations out, says what became of each.

Decides nothing: `plan.py` does. What it holds is read once per connection and kept up by what is done to it; sessions
and neighbours are read again whenever something about them changed. Source: measured on GoBGP 3.10 and 4.8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import assert_never

from birdpy.addresses import Prefix, format_address, range_of
from birdpy.gobgp.client import GobgpClient, GobgpError, GobgpUnavailable
from birdpy.gobgp.paths import path_messages, withdraw_message
from birdpy.gobgp.peers import (
    global_message,
    group_message,
    peer_message,
    read_global,
    read_neighbor,
    read_range,
    read_session,
)
from birdpy.gobgp.plan import (
    Actual,
    AddNeighbor,
    Announce,
    Operation,
    Outcome,
    Refresh,
    RemoveNeighbor,
    ReplaceProcess,
    SetPolicy,
    StartSpeaker,
    UpdateNeighbor,
    Withdraw,
)
from birdpy.gobgp.policies import (
    DIRECTION_CODES,
    GLOBAL,
    assignment_message,
    policies_message,
    policy_mark,
    read_mark,
)
from birdpy.gobgp.wire import Message
from birdpy.intent import Advertisement, Direction, Neighbor, Policy
from birdpy.process import end_listener
from birdpy.session import Session, follow

PATHS_PER_MESSAGE = 1000
HELD_BACK = "held back: the speaker or its policy could not be set"
_TABLE_GLOBAL = 0
_RESET_IN, _RESET_OUT = 0, 1


class GobgpDriver:
    """One connected gobgpd. `actual` is what it holds, as far as is known."""

    def __init__(self, client: GobgpClient) -> None:
        self.client = client
        self._lock = asyncio.Lock()
        self.actual = Actual()
        self.sessions: Mapping[bytes, Session] = {}
        self._groups: Mapping[str, list[bytes]] = {}

    @property
    def tells_ends(self) -> bool:
        """Whether this version tells when a neighbour has come to the end of its table."""
        return self.client.wire.generation > 3

    async def read(self) -> Actual:
        """Reads speaker, neighbours, sessions and policies; what we announced is remembered, not read.

        Raises  GobgpUnavailable, GobgpError.
        """
        async with self._lock:
            return await self._read()

    async def _read(self) -> Actual:
        reply = await self.client.call("GetBgp", self.client.message("Empty"), "GlobalCall")
        speaker = read_global(getattr(reply, "global"))
        if speaker is None:
            self.actual, self.sessions = Actual(), {}
            return self.actual
        marks = {direction: await self._read_mark(direction) for direction in Direction}
        self.actual = replace(self.actual, speaker=speaker, marks=marks, ranges=await self._read_ranges())
        await self._read_sessions(False)
        return self.actual

    async def read_sessions(self, counted: bool = False) -> Mapping[bytes, Session]:
        """Reads every neighbour's session, and its configuration with it. `counted` adds what we announced to each.

        Raises  GobgpUnavailable, GobgpError.
        """
        async with self._lock:
            return await self._read_sessions(counted)

    async def _read_sessions(self, counted: bool) -> Mapping[bytes, Session]:
        speaker = self.actual.speaker
        if speaker is None:
            return {}
        neighbors: dict[bytes, Neighbor] = {}
        groups: dict[str, list[bytes]] = {}
        sessions: dict[bytes, Session] = {}
        call = self.client.message("ListPeerCall", enable_advertised=counted)
        async for reply in self.client.stream("ListPeer", call, "PeerCall"):
            session = read_session(self.client.wire, reply.peer)
            session = follow(self.sessions.get(session.address), session)
            sessions[session.address] = session
            if reply.peer.conf.group:
                groups.setdefault(reply.peer.conf.group, []).append(session.address)
            else:
                neighbors[session.address] = read_neighbor(reply.peer, speaker)
        self._groups = groups
        shut = frozenset(address for address, session in sessions.items() if session.over_prefix_limit)
        self.actual = replace(self.actual, neighbors=neighbors, shut=shut)
        self.sessions = sessions
        return sessions

    def recognise(self, policy: Policy) -> None:
        """After a restart of ours: what gobgpd holds is this policy, where the marks say so."""
        if self.actual.policy is not None:
            return
        if self.actual.marks == {direction: policy_mark(direction, policy) for direction in Direction}:
            self.actual = replace(self.actual, policy=policy)

    async def apply(self, operations: Iterable[Operation], restarting: bool = False) -> Sequence[Outcome]:
        """Carries the operations out in order. One that fails holds back no other; but nothing goes without its policy.

        `restarting`: new sessions say that forwarding survived our restart.
        Raises  GobgpUnavailable when gobgpd goes away meanwhile.
        """
        outcomes: list[Outcome] = []
        unguarded = False
        async with self._lock:
            for operation in operations:
                if unguarded and not isinstance(operation, Withdraw | RemoveNeighbor):
                    outcomes.append(Outcome(operation, HELD_BACK))
                    continue
                try:
                    errors = await self._carry_out(operation, restarting)
                except GobgpUnavailable:
                    raise
                except (GobgpError, ValueError) as error:
                    errors = [str(error)]
                unguarded = unguarded or (bool(errors) and isinstance(operation, StartSpeaker | SetPolicy))
                outcomes.append(Outcome(operation, "; ".join(errors) or None))
        return outcomes

    async def _carry_out(self, operation: Operation, restarting: bool) -> list[str]:
        client, actual = self.client, self.actual
        match operation:
            case ReplaceProcess():
                await end_listener(client.socket_path)
                raise GobgpUnavailable("ReplaceProcess", "gobgpd was ended: another is to take its place")
            case StartSpeaker(speaker):
                call = client.message("GlobalCall", **{"global": global_message(client.wire, speaker)})
                await client.call("StartBgp", call)
                self.actual = Actual(speaker)
            case SetPolicy(policy):
                await client.call("SetPolicies", policies_message(client.wire, policy))
                for direction in Direction:
                    await client.call("SetPolicyAssignment", assignment_message(client.wire, direction))
                marks = {direction: policy_mark(direction, policy) for direction in Direction}
                self.actual = replace(actual, marks=marks, policy=policy)
            case Refresh(address, direction):
                code = client.wire.enum(_RESET_IN if direction is Direction.IMPORT else _RESET_OUT)
                for one in await self._members(address):
                    call = client.message("ResetPeerCall", address=format_address(one), soft=True, direction=code)
                    await client.call("ResetPeer", call)
            case Announce(advertisements):
                return await self._announce(advertisements)
            case Withdraw(prefixes):
                paths = (withdraw_message(client.wire, prefix) for prefix in prefixes)
                await self._send_paths(paths)
                gone = set(prefixes)
                kept = {prefix: given for prefix, given in actual.advertisements.items() if prefix not in gone}
                self.actual = replace(actual, advertisements=kept)
            case AddNeighbor(neighbor) if range_of(neighbor.address) is not None:
                await self._put_range(neighbor)
            case RemoveNeighbor(address) if range_of(address) is not None:
                await self._drop_range(address)
            case AddNeighbor(neighbor):
                await self._put_neighbor("AddPeer", neighbor, restarting)
            case UpdateNeighbor(neighbor):
                await self._put_neighbor("UpdatePeer", neighbor, False)
            case RemoveNeighbor(address):
                await client.call("DeletePeer", client.message("AddressCall", address=format_address(address)))
                rest = {other: neighbor for other, neighbor in actual.neighbors.items() if other != address}
                self.actual = replace(actual, neighbors=rest)
            case _:
                assert_never(operation)
        return []

    async def _put_neighbor(self, call: str, neighbor: Neighbor, restarting: bool) -> None:
        speaker = self.actual.speaker
        if speaker is None:
            raise GobgpError(call, "the speaker is not started")
        peer = peer_message(self.client.wire, neighbor, speaker, restarting)
        await self.client.call(call, self.client.message("PeerCall", peer=peer))
        known = {**self.actual.neighbors, neighbor.address: neighbor}
        self.actual = replace(self.actual, neighbors=known)

    async def _members(self, address: bytes) -> Sequence[bytes]:
        """The neighbour itself, or whoever has connected from the prefix that it is."""
        if range_of(address) is None:
            return (address,)
        await self._read_sessions(False)
        return self._groups.get(self.actual.ranges.get(address, ""), ())

    async def _put_range(self, neighbor: Neighbor) -> None:
        speaker, client = self.actual.speaker, self.client
        if speaker is None:
            raise GobgpError("AddPeerGroup", "the speaker is not started")
        group = group_message(client.wire, neighbor, speaker)
        name, prefix = group.conf.name, str(range_of(neighbor.address))
        with suppress(GobgpError):  # one that an earlier run left without its prefix
            await client.call("DeletePeerGroup", client.message("NameCall", name=name))
        await client.call("AddPeerGroup", client.message("GroupCall", group=group))
        added = client.message("RangeCall", range=client.message("Range", prefix=prefix, group=name))
        await client.call("AddDynamicNeighbor", added)
        self.actual = replace(self.actual, ranges={**self.actual.ranges, neighbor.address: name})

    async def _drop_range(self, address: bytes) -> None:
        """Nobody may connect any more; then those who have are let go."""
        client, name = self.client, self.actual.ranges[address]
        await client.call("DeleteDynamicNeighbor", client.message("Range", prefix=str(range_of(address)), group=name))
        for member in await self._members(address):
            await client.call("DeletePeer", client.message("AddressCall", address=format_address(member)))
        await client.call("DeletePeerGroup", client.message("NameCall", name=name))
        rest = {other: group for other, group in self.actual.ranges.items() if other != address}
        self.actual = replace(self.actual, ranges=rest)

    async def _read_ranges(self) -> Mapping[bytes, str]:
        replies = self.client.stream("ListDynamicNeighbor", self.client.message("NameCall"), "RangeCall")
        found = [read_range(reply.range) async for reply in replies]
        return dict(one for one in found if one is not None)

    async def _announce(self, advertisements: Sequence[Advertisement]) -> list[str]:
        """Sends them in bulk; where gobgpd refuses one, sends them one by one to name it."""
        done: dict[Prefix, Advertisement] = {}
        errors: list[str] = []
        try:
            await self._send_paths(path_messages(self.client.wire, advertisements))
            done = {given.prefix: given for given in advertisements}
        except GobgpUnavailable:
            raise
        except GobgpError:
            for given, path in zip(advertisements, path_messages(self.client.wire, advertisements), strict=True):
                try:
                    await self._send_paths([path])
                    done[given.prefix] = given
                except GobgpUnavailable:
                    raise
                except GobgpError as error:
                    errors.append(f"{given.prefix}: {error.detail}")
        self.actual = replace(self.actual, advertisements={**self.actual.advertisements, **done})
        return errors

    async def _send_paths(self, paths: Iterable[Message]) -> None:
        table = self.client.wire.enum(_TABLE_GLOBAL)
        calls = (
            self.client.message("PathsCall", table=table, paths=chunk) for chunk in _chunks(paths, PATHS_PER_MESSAGE)
        )
        await self.client.send_stream("AddPathStream", calls)

    async def _read_mark(self, direction: Direction) -> str | None:
        call = self.client.message("NameDirectionCall", name=GLOBAL, direction=DIRECTION_CODES[direction])
        marks: list[str | None] = []
        async for reply in self.client.stream("ListPolicyAssignment", call, "AssignmentCall"):
            if reply.assignment.direction == DIRECTION_CODES[direction]:
                marks.append(read_mark(reply.assignment.policies))
        return marks[0] if len(marks) == 1 else None


def _chunks(paths: Iterable[Message], size: int) -> Iterator[list[Message]]:
    rest = iter(paths)
    while chunk := list(islice(rest, size)):
        yield chunk
