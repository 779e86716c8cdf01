"""One server-streaming gRPC call, read straight off a UNIX socket: DATA frames in, messages out, many at a time.

grpc.aio spends some 100 µs on each message, and GoBGP sends one for each path; this spends about 1. Nothing but such a
call can be done with it: headers are not decoded, so of an early end it is only known that it came. Source: RFC 9113
(frames, flow control), RFC 7541 §6.2.2 (literal headers without indexing), gRPC over HTTP/2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5
_STREAM = 1
_WINDOW_BYTES = (1 << 31) - 1
_CREDIT_BYTES = 1 << 28
"""How much is read before the sender is told that it may send as much again."""
_FRAME_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_METHOD_POST, _SCHEME_HTTP = b"\x83", b"\x86"
"""Indexed header fields (RFC 7541, appendix A)."""


class StreamEnded(ConnectionError):
    """The other side ended the call, or the connection is gone."""


@dataclass(slots=True)
class FrameParser:
    """Bytes of the connection to messages of the stream; `reply` collects what must be sent back."""

    raw: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)
    uncredited: int = 0
    reply: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises  StreamEnded."""
        self.raw += chunk
        position, size, raw = 0, len(self.raw), self.raw
        while size - position >= 9:
            length = raw[position] << 16 | raw[position + 1] << 8 | raw[position + 2]
            if size - position - 9 < length:
                break
            kind, flags = raw[position + 3], raw[position + 4]
            start, end = position + 9, position + 9 + length
            if kind == _DATA:
                self.uncredited += length
                self.data += raw[start + 1 : end - raw[start]] if flags & _PADDED else raw[start:end]
            else:
                self._take_control(kind, flags, bytes(raw[start:end]))
            position = end
        del raw[:position]
        if self.uncredited >= _CREDIT_BYTES:
            credit = struct.pack(">I", self.uncredited)
            self.reply += _frame(_WINDOW_UPDATE, 0, 0, credit) + _frame(_WINDOW_UPDATE, 0, _STREAM, credit)
            self.uncredited = 0
        return self._messages()

    def _take_control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.reply += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self.reply += _frame(_PING, _ACK, 0, payload)
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            raise StreamEnded("the stream was ended")

    def _messages(self) -> list[bytes]:
        found = []
        data, position = bytes(self.data), 0
        while len(data) - position >= 5:
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            if len(data) - position - 5 < length:
                break
            found.append(data[position + 5 : position + 5 + length])
            position += 5 + length
        del self.data[:position]
        return found


async def read_stream(socket_path: Path, method: str, argument: bytes) -> AsyncGenerator[list[bytes], None]:
    """The replies to one call, as many at a time as have come; never returns by itself.

    Raises  StreamEnded.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path), limit=_READ_BYTES)
    except OSError as error:
        raise StreamEnded(str(error)) from None
    parser = FrameParser()
    try:
        writer.write(_request(method, argument))
        while chunk := await reader.read(_READ_BYTES):
            messages = parser.feed(chunk)
            if parser.reply:
                writer.write(bytes(parser.reply))
                parser.reply.clear()
            if messages:
                yield messages
        raise StreamEnded("the connection was closed")
    except OSError as error:
        raise error if isinstance(error, StreamEnded) else StreamEnded(str(error)) from None
    finally:
        writer.close()


def _request(method: str, argument: bytes) -> bytes:
    settings = struct.pack(">HIHI", _INITIAL_WINDOW_SIZE, _WINDOW_BYTES, _MAX_FRAME_SIZE, _FRAME_BYTES)
    headers = _METHOD_POST + _SCHEME_HTTP
    for name, value in (
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ):
        headers += b"\x00" + _literal(name) + _literal(value)
    message = b"\x00" + struct.pack(">I", len(argument)) + argument
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, settings)
        + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW_BYTES - 65535))
        + _frame(_HEADERS, _END_HEADERS, _STREAM, headers)
        + _frame(_DATA, _END_STREAM, _STREAM, message)
    )


def _literal(text: str) -> bytes:
    """A header's name or value without Huffman coding; lengths below 127 take one byte."""
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
