"""Packets by their first bytes."""

from __future__ import annotations

from felixpy.addresses import parse_address

A, B = parse_address("10.0.0.1"), parse_address("10.0.0.2")


def ipv4(protocol: int, rest: bytes, fragment: int = 0) -> bytes:
    return bytes([0x45, 0, 0, 0, 0, 0, fragment >> 8, fragment & 0xFF, 64, protocol, 0, 0]) + A + B + rest


def ports(source: int, destination: int) -> bytes:
    return source.to_bytes(2, "big") + destination.to_bytes(2, "big") + bytes(4)
