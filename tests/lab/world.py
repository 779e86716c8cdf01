"""The cluster in a lab: agents ready, resources applied, pods added through the CNI plugin, a server in each.

Everything goes through the doors that people use: felixctl, etcdctl, the CNI binary. What there should be is in the
topology's own manifest (`NAME/cluster.yaml` beside `NAME.clab.yml`); its Pod documents say what to add where.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab.build import Lab
from tests.lab.ground import process_of
from tests.lab.say import Teller
from tests.lab.topology import Node
from tests.support.etcd import EtcdGateway
from tests.support.netns import CommandFailed, Namespace
from tests.support.packets import NameServer
from tests.support.process import Daemon
from tests.support.wait import eventually

SERVER_PORT = 8080
_FOREVER = 0


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the manifest. `command` runs on its node; without one, a server in it answers with its name."""

    namespace: str
    name: str
    node: str
    labels: tuple[tuple[str, str], ...]
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """A Service of the manifest, `announced` where it is of type LoadBalancer; `versions` of IP that it asks for."""

    namespace: str
    name: str
    selector: tuple[tuple[str, str], ...]
    versions: tuple[int, ...]
    port: int
    announced: bool = True


class World:
    """The cluster of one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes = lab.topology.in_group("node")
        self.manifest = lab.topology.path.parent / lab.topology.name / "cluster.yaml"
        documents = [one for one in yaml.safe_load_all(self.manifest.read_text()) if one]
        self.pods = tuple(map(_read_pod, (one for one in documents if one["kind"] == "Pod")))
        self.services = tuple(map(_read_service, (one for one in documents if one["kind"] == "Service")))
        store = lab.topology.in_group("store")[0].name
        self.etcd = EtcdGateway("127.0.0.1", 2379, lab.namespace(store))
        self._servers: dict[Pod, NameServer | Daemon] = {}

    @property
    def routers(self) -> tuple[Node, ...]:
        return self.lab.topology.in_group("router")

    @property
    def router(self) -> Node:
        """The only one, or the first."""
        return self.routers[0]

    @property
    def client(self) -> Namespace:
        return self.lab.namespace(self.lab.topology.in_group("client")[0].name)

    def pod_namespace(self, pod: Pod) -> Namespace:
        """Where a pod's packets are."""
        return self.lab.namespace(pod.node, pod.name)

    def pod_address(self, pod: Pod, version: int = 4) -> str | None:
        """A pod's address of one family; None when it has none."""
        devices = json.loads(self.pod_namespace(pod).ip("-j", f"-{version}", "address", "show", "dev", "eth0"))
        found = [entry for device in devices for entry in device.get("addr_info", []) if entry["scope"] == "global"]
        return str(found[0]["local"]) if found else None

    def populate(self, say: Teller) -> None:
        """From daemons that were started to a cluster that serves.

        Raises  AssertionError, with the end of the log of whatever did not do its part.
        """
        with say.step("etcd answers"):
            eventually(lambda: self.etcd.healthy, 20)
        with say.step(f"agents ready for pods: {', '.join(node.name for node in self.nodes)}"):
            for node in self.nodes:
                self.wait_ready(node)
        with say.step(f"felixctl apply -f {self.manifest.parent.name}/{self.manifest.name}"):
            self.felixctl("apply", "-f", str(self.manifest))
        for pod in self.pods:
            with say.step(f"CNI ADD {pod.name} on {pod.node}"):
                self.add_pod(pod)
        with say.step(f"a server in each pod, port {SERVER_PORT}"):
            for pod in self.pods:
                self.serve(pod)
        names = ", ".join(service.name for service in self.services)
        with say.step(f"felixctl apply -f - (the EndpointSlices of Service {names}, as Kubernetes writes them)"):
            slices = [self.endpoint_slice(one, version) for one in self.services for version in one.versions]
            self.felixctl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, slices)))

    def felixctl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs felixctl on the first node.

        Raises  CommandFailed.
        """
        node = self.nodes[0]
        return self.lab.namespace(node.name).run(
            "felixctl", *arguments, stdin=stdin, env=self.lab.environment(node), timeout_s=60
        )

    def etcdctl(self, *arguments: str) -> str:
        """Runs etcdctl beside etcd.

        Raises  CommandFailed.
        """
        place = self.etcd.namespace
        assert place is not None
        return place.run("etcdctl", f"--endpoints={self.etcd.url}", *arguments, env={"ETCDCTL_API": "3"})

    def wait_ready(self, node: Node, within_s: float = 20) -> None:
        """Waits until the node's agent says, by CNI STATUS, that it takes pods.

        Raises  AssertionError with its answer and the end of its log.
        """
        process = self.lab.process(node.name)
        answer = ""

        def ready() -> bool:
            nonlocal answer
            if not process.alive:
                return True
            try:
                answer = self.lab.run(node, "pod", "status", "none")
            except CommandFailed as refused:
                answer = str(refused)
                return False
            return True

        try:
            eventually(ready, within_s, 0.05)
        except AssertionError:
            raise AssertionError(f"felixpy on {node.name}: {answer}\n{_tail(self.lab.log(node.name))}") from None
        if not process.alive:
            raise AssertionError(f"felixpy on {node.name} has ended\n{_tail(self.lab.log(node.name))}")

    def add_pod(self, pod: Pod) -> None:
        """Adds one pod through the CNI plugin on its node.

        Raises  CommandFailed with the plugin's error.
        """
        self.lab.run(self.lab.topology.node(pod.node), "pod", "add", pod.name, pod.namespace)

    def delete_pod(self, pod: Pod) -> None:
        """Takes it away the same way, with our server in it."""
        if pod in self._servers:
            self._servers.pop(pod).stop()
        self.lab.run(self.lab.topology.node(pod.node), "pod", "del", pod.name, pod.namespace)

    def serve(self, pod: Pod) -> None:
        """Starts the pod's command, or a server in it that answers with the pod's name; either outlives us."""
        server: NameServer | Daemon
        if pod.command:
            server = self.lab.start_beside(self.lab.topology.node(pod.node), pod.name, pod.command)
        else:
            server = NameServer(self.pod_namespace(pod), pod.name, SERVER_PORT, most_s=_FOREVER)
        self._servers[pod] = server
        self.lab.record.processes.append(process_of(f"server in {pod.name}", server.pid))
        self.lab.ground.write_record(self.lab.record)

    def stop(self) -> None:
        """Ends what this object and its Lab started; namespaces and files stay."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
        self.lab.stop()

    def backends(self, service: Service) -> list[Pod]:
        """The pods that a Service selects."""
        return [pod for pod in self.pods if set(service.selector) <= set(pod.labels)]

    @property
    def named_services(self) -> list[Service]:
        """The announced Services whose pods answer with their names."""
        return [one for one in self.services if one.announced and not any(pod.command for pod in self.backends(one))]

    def endpoint_slice(self, service: Service, version: int) -> dict[str, object]:
        """The EndpointSlice of one family of a Service, from the pods as they are."""
        endpoints = [
            {
                "addresses": [self.pod_address(pod, version)],
                "nodeName": pod.node,
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name},
            }
            for pod in self.backends(service)
        ]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service.name}-{version}",
                "namespace": service.namespace,
                "labels": {"kubernetes.io/service-name": service.name},
            },
            "addressType": f"IPv{version}",
            "ports": [{"name": "http", "protocol": "TCP", "port": SERVER_PORT}],
            "endpoints": endpoints,
        }

    def service_address(self, version: int = 4, namespace: str = "default", name: str = "web") -> str | None:
        """A LoadBalancer Service's address of one family, as `get` shows it; None while it has none."""
        service = json.loads(self.felixctl("get", "service", name, "-n", namespace, "-o", "json"))
        given = [str(one["ip"]) for one in service.get("status", {}).get("loadBalancer", {}).get("ingress", [])]
        return next((ip for ip in given if (":" in ip) == (version == 6)), None)


def _read_pod(document: dict[str, Any]) -> Pod:
    meta = document["metadata"]
    labels = tuple(meta.get("labels", {}).items())
    containers = document["spec"].get("containers", [{}])
    return Pod(
        meta["namespace"],
        meta["name"],
        document["spec"]["nodeName"],
        labels,
        tuple(containers[0].get("command", ())),
    )


def _read_service(document: dict[str, Any]) -> Service:
    meta, spec = document["metadata"], document["spec"]
    families = spec.get("ipFamilies", ["IPv4"])
    return Service(
        meta["namespace"],
        meta["name"],
        tuple(spec["selector"].items()),
        tuple(int(family.removeprefix("IPv")) for family in families),
        spec["ports"][0]["port"],
        spec["type"] == "LoadBalancer",
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else "(no log)"
