"""containerd on a node under test, spoken to as kubelet does it: the Container Runtime Interface, over its socket.

State, images and networks are below one directory; sandboxes are processes of one static program. Field numbers are
those of the Container Runtime Interface (k8s.io/cri-api, runtime/v1); a map is a list of entries on the wire.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from birdpy.messages import Table, build_messages
from tests.agent.cni.podman import make_pause
from tests.support.netns import Namespace, unique_name
from tests.support.process import Daemon
from tests.support.wait import eventually

IMAGE = "localhost/pause:1"
_BOTH_VERSIONS = Path("/sys/fs/cgroup/unified")
_TABLE: Table = {
    "Entry": {"key": (1, "string"), "value": (2, "string")},
    "PodSandboxMetadata": {"name": (1, "string"), "uid": (2, "string"), "namespace": (3, "string")},
    "PortMapping": {"protocol": (1, "int32"), "container_port": (2, "int32"), "host_port": (3, "int32")},
    "LinuxPodSandboxConfig": {"cgroup_parent": (1, "string")},
    "PodSandboxConfig": {
        "metadata": (1, "PodSandboxMetadata"),
        "log_directory": (3, "string"),
        "port_mappings": (5, "repeated PortMapping"),
        "annotations": (7, "repeated Entry"),
        "linux": (8, "LinuxPodSandboxConfig"),
    },
    "RunPodSandboxRequest": {"config": (1, "PodSandboxConfig")},
    "PodSandboxId": {"id": (1, "string")},
    "PodSandboxStatusRequest": {"id": (1, "string"), "verbose": (2, "bool")},
    "PodIp": {"ip": (1, "string")},
    "Network": {"ip": (1, "string"), "additional": (2, "repeated PodIp")},
    "PodSandboxStatus": {"id": (1, "string"), "state": (3, "int32"), "network": (5, "Network")},
    "PodSandboxStatusResponse": {"status": (1, "PodSandboxStatus"), "info": (2, "repeated Entry")},
    "Empty": {},
    "Condition": {"type": (1, "string"), "status": (2, "bool"), "reason": (3, "string"), "message": (4, "string")},
    "RuntimeStatus": {"conditions": (1, "repeated Condition")},
    "StatusResponse": {"status": (1, "RuntimeStatus")},
}
_CONF = """
version = 2
root = "{base}/root"
state = "{base}/state"
[grpc]
  address = "{base}/containerd.sock"
[ttrpc]
  address = "{base}/ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{base}/bin"
    conf_dir = "{base}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/usr/bin/crun"
"""


class Containerd:
    """Its network is the configuration list `network`; plugins are those of `plugin_dirs`, in their order."""

    def __init__(self, node: Namespace, base: Path, network: bytes, plugin_dirs: list[Path]) -> None:
        self._base = base
        self._node = node
        self._attached: list[str] = []
        self._pods: list[str] = []
        self._messages = build_messages("cri", _TABLE)
        for name in ("net.d", "bin"):
            (base / name).mkdir(parents=True)
        (base / "net.d" / "10-felixpy.conflist").write_bytes(network)
        for plugin in (one for place in reversed(plugin_dirs) for one in place.iterdir()):
            (base / "bin" / plugin.name).unlink(missing_ok=True)
            (base / "bin" / plugin.name).symlink_to(plugin)
        (base / "config.toml").write_text(_CONF.format(base=base, image=IMAGE))
        hide = f"umount {_BOTH_VERSIONS};" if _BOTH_VERSIONS.exists() else ""
        argv = ["unshare", "--mount", "sh", "-c", f"{hide} exec containerd -c {base}/config.toml"]
        self._daemon = Daemon(argv, base / "containerd.log", netns=node.name)
        self._channel = grpc.insecure_channel(f"unix://{base}/containerd.sock")

    def __enter__(self) -> Containerd:
        self._daemon.start()
        eventually(lambda: self._ctr("version"), within_s=20)
        self._ctr("images", "import", str(_make_image(self._base)))
        return self

    def _ctr(self, *arguments: str) -> bool:
        argv = ["ctr", "-a", f"{self._base}/containerd.sock", "-n", "k8s.io", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        return done.returncode == 0

    def conditions(self) -> dict[str, str]:
        """What is not as kubelet wants it, with the reason; kubelet's node is ready when there is nothing."""
        answer = self._call("Status", "Empty", "StatusResponse")
        return {one.type: f"{one.reason}: {one.message}" for one in answer.status.conditions if not one.status}

    def run_pod(
        self,
        name: str,
        namespace: str = "default",
        uid: str = "",
        ports: Mapping[int, int] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """Starts a pod's sandbox; its id. `ports` are ports of the node → ports of the pod.

        Raises  grpc.RpcError, with what the CNI plugin said.
        """
        config = {
            "metadata": {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}"},
            "port_mappings": [{"container_port": inner, "host_port": outer} for outer, inner in (ports or {}).items()],
            "annotations": [{"key": key, "value": value} for key, value in (annotations or {}).items()],
            "linux": {},
        }
        self._pods.append(str(self._call("RunPodSandbox", "RunPodSandboxRequest", "PodSandboxId", config=config).id))
        return self._pods[-1]

    def find(self, pod: str) -> tuple[Namespace, list[str]]:
        """The pod's network namespace and its addresses."""
        answer = self._call(
            "PodSandboxStatus", "PodSandboxStatusRequest", "PodSandboxStatusResponse", id=pod, verbose=True
        )
        (info,) = (json.loads(one.value) for one in answer.info if one.key == "info")
        attached = unique_name("cd")
        subprocess.run(["ip", "netns", "attach", attached, str(info["pid"])], check=True)
        self._attached.append(attached)
        network = answer.status.network
        return Namespace(attached), [network.ip, *(one.ip for one in network.additional)]

    def remove(self, pod: str) -> None:
        """Stops and removes a sandbox."""
        for method in ("StopPodSandbox", "RemovePodSandbox"):
            self._call(method, "PodSandboxId", "Empty", id=pod)
        self._pods.remove(pod)

    def restart(self) -> None:
        """Kills the daemon, which pods outlive, and starts it again."""
        self._daemon.kill()
        self._daemon.start()
        eventually(lambda: self._ctr("version"), within_s=20)

    def _call(self, method: str, request: str, answer: str, **fields: Any) -> Any:
        stub = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self._messages[answer].FromString,
        )
        return stub(self._messages[request](**fields), timeout=60)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            print(self._daemon.tail(30))
        for pod in tuple(self._pods):
            self.remove(pod)
        for name in self._attached:
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self._channel.close()
        self._daemon.stop()


def _make_image(base: Path) -> Path:
    """A docker archive whose only file waits for a signal."""
    layer, image = BytesIO(), base / "image.tar"
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(make_pause(base), "pause")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(image, "w") as archive:
        for name, data in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return image
