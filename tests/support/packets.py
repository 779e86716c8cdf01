"""Real packets between namespaces: does it arrive, what answers, and how many of a steady flow are lost.

The programs are a few lines of Python each, started with `-I -S` inside the namespace (about 15 ms), and end by
themselves after `MOST_S` seconds whatever happens to the test.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.support.netns import Namespace

MOST_S = 1800
"""How long a server or a flow lives at most."""

ANSWER_S = 10.0
"""How long a server may take to answer a connection once the kernel has made it: Python has to wait for its turn."""

MOST_ANSWER_S = 60.0
"""How long a program that asks may take in all."""

_SERVER = """
import signal, socket, sys, threading
name, most, ports = sys.argv[1].encode(), int(sys.argv[2]), [int(p) for p in sys.argv[3:]]
signal.alarm(most)
def open_socket(kind, port):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::", port))
    return s
def answer(c, peer):
    with c:
        c.settimeout(60)
        try:
            c.recv(4096)
            body = name + b" " + peer.removeprefix("::ffff:").encode() + b"\\n"
            c.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
        except OSError:
            pass
def serve_tcp(s):
    s.listen(128)
    while True:
        c, peer = s.accept()
        threading.Thread(target=answer, args=(c, peer[0]), daemon=True).start()
def serve_udp(s):
    while True:
        data, peer = s.recvfrom(2048)
        try:
            s.sendto(name + b" " + data, peer)
        except OSError:  # this host's own rules drop it
            pass
