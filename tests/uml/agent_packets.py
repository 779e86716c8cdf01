"""Two agents in a kernel without nftables and with ipip: they pick iptables themselves, and policy holds over tunl0.

Runs where the kernel is so (see test_agent.py).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.node import Node, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import ping_ok
from tests.support.wait import eventually

PATIENCE_S = 60
"""Everything is several times slower here."""


@dataclass
class Ground:
    """Two nodes in two subnets, each with a pod."""

    nodes: dict[str, Node]
    pods: dict[str, Namespace]
    addresses: dict[str, str]

    def reaches(self, one: str, other: str) -> bool:
        return ping_ok(self.pods[one], self.addresses[other], wait_s=1.0)


@pytest.fixture
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        router = stack.enter_context(Namespace.create("r"))
        router.sysctl(ipv4__ip_forward=1)
        n1 = stack.enter_context(Node(name="n1"))
        n2 = stack.enter_context(Node(name="n2", initialised=False, etcd=n1.etcd, etcd_address="192.0.1.1"))
        made = Ground({"n1": n1, "n2": n2}, {}, {})
        for number, (name, node) in enumerate(made.nodes.items(), 1):
            link_namespaces(
                node.namespace, "up0", router, name,
                left_addresses=[f"192.0.{number}.1/24"], right_addresses=[f"192.0.{number}.254/24"],
            )  # fmt: skip
            node.namespace.ip("route", "add", "default", "via", f"192.0.{number}.254")
            spec = {"bgp": {"ipv4Address": f"192.0.{number}.1/24"}, "orchRefs": [{"nodeName": name}]}
            n1.put("nodes", resource("Node", name, spec))
        pool = {"cidr": "10.64.0.0/20", "blockSize": 26, "ipipMode": "Always", "vxlanMode": "Never"}
        n1.put("ippools", resource("IPPool", "pool", pool))
        for name, node in made.nodes.items():
            node.agent.start()
            eventually(lambda node=node: "in sync" in node.log(), PATIENCE_S)  # type: ignore[misc]
            made.pods[name] = stack.enter_context(Namespace.create("s"))
            sandbox = Sandbox(node, f"p{name}", made.pods[name])
            (made.addresses[name],) = eventually(sandbox.add, PATIENCE_S)
        try:
            yield made
        except BaseException:
            for node in made.nodes.values():
                print(node.log())
            raise


def check_log(ground: Ground) -> None:
    """A rule of action Log writes to the kernel's log, and the line names its policy."""
    n2 = ground.nodes["n2"]
    subprocess.run(["modprobe", "-a", "xt_LOG", "nf_log_syslog"], check=True)
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")
    n2.put("felixconfigurations", resource("FelixConfiguration", "default", {"logPrefix": "%k %n"}))
    rules = [{"action": "Log", "protocol": "ICMP"}, {"action": "Allow"}]
    n2.policy("seen", "all()", ingress=rules)

    def logged() -> bool:
        lines = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout.splitlines()
        said = [line for line in lines if "gnp default.seen: IN=tunl0" in line]
        return any(f"DST={ground.addresses['n2']} " in line and "PROTO=ICMP" in line for line in said)

    eventually(lambda: ground.reaches("n1", "n2") and logged(), PATIENCE_S, what="the kernel's log")
    n2.drop("globalnetworkpolicies", "default.seen")


def test_policy_over_ipip_on_iptables_legacy(ground: Ground) -> None:
    n1, n2 = ground.nodes.values()
    for node in (n1, n2):
        assert "packet rules by iptables-legacy: no nftables" in node.log()
    eventually(lambda: ground.reaches("n1", "n2") and ground.reaches("n2", "n1"), PATIENCE_S, what="through tunl0")
    (link,) = json.loads(n1.namespace.ip("-j", "-s", "link", "show", "tunl0"))
    assert link["stats64"]["tx"]["packets"] >= 2
    n1.policy("closed", "all()", ingress=[{"action": "Deny", "protocol": "ICMP"}, {"action": "Allow"}])
    eventually(lambda: not ground.reaches("n1", "n2") and not ground.reaches("n2", "n1"), PATIENCE_S, what="denied")
    n1.drop("globalnetworkpolicies", "default.closed")
    eventually(lambda: ground.reaches("n1", "n2"), PATIENCE_S, what="allowed again")
    check_log(ground)
    n2.namespace.run("iptables-legacy", "-I", "FORWARD", "1", "-j", "ACCEPT")
    n1.policy("closed", "all()", ingress=[{"action": "Deny"}])
    eventually(lambda: not ground.reaches("n1", "n2"), PATIENCE_S, what="our rule comes first again")
