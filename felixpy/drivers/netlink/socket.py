"""A netlink socket: requests, dumps and batches, each reply matched to its message by sequence number.

Blocking, one thread at a time. The kernel works through a message inside `send`, so replies are already there when
it returns; the timeout only bounds a broken world. Must never retry a refused message, nor know what one means.
Source: linux/netlink.h, net/netlink/af_netlink.c, setns(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeVar

from felixpy.drivers.netlink.codec import (
    HEADER,
    HEADER_BYTES,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Failure,
    Message,
    message,
    parse_failure,
    split_messages,
)

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

RECEIVE_BUFFER_BYTES = 16 << 20
"""Holds the errors of the largest batch, and some 20,000 events while nobody reads."""
SEND_BUFFER_BYTES = 1 << 28
"""A limit, not an allocation: an nftables transaction is one datagram, and 20,000 chains make some 30 MB."""
BATCH_MESSAGES = 1024
"""Messages per send: throughput is flat from 256 up, and the errors of one send must fit the receive buffer."""
DUMP_ATTEMPTS = 6
TIMEOUT_S = 20

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_RCVTIMEO = 20
_SO_ATTACH_FILTER = 26
_NETLINK_ADD_MEMBERSHIP = 1
_CLONE_NEWNET = 0x40000000
_DATAGRAM_BYTES = 1 << 20

_SEQUENCE_WORD, _FLAGS_AT, _FLAGS = 2, 6, struct.Struct("=H")
"""Places in struct nlmsghdr: of the sequence number in words of 4 bytes, of the flags in bytes."""

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class NetlinkError(OSError):
    """The kernel refused a message, or no answer came; `errno` and its words, or the errno's usual ones."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.errno, failure.text or os.strerror(failure.errno))


