"""The stream reader's frames: cut anywhere, padded, interleaved with control frames."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdpy.gobgp.h2 import FrameParser, StreamEnded

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", 1) + payload


def message(content: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", len(content)) + content


def feed_in_pieces(data: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    """What comes of `data` cut at these places, and what is to be sent back."""
    parser, found, at = FrameParser(), [], 0
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        found += parser.feed(data[at:cut])
        at = cut
    return found, bytes(parser.reply)


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 10_000)), st.lists(st.integers(0, 10_000)))
def test_cuts_do_not_matter(contents: list[bytes], frame_cuts: list[int], read_cuts: list[int]) -> None:
    stream = b"".join(message(content) for content in contents)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in frame_cuts)})
    frames = b"".join(frame(DATA, 0, stream[a:b]) for a, b in pairwise(places))
    assert feed_in_pieces(frame(HEADERS, 4, b"\x88") + frames, read_cuts)[0] == contents


def test_padding_is_left_out() -> None:
    assert FrameParser().feed(frame(DATA, 8, b"\x03" + message(b"hello") + bytes(3))) == [b"hello"]


def test_settings_and_pings_are_answered_once() -> None:
    asked = frame(SETTINGS, 0, b"") + frame(PING, 0, b"12345678") + frame(SETTINGS, 1, b"") + frame(PING, 1, bytes(8))
    _, reply = feed_in_pieces(asked, [])
    assert (reply[3:5], reply[12:14], reply[18:]) == (bytes([SETTINGS, 1]), bytes([PING, 1]), b"12345678")


@pytest.mark.parametrize(
    "end", [frame(HEADERS, 5, b"\x88"), frame(RST_STREAM, 0, bytes(4)), frame(GOAWAY, 0, bytes(8))]
)
def test_every_kind_of_end_is_told(end: bytes) -> None:
    with pytest.raises(StreamEnded):
        FrameParser().feed(end)
