"""Clients that keep the same five-tuple, and servers that say their name."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from tests.agent.node import PORT
from tests.support.netns import Namespace
from tests.support.packets import MOST_S

_CLIENT = """
import select, signal, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
signal.alarm(int(sys.argv[3]))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((host, port))
for line in sys.stdin:
    answer = b""
    tries = int(line.split()[1])
    for _ in range(tries):
        try:
            s.send(line.encode())
            while select.select([s], [], [], 0.1)[0]:
                name, _, echo = s.recv(2048).partition(b" ")
                if echo == line.encode():
                    answer = name
                    break
        except OSError:
            pass
        if answer:
            break
    print(answer.decode(), flush=True)
"""


class Client:
    """A UDP socket in a namespace that keeps its source port."""

    def __init__(self, namespace: Namespace, address: str, port: int = PORT) -> None:
        argv = [sys.executable, "-I", "-S", "-c", _CLIENT, address, str(port), str(MOST_S)]
        self._process = namespace.popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._number = 0

    def asks(self, tries: int = 3) -> str:
        """The name of who answers, "" when nobody does; an answer to an earlier question is not one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        self._process.stdin.write(f"{self._number} {tries}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate(timeout=40)
