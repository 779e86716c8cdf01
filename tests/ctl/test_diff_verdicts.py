"""felixctl diff: which pairs may, or may not, send to each other once a file is applied, and what decides then."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.ctl.conftest import Answer
from tests.ctl.explain_world import APPLIED, put_endpoint, put_node
from tests.support.etcd import Etcd

Ctl = Callable[..., Answer]

DENY_CLIENTS = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.no-clients}
spec:
  tier: security
  order: 1
  selector: app == 'web'
  ingress:
  - {action: Deny, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http, 9000]}}
  - {action: Pass}
"""


@pytest.fixture
def ctl(store: Etcd, felixctl: Ctl) -> Ctl:
    """client (n1), web-1 (n2), web-2 (n1): client may reach web at its port http."""
    put_node(store, "n1", "192.0.2.1")
    put_node(store, "n2", "192.0.2.2")
    put_endpoint(store, "n1", "client", "cali1", ["10.0.1.1", "fd00::1"], app="client")
    put_endpoint(store, "n2", "web-1", "cali2", ["10.0.2.1", "fd00::2"], app="web")
    put_endpoint(store, "n1", "web-2", "cali3", ["10.0.1.2"], app="web")
    applied = felixctl("apply", "-f", "-", stdin=APPLIED)
    assert applied.code == 0, applied.err
    return felixctl


def verdicts(answer: Answer) -> str:
    """What is said after the objects."""
    assert answer.code == 1, answer.err
    return answer.out.rpartition("\n\n")[2]


def test_what_is_denied_from_then_on(ctl: Ctl) -> None:
    assert (
        verdicts(ctl("diff", "-f", "-", stdin=DENY_CLIENTS)) == """\
3 pairs of endpoints, Services or networks denied what they were not before
Denied now: default/client → default/web-1
  tcp/8080
    before  tier default: NetworkPolicy default/web spec.ingress[2] allows
                {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http]}}
    after   tier security: GlobalNetworkPolicy security.no-clients spec.ingress[0] denies
                {action: Deny, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http, 9000]}}
"""
        """\
Denied now: default/client → Service default/web (IPv4)
  tcp/80 (0 of 2 endpoints, before 2 of 2 endpoints)
    before  tier default: NetworkPolicy default/web spec.ingress[2] allows
                {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http]}}
    after   tier security: GlobalNetworkPolicy security.no-clients spec.ingress[0] denies
                {action: Deny, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http, 9000]}}
"""
        """\
Denied now: default/client → default/web-2 (IPv4)
  tcp/8080
    before  tier default: NetworkPolicy default/web spec.ingress[2] allows
                {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http]}}
    after   tier security: GlobalNetworkPolicy security.no-clients spec.ingress[0] denies
                {action: Deny, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http, 9000]}}
"""
    )


def test_what_is_allowed_when_a_policy_goes(ctl: Ctl) -> None:
    policy = APPLIED.split("---")[4]
    tree: dict[str, Any] = json.loads(ctl("diff", "--delete", "-f", "-", "-o", "json", stdin=policy).out)
    assert tree["objects"][0]["outcome"] == "deleted"
    pods = [one for one in tree["verdicts"] if "default/client" in one["sources"]["endpoints"]]
    assert {one["verdict"] for one in pods} == {"allowed"}
    assert [change["packets"] for change in pods[0]["changes"]] == [
        ["tcp/0-8079,8081-65535", "udp/0-4788,4790-65535", "all other protocols"]
    ]
    after = pods[0]["changes"][0]["after"]
    assert [one["by"] for one in after][-1] == "Profile open"
    assert 0 < tree["pairs"] <= sum(one["pairs"] for one in tree["verdicts"])


def test_a_label_moves_an_endpoint_out_of_what_is_allowed(ctl: Ctl) -> None:
    body = json.loads(ctl("get", "wep", "n1-k8s-client-eth0", "-o", "json").out)
    body["metadata"]["labels"]["app"] = "other"
    del body["metadata"]["resourceVersion"]
    said = verdicts(ctl("diff", "-f", "-", stdin=json.dumps(body)))
    assert "Denied now: default/client → default/web-1\n  tcp/8080\n" in said
    assert "after   tier default: denies: end of tier default" in said


def test_networks_outside_are_ends_too(ctl: Ctl) -> None:
    networks = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.office}
spec:
  tier: security
  order: 1
  selector: app == 'web'
  ingress: [{action: Allow, protocol: UDP, source: {nets: [203.0.113.0/24]}}, {action: Pass}]
