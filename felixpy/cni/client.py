"""The shim in Python: sends one request to an agent and waits for the answer. For tools and tests.

Blocking. In → out: Request → Answer. Keeps no DEL for later, unlike the shim. Source: wire.py.
"""

from __future__ import annotations

import os
import socket

from felixpy.cni import wire
from felixpy.cni.wire import Answer, Request


def call_agent(run_dir: str | os.PathLike[str], request: Request, *, timeout_s: float = 60.0) -> Answer:
    """The agent's answer; the namespace at `request.netns` goes along where it can be opened.

    Raises  OSError (TimeoutError among them) when there is no agent or no answer, WireError when it is none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(os.path.join(run_dir, wire.SOCKET_NAME))
        frame = wire.render_request(request)
        try:
            netns = os.open(request.netns, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if request.netns else None
        except OSError:
            netns = None
        try:
            sent = socket.send_fds(connection, [frame], [netns]) if netns is not None else connection.send(frame)
            if sent < len(frame):
                connection.sendall(frame[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # an agent that refuses the request early has still answered
        finally:
            if netns is not None:
                os.close(netns)
        exit_status, output_bytes = wire.parse_answer_header(_receive(connection, wire.HEADER_BYTES))
        return Answer(exit_status, _receive(connection, output_bytes))


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("the agent ended the connection before its answer")
        data += piece
    return bytes(data)
