"""One node under test: a namespace with an etcd, the agent as people start it, and pods wired as the CNI would."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.etcd import Etcd
from tests.support.forked import run_forked
from tests.support.netns import Namespace, link_namespaces, unique_name
from tests.support.packets import NameServer, ask_udp, tcp_ok
from tests.support.process import Daemon

CALICO = "/calico/resources/v3/projectcalico.org"
PROGRAM = Path(sys.executable).parent / "felixpy"
WITH_GOBGPD = {"FELIXPY_GOBGPD": str(Path(__file__).parents[2] / "build/gobgpd")}
GATEWAY4, GATEWAY_MAC = "169.254.1.1", "ee:ee:ee:ee:ee:ee"
GATEWAY6 = "fe80::ecee:eeff:feee:eeee"
PORT = 8080

Json = dict[str, Any]


def resource(kind: str, name: str, spec: Json, labels: Mapping[str, str] | None = None, namespace: str = "") -> Json:
    """A Calico object as calicoctl writes it."""
    meta: Json = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
    if namespace:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = dict(labels)
    return {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": meta, "spec": spec}


@dataclass(frozen=True)
class Said:
    """What felixctl said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)


class Pod:
    """A pod of the node: its namespace, and the device that leads to it."""

    def __init__(self, node: Node, name: str, addresses: Sequence[str]) -> None:
        self.node, self.name, self.addresses = node, name, tuple(addresses)
        self.namespace = Namespace.create("p")
        self.device = unique_name("cali")[:15]
        link_namespaces(node.namespace, self.device, self.namespace, "eth0")
        node.namespace.ip("link", "set", self.device, "address", GATEWAY_MAC)
        self.namespace.add_address("eth0", *(self.prefix(address) for address in addresses))
        for address in addresses:
            gateway = GATEWAY6 if ":" in address else GATEWAY4
            family = "-6" if ":" in address else "-4"
            self.namespace.ip(family, "route", "replace", gateway, "dev", "eth0")
            self.namespace.ip(family, "route", "replace", "default", "via", gateway, "dev", "eth0")
            self.namespace.ip("neigh", "replace", gateway, "lladdr", GATEWAY_MAC, "dev", "eth0")
        self.server = NameServer(self.namespace, name, PORT)

    @staticmethod
    def prefix(address: str) -> str:
        """The address as a host prefix."""
        return f"{address}/{128 if ':' in address else 32}"

    @property
    def key(self) -> str:
        return f"{CALICO}/workloadendpoints/default/{self.endpoint}"

    @property
    def endpoint(self) -> str:
        return f"{self.node.name}-cni-{self.name}-eth0"

    def write(self, labels: Mapping[str, str] | None = None, profiles: Sequence[str] = ("open",), **more: Json) -> None:
        """Writes its WorkloadEndpoint."""
        spec = {
            "node": self.node.name,
            "orchestrator": "cni",
            "workload": self.name,
            "containerID": f"c{self.name}",
            "endpoint": "eth0",
            "interfaceName": self.device,
            "ipNetworks": [self.prefix(address) for address in self.addresses],
            "profiles": list(profiles),
            **more,
        }
        full = {"name": self.name, "projectcalico.org/namespace": "default", **(labels or {})}
        self.node.etcd.put(self.key, resource("WorkloadEndpoint", self.endpoint, spec, full, "default"))

    def reaches(self, other: Pod, address: int = 0, wait_s: float = 0.3) -> bool:
        """Whether a new TCP connection to `other` gets through."""
        return tcp_ok(self.namespace, other.addresses[address], PORT, wait_s=wait_s)

    def asks(self, address: str, wait_s: float = 0.3) -> str | None:
        """The name that answers over UDP."""
        return ask_udp(self.namespace, address, PORT, wait_s=wait_s)

    def close(self) -> None:
        self.server.stop()
        self.namespace.delete()


