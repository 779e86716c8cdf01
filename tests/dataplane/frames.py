"""Packets as frames on the wire, sent and seen through packet sockets: no program answers, no connection is made.

A frame ends with a word of ours and 8 bytes that say which one it is. Source: RFC 791, 8200, 9293, 768, 792, 4443, 826;
packet(7).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from struct import pack, unpack

from felixpy.addresses import Address
from felixpy.dataplane.judging.packet import Packet
from tests.support.netns import Namespace

ETHERNET = {4: 0x0800, 6: 0x86DD}
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
ECHO = (8, 128)
SYN = 0x02
_OURS = b"felixpy!"
"""Goes before the number: the kernel's own multicasts may end like one."""
_PACKET_OUTGOING = 4
_ALL_PROTOCOLS = 0x0003
_ARP, _REQUEST, _REPLY = 0x0806, 1, 2


def build_frame(packet: Packet, ident: int, source_mac: bytes, destination_mac: bytes) -> bytes:
    """The packet as an Ethernet frame; checksums are right, hop limit 64."""
    payload = _transport(packet, _OURS + pack("!Q", ident))
    if packet.version == 4:
        head = pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), ident & 0xFFFF, 0, 64, packet.protocol, 0)
        head += packet.source + packet.destination
        head = head[:10] + pack("!H", _checksum(head)) + head[12:]
    else:
        head = pack("!IHBB", 6 << 28, len(payload), packet.protocol, 64) + packet.source + packet.destination
    return destination_mac + source_mac + pack("!H", ETHERNET[packet.version]) + head + payload


def build_bell(node: Address, source: Address, source_mac: bytes) -> bytes:
    """An ARP request for `node`'s address: no rule of ours sees it, and its answer comes after all that went before."""
    head = b"\xff" * 6 + source_mac + pack("!HHHBBH", _ARP, 1, ETHERNET[4], 6, 4, _REQUEST)
    return head + source_mac + source + bytes(6) + node


def _transport(packet: Packet, data: bytes) -> bytes:
    ports = pack("!HH", packet.source_port, packet.destination_port)
    match packet.protocol:
        case protocol if protocol == TCP:
            return _summed(packet, ports + pack("!IIBBHHH", 1, 0, 5 << 4, SYN, 1024, 0, 0) + data, 16)
        case protocol if protocol == UDP:
            return _summed(packet, ports + pack("!HH", 8 + len(data), 0) + data, 6)
        case _ if packet.icmp is not None:
            kind, code = packet.icmp
            return _summed(packet, pack("!BBHHH", kind, code, 0, 1, 1) + data, 2)
        case _:
            return data


def _summed(packet: Packet, segment: bytes, at: int) -> bytes:
    pseudo = b""
    if packet.protocol != ICMP:
        pseudo = packet.source + packet.destination + pack("!II", len(segment), packet.protocol)
    return segment[:at] + pack("!H", _checksum(pseudo + segment)) + segment[at + 2 :]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Wires:
    """The far ends of a node's devices, by the device's name: what is sent into each, and what comes out."""

    def __init__(self, ends: Mapping[str, Namespace], device: str = "eth0") -> None:
        self._stack = ExitStack()
        self._sockets: dict[str, socket.socket] = {}
        for name, namespace in ends.items():
            with namespace.entered():
                opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            self._stack.enter_context(opened)
            opened.bind((device, _ALL_PROTOCOLS))
            opened.setblocking(False)
            self._sockets[name] = opened

    def send(self, name: str, frame: bytes) -> None:
        self._sockets[name].send(frame)

    def collect(self, within_s: float = 30.0) -> Mapping[int, str]:
        """The frames that came out until the bell was answered, by what they are called; and where.

        Raises  AssertionError when the bell is not answered.
        """
        found: dict[int, str] = {}
        answered = False
        while not answered:
            ready, _, _ = select.select(list(self._sockets.values()), [], [], within_s)
            assert ready, "the bell is not answered"
            for name, one in self._sockets.items():
                for frame in _drain(one):
                    if frame[-16:-8] == _OURS:
                        found[int.from_bytes(frame[-8:], "big")] = name
                    answered |= frame[12:14] == pack("!H", _ARP) and frame[20:22] == pack("!H", _REPLY)
        return found

    def close(self) -> None:
        self._stack.close()


def _drain(one: socket.socket) -> Iterator[bytes]:
    """The frames that wait, those that were sent here left out."""
    while True:
        try:
            frame, address = one.recvfrom(2048)
        except BlockingIOError:
            return
        if address[2] != _PACKET_OUTGOING:
            yield frame


@contextmanager
def on_one_processor() -> Iterator[None]:
    """This thread stays where it is, so that the kernel takes its frames in the order in which they are sent."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
