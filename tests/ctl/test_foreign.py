"""In a cluster with nodes that run Calico, each policy that these do not enforce is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agent.node import resource
from tests.ctl.conftest import Answer
from tests.support.etcd import Etcd

Ctl = Callable[..., Answer]
POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: all}
spec: {tier: Admin, priority: 10, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {selector: all()}
"""
SAID = [
    f"warning: {policy}: not enforced on c1, c2: Calico's Felix runs there, and reads Calico's own keys alone"
    for policy in ("NetworkPolicy shop/web", "ClusterNetworkPolicy all")
]


@pytest.fixture
def mixed(store: Etcd) -> Etcd:
    """Felix runs on c1 and c2; that of c3 is no more."""
    for node in ("c1", "c2"):
        store.put(f"/calico/felix/v2/no-region/host/{node}/status", {"time": "2026-01-01T00:00:00Z", "uptime": 1})
    store.put("/calico/felix/v2/no-region/host/c3/last_reported_status", {"time": "2026-01-01T00:00:00Z", "uptime": 1})
    store.put("/calico/felix/v2/no-region/host/c1/workload/k8s/shop%2fweb/endpoint/eth0", {"status": "up"})
    return store


def test_a_node_that_calicos_startup_registered_is_calicos_until_an_agent_of_ours_runs_there(
    store: Etcd, felixctl: Ctl
) -> None:
    """It turns the key off that Felix keeps alive, and gives each node a FelixConfiguration."""
    calico = "/calico/resources/v3/projectcalico.org"
    for node in ("c1", "n1", "n2"):
        store.put(f"{calico}/nodes/{node}", resource("Node", node, {}))
    for node in ("c1", "n1", "gone"):
        body = resource("FelixConfiguration", f"node.{node}", {"defaultEndpointToHostAction": "Return"})
        store.put(f"{calico}/felixconfigurations/node.{node}", body)
    store.put("/felixpy/nodes/n1", "{}")
    said = felixctl("status", "--timeout", "1").err
    assert "c1: Calico's Felix runs there, which is not asked" in said
    assert "n1, n2: no answer" in said


def warnings(answer: Answer) -> list[str]:
    return [line for line in answer.err.splitlines() if "not enforced" in line]


def test_apply_names_what_calicos_nodes_do_not_enforce(mixed: Etcd, felixctl: Ctl) -> None:
    applied = felixctl("apply", "-f", "-", stdin=POLICIES)
    assert (applied.code, warnings(applied)) == (0, SAID)


def test_so_does_status(mixed: Etcd, felixctl: Ctl) -> None:
    felixctl("apply", "-f", "-", stdin=POLICIES)
    assert sorted(warnings(felixctl("status"))) == sorted(SAID)


def test_nobody_waits_for_calicos_nodes_to_answer(mixed: Etcd, felixctl: Ctl) -> None:
    for node in ("c1", "c2", "n1"):
        mixed.put(f"/calico/resources/v3/projectcalico.org/nodes/{node}", {"metadata": {"name": node}, "spec": {}})

    said = felixctl("status", "--timeout", "0.3").err.splitlines()

    assert [line for line in said if "no answer" in line or "not asked" in line] == [
        "n1: no answer (frozen, down or unreachable; on the node: felixctl status --local)",
        "warning: c1, c2: Calico's Felix runs there, which is not asked",
    ]


def test_where_all_nodes_are_ours_nothing_is_said(felixctl: Ctl) -> None:
    applied = felixctl("apply", "-f", "-", stdin=POLICIES)
    assert (applied.code, warnings(applied), warnings(felixctl("status"))) == (0, [], [])
