"""The manifests and scripts in deploy/ name things that exist: flags, settings, volumes, files, programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from felixpy.agent.settings import parse_settings
from felixpy.kube.convert import IMPORTED
from felixpy.resources.kinds import REPORTED_KINDS
from tests.lab.ground import REPOSITORY
from tests.support.netns import Namespace
from tests.support.process import Daemon
from tests.support.wait import eventually

DEPLOY = REPOSITORY / "deploy"
ENTRYPOINT = DEPLOY / "entrypoint.sh"


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in (DEPLOY / "daemonset.yaml", DEPLOY / "rbac.yaml"):
        found |= {document["kind"]: document for document in yaml.safe_load_all(path.read_text())}
    return found


@pytest.fixture
def pod(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = documents["DaemonSet"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(path: Path) -> None:
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].removeprefix("#!").split()
    subprocess.run([*shell, "-n", path], check=True)


def test_every_mounted_volume_is_declared_and_used(pod: dict[str, Any]) -> None:
    containers = [*pod["initContainers"], *pod["containers"]]
    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_agent_starts_from_the_manifest_s_environment(
    pod: dict[str, Any], documents: dict[str, dict[str, Any]]
) -> None:
    environment = documents["ConfigMap"]["data"] | {entry["name"]: "n1" for entry in pod["containers"][0]["env"]}
    settings = parse_settings([], environment, "felixpy")
    assert settings.node == "n1"
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert str(settings.run_dir) in mounts
    kept = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}
    assert kept[mounts[str(settings.state_file.parent)]] == str(settings.state_file.parent), "it outlives the pod"
    secure = parse_settings(["--etcd", "https://10.0.0.1:2379"], environment, "felixpy").etcd
    assert secure is not None
    assert {str(path.parent) for path in (secure.ca, secure.cert, secure.key) if path is not None} <= mounts.keys()
    assert None not in (secure.ca, secure.cert, secure.key)


def test_bgp_passwords_are_mounted_where_the_agent_reads_them(
    pod: dict[str, Any], documents: dict[str, dict[str, Any]]
) -> None:
    settings = parse_settings(["--node", "n1"], documents["ConfigMap"]["data"], "felixpy")
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    found = secrets[mounts[str(settings.secrets_dir / "felixpy-bgp")]]
    assert (found["secretName"], found["optional"]) == ("felixpy-bgp", True)


def test_every_setting_of_the_manifest_is_one(documents: dict[str, dict[str, Any]]) -> None:
    usage = subprocess.run(
        [Path(sys.executable).with_name("felixpy"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    flags = [f"--{name.removeprefix('FELIXPY_').lower().replace('_', '-')}" for name in documents["ConfigMap"]["data"]]
    assert [flag for flag in flags if f"{flag} " not in usage] == []


def test_the_account_may_read_what_is_imported_and_nothing_else(documents: dict[str, dict[str, Any]]) -> None:
    may = {
        (group, resource)
        for rule in documents["ClusterRole"]["rules"]
        if {"get", "list", "watch"} <= set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    read = {(info.api_version.rpartition("/")[0], info.plural) for info in (*IMPORTED, *REPORTED_KINDS)}
    assert may == {*read, ("", "nodes")}


def test_the_init_container_s_flags_are_the_installer_s(pod: dict[str, Any]) -> None:
    _, *argv = pod["initContainers"][0]["command"]
    usage = subprocess.run([sys.executable, *argv[:2], "--help"], capture_output=True, text=True, check=True).stdout
    assert [flag for flag in argv[2:] if flag.partition("=")[0] not in usage] == []


def test_the_account_of_the_pod_is_the_one_with_the_rights(
    pod: dict[str, Any], documents: dict[str, dict[str, Any]]
) -> None:
    account = documents["ServiceAccount"]["metadata"]
    subject = documents["ClusterRoleBinding"]["subjects"][0]
    assert (pod["serviceAccountName"], subject["name"]) == (account["name"], account["name"])
    assert subject["namespace"] == account["namespace"] == documents["DaemonSet"]["metadata"]["namespace"]
    assert documents["ClusterRoleBinding"]["roleRef"]["name"] == documents["ClusterRole"]["metadata"]["name"]


def test_the_image_has_what_the_manifests_and_the_lab_start() -> None:
    dockerfile, script = (DEPLOY / "Dockerfile").read_text(), (DEPLOY / "make-image.sh").read_text()
    for name in ("/opt/felixpy", "felixpy-cni", "gobgpd", "10-felixpy.conflist", "entrypoint", "image-packages.txt"):
        assert name in dockerfile, name
        assert name in script, name
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert [word for line in copied for word in line.split() if not (REPOSITORY / word).exists()] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze")
def test_the_unit_says_nothing_that_systemd_does_not_know(tmp_path: Path) -> None:
    unit = tmp_path / "felixpy.service"
    text = (DEPLOY / "felixpy.service").read_text().replace("/opt/felixpy/bin/felixpy", "/bin/true")
    unit.write_text(text)
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
    assert [line for line in checked.stderr.splitlines() if str(unit) in line] == []


@pytest.fixture
def entered(namespace: Namespace, tmp_path: Path) -> Iterator[Daemon]:
    """The image's entry with a command that counts its starts, where there is only an address that looks alike."""
    namespace.add_address("lo", "10.9.9.11/32")
    command = ["sh", "-c", f"echo started >>{tmp_path}/starts; exit 3"]
    environment = {"WAIT_FOR_ADDRESS": "10.9.9.1", "RESTART_AFTER_S": "0.05"}
    daemon = Daemon([ENTRYPOINT, *command], tmp_path / "log", netns=namespace.name, env=environment)
    with daemon:
        yield daemon


def test_the_entry_waits_for_the_address_and_starts_again_what_ended(
    entered: Daemon, namespace: Namespace, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    eventually(lambda: starts.exists() or "sleep 0.1" in commands_in(namespace))
    assert not starts.exists()
    namespace.add_address("lo", "10.9.9.1/32")
    eventually(lambda: starts.read_text().count("started") >= 3)
    assert "ended with 3" in entered.tail()
    assert entered.stop() == 0


def commands_in(namespace: Namespace) -> set[str]:
    """Command lines of what runs in a namespace."""
    found: set[str] = set()
    for pid in namespace.pids():
        with suppress(OSError):
            found.add(Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode())
    return found
