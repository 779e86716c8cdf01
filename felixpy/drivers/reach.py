"""Whether hosts answer at all: an echo request to each of their addresses, and a TCP connection to those in silence.

In → out: addresses by name → the names of those who answered anything. A refusal is an answer, and so is one of two
addresses. Asked both ways because a firewall may leave one alone: no policy of ours closes the port of BGP between
nodes. Not at once, since gobgpd takes a connection from a neighbour's address for the neighbour's, and is idle for 5 s
when that ends: a session would be kept down by those who ask why it is.
Source: RFC 792, RFC 4443 §4.1.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from struct import Struct

from felixpy.addresses import Address, format_address

_ECHO = Struct(">BBHHH")
"""Type, code, checksum, identifier, sequence number."""
_REQUEST = {4: 8, 16: 128}
_REPLY = {4: 0, 16: 129}
_ANSWER_BYTES = 2048


async def find_reachable(hosts: Mapping[str, Iterable[Address]], port: int, timeout_s: float) -> frozenset[str]:
    """Who of `hosts` answers within `timeout_s`; an address that there is no way to does not."""
    owners = {address: name for name, addresses in hosts.items() for address in addresses}
    heard: set[str] = set()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s / 2):
            await asyncio.gather(_echo(owners, 4, heard), _echo(owners, 16, heard))
    silent = [(name, address) for address, name in owners.items() if name not in heard]
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s / 2):
            await asyncio.gather(*(_connect(name, address, port, heard) for name, address in silent))
    return frozenset(heard)


async def _connect(name: str, address: Address, port: int, heard: set[str]) -> None:
    try:
        _, writer = await asyncio.open_connection(format_address(address), port)
    except ConnectionError:
        heard.add(name)
    except OSError:
        pass
    else:
        heard.add(name)
        writer.close()


async def _echo(owners: Mapping[Address, str], size: int, heard: set[str]) -> None:
    """Asks all addresses of one family, and listens until all of them have answered."""
    awaited = {address: name for address, name in owners.items() if len(address) == size}
    if not awaited:
        return
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if size == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    with suppress(OSError), socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol) as asking:
        number = os.getpid() & 0xFFFF
        for address in awaited:
            with suppress(OSError):
                asking.sendto(_request(size, number), (format_address(address), 0))
        while awaited:
            packet, sender = await asyncio.get_running_loop().sock_recvfrom(asking, _ANSWER_BYTES)
            body = packet[(packet[0] & 15) * 4 :] if size == 4 else packet
            source = Address(socket.inet_pton(family, sender[0].partition("%")[0]))
            if source in awaited and len(body) >= _ECHO.size:
                kind, _, _, echoed, _ = _ECHO.unpack_from(body)
                if (kind, echoed) == (_REPLY[size], number):
                    heard.add(awaited.pop(source))


def _request(size: int, number: int) -> bytes:
    """An echo request; the kernel does the checksum of ICMPv6."""
    plain = _ECHO.pack(_REQUEST[size], 0, 0, number, 1)
    if size == 16:
        return plain
    total = sum(int.from_bytes(plain[at : at + 2], "big") for at in range(0, len(plain), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return _ECHO.pack(_REQUEST[size], 0, ~total & 0xFFFF, number, 1)