class NetlinkSocket:
    """One socket of netlink family `protocol`, bound in the network namespace where it is made.

    `groups` is a bit mask of multicast groups to hear. Raises OSError when the kernel lacks the family.
    """

    def __init__(self, protocol: int, groups: int = 0, receive_bytes: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option, value in (
            (_SO_SNDBUFFORCE, SEND_BUFFER_BYTES),
            (_SO_RCVBUFFORCE, receive_bytes or RECEIVE_BUFFER_BYTES),
        ):
            self._socket.setsockopt(socket.SOL_SOCKET, option, value)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, groups))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVTIMEO, struct.pack("=qq", TIMEOUT_S, 0))
        self._buffer = bytearray(_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._sequence = 0
        self.port_id: int = self._socket.getsockname()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the descriptor back."""
        self._socket.close()

    def fileno(self) -> int:
        """For select and event loops."""
        return self._socket.fileno()

    def join_group(self, group: int) -> None:
        """Hear multicast group number `group` (not a mask)."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def attach_filter(self, program: bytes) -> None:
        """Let only messages through that the classic BPF `program` (array of struct sock_filter) accepts."""
        code = ctypes.create_string_buffer(program, len(program))

        class SockFprog(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

        descriptor = SockFprog(len(program) // 8, ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(descriptor))

    def receive(self, *, wait: bool = True) -> bytes:
        """One datagram.

        Raises  BlockingIOError when there is none and `wait` is false, TimeoutError after `TIMEOUT_S`, and OSError
                ENOBUFS when the kernel had to throw messages away (once; reading goes on after it).
        """
        try:
            size = self._socket.recv_into(self._buffer, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            if wait:
                raise TimeoutError(errno.ETIMEDOUT, "no answer from the kernel") from None
            raise
        return bytes(self._view[:size])

    def request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Sends one message and returns the bodies of what came before its acknowledgement.

        Raises  NetlinkError.
        """
        sequence = self._next_sequence()
        self._socket.send(message(kind, flags | NLM_F_ACK, sequence, body))
        bodies: list[bytes] = []
        while True:
            for reply in split_messages(self.receive()):
                if reply.sequence != sequence:
                    continue
                if reply.type != NLMSG_ERROR:
                    bodies.append(reply.body)
                elif failure := parse_failure(reply):
                    raise NetlinkError(failure)
                else:
                    return bodies

    def dump(self, kind: int, body: bytes, *, torn: bool = False) -> list[bytes]:
        """The bodies of a dump's messages, from a dump that nothing changed while it ran.

        With `torn` any dump will do: for those who hear of every change that comes after its beginning.

        Raises  NetlinkError; with EAGAIN when each of `DUMP_ATTEMPTS` was overtaken by a change.
        """
        for _ in range(DUMP_ATTEMPTS):
            bodies, whole = self._dump_once(kind, body)
            if whole or torn:
                return bodies
        raise NetlinkError(Failure(errno.EAGAIN, "the kernel's tables changed during every dump"))

    def batch(self, kind: int, flags: int, bodies: Sequence[bytes]) -> Mapping[int, Failure]:
        """Sends many messages of one type, each on its own account; the failures by position in `bodies`."""
        failures: dict[int, Failure] = {}
        pack = HEADER.pack
        flags |= NLM_F_REQUEST
        for start in range(0, len(bodies), BATCH_MESSAGES):
            part = bodies[start : start + BATCH_MESSAGES]
            first = self.reserve(len(part))
            last = self._sequence
            pieces: list[bytes] = []
            for sequence, body in enumerate(part, first):
                asked = flags if sequence != last else flags | NLM_F_ACK
                pieces += (pack(HEADER_BYTES + len(body), kind, asked, sequence, 0), body)
            self._socket.send(b"".join(pieces))
            for sequence, failure in self._failures_until(first, last).items():
                failures[start + sequence - first] = failure
        return failures

    def batch_alike(
        self, kind: int, flags: int, body: bytes, hole: int, fillings: Sequence[bytes]
    ) -> Mapping[int, Failure]:
        """As `batch`, for messages that differ in a few bytes alone: `fillings` go into `body` at `hole`.

        All fillings are equally long; lengths and places are multiples of 4. The messages of a datagram are one
        template repeated, and the fillings are written into it in strides: an order of magnitude faster.
        """
        failures: dict[int, Failure] = {}
        size = HEADER_BYTES + len(body)
        words, start, width = size // 4, (HEADER_BYTES + hole) // 4, len(fillings[0]) // 4
        template = HEADER.pack(size, kind, flags | NLM_F_REQUEST, 0, 0) + body
        for begin in range(0, len(fillings), BATCH_MESSAGES):
            part = fillings[begin : begin + BATCH_MESSAGES]
            first = self.reserve(len(part))
            datagram = bytearray(template * len(part))
            with memoryview(datagram).cast("I") as view:
                view[_SEQUENCE_WORD::words] = memoryview(array("I", range(first, first + len(part))))
                content = memoryview(b"".join(part)).cast("I")
                for word in range(width):
                    view[start + word :: words] = content[word::width]
            _FLAGS.pack_into(datagram, (len(part) - 1) * size + _FLAGS_AT, flags | NLM_F_REQUEST | NLM_F_ACK)
            self._socket.send(datagram)
            for sequence, failure in self._failures_until(first, self._sequence).items():
                failures[begin + sequence - first] = failure
        return failures

    def transact(self, datagram: bytes, first: int, last: int) -> Mapping[int, Failure]:
        """Sends one nfnetlink transaction whose messages carry the sequence numbers `first` (BEGIN) to `last`.

        `last`, and no other, asks for an acknowledgement. The failures by sequence number; any means that nothing
        was done.
        """
        self._socket.send(datagram)
        return self._failures_until(first, last)

    def reserve(self, count: int) -> int:
        """Takes `count` sequence numbers for `transact`, and returns the first."""
        first = self._sequence + 1
        self._sequence += count
        return first

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        """What was told, and whether nothing changed meanwhile."""
        sequence = self._next_sequence()
        self._socket.send(message(kind, NLM_F_DUMP, sequence, body))
        bodies: list[bytes] = []
        append, unpack = bodies.append, HEADER.unpack_from
        consistent = True
        while True:
            datagram = self.receive()
            offset, end = 0, len(datagram)
            while offset + HEADER_BYTES <= end:
                length, reply, flags, answered, port_id = unpack(datagram, offset)
                if length < HEADER_BYTES:
                    break
                if answered == sequence:
                    content = datagram[offset + HEADER_BYTES : offset + length]
                    if flags & NLM_F_DUMP_INTR:
                        consistent = False
                    if reply in (NLMSG_ERROR, NLMSG_DONE):
                        if failure := parse_failure(Message(reply, flags, answered, port_id, content)):
                            raise NetlinkError(failure)
                        return bodies, consistent
                    append(content)
                offset += (length + 3) & ~3

    def _failures_until(self, first: int, last: int) -> dict[int, Failure]:
        failures: dict[int, Failure] = {}
        wait = True
        while True:
            try:
                datagram = self.receive(wait=wait)
            except BlockingIOError:
                return failures
            for reply in split_messages(datagram):
                if reply.type != NLMSG_ERROR or not first <= reply.sequence <= last:
                    continue
                failure = parse_failure(reply)
                if failure:
                    failures.setdefault(reply.sequence, failure)
                if reply.sequence == last or (failure and reply.sequence == first):
                    wait = False


def in_namespace(namespace: int | str | os.PathLike[str], function: Callable[[], T]) -> T:
    """What `function` returns (or raises) when run inside a network namespace, given as descriptor or path.

    It runs in a thread of its own that ends afterwards, so that no other code ever sees the namespace change. Sockets
    that it makes stay bound to the namespace.

    Raises  OSError when the namespace cannot be entered.
    """
    outcome: list[T] = []
    raised: list[BaseException] = []

    def enter_and_run() -> None:
        try:
            _enter(namespace)
            outcome.append(function())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=enter_and_run, name="netns")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return outcome[0]


def _enter(namespace: int | str | os.PathLike[str]) -> None:
    descriptor = namespace if isinstance(namespace, int) else os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter network namespace {namespace}: {os.strerror(code)}")
    finally:
        if descriptor != namespace:
            os.close(descriptor)