"""
    said = verdicts(ctl("diff", "-f", "-", stdin=networks))
    assert "Allowed now: 203.0.113.0/24 → default/web-1, default/web-2 (IPv4)\n  udp\n" in said


def test_nobody_fares_otherwise(ctl: Ctl) -> None:
    renamed = DENY_CLIENTS.replace("http, 9000", "9000")
    assert ctl("diff", "-f", "-", stdin=renamed).out.endswith("\nNo pair of endpoints fares otherwise.\n")
    assert "No pair" not in ctl("diff", "-f", "-", "--no-verdicts", stdin=renamed).out


HOST = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1-eth0, labels: {host: 'yes'}}
spec: {node: n1, interfaceName: eth0}
"""
ON_HOSTS = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.hosts}
spec:
  tier: security
  order: 1
  selector: host == 'yes'
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [9000]}}
  - {action: Allow}
"""
FORWARDED = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.through}
spec:
  tier: security
  order: 2
  selector: host == 'yes'
  types: [Ingress]
  %s
  ingress:
  - {action: Deny, protocol: UDP, source: {nets: [203.0.113.0/24]}, destination: {ports: [53]}}
  - {action: Pass}
"""


def test_a_host_endpoint_closes_its_node(ctl: Ctl) -> None:
    said = verdicts(ctl("diff", "-f", "-", stdin=HOST))
    assert "Denied now: elsewhere in IPv4 → node n1/eth0 (IPv4)\n" in said
    assert "    before  nothing decides about it\n" in said
    assert "    after   host endpoint: denies: no profile allows it\n" in said
    assert "\n  tcp/0-21,23-178,180-2378," in said, "ssh, BGP and etcd stay open"


def test_a_host_endpoint_of_a_node_without_address_is_named(ctl: Ctl) -> None:
    said = ctl("diff", "-f", "-", stdin=HOST.replace("node: n1", "node: n9"))
    assert "no address of node n9 is known" in said.err
    assert "No pair of endpoints fares otherwise." in said.out


def test_what_a_policy_says_of_a_node(ctl: Ctl) -> None:
    assert ctl("apply", "-f", "-", stdin=HOST).code == 0
    tree: dict[str, Any] = json.loads(ctl("diff", "-f", "-", "-o", "json", stdin=ON_HOSTS).out)
    assert {one["verdict"] for one in tree["verdicts"]} == {"allowed"}
    assert {node for one in tree["verdicts"] for node in one["destinations"]["nodes"]} == {"n1/eth0"}
    senders = {who for one in tree["verdicts"] for who in one["sources"]["endpoints"]}
    assert senders == {"default/web-1"}, "the pods of n1 reach their node by no interface of it"
    ports = {change["packets"][0] for one in tree["verdicts"] for change in one["changes"]}
    assert all(one.startswith("tcp/") and one.endswith("8999,9001-65535") for one in ports)


@pytest.mark.parametrize(
    ("fields", "scope", "reached"),
    [
        ("applyOnForward: true", "host endpoint, on forward", {"default/client", "default/web-2"}),
        ("preDNAT: true\n  applyOnForward: true", "host endpoint, before DNAT", {"default/client", "default/web-2"}),
        ("doNotTrack: true\n  applyOnForward: true", "host endpoint, untracked", {"default/client", "default/web-2"}),
        ("applyOnForward: false", "", set()),
    ],
)
def test_what_passes_through_a_node(ctl: Ctl, fields: str, scope: str, reached: set[str]) -> None:
    assert ctl("apply", "-f", "-", stdin=HOST + "---" + ON_HOSTS).code == 0
    tree: dict[str, Any] = json.loads(ctl("diff", "-f", "-", "-o", "json", stdin=FORWARDED % fields).out)
    of_pods = [one for one in tree["verdicts"] if one["destinations"]["endpoints"]]
    assert {who for one in of_pods for who in one["destinations"]["endpoints"]} <= reached
    assert bool(of_pods) == bool(reached)
    for one in of_pods:
        assert one["sources"]["networks"] == ["203.0.113.0/24"]
        assert {change["after"][-1]["endpoint"] for change in one["changes"]} == {scope}
        assert {change["packets"][0].partition(" ")[0] for change in one["changes"]} == {"udp/53"}
    through = [(one["sources"]["networks"], one["destinations"]["networks"]) for one in tree["verdicts"]]
    wanted = ["203.0.113.0/24 by node n1"], ["0.0.0.0/0 by node n1"]
    assert [one for one in through if all(one) and "by node" in one[0][0]] == [wanted] * bool(reached)


@pytest.mark.parametrize("fields", ["preDNAT: true", "doNotTrack: true"])
def test_what_is_allowed_early_is_asked_no_more_on_forward(ctl: Ctl, fields: str) -> None:
    through = FORWARDED % "applyOnForward: true"
    assert ctl("apply", "-f", "-", stdin=HOST + "---" + through).code == 0
    early = f"""
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: security.early}}
spec:
  tier: security
  selector: host == 'yes'
  types: [Ingress]
  applyOnForward: true
  {fields}
  ingress: [{{action: Allow, protocol: UDP, source: {{nets: [203.0.113.0/24]}}}}]
"""
    tree: dict[str, Any] = json.loads(ctl("diff", "-f", "-", "-o", "json", stdin=early).out)
    (one,) = (one for one in tree["verdicts"] if one["destinations"]["endpoints"])
    assert (one["verdict"], one["sources"]["networks"]) == ("allowed", ["203.0.113.0/24"])
    assert one["destinations"]["endpoints"] == ["default/client"], "web's own policy lets in clients alone"
    assert one["changes"][0]["before"][-1]["field"] == "spec.ingress[0]"


