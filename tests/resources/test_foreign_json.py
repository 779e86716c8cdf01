"""Bytes that are no JSON, or not what was asked for, are nothing: whoever asks for a field or two never fails."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from felixpy.datastore.cluster import parse_cluster_information
from felixpy.resources.foreign_json import decode_or_none
from felixpy.status.answers import Ask, parse
from ipam.codec import Malformed, parse_block

NESTED = b'{"spec":{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
NOT_TEXT = b'{"spec":{"clusterGUID":"\xff","x":"\xff"}}'
ODD = pytest.mark.parametrize("value", [b"", b"x", b"[1]", b'{"spec":', NESTED, NOT_TEXT], ids=range(6))


class _Some(msgspec.Struct):
    spec: dict[str, Any]


@ODD
def test_odd_bytes_are_none(value: bytes) -> None:
    assert decode_or_none(value, _Some) is None
    assert decode_or_none(value, dict[str, _Some]) is None
    assert parse_cluster_information(value) == ("", False)


@ODD
def test_odd_bytes_are_one_kind_of_error_where_somebody_wants_to_know(value: bytes) -> None:
    with pytest.raises(Malformed):
        parse_block(value)
    if value != NOT_TEXT:  # an unknown field, which is not looked at
        with pytest.raises(ValueError, match=r"."):
            parse(value, Ask)
