"""Addresses that rest: given back of late, neighbours and names may still lead clients of the last holder there.

In: the grant that goes; out: a key that goes by itself, and what such a key says. etcd keeps the time. Pure.
"""

from __future__ import annotations

import msgspec

from felixpy.controllers.batch import Passing
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import GRANTS_PREFIX

RESTING = f"{GRANTS_PREFIX}resting/"
REST_S = 300
"""Longer than neighbours and resolvers keep what they learned, as a rule."""


class Rest(msgspec.Struct):
    """Who held the address last."""

    service: str = ""


def make_rest(grant_key: bytes, service: str) -> Passing:
    """The address of a grant rests from now on."""
    address = grant_key.rpartition(b"/")[2].decode()
    return Passing(f"{RESTING}{address}".encode(), msgspec.json.encode(Rest(service)), REST_S)


def parse_rest(value: bytes) -> str:
    """Who held it last; "" where that cannot be read."""
    rest = decode_or_none(value, Rest)
    return rest.service if rest is not None else ""
