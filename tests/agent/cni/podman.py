"""Podman on a node under test: storage, networks and mounts of its own, images made from one static program.

Everything is below one directory. A machine whose cgroups are of both versions shows crun the first alone, in a mount
namespace that podman's commands share.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from types import TracebackType

from tests.support.netns import Namespace, unique_name

IMAGE = "pause:1"
_BOTH_VERSIONS = Path("/sys/fs/cgroup/unified")
_PAUSE = """
#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) { signal(SIGTERM, end); for (;;) pause(); }
"""
_CONF = """
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
cni_plugin_dirs = {plugin_dirs}
network_config_dir = "{networks}"
"""


def make_pause(directory: Path) -> Path:
    """A static program that waits for a signal."""
    source, program = directory / "pause.c", directory / "pause"
    source.write_text(_PAUSE)
    subprocess.run(["cc", "-static", "-Os", "-o", program, source], check=True)
    return program


class Podman:
    """`network` is a configuration list, named `felixpy`; another network, `other`, is like it."""

    def __init__(self, node: Namespace, directory: Path, network: bytes, plugin_dirs: list[str]) -> None:
        self._directory = directory
        self._attached: list[str] = []
        (directory / "networks").mkdir(parents=True)
        (directory / "networks" / "felixpy.conflist").write_bytes(network)
        other = json.dumps({**json.loads(network), "name": "other"})
        (directory / "networks" / "other.conflist").write_text(other)
        conf = _CONF.format(plugin_dirs=json.dumps(plugin_dirs), networks=directory / "networks")
        (directory / "containers.conf").write_text(conf)
        hide = f"umount {_BOTH_VERSIONS};" if _BOTH_VERSIONS.exists() else ""
        self._holder = subprocess.Popen(
            node.enter_argv(["unshare", "--mount", "sh", "-c", f"{hide} echo ready; exec sleep 600"]),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "ready\n"

    def __call__(self, *arguments: str) -> str:
        """`podman ARGUMENTS`; what it prints."""
        base = self._directory
        argv = ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "podman", f"--root={base / 'root'}"]
        argv += [f"--runroot={base / 'run'}", f"--tmpdir={base / 'tmp'}", "--storage-driver=vfs", *arguments]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "CONTAINERS_CONF": str(base / "containers.conf")},
        )
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def make_image(self) -> None:
        """An image whose only file waits for a signal."""
        image = self._directory / "image.tar"
        with tarfile.open(image, "w") as archive:
            archive.add(make_pause(self._directory), "pause")
        self("import", "--quiet", "--change", 'CMD ["/pause"]', str(image), IMAGE)

    def run(self, name: str, *options: str, network: str = "felixpy") -> tuple[Namespace, str]:
        """Starts a container on the network; its namespace and its address."""
        self("run", "--detach", "--name", name, "--network", network, *options, IMAGE)
        return self.find(name, network.partition(",")[0])

    def find(self, name: str, network: str = "felixpy") -> tuple[Namespace, str]:
        """A running container's namespace and its address on a network."""
        (container,) = json.loads(self("inspect", name))
        netns = self.attach(container["State"]["Pid"])
        return netns, container["NetworkSettings"]["Networks"][network]["IPAddress"]

    def attach(self, pid: int) -> Namespace:
        """The network namespace of a process."""
        attached = unique_name("pm")
        subprocess.run(["ip", "netns", "attach", attached, str(pid)], check=True)
        self._attached.append(attached)
        return Namespace(attached)

    def __enter__(self) -> Podman:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self("rm", "--all", "--force", "--time", "0")
        finally:
            for name in self._attached:
                subprocess.run(["ip", "netns", "delete", name], check=False)
            self._holder.kill()
            self._holder.communicate(timeout=40)
