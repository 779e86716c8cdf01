"""Many flows from one namespace at once: which of them get through, answered or refused by whoever they reached.

TCP counts when a connection is made or reset, UDP and ICMP echo when an answer comes. One process a batch; its echoes
have numbers of their own, so that no earlier connection lets them through.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.netns import Namespace

_PROBE = """
import errno, json, select, socket, struct, sys, time
flows, wait = json.loads(sys.stdin.read()), float(sys.argv[1])
reached, poll, waiting = set(), select.poll(), {}
first = time.monotonic_ns() // 1000 % 60000
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 65535) + (total >> 16)
    return ~total & 65535
def icmp(number, v6):
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, 58 if v6 else 1)
    head = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, first + number, 1)
    return s, head if v6 else head[:2] + struct.pack("!H", checksum(head)) + head[4:]
for number, (kind, host, port) in enumerate(flows):
    v6, data = ":" in host, b"GET / HTTP/1.0\\r\\n\\r\\n"
    if kind == "icmp":
        s, data = icmp(number, v6)
    else:
        sort = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, sort)
    s.setblocking(False)
    if s.connect_ex((host, 0 if kind == "icmp" else port)) not in (0, errno.EINPROGRESS, errno.ECONNREFUSED):
        s.close()  # no way there
        continue
    try:
        if kind != "tcp":
            s.send(data)
    except PermissionError:  # the sender's own rules drop it
        s.close()
        continue
    waiting[s.fileno()] = number, kind, v6, s
    poll.register(s, select.POLLOUT if kind == "tcp" else select.POLLIN)
end = time.monotonic() + wait
while waiting and (left := end - time.monotonic()) > 0:
    for fd, _ in poll.poll(left * 1000):
        number, kind, v6, s = waiting[fd]
        if kind == "icmp":
            answer = s.recv(2048)[0 if v6 else 20:]
            if answer[0] != (129 if v6 else 0) or struct.unpack("!H", answer[4:6])[0] != first + number:
                continue
            through = True
        elif kind == "tcp":
            through = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED)
        else:
            try:
                through = bool(s.recv(2048))
            except ConnectionRefusedError:
                through = True
        if through:
            reached.add(number)
        poll.unregister(fd)
        del waiting[fd]
        s.close()
print(json.dumps(sorted(reached)))
"""


class Probe(NamedTuple):
    """A flow to try: tcp, udp or icmp (whose port says nothing)."""

    kind: str
    address: str
    port: int = 0


def probe_all(source: Namespace, probes: Sequence[Probe], wait_s: float = 1.0) -> list[bool]:
    """Whether each gets through."""
    said = source.run(sys.executable, "-I", "-S", "-c", _PROBE, str(wait_s), stdin=json.dumps(list(probes)))
    reached = set(json.loads(said))
    return [number in reached for number in range(len(probes))]
