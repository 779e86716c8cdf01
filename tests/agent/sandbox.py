"""A container's sandbox on a node, and the plugin called as a runtime calls it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.agent.node import Node
from tests.support.etcd import Etcd
from tests.support.netns import Namespace

PLUGIN = Path(__file__).parents[2] / "build" / "felixpy-cni"
NETWORK = "net"


@dataclass(frozen=True)
class Said:
    """How the plugin ended, and what it printed."""

    exit_status: int
    json: dict[str, Any]

    @property
    def code(self) -> int:
        """The CNI error's; 0 when there was none."""
        return int(self.json["code"]) if self.exit_status else 0

    @property
    def details(self) -> str:
        return str(self.json.get("details", ""))

    @property
    def addresses(self) -> list[str]:
        return [ip["address"].partition("/")[0] for ip in self.json["ips"]]


@dataclass(frozen=True)
class Sandbox:
    """A network namespace that a runtime made for container `name`, or for the pod `namespace`/`name`."""

    node: Node
    name: str
    netns: Namespace
    namespace: str = ""

    @property
    def container(self) -> str:
        return f"c{self.name}"

    def call(self, verb: str, args: str = "", **conf: object) -> Said:
        """One call; `conf` goes over the usual configuration's fields."""
        if self.namespace:
            args += f";IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name}"
        return call_plugin(self.node, verb, self.container, self.netns, args.strip(";"), conf)

    def add(self, args: str = "", **conf: object) -> list[str]:
        """An ADD that must succeed; its addresses."""
        said = self.call("ADD", args, **conf)
        assert said.exit_status == 0, said.json
        return said.addresses

    def delete(self) -> None:
        """A DEL, which must succeed."""
        said = self.call("DEL")
        assert said.exit_status == 0, said.json


def call_plugin(
    node: Node, verb: str, container: str, netns: Namespace | None, args: str, conf: Mapping[str, object]
) -> Said:
    """Starts the plugin and waits for its end."""
    usual = {"cniVersion": "1.1.0", "name": NETWORK, "type": PLUGIN.name, "runDir": str(node.run_dir)}
    variables = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": str(netns.path) if netns else "",
        "CNI_IFNAME": "eth0" if container else "",
        "CNI_PATH": str(PLUGIN.parent),
        "CNI_ARGS": args,
    }
    done = subprocess.run(
        [PLUGIN],
        input=json.dumps({**usual, **conf}),
        env={**os.environ, **{name: value for name, value in variables.items() if value}},
        capture_output=True,
        text=True,
        timeout=90,
    )
    return Said(done.returncode, json.loads(done.stdout or "{}"))


MakeSandbox = Callable[..., Sandbox]
"""Of a container's name and, where it runs a pod, its namespace."""


IPAM = "/calico/ipam/v2/"


def held_addresses(etcd: Etcd) -> dict[str, str]:
    """Every address that a block says is held, and by which handle."""
    held: dict[str, str] = {}
    for value in etcd.get_prefix(f"{IPAM}assignment/").values():
        block = json.loads(value)
        base, _, _ = block["cidr"].rpartition("/")
        head, _, last = base.rpartition(".")
        for ordinal, index in enumerate(block["allocations"]):
            if index is not None:
                held[f"{head}.{int(last) + ordinal}"] = block["attributes"][index]["handle_id"]
    return held
