"""The frames, and what a server does with bytes that are none."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felixpy.cni import wire
from felixpy.cni.client import call_agent
from felixpy.cni.errors import Code
from felixpy.cni.netconf import SUPPORTED_VERSIONS
from felixpy.cni.wire import Request, WireError
from tests.cni.conftest import ROOT, Node
from tests.support.netns import Namespace
from tests.support.wait import eventually

values = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=30)
requests = st.builds(
    Request, values.filter(bool), values, values, values, values, values, config=st.binary(max_size=200)
)


@settings(deadline=None)
@given(requests)
def test_a_request_survives_its_frame(request: Request) -> None:
    assert wire.parse_request(wire.render_request(request)) == request


@settings(deadline=None)
@given(requests, st.data())
def test_a_damaged_frame_is_a_request_or_a_wire_error(request: Request, data: st.DataObject) -> None:
    frame = bytearray(wire.render_request(request))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    try:
        wire.parse_request(bytes(frame[:cut]))
    except WireError:
        pass


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_wire_error(data: bytes) -> None:
    try:
        wire.parse_request(data)
    except WireError:
        pass


@pytest.mark.parametrize(("environment_bytes", "config_bytes"), [((1 << 16) + 1, 0), (0, (1 << 20) + 1)])
def test_a_frame_that_is_too_large_is_refused_by_its_header(environment_bytes: int, config_bytes: int) -> None:
    with pytest.raises(WireError, match="too large"):
        wire.parse_request_header(struct.pack("!4sII", b"FXQ1", environment_bytes, config_bytes))


def test_the_shim_knows_the_same_versions_and_limits() -> None:
    source = (ROOT / "felixpy/cni/shim/felixpy-cni.c").read_text()
    defined = re.search(r'#define SUPPORTED "(.*)"', source)
    assert defined
    assert tuple(json.loads(defined[1].replace('\\"', '"'))) == SUPPORTED_VERSIONS
    for name, shift in (("CONFIG_MAX", 20), ("ENVIRONMENT_MAX", 16), ("ANSWER_MAX", 20)):
        assert f"{name} = 1 << {shift}" in source
    assert (wire.CONFIG_MAX_BYTES, wire.ENVIRONMENT_MAX_BYTES, wire.OUTPUT_MAX_BYTES) == (1 << 20, 1 << 16, 1 << 20)


def send(path: Path, data: bytes) -> bytes:
    """What comes back for raw bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        pieces = []
        try:
            while piece := connection.recv(1 << 16):
                pieces.append(piece)
        except ConnectionResetError:
            pass
        return b"".join(pieces)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"FXQ1",
        struct.pack("!4sII", b"FXQ1", 1 << 17, 0) + bytes(1 << 17),
        struct.pack("!4sII", b"FXQ1", 0, (1 << 20) + 1) + bytes(1 << 18),
        struct.pack("!4sII", b"FXQ1", 10, 0) + b"CNI_COMMAN",
        struct.pack("!4sII", b"FXQ1", 0, 2) + b"{}",
    ],
)
def test_bytes_that_are_no_request_get_an_error_and_nothing_else(node: Node, pod: Namespace, data: bytes) -> None:
    answer = send(node.socket, data)
    exit_status, output_bytes = wire.parse_answer_header(answer[: wire.HEADER_BYTES])
    assert (exit_status, output_bytes) == (1, len(answer) - wire.HEADER_BYTES)
    assert json.loads(answer[wire.HEADER_BYTES :])["code"] == Code.DECODE
    assert (node.links(), node.backend.held) == ([], {})
    node.add(pod)


def test_peers_that_say_nothing_cost_the_others_nothing(node: Node, pod: Namespace) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for connection in silent:
            connection.connect(str(node.socket))
        node.add(pod)
    finally:
        for connection in silent:
            connection.close()
    assert node.call("DEL", pod).exit_status == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(requests)
def test_any_request_gets_a_cni_error(node: Node, request: Request) -> None:
    answer = call_agent(node.run_dir, request)
    assert answer.exit_status == 1
    assert set(json.loads(answer.output)) >= {"cniVersion", "code", "msg"}


def test_the_python_client_does_what_the_shim_does(node: Node, pod: Namespace) -> None:
    config = json.dumps(node.conf()).encode()
    request = Request("ADD", "c1", str(pod.path), "eth0", path="/opt/cni/bin", config=config)
    assert call_agent(node.run_dir, request).output.decode() == node.add(pod).output


def test_the_socket_is_its_users_alone(node: Node) -> None:
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600
    assert os.listdir(node.run_dir) == ["cni.sock"]


_ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(10)
    connection.connect(sys.argv[1])
    print(connection.recv(4096).decode(errors="replace"))
"""


def test_another_user_is_refused_even_where_the_mode_lets_it_in(node: Node) -> None:
    node.socket.chmod(0o666)
    node.run_dir.chmod(0o755)
    argv = ["/usr/bin/python3", "-I", "-S", "-c", _ASK, str(node.socket)]
    done = subprocess.run(argv, user=65534, capture_output=True, text=True, timeout=20)
    assert "user 65534 may not use this socket" in done.stdout, done


def test_a_second_server_takes_the_socket_over(node: Node, pod: Namespace, shim: Path) -> None:
    second = Node(node.namespace, node.run_dir, shim)
    inode = node.socket.stat().st_ino
    second.start()
    try:
        eventually(lambda: node.socket.stat().st_ino != inode)
        node.stop()
        assert node.socket.exists()
        second.add(pod)
        assert second.backend.held
    finally:
        second.stop()