class Node:
    """A node called n1, its agent not yet started."""

    def __init__(
        self,
        roles: str = "agent",
        name: str = "n1",
        initialised: bool = True,
        etcd: Etcd | None = None,
        etcd_address: str = "127.0.0.1",
    ) -> None:
        self.name, self.roles, self.etcd_address = name, roles, etcd_address
        self.directory = tempfile.TemporaryDirectory(prefix="felixpy-test")
        self.run_dir = Path(self.directory.name)
        self.namespace = Namespace.create("n")
        self.namespace.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self._own_etcd = etcd is None
        self.etcd = etcd or Etcd(self.namespace, "0.0.0.0").start()
        self.pods: list[Pod] = []
        self.agent = self.make_agent()
        if initialised:
            self.initialise()

    def make_agent(self, *flags: str) -> Daemon:
        """The agent as a person starts it; its gobgpd is of version 4, which connects much sooner than Debian's."""
        argv = [PROGRAM, "--etcd", f"http://{self.etcd_address}:2379", "--node", self.name, "--roles", self.roles]
        argv += ["--run-dir", str(self.run_dir), *flags]
        return Daemon(argv, self.run_dir / "agent.log", netns=self.namespace.name, env=WITH_GOBGPD)

    def initialise(self) -> None:
        """What every cluster has, and a profile that allows all."""
        guid = {"clusterGUID": "f" * 32, "datastoreReady": True}
        self.put("clusterinformations", resource("ClusterInformation", "default", guid))
        self.put("tiers", resource("Tier", "default", {"order": 1_000_000, "defaultAction": "Deny"}))
        allow = [{"action": "Allow"}]
        self.put("profiles", resource("Profile", "open", {"ingress": allow, "egress": allow}))

    def put(self, plural: str, body: Json) -> None:
        """Writes an object at Calico's key."""
        meta = body["metadata"]
        place = f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]
        self.etcd.put(f"{CALICO}/{plural}/{place}", body)

    def drop(self, plural: str, name: str) -> None:
        """Deletes an object."""
        self.etcd.delete(f"{CALICO}/{plural}/{name}")

    def policy(self, name: str, selector: str, **spec: Any) -> None:
        """Writes a GlobalNetworkPolicy of the default tier."""
        body = {"tier": "default", "order": 100, "selector": selector, "types": ["Ingress"], **spec}
        self.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", f"default.{name}", body))

    def felixctl(self, *arguments: str) -> Said:
        """Runs felixctl on the node."""
        environment = {key: value for key, value in os.environ.items() if "ETCD" not in key}
        environment |= {"FELIXPY_ETCD": f"http://{self.etcd_address}:2379", "FELIXPY_RUN_DIR": str(self.run_dir)}
        argv = ["felixctl", *arguments]
        done = run_forked("felixpy.ctl.main:main", argv, environment, namespace=self.namespace)
        return Said(done.code, done.out, done.err)

    def pod(self, name: str, *addresses: str) -> Pod:
        """A wired pod, without an endpoint in etcd."""
        made = Pod(self, name, addresses)
        self.pods.append(made)
        return made

    def nft(self, *arguments: str) -> str:
        """`nft ARGUMENTS` on the node."""
        return self.namespace.run("nft", *arguments)

    def judge(self, way: str, pod: Pod) -> str:
        """The chain that judges what comes `from` a pod, or goes `to` it; "" where there is none."""
        if f"ep-{way}-{pod.device}" not in self.nft("list", "chains"):
            return ""
        found = re.search(r"goto (\S+)", self.nft("list", "chain", "inet", "felixpy", f"ep-{way}-{pod.device}"))
        return self.nft("list", "chain", "inet", "felixpy", found[1]) if found else ""

    def log(self) -> str:
        return self.agent.tail(200)

    def close(self) -> None:
        for pod in self.pods:
            pod.close()
        self.agent.stop()
        if self._own_etcd:
            self.etcd.close()
        self.namespace.delete()
        self.directory.cleanup()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            print(self.log())
        self.close()
