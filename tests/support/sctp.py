"""SCTP without the kernel's: chunks that open an association (INIT), made by hand, and which ports hear them."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from collections.abc import Collection

from tests.support.netns import Namespace

_HEAR = """
import json, select, socket, sys
heads = {socket.AF_INET: 20, socket.AF_INET6: 0}
skipped = {socket.socket(family, socket.SOCK_RAW, 132): head for family, head in heads.items()}
ports, wait = set(), 60
print("ready", flush=True)
while ready := select.select([*skipped, *([sys.stdin] if wait == 60 else [])], [], [], wait)[0]:
    for one in ready:
        if one is sys.stdin:
            wait = float(sys.argv[1])
        else:
            ports.add(int.from_bytes(one.recv(2048)[skipped[one] + 2 : skipped[one] + 4], "big"))
print(json.dumps(sorted(ports)))
"""
_SEND = """
import json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_RAW, 132) as sender:
    for packet in json.loads(sys.argv[2]):
        sender.sendto(bytes.fromhex(packet), (sys.argv[1], 0))
"""
_CHUNK = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
_source_ports = itertools.cycle(range(32768, 60768))


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _init(port: int) -> bytes:
    head = struct.pack("!HHI", next(_source_ports), port, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + _CHUNK)) + _CHUNK


def send_inits(source: Namespace, address: str, ports: Collection[int]) -> None:
    """Opens an association with each port, as far as one packet does."""
    packets = json.dumps([_init(port).hex() for port in ports])
    source.run(sys.executable, "-I", "-S", "-c", _SEND, address, packets)


def reached_ports(
    source: Namespace, target: Namespace, address: str, ports: Collection[int], wait_s: float = 0.2
) -> set[int]:
    """The ports of `address`, which is the target's, that have heard an INIT `wait_s` after all are sent."""
    argv = (sys.executable, "-I", "-S", "-c", _HEAR, str(wait_s))
    with target.popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hearing:
        assert hearing.stdin is not None
        assert hearing.stdout is not None
        hearing.stdout.readline()
        send_inits(source, address, ports)
        hearing.stdin.close()
        return set(json.loads(hearing.stdout.readline()))