def test_what_workloads_may_send_to_their_own_node(ctl: Ctl) -> None:
    felix = """
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {defaultEndpointToHostAction: Accept}
"""
    said = verdicts(ctl("diff", "-f", "-", stdin=felix))
    assert "Allowed now: default/client, default/web-1, default/web-2 → node n1, node n2 (IPv4), on one node\n" in said
    assert "before  denies: workload to its host" in said


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [{name: %s, port: %d, protocol: TCP}]
"""


def test_a_service_of_another_port(ctl: Ctl) -> None:
    said = verdicts(ctl("diff", "-f", "-", stdin=SERVICE % ("http", 81)))
    assert said.count("Denied now: default/client → Service default/web (IPv4)\n") == 1
    assert "  tcp/80 (no endpoints, before 2 of 2 endpoints)\n" in said
    assert "after   denies: no Service with endpoints has this address and port" in said
    assert "  tcp/81 (2 of 2 endpoints, before no endpoints)\n" in said
    tree = json.loads(ctl("diff", "-f", "-", "-o", "json", stdin=SERVICE % ("http", 81)).out)
    assert {one["destinations"]["services"][0] for one in tree["verdicts"]} == {"default/web"}
    assert ctl("diff", "-f", "-", stdin=SERVICE % ("https", 80)).out.count("no endpoints, before 2 of 2") == 1


def test_what_is_behind_a_service_when_part_of_it_is_closed(ctl: Ctl) -> None:
    policy = DENY_CLIENTS.replace("app == 'web'", "projectcalico.org/orchestrator == 'k8s' && name == 'web-1'")
    body = json.loads(ctl("get", "wep", "n2-k8s-web--1-eth0", "-o", "json").out)
    body["metadata"]["labels"]["name"] = "web-1"
    del body["metadata"]["resourceVersion"]
    assert ctl("apply", "-f", "-", stdin=json.dumps(body)).code == 0
    said = verdicts(ctl("diff", "-f", "-", stdin=policy))
    assert "Denied now: default/client → Service default/web (IPv4)\n  tcp/80 (1 of 2 endpoints, before 2 of 2" in said
    assert "after   tier security: GlobalNetworkPolicy security.no-clients spec.ingress[0] denies" in said


AMONG_WEB = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.web}
spec:
  tier: security
  order: 1
  selector: app == 'web'
  ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'web'}}, {action: Pass}]
"""


def test_an_address_of_a_load_balancer_leads_whom_its_service_lets_in(ctl: Ctl, store: Etcd) -> None:
    key = "/felixpy/resources/core/v1/services/default/web"
    body = json.loads(store.get(key) or "")
    spec = {"type": "LoadBalancer", "loadBalancerClass": "x/y", "loadBalancerSourceRanges": ["10.0.1.0/24"]}
    body["spec"] |= spec
    store.put(key, {**body, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.200"}]}}})
    tree = json.loads(ctl("diff", "-f", "-", "-o", "json", stdin=AMONG_WEB).out)
    senders: dict[str, set[str]] = {}
    for one in tree["verdicts"]:
        for service in one["destinations"]["services"]:
            senders.setdefault(service, set()).update(one["sources"]["endpoints"])
    assert senders == {
        "default/web": {"default/web-1", "default/web-2"},
        "default/web at 192.0.2.200": {"default/web-2"},
    }


POOL = """
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec: {cidr: 10.0.0.0/16, vxlanMode: %s, ipipMode: Never}
"""
CLOSED = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.closed}
spec:
  {tier: security, order: 1, selector: host == 'yes', types: [Ingress], applyOnForward: true, ingress: [{action: Deny}]}
"""


@pytest.mark.parametrize(("mode", "passes"), [("Never", True), ("CrossSubnet", True), ("Always", False)])
def test_what_a_tunnel_carries_passes_no_interface_of_another_name(ctl: Ctl, mode: str, passes: bool) -> None:
    assert ctl("apply", "-f", "-", stdin=HOST).code == 0
    assert ctl("apply", "-f", "-", stdin=POOL % mode).code == 0
    tree = json.loads(ctl("diff", "-f", "-", "-o", "json", stdin=CLOSED).out)
    to_client = [one for one in tree["verdicts"] if any("client" in name for name in one["destinations"]["endpoints"])]
    families = {4: False, 6: False}
    for one in to_client:
        families |= dict.fromkeys(one["families"], True) if "default/web-1" in one["sources"]["endpoints"] else {}
    assert families == {4: passes, 6: True}, "the pool is of one family"
    assert any(one["sources"]["networks"] for one in to_client), "what comes from outside is in no tunnel"
