"""ARP and Neighbour Discovery frames for Service addresses: bytes ↔ values. Pure.

In, out whole Ethernet frames. A frame of ours also carries a claim (who has the address, by which right): behind an ARP
        packet in what is padding to everybody else, in an ND message as an option for experiments, which receivers
        that do not know it ignore.
Never   raises for a frame of somebody else: what is not for us, or broken, is None.
Source  RFC 826, RFC 5227 §2 (probe: sender address 0; announcement: sender and target the same), RFC 4861 §4.3, §4.4,
        §4.6 (unknown options), RFC 4727 §5.1 (option 253).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

BROADCAST = b"\xff" * 6
ARP_ETHERTYPE = 0x0806
IPV6_ETHERTYPE = 0x86DD
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")

_ZERO_MAC = bytes(6)
_ZERO_IP4 = bytes(4)
_ZERO_IP6 = bytes(16)
_ETHERNET = Struct("!6s6sH")
_ARP = Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _ARP_REPLY = 1, 2
_MAGIC = b"flx2"
_CLAIM = Struct("!4sBxIQ")
_OWNS, _LEAVING, _GENTLY = 1, 2, 4
_IPV6 = Struct("!IHBB16s16s")
_ND = Struct("!BBHI16s")
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOLICITED, _OVERRIDE = 1 << 30, 1 << 29
_SOURCE_LINK, _TARGET_LINK, _EXPERIMENT = 1, 2, 253
_ICMPV6 = 58
_HOP_LIMIT = 255
"""A router never passes it on as 255: the sender is on this link (RFC 4861 §3.1)."""


class Claim(NamedTuple):
    """A right to an address; of two claims the greater one holds. `score` is the node's own, no two have the same."""

    term: int
    score: int


class Stamp(NamedTuple):
    """What a frame of ours says: the sender has the address by `claim`, or (`owns` False) knows of that claim.

    `leaving`: it has the address only until another takes it; `gently`: it goes on answering those who know it, so the
    other need not tell them.
    """

    owns: bool
    claim: Claim
    leaving: bool = False
    gently: bool = False


class Question(NamedTuple):
    """Somebody asks for an address. `asker_ip` is empty for a probe that has none; `to_all` for broadcast."""

    address: bytes
    asker_mac: bytes
    asker_ip: bytes
    to_all: bool
    stamp: Stamp | None = None


class Assertion(NamedTuple):
    """Somebody says that an address is at `mac`: an answer, or an announcement."""

    address: bytes
    mac: bytes
    stamp: Stamp | None = None


Heard = Question | Assertion


def render_answer(question: Question, mac: bytes, stamp: Stamp) -> bytes:
    """The answer to a question, to the asker alone; to all where the asker has no address yet (RFC 4861 §7.2.4)."""
    if len(question.address) == 4:
        target = question.asker_ip or _ZERO_IP4
        return _arp(question.asker_mac, mac, _ARP_REPLY, question.address, question.asker_mac, target, stamp)
    solicited = _SOLICITED if question.asker_ip else 0
    return _advertisement(
        question.asker_mac, mac, question.address, question.asker_ip or ALL_NODES, solicited | _OVERRIDE, stamp
    )


def render_announcement(address: bytes, mac: bytes, stamp: Stamp) -> tuple[bytes, ...]:
    """Tells everybody where the address is; ARP in both forms, since some peers heed only one of them."""
    if len(address) == 4:
        return (
            _arp(BROADCAST, mac, _ARP_REQUEST, address, _ZERO_MAC, address, stamp),
            _arp(BROADCAST, mac, _ARP_REPLY, address, BROADCAST, address, stamp),
        )
    return (_advertisement(multicast_mac(ALL_NODES), mac, address, ALL_NODES, _OVERRIDE, stamp),)


def render_probe(address: bytes, mac: bytes, own_ip: bytes, to: bytes | None, stamp: Stamp) -> bytes:
    """Asks for an address without entering anybody's neighbour table; to the device `to`, or to all.

    `own_ip` is a link-local address, needed for IPv6 only.
    """
    if len(address) == 4:
        return _arp(to or BROADCAST, mac, _ARP_REQUEST, _ZERO_IP4, _ZERO_MAC, address, stamp)
    group = solicited_node(address)
    message = _ND.pack(_SOLICITATION, 0, 0, 0, address) + _option(stamp)
    return _ipv6_frame(to or multicast_mac(group), mac, own_ip, group, message)


def parse_frame(frame: bytes) -> Heard | None:
    """What a frame says about an address; None where it says nothing, or is broken."""
    if len(frame) < _ETHERNET.size:
        return None
    destination, source, ethertype = _ETHERNET.unpack_from(frame)
    if ethertype == ARP_ETHERTYPE:
        return _parse_arp(frame, destination, source)
    if ethertype == IPV6_ETHERTYPE:
        return _parse_nd(frame, destination, source)
    return None


