"""Flags, environment and file: which of them wins, and that a wrong one is named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from felixpy.agent.settings import ConfigError, Role, parse_settings, unknown_variables
from felixpy.calc.node_address import Method
from tests.agent.node import PROGRAM

BASE = ["--etcd", "http://10.0.0.1:2379", "--node", "n1"]


def test_the_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "felixpy.toml"
    file.write_text('node = "from-file"\nrun-dir = "/file"\netcd = "http://file:1"\n')
    environment = {"FELIXPY_NODE": "from-environment", "FELIXPY_CONFIG": str(file)}
    settings = parse_settings(["--etcd", "http://flag:1"], environment, "felixpy")
    assert settings.etcd is not None
    assert (settings.node, str(settings.etcd.endpoints[0]), str(settings.run_dir)) == (
        "from-environment", "http://flag:1", "/file",
    )  # fmt: skip


def test_what_is_not_said_has_its_default() -> None:
    settings = parse_settings(BASE, {}, "felixpy")
    assert settings.roles == frozenset(Role)
    assert (str(settings.run_dir), str(settings.state_file)) == ("/run/felixpy", "/var/lib/felixpy/cluster.json")
    assert str(settings.state_dir) == "/var/lib/felixpy", "/run is empty after a boot"
    own = parse_settings([*BASE, "--run-dir", "/tmp/x"], {}, "felixpy")
    assert str(own.state_file) == "/tmp/x/cluster.json"
    assert parse_settings(BASE, {}, "birdpy").roles == {Role.BGP}
    assert (own.layer2_drain_s, own.bgp_drain_s) == (60, 10)
    longer = parse_settings([*BASE, "--bgp-drain", "2.5"], {"FELIXPY_LAYER2_DRAIN": "600s"}, "felixpy")
    assert (longer.layer2_drain_s, longer.bgp_drain_s) == (600, 2.5)
    local = parse_settings(["--etcd", "local", "--node", "n1", "--node-address", "cidr=10.0.0.0/8"], {}, "felixpy")
    assert local.etcd is None
    assert [rule.method for rule in local.node_address] == [Method.CIDR]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--node", "n1"], "--etcd"),
        (["--etcd", "http://10.0.0.1:2379"], "--node"),
        (["--etcd", "http://10.0.0.1:2379", "--node", "Bad Name!"], "--node: 'Bad Name!'"),
        (["--etcd", "ftp://x", "--node", "n1"], "--etcd"),
        ([*BASE, "--roles", "agent,cook"], "--roles: 'cook'"),
        ([*BASE, "--backend", "pf"], "--backend: 'pf'"),
        ([*BASE, "--agent", "maybe"], "--agent: 'maybe'"),
        ([*BASE, "--default-pool", "10.0.0.0/99"], "--default-pool"),
        ([*BASE, "--metrics", "9091"], "--metrics"),
        ([*BASE, "--metrics", "[::1]:0"], "--metrics"),
        ([*BASE, "--node-address", "nic=eth0"], "--node-address"),
        ([*BASE, "--config", "/nowhere"], "--config /nowhere"),
        ([*BASE, "--layer2-drain", "soon"], "--layer2-drain: 'soon'"),
        ([*BASE, "--bgp-drain", "-1"], "--bgp-drain: '-1'"),
        ([*BASE, "--bgp-drain", "nan"], "--bgp-drain: 'nan'"),
        ([*BASE, "--log-level", "loud"], "--log-level: 'loud' is none of debug"),
        ([*BASE, "--run-dir", "/run/" + "x" * 85], "--run-dir: .* has 90 bytes"),
        (["--etcd", "local", "--node", "n1", "--run-dir", "/run/" + "x" * 84], "--run-dir: .* has 89 bytes; .* for 88"),
        (["--node", "n1", "--etcd", "unix:/run/" + "x" * 103], "--etcd: .* a path of 108 bytes"),
    ],
)
def test_what_is_wrong_is_named(flags: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_settings(flags, {}, "felixpy")


@pytest.mark.parametrize(
    ("text", "named"), [("nod = 'x'", "'nod'"), ("node = 1", "node is not a text"), ("x", "end of document")]
)
def test_a_wrong_file_is_named(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "felixpy.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        parse_settings([*BASE, "--config", str(file)], {}, "felixpy")


def test_a_slip_in_the_environment_is_named() -> None:
    settings = {"FELIXPY_ETCD": "http://10.0.0.1:2379", "FELIXPY_CONFIG": "x", "FELIXPY_NODE_PORT_ADDRESSES": "::/0"}
    of_a_service = {"FELIXPY_SERVICE_HOST": "10.96.0.9", "FELIXPY_PORT": "tcp://", "FELIXPY_PORT_9091_TCP": "tcp://"}
    assert list(unknown_variables({**settings, **of_a_service, "PATH": "/bin"})) == []
    assert list(unknown_variables({**settings, "FELIXPY_ETCD_CA": "/ca.pem", "FELIXPY_ZZZ": ""})) == [
        "FELIXPY_ETCD_CA is no setting; did you mean FELIXPY_ETCD_CA_FILE?",
        "FELIXPY_ZZZ is no setting",
    ]


def test_the_program_says_it_and_ends_with_2() -> None:
    done = subprocess.run([PROGRAM, "--node", "n1"], capture_output=True, text=True, env={})
    assert done.returncode == 2
    assert done.stderr == "felixpy: --etcd is not given: URL[,URL...], or `local` for an etcd of our own\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gobgpd", "/nowhere/gobgpd"], "--gobgpd: there is no program '/nowhere/gobgpd'"),
        (["--roles", "controllers", "--etcd", "local"], "there is no program 'etcd' for --etcd local"),
        (["--roles", "controllers", "--state-file", "/etc/hostname"], "/etc/hostname is not what felixpy keeps there"),
        (["--roles", "controllers", "--run-dir", "/etc/hostname"], "/etc/hostname: File exists"),
        (["--roles", "controllers", "--run-dir", "/proc/none"], "/proc/none: No such file or directory"),
    ],
)
def test_what_cannot_run_ends_with_words_and_no_traceback(flags: list[str], said: str, tmp_path: Path) -> None:
    argv = [PROGRAM, "--etcd", "http://127.0.0.1:1", "--node", "n1", "--run-dir", str(tmp_path), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": "/nowhere"}, timeout=20)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("felixpy: ")
    assert said in last
    assert "Traceback" not in done.stderr
