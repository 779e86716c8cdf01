"""Many connections from one namespace to two ports of another, each of one UDP packet: none is part of a known flow.

What conntrack knows passes without a look at policy, so only such packets show what policy does while it changes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.support.netns import Namespace

MOST_S = 600
_SEND = """
import json, signal, socket, sys, time
address, rate, most = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
ports = [int(port) for port in sys.argv[4:]]
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
print("ready", flush=True)
sent, begin = 0, time.monotonic()
while not stopped and (now := time.monotonic() - begin) < most:
    while sent < now * rate:
        for port in ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.bind(("", 10000 + sent % 50000))
                one.sendto(b"%d" % sent, (address, port))
        sent += 1
    time.sleep(0.002)
print(json.dumps({"sent": sent}))
"""
_RECEIVE = """
import json, select, signal, socket, sys
stopped, got, sockets = [], {}, []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
for port in sys.argv[2:]:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    one.bind((sys.argv[1], int(port)))
    one.setblocking(False)
    got[one] = []
print("ready", flush=True)
while True:
    ready, _, _ = select.select(list(got), [], [], 0.2)
    for one in ready:
        got[one].append(int(one.recv(64)))
    if stopped and not ready:
        break
print(json.dumps({"got": list(got.values())}))
"""


@dataclass(frozen=True, slots=True)
class Passed:
    """Packets sent to each port, those that did not get to the first, and those that got to the second."""

    sent: int
    lost: tuple[int, ...]
    leaked: tuple[int, ...]


class NewFlows:
    """A stream to `allowed` and one to `denied`, from now until `stop`."""

    def __init__(
        self, source: Namespace, destination: Namespace, address: str, allowed: int, denied: int, rate_pps: int = 300
    ) -> None:
        ports = (str(allowed), str(denied))
        self._receiver = _start(destination, _RECEIVE, address, *ports)
        self._sender = _start(source, _SEND, address, str(rate_pps), str(MOST_S), *ports)

    def stop(self) -> Passed:
        """Ends both, and counts."""
        sent = int(_end(self._sender)["sent"])
        allowed, denied = _end(self._receiver)["got"]
        return Passed(sent, tuple(sorted(set(range(sent)) - set(allowed))), tuple(denied))

    def __enter__(self) -> NewFlows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in (self._sender, self._receiver):
            if process.poll() is None:
                process.kill()
                process.communicate()


def _start(namespace: Namespace, program: str, *arguments: str) -> subprocess.Popen[str]:
    argv = namespace.enter_argv([sys.executable, "-I", "-S", "-c", program, *arguments])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _end(process: subprocess.Popen[str]) -> dict[str, Any]:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=40)
    return dict(json.loads(output))