for port in ports:
    for kind, serve in ((socket.SOCK_STREAM, serve_tcp), (socket.SOCK_DGRAM, serve_udp)):
        threading.Thread(target=serve, args=(open_socket(kind, port),), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""

_ASK_TCP = """
import socket, sys
host, port, wait, source = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
answer_s = float(sys.argv[6])
for _ in range(int(sys.argv[5])):
    with socket.create_connection((host, port), wait, (source, 0) if source else None) as s:
        s.settimeout(answer_s)
        s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        answer = b""
        while chunk := s.recv(4096):
            answer += chunk
    print(answer.partition(b"\\r\\n\\r\\n")[2].decode().strip())
"""

_ASK_UDP = """
import socket, sys
host, port, wait = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(wait)
s.connect((host, port))
s.send(b"?")
print(s.recv(2048).decode().split()[0])
"""

_RECEIVE = """
import json, signal, socket, struct, sys, time
host, port, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: whoever has to wait for the processor loses nothing
s.bind((host, port))
s.settimeout(0.3)
print("ready", flush=True)
seen, last, longest, end = set(), 0.0, 0.0, time.monotonic() + most
while time.monotonic() < end:
    try:
        data = s.recv(64)
    except TimeoutError:
        if stop:
            break
        continue
    now = time.monotonic()
    longest, last = max(longest, now - last if last else 0.0), now
    seen.add(struct.unpack("!Q", data)[0])
runs, previous = [], None
for n in sorted(seen):
    if previous is None or n != previous + 1:
        runs.append([n, n])
    runs[-1][1] = previous = n
print(json.dumps({"runs": runs, "longest_s": longest}))
"""

_SEND = """
import json, signal, socket, struct, sys, time
host, port, rate, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((host, port))
n, start = 0, time.monotonic()
print("ready", flush=True)
while not stop and n < rate * most:
    due = start + n / rate - time.monotonic()
    if due > 0:
        time.sleep(due)
    try:
        s.send(struct.pack("!Q", n))
    except OSError:
        pass
    n += 1
print(json.dumps({"sent": n}))
"""


def _python(namespace: Namespace, program: str, *arguments: str) -> subprocess.Popen[str]:
    """A small program in a namespace; it keeps no terminal or pipe of ours open."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return namespace.popen(sys.executable, "-I", "-S", "-c", program, *arguments, **pipes)


def _answer(namespace: Namespace, program: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            namespace.enter_argv([sys.executable, "-I", "-S", "-c", program, *arguments]),
            capture_output=True,
            text=True,
            timeout=MOST_ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def ping_ok(namespace: Namespace, address: str, *, wait_s: float = 3.0, size_bytes: int = 56) -> bool:
    """Whether `address` answers one echo request from `namespace`; it may not be fragmented."""
    return namespace.succeeds("ping", "-nqc1", "-Mdo", f"-s{size_bytes}", f"-W{wait_s}", address)


def ask_tcp(namespace: Namespace, address: str, port: int, *, wait_s: float = 3.0, source: str = "") -> str | None:
    """What a NameServer answers over TCP ("NAME CLIENT-ADDRESS"); None when no connection is made in `wait_s`."""
    return _answer(namespace, _ASK_TCP, address, str(port), str(wait_s), source, "1", str(ANSWER_S))


def ask_tcp_often(namespace: Namespace, address: str, port: int, times: int, *, wait_s: float = 3.0) -> list[str]:
    """What a NameServer answers to so many connections, one after the other; nothing when one is not answered."""
    said = _answer(namespace, _ASK_TCP, address, str(port), str(wait_s), "", str(times), str(ANSWER_S))
    return (said or "").splitlines()


def ask_udp(namespace: Namespace, address: str, port: int, *, wait_s: float = 3.0) -> str | None:
    """The name that a NameServer answers over UDP; None when nothing does."""
    return _answer(namespace, _ASK_UDP, address, str(port), str(wait_s))


def tcp_ok(namespace: Namespace, address: str, port: int, *, wait_s: float = 3.0) -> bool:
    """Whether a NameServer answers a new TCP connection."""
    return ask_tcp(namespace, address, port, wait_s=wait_s) is not None


def fate_of(namespace: Namespace, address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str:
    """What is heard of a first packet: `answered`, `refused` or `nothing`."""
    with namespace.entered():
        asking = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    with asking:
        asking.settimeout(0.5)
        try:
            asking.connect((address, port))
            if kind is socket.SOCK_DGRAM:
                asking.send(b"x")
                asking.recv(100)
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "nothing"
        return "answered"


class NameServer:
    """Answers with its name and the client's address, over TCP (as HTTP, so curl works too) and UDP, v4 and v6."""

    def __init__(self, namespace: Namespace, name: str, *ports: int, most_s: int = MOST_S) -> None:
        self._process = _python(namespace, _SERVER, name, str(most_s), *map(str, ports))
        _await_ready(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ends it; connections that it has are cut."""
        _finish(self._process, signal.SIGKILL)

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class Gap:
    """Packets `first` to `first + count - 1` did not arrive."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class FlowReport:
    """What became of a flow: packets are numbered from 0 in the order sent."""

    sent: int
    received: int
    gaps: tuple[Gap, ...]
    longest_silence_ms: float

    @property
    def lost(self) -> int:
        return self.sent - self.received


class FlowMeter:
    """One steady UDP flow from `source` to `destination` (at `address`), counted at both ends."""

    def __init__(
        self, source: Namespace, destination: Namespace, address: str, port: int = 7700, rate_pps: int = 1000
    ) -> None:
        self._receiver = _python(destination, _RECEIVE, address, str(port), str(MOST_S))
        _await_ready(self._receiver)
        self._sender = _python(source, _SEND, address, str(port), str(rate_pps), str(MOST_S))
        _await_ready(self._sender)

    def stop(self) -> FlowReport:
        """Ends the flow, and counts once nothing more comes."""
        sent = int(_finish(self._sender, signal.SIGTERM)["sent"])
        seen = _finish(self._receiver, signal.SIGTERM)
        runs = [(first, last) for first, last in seen["runs"]]
        gaps, expected = [], 0
        for first, last in [*runs, (sent, sent)]:
            if first > expected:
                gaps.append(Gap(expected, first - expected))
            expected = last + 1
        received = sum(last - first + 1 for first, last in runs)
        return FlowReport(sent, received, tuple(gaps), seen["longest_s"] * 1000)

    def __enter__(self) -> FlowMeter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in (self._sender, self._receiver):
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        process.kill()
        process.wait()
        process.stdout.close()
        raise AssertionError(f"{process.args!r:.200} did not start: {line!r}")


def _finish(process: subprocess.Popen[str], how: signal.Signals) -> dict[str, Any]:
    if process.poll() is None:
        process.send_signal(how)
    output, _ = process.communicate(timeout=40)
    return dict(json.loads(output)) if output.strip() else {}
