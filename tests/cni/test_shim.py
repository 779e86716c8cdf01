"""The static plugin by itself: what it does without an agent, and with one that misbehaves."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from felixpy.cni import wire
from felixpy.cni.errors import Code
from felixpy.cni.netconf import NEWEST_VERSION, SUPPORTED_VERSIONS
from tests.cni.conftest import Node, k8s_args
from tests.support.netns import Namespace
from tests.support.packets import ping_ok
from tests.support.wait import eventually

ANSWER_TIMEOUT_S = 60
"""How long the plugin waits for an agent that has its request (felixpy-cni.c)."""


def pending(node: Node) -> list[str]:
    directory = node.run_dir / wire.PENDING_NAME
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC"])
def test_without_an_agent_the_runtime_tries_again(stopped_node: Node, command: str) -> None:
    process = stopped_node.popen(command, None, "c1", "", stopped_node.conf())
    output, _ = process.communicate(timeout=ANSWER_TIMEOUT_S / 2)
    assert (process.returncode, json.loads(output)["code"]) == (1, Code.TRY_AGAIN)
    assert json.loads(output)["details"] == f"{stopped_node.socket}: No such file or directory"


def test_a_run_directory_that_json_would_escape_is_left_out_of_what_is_said(stopped_node: Node) -> None:
    conf = {**stopped_node.conf(), "runDir": '/nowhere/"x'}
    output, _ = stopped_node.popen("ADD", None, "c1", "", conf).communicate(timeout=ANSWER_TIMEOUT_S / 2)
    assert json.loads(output)["code"] in (Code.TRY_AGAIN, Code.DECODE)


def test_without_an_agent_the_network_is_not_available(stopped_node: Node) -> None:
    assert stopped_node.call("STATUS").code == Code.NOT_AVAILABLE


def test_a_socket_that_nobody_serves_counts_as_no_agent(stopped_node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(stopped_node.socket))
    assert stopped_node.call("ADD").code == Code.TRY_AGAIN


def test_version_needs_no_agent(shim: Path) -> None:
    done = subprocess.run([shim], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True)
    assert json.loads(done.stdout) == {"cniVersion": NEWEST_VERSION, "supportedVersions": list(SUPPORTED_VERSIONS)}


def test_versions_are_told_in_the_version_that_was_asked_in(shim: Path, tmp_path: Path) -> None:
    (tmp_path / "asked").write_text('{"cniVersion": "0.4.0", "name": "net"}')
    with (tmp_path / "asked").open() as asked:
        done = subprocess.run([shim], env={"CNI_COMMAND": "VERSION"}, stdin=asked, capture_output=True)
    assert json.loads(done.stdout) == {"cniVersion": "0.4.0", "supportedVersions": list(SUPPORTED_VERSIONS)}


def test_a_kept_del_is_done_when_the_agent_is_back(node: Node, pod: Namespace) -> None:
    args = k8s_args("web")
    node.add(pod, args=args)
    node.stop()
    assert node.call("DEL", pod, args=args).output == ""
    assert pending(node) == ["c1-eth0"]
    node.start()
    eventually(lambda: not pending(node))
    assert (node.links(), node.backend.endpoints, node.backend.held) == ([], {}, {})


def test_a_kept_del_stays_until_it_can_be_done(node: Node, pod: Namespace) -> None:
    node.add(pod)
    node.stop()
    node.call("DEL", pod)
    node.backend.reachable = False
    node.start()
    eventually(lambda: node.links() == [])
    assert pending(node) == ["c1-eth0"]
    node.stop()
    node.backend.reachable = True
    node.start()
    eventually(lambda: not pending(node))
    assert node.backend.held == {}


def test_a_kept_del_comes_before_the_next_add(node: Node, pod: Namespace) -> None:
    (first,) = node.add(pod).addresses
    frame = wire.Request("DEL", "c1", str(pod.path), "eth0", config=json.dumps(node.conf()).encode())
    directory = node.run_dir / wire.PENDING_NAME
    directory.mkdir()
    (directory / "c1-eth0").write_bytes(wire.render_request(frame))
    (second,) = node.add(pod).addresses
    assert (first != second, pending(node)) == (True, [])
    assert ping_ok(node.namespace, second)


def test_files_that_are_no_kept_dels_do_not_stop_the_others(stopped_node: Node) -> None:
    stopped_node.call("DEL", container="c9")
    directory = stopped_node.run_dir / wire.PENDING_NAME
    (directory / "a-rubbish").write_bytes(b"FXQ1 and so on")
    (directory / "b-add").write_bytes(wire.render_request(wire.Request("ADD", config=b'{"name": "n"}')))
    (directory / "c-directory").mkdir()
    stopped_node.start()
    eventually(lambda: pending(stopped_node) == ["c-directory"])


def test_names_that_would_leave_the_directory_are_not_kept(stopped_node: Node) -> None:
    (stopped_node.run_dir / wire.PENDING_NAME).mkdir()
    for container in ("../x", "/x", ".x", ""):
        assert stopped_node.call("DEL", container=container).code == Code.TRY_AGAIN
    assert [path.name for path in stopped_node.run_dir.rglob("*")] == [wire.PENDING_NAME]


@pytest.mark.parametrize(
    ("conf", "code"),
    [
        ("", Code.DECODE),
        ("[]", Code.DECODE),
        ('{"runDir": 3}', Code.DECODE),
        ('{"runDir": "/tmp', Code.DECODE),
        ('{"runDir": "/tmp" "a": 1}', Code.DECODE),
        ('{"cniVersion": "1\\u0031"}', Code.DECODE),
        ('{"runDir": "/' + "x" * 100 + '"}', Code.DECODE),
        ('{"a": "' + "x" * (1 << 20) + '"}', Code.INVALID_CONFIG),
    ],
)
def test_a_configuration_that_cannot_be_read(stopped_node: Node, conf: str, code: Code) -> None:
    process = stopped_node.popen("ADD", None, "c1", "", conf)
    output, _ = process.communicate(timeout=40)
    assert (process.returncode, json.loads(output)["code"]) == (1, code)


def test_the_run_directory_is_found_among_anything(node: Node, pod: Namespace) -> None:
    noise = {"a": [1, {"runDir": "/wrong"}, None, "}"], 'b"': {"x": "\\"}, "\\": -1.5e3, "long" * 20: {}}
    conf = json.dumps({**noise, **node.conf()}, indent=1).replace("/", "\\/")
    process = node.popen("ADD", pod, "c1", "", conf)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0, output


@pytest.fixture(params=[b"", b"FXA1", b"XXXX" + bytes(8), b"FXA1" + b"\0\0\0\0" + b"\xff\xff\xff\xff"])
def broken_agent(request: pytest.FixtureRequest, stopped_node: Node) -> Iterator[Node]:
    """Something that answers with what is no answer."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(stopped_node.socket))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(request.param)

    thread = threading.Thread(target=serve)
    thread.start()
    yield stopped_node
    thread.join(10)
    listener.close()


def test_an_answer_that_is_none_is_tried_again(broken_agent: Node) -> None:
    assert broken_agent.call("ADD").code == Code.TRY_AGAIN


def test_a_del_without_answer_is_kept(broken_agent: Node) -> None:
    assert broken_agent.call("DEL").exit_status == 0
    assert pending(broken_agent) == ["c1-eth0"]
