"""The lab's ground: what the file says is there, and nothing is left of it, also after a crash half-way."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.build import Lab
from tests.lab.ground import REPOSITORY, Ground, Process, process_of
from tests.lab.say import Teller
from tests.lab.topology import Topology, parse_topology
from tests.support.netns import CommandFailed
from tests.support.packets import ping_ok
from tests.support.wait import eventually

SMALL = """
name: small
topology:
  defaults: {kind: linux, image: i, network-mode: none}
  nodes:
    a:
      cmd: sh -c 'echo $WORD > /run/own/word; exec sleep 100'
      env: {WORD: here, PLACE: /run/own}
      exec: [ip address add 10.3.0.1/24 dev eth1, ip link set eth1 up]
      sysctls: {net.ipv4.ip_forward: 1}
    b:
      exec: [ip address add 10.3.0.2/24 dev eth1, ip link set eth1 up]
  links: [{endpoints: ["a:eth1", "b:eth1"]}]
"""


@pytest.fixture
def small() -> Topology:
    return parse_topology(SMALL, Path("small.clab.yml"))


@pytest.fixture
def lab(small: Topology, ground: Ground) -> Iterator[Lab]:
    """Not built yet."""
    lab = Lab(small, ground)
    yield lab
    lab.stop()


@pytest.fixture
def quiet() -> Teller:
    return Teller(io.StringIO())


def test_nodes_links_steps_and_commands_are_as_the_file_says(lab: Lab, ground: Ground, quiet: Teller) -> None:
    lab.build(quiet)
    a = lab.topology.node("a")
    assert ground.namespaces() == [ground.namespace_name("a"), ground.namespace_name("b")]
    assert ping_ok(lab.namespace("b"), "10.3.0.1")
    assert lab.run(a, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    eventually(lambda: lab.run(a, "cat", "/run/own/word") == "here\n")
    assert (ground.node_directory("a") / "own/word").read_text() == "here\n"


def test_a_second_lab_in_its_place_is_refused(lab: Lab, quiet: Teller) -> None:
    lab.build(quiet)
    with pytest.raises(FileExistsError):
        lab.build(quiet)


def test_a_step_that_fails_says_which_and_what_is_there_can_be_cleared(ground: Ground, quiet: Teller) -> None:
    broken = parse_topology(SMALL.replace("10.3.0.2/24", "10.3.0.2/99"), Path("small.clab.yml"))
    with pytest.raises(CommandFailed, match=r"10\.3\.0\.2/99"):
        Lab(broken, ground).build(quiet)
    assert not ground.is_clean
    ground.clear()
    assert ground.is_clean


def test_clearing_ends_processes_that_left_the_record_or_their_session(lab: Lab, ground: Ground, quiet: Teller) -> None:
    lab.build(quiet)
    stray = lab.namespace("b").popen("sh", "-c", "trap '' TERM; sleep 100")
    ground.record_path.write_text('{"topology": "cut sho')
    processes, namespaces = ground.clear()
    assert (processes >= 2, namespaces, ground.is_clean) == (True, 2, True)
    assert stray.wait(5) == -signal.SIGKILL


def test_a_process_is_ended_even_when_its_namespace_lost_its_name(lab: Lab, ground: Ground, quiet: Teller) -> None:
    lab.build(quiet)
    process = lab.record.processes[0]
    subprocess.run(["ip", "netns", "del", ground.namespace_name("a")], check=True)
    assert process.alive
    ground.clear()
    assert not process.alive


def test_a_pid_that_has_passed_to_another_process_is_left_alone(ground: Ground) -> None:
    mine = process_of("us", os.getpid())
    assert mine.alive
    assert not Process("us", mine.pid, mine.started - 1).alive


@pytest.mark.parametrize("moment", ["namespaces", "links", "tor", "CNI ADD web-2", "a server in each pod", "client to"])
def test_down_with_the_system_python_after_a_crash_of_up(ground: Ground, moment: str) -> None:
    before = everything()
    up = subprocess.Popen(
        [sys.executable, "-m", "tests.lab", "--instance", ground.instance, "up"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {MARK: str(os.getpid())},
    )  # fmt: skip
    assert up.stdout is not None
    with up.stdout:
        next(line for line in up.stdout if f"✓ {moment}" in line)
        up.kill()
        up.wait()
    assert not ground.is_clean
    for wanted in ("everything of the lab is removed", "no lab is up"):
        down = subprocess.run(
            ["/usr/bin/python3", "-I", "-S", "-c", DOWN, str(REPOSITORY), ground.instance],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert (down.returncode, down.stderr) == (0, "")
        assert wanted in down.stdout
    assert everything() == before


DOWN = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.lab.__main__ import main
sys.exit(main(["--instance", sys.argv[2], "down"]))
"""


MARK = "FELIXPY_LAB_TEST"
"""In the environment of `up`, and so of everything that it starts."""


def everything() -> tuple[list[str], list[str], list[str], list[str]]:
    """What a lab could leave behind on this machine: namespaces, devices, directories, processes."""
    pid = f"t{os.getpid()}"
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    return (
        [name for name in os.listdir("/run/netns") if pid in name],
        [line.split()[0] for line in links.splitlines() if line.startswith(("eth", "br0", "fpl"))],
        [name for name in os.listdir("/run") if pid in name],
        [entry for entry in os.listdir("/proc") if entry.isdigit() and is_marked(Path("/proc", entry))],
    )


def is_marked(process: Path) -> bool:
    """Whether it descends from an `up` of this test."""
    try:
        return f"{MARK}={os.getpid()}\0".encode() in (process / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