def solicited_node(address: bytes) -> bytes:
    """The group that questions for an IPv6 address go to (RFC 4291 §2.7.1)."""
    return bytes.fromhex("ff0200000000000000000001ff") + address[13:]


def multicast_mac(group: bytes) -> bytes:
    """The Ethernet address of an IPv6 group (RFC 2464 §7)."""
    return b"\x33\x33" + group[12:]


def _arp(to: bytes, mac: bytes, operation: int, sender: bytes, target_mac: bytes, target: bytes, stamp: Stamp) -> bytes:
    packet = _ARP.pack(1, 0x0800, 6, 4, operation, mac, sender, target_mac, target)
    return _ETHERNET.pack(to, mac, ARP_ETHERTYPE) + packet + _render_stamp(stamp)


def _parse_arp(frame: bytes, destination: bytes, source: bytes) -> Heard | None:
    end = _ETHERNET.size + _ARP.size
    if len(frame) < end:
        return None
    hardware, protocol, size, length, operation, sender_mac, sender, _, target = _ARP.unpack_from(frame, 14)
    if (hardware, protocol, size, length) != (1, 0x0800, 6, 4):
        return None
    stamp = _parse_stamp(frame, end)
    if operation == _ARP_REPLY or (operation == _ARP_REQUEST and sender == target):
        return Assertion(sender, sender_mac, stamp)
    if operation != _ARP_REQUEST:
        return None
    return Question(target, source, sender if sender != _ZERO_IP4 else b"", destination == BROADCAST, stamp)


def _advertisement(to: bytes, mac: bytes, address: bytes, target: bytes, flags: int, stamp: Stamp) -> bytes:
    message = _ND.pack(_ADVERTISEMENT, 0, 0, flags, address) + bytes((_TARGET_LINK, 1)) + mac + _option(stamp)
    return _ipv6_frame(to, mac, address, target, message)


def _ipv6_frame(to: bytes, mac: bytes, source: bytes, target: bytes, message: bytes) -> bytes:
    checksum = _checksum(source + target + len(message).to_bytes(4, "big") + bytes((0, 0, 0, _ICMPV6)) + message)
    body = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    header = _IPV6.pack(6 << 28, len(body), _ICMPV6, _HOP_LIMIT, source, target)
    return _ETHERNET.pack(to, mac, IPV6_ETHERTYPE) + header + body


def _parse_nd(frame: bytes, destination: bytes, source_mac: bytes) -> Heard | None:
    start = _ETHERNET.size + _IPV6.size
    if len(frame) < start + _ND.size:
        return None
    _, length, next_header, hops, source, target = _IPV6.unpack_from(frame, 14)
    message = frame[start : start + length]
    if next_header != _ICMPV6 or hops != _HOP_LIMIT or length < _ND.size or len(message) != length:
        return None
    kind, code, _, _, address = _ND.unpack_from(message)
    pseudo = source + target + length.to_bytes(4, "big") + bytes((0, 0, 0, _ICMPV6))
    if code or kind not in (_SOLICITATION, _ADVERTISEMENT) or _checksum(pseudo + message):
        return None
    options = _parse_options(message)
    if options is None:
        return None
    data = options.get(_EXPERIMENT)
    stamp = _parse_stamp(data, 0) if data is not None else None
    if kind == _ADVERTISEMENT:
        mac = options.get(_TARGET_LINK, source_mac)
        return Assertion(address, mac[:6], stamp)
    asker_ip = source if source != _ZERO_IP6 else b""
    return Question(address, options.get(_SOURCE_LINK, source_mac)[:6], asker_ip, bool(destination[0] & 1), stamp)


def _parse_options(message: bytes) -> dict[int, bytes] | None:
    """Options by type; None where one is broken, since then the whole message is (RFC 4861 §7.1)."""
    found: dict[int, bytes] = {}
    place = _ND.size
    while place < len(message):
        if place + 2 > len(message):
            return None
        kind, size = message[place], message[place + 1] * 8
        if not size or place + size > len(message):
            return None
        found.setdefault(kind, message[place + 2 : place + size])
        place += size
    return found


def _option(stamp: Stamp) -> bytes:
    data = _render_stamp(stamp)
    return bytes((_EXPERIMENT, 3)) + data + bytes(22 - len(data))


def _render_stamp(stamp: Stamp) -> bytes:
    flags = stamp.owns * _OWNS | stamp.leaving * _LEAVING | stamp.gently * _GENTLY
    return _CLAIM.pack(_MAGIC, flags, stamp.claim.term, stamp.claim.score)


def _parse_stamp(data: bytes, start: int) -> Stamp | None:
    if len(data) < start + _CLAIM.size:
        return None
    magic, flags, term, score = _CLAIM.unpack_from(data, start)
    if magic != _MAGIC:
        return None
    return Stamp(bool(flags & _OWNS), Claim(term, score), bool(flags & _LEAVING), bool(flags & _GENTLY))


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over a message that carries its own."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(Struct(f"!{len(data) // 2}H").unpack(data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
