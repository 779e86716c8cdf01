"""felixctl explain: who may send to whom, and what decides; on a cluster of two nodes that is only in etcd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.ctl.conftest import Answer, run
from tests.ctl.explain_world import APPLIED, CALICO, put_endpoint, put_node
from tests.support.etcd import Etcd


@dataclass(frozen=True)
class Asker:
    """felixctl explain, and the etcd that it reads."""

    etcd: Etcd

    def __call__(self, *arguments: str) -> Answer:
        return run("explain", *arguments, environment={"FELIXPY_ETCD": self.etcd.url})

    def tree(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self(*arguments, "-o", "json").out))


@pytest.fixture(scope="module")
def written(etcd: Etcd) -> Mapping[str, str]:
    """client (n1), web-1 (n2), web-2 (n1) and sick (n2, quarantined): every key of the cluster."""
    put_node(etcd, "n1", "192.0.2.1")
    put_node(etcd, "n2", "192.0.2.2")
    put_endpoint(etcd, "n1", "client", "cali1", ["10.0.1.1", "fd00::1"], app="client")
    put_endpoint(etcd, "n2", "web-1", "cali2", ["10.0.2.1", "fd00::2"], app="web")
    put_endpoint(etcd, "n1", "web-2", "cali3", ["10.0.1.2"], app="web")
    put_endpoint(etcd, "n2", "sick", "cali4", ["10.0.2.4"], app="client", quarantined="yes")
    applied = run("apply", "-f", "-", stdin=APPLIED, environment={"FELIXPY_ETCD": etcd.url})
    assert applied.code == 0, applied.err
    return etcd.get_prefix("/")


@pytest.fixture
def explain(etcd: Etcd, written: Mapping[str, str]) -> Asker:
    """The cluster as it was written, whatever the test before did to it."""
    now = etcd.get_prefix("/")
    for key in now.keys() - written.keys():
        etcd.delete(key)
    for key, value in written.items():
        if now.get(key) != value:
            etcd.put(key, value)
    return Asker(etcd)


ALLOWED = """\
Allowed: default/client (10.0.1.1) → default/web-2 (10.0.1.2), tcp/8080
  n1 from cali1:
    tier security: GlobalNetworkPolicy security.quarantine spec.egress[0] passes it on to the next tier
        {action: Pass}
    Profile open spec.egress[0] allows
        {action: Allow}
  n1 towards cali3:
    tier security: GlobalNetworkPolicy security.quarantine spec.ingress[1] passes it on to the next tier
        {action: Pass}
    tier default: NetworkPolicy default/web spec.ingress[1] logs
        {action: Log}
    tier default: NetworkPolicy default/web spec.ingress[2] allows
        {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http]}}
"""


def test_each_rule_is_named_and_shown_as_it_was_written(explain: Asker) -> None:
    said = explain("client", "web-2", "tcp/8080")
    assert (said.code, said.err, said.out) == (0, "", ALLOWED)


FELIX = f"{CALICO}/felixconfigurations/default"


def float_web(explain: Asker, word: str) -> None:
    """Gives web-1 (n2) the floating address 198.51.100.7."""
    name = f"{CALICO}/workloadendpoints/default/n2-k8s-web--1-eth0"
    body = json.loads(explain.etcd.get_prefix(name)[name])
    body["spec"]["ipNATs"] = [{"internalIP": "10.0.2.1", "externalIP": "198.51.100.7"}]
    explain.etcd.put(name, body)
    spec = {"floatingIPs": word}
    meta = {"kind": "FelixConfiguration", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"}}
    explain.etcd.put(FELIX, {**meta, "spec": spec})


def test_a_floating_address_leads_to_the_pod_whose_policies_decide(explain: Asker) -> None:
    float_web(explain, "Enabled")
    allowed = explain("client", "198.51.100.7", "tcp/8080")
    assert allowed.code == 0
    assert allowed.lines[0] == "Allowed: default/client (10.0.1.1) → default/web-1 (10.0.2.1), tcp/8080"
    assert "destination becomes 10.0.2.1 (floating address)" in allowed.out
    assert explain("client", "198.51.100.7", "tcp/81").code == 1
    assert explain("web-1", "198.51.100.7", "tcp/8080").code == 1, "its own policy lets clients in, and not itself"


def test_a_floating_address_that_is_not_in_use_is_somewhere_outside(explain: Asker) -> None:
    float_web(explain, "Disabled")
    assert "web-1" not in explain("client", "198.51.100.7", "tcp/8080").out


def test_the_default_that_decided(explain: Asker) -> None:
    said = explain("client", "web-2", "tcp/81")
    assert said.code == 1
    assert said.lines[0] == "Denied: default/client (10.0.1.1) → default/web-2 (10.0.1.2), tcp/81"
    assert said.lines[-1].strip() == "denies: end of tier default"


def test_what_is_denied_is_refused_where_the_configuration_says_so(explain: Asker) -> None:
    spec = {"nftablesFilterDenyAction": "Reject"}
    body = {"kind": "FelixConfiguration", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"}}
    explain.etcd.put(f"{CALICO}/felixconfigurations/default", {**body, "spec": spec})
    said = explain("client", "web-2", "tcp/80")
    assert (said.code, said.lines[0]) == (1, "Refused: default/client (10.0.1.1) → default/web-2 (10.0.1.2), tcp/80")
    assert said.lines[-1].strip() == "denies: end of tier default"


def test_across_nodes_each_judges_its_own_endpoint(explain: Asker) -> None:
    flow = explain.tree("sick", "web-2", "8080")["flows"][0]
    assert [(node["node"], node["verdict"]) for node in flow["nodes"]] == [("n2", "allowed"), ("n1", "denied")]
    last = flow["nodes"][-1]["statements"][-1]
    assert (last["tier"], last["field"]) == ("security", "spec.ingress[0]")
    assert last["rule"] == {"action": "Deny", "source": {"selector": "quarantined == 'yes'"}}


def test_both_families_where_both_ends_have_both(explain: Asker) -> None:
    flows = explain.tree("client", "web-1", "tcp/8080")["flows"]
    assert [flow["source"]["address"] for flow in flows] == ["10.0.1.1", "fd00::1"]
    assert {flow["verdict"] for flow in flows} == {"allowed"}


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("default/web-1", "default/web-1"),
        ("n2-k8s-web--1-eth0", "default/web-1"),
        ("cali2", "default/web-1"),
        ("n2/cali2", "default/web-1"),
        ("fd00:0::2", "default/web-1"),
        ("192.0.2.2", "node n2"),
        ("n2", "node n2"),
        ("n2/eth0", "node n2 by eth0"),
        ("web", "Service default/web"),
        ("10.96.0.1", "Service default/web"),
    ],
)
def test_who_is_meant(explain: Asker, word: str, name: str) -> None:
    tree = explain.tree("client", word, "tcp/80")
    flow = tree["flows"][0]
    called = flow["destination"]["name"] if flow["service"] is None else f"Service {flow['service']['name']}"
    assert called == name


def test_a_service_goes_to_each_of_its_backends(explain: Asker) -> None:
    said = explain("client", "web")
    heads = {line for line in said.lines if line.startswith("Allowed")}
    service = "Allowed: default/client (10.0.1.1) → Service default/web (10.96.0.1) → "
    assert heads == {f"{service}default/web-1 (10.0.2.1), tcp/80", f"{service}default/web-2 (10.0.1.2), tcp/80"}
    assert said.code == 0


def test_a_service_with_client_affinity_goes_to_each_of_its_backends_too(explain: Asker) -> None:
    plain = explain("client", "web").lines
    key = "/felixpy/resources/core/v1/services/default/web"
    service = json.loads(explain.etcd.get(key) or "")
    service["spec"] |= {"sessionAffinity": "ClientIP"}
    explain.etcd.put(key, service)
    said = explain("client", "web").lines
    assert sorted(line for line in said if line.startswith("Allowed")) == sorted(
        line for line in plain if line.startswith("Allowed")
    )
    assert any("destination becomes 10.0.2.1 port 8080" in line for line in said)


def test_what_a_service_does_not_serve_is_refused(explain: Asker) -> None:
    said = explain("client", "web", "tcp/81")
    assert (said.code, said.lines[0].partition(":")[0], said.lines[-1].strip()) == (
        1,
        "Refused",
        "refuses: no such port",
    )
    explain.etcd.delete_prefix("/felixpy/resources/discovery.k8s.io/")
    assert explain("client", "web").lines[-1].strip() == "refuses: no endpoint"


def test_a_node_without_endpoint_is_silent_where_the_policy_is_local(explain: Asker) -> None:
    key = "/felixpy/resources/core/v1/services/default/web"
    service = json.loads(explain.etcd.get(key) or "")
    service["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    explain.etcd.put(key, service)
    grant = {"address": "203.0.113.1", "pool": "p", "services": ["default/web"]}
    explain.etcd.put("/felixpy/grants/addresses/203.0.113.1", grant)
    put_node(explain.etcd, "n3", "192.0.2.3")
    silent = explain("198.51.100.7", "203.0.113.1", "--via", "n3")
    assert silent.lines[-1].strip() == "denies: no endpoint is ready on this node, and the traffic policy is Local"
    served = explain("198.51.100.7", "203.0.113.1", "--via", "n2")
    assert served.lines[0] == (
        "Denied: 198.51.100.7 → Service default/web (203.0.113.1) → default/web-1 (10.0.2.1), tcp/80"
    )


def test_a_node_port_is_followed_to_the_pods(explain: Asker) -> None:
    key = "/felixpy/resources/core/v1/services/default/web"
    service = json.loads(explain.etcd.get(key) or "")
    service["spec"] |= {"type": "NodePort", "externalTrafficPolicy": "Local"}
    service["spec"]["ports"][0]["nodePort"] = 30080
    explain.etcd.put(key, service)
    put_node(explain.etcd, "n3", "192.0.2.3")
    served = explain("198.51.100.7", "192.0.2.2", "tcp/30080")
    ends = "198.51.100.7 → Service default/web (192.0.2.2) → default/web-1 (10.0.2.1), tcp/30080"
    assert served.lines[0] == f"Denied: {ends}", "the policy lets clients in, and this is none"
    silent = explain("198.51.100.7", "192.0.2.3", "tcp/30080")
    assert silent.lines[-1].strip() == "denies: no endpoint is ready on this node, and the traffic policy is Local"
    assert "destination becomes 10.0." in explain("n2", "n2", "tcp/30080").out
    del service["spec"]["ports"][0]["nodePort"]
    explain.etcd.put(key, service)
    explain.etcd.put("/felixpy/grants/ports/31234", {"port": 31234, "service": "default/web", "uses": ["TCP/80"]})
    assert explain("198.51.100.7", "192.0.2.2", "tcp/31234").lines[0] == f"Denied: {ends}".replace("30080", "31234")
    explain.etcd.delete_prefix("/felixpy/resources/discovery.k8s.io/")
    assert explain("198.51.100.7", "192.0.2.2", "tcp/31234").lines[-1].strip() == "refuses: no endpoint"


def test_from_outside_and_to_outside(explain: Asker) -> None:
    assert explain("198.51.100.7", "web-1", "tcp/8080").code == 1
    assert explain("client", "198.51.100.7", "udp/53").code == 0
    entered = explain.tree("198.51.100.7", "10.96.0.1", "--via", "n2")["flows"][0]["nodes"]
    assert entered[0]["node"] == "n2"


def test_a_pod_and_its_own_host(explain: Asker) -> None:
    assert explain("client", "n1", "tcp/22").lines[-1].strip() == "denies: workload to its host"
    assert explain("n1", "client", "tcp/22").lines[-1].strip() == "n1: nothing here decides about it"


def test_what_a_pod_sends_to_itself_meets_no_rule(explain: Asker) -> None:
    assert explain("client", "10.0.1.1", "tcp/1").lines[1].strip() == "it does not leave the pod or node that sends it"


def test_the_past(explain: Asker) -> None:
    before = str(explain.etcd.revision)
    run("delete", "-f", "-", stdin=APPLIED, environment={"FELIXPY_ETCD": explain.etcd.url})
    assert explain("client", "web-2", "tcp/8080").lines[-1].strip() == "denies: no profile allows it"
    assert explain("client", "web-2", "tcp/8080", "--at-revision", before).out == ALLOWED
    assert explain("client", "web-2", "--at-revision", str(10**9)).code == 3


def test_every_rule_on_the_way(explain: Asker) -> None:
    said = explain("client", "web-2", "tcp/8080", "--verbose")
    assert "      from-workload[0]: iifname vmap @from-endpoint" in said.lines
    assert any("counter" in line or "goto allow" in line for line in said.lines)


def test_what_cannot_be_read_is_named_and_counts_as_missing(explain: Asker) -> None:
    (stored,) = explain.etcd.get_prefix(f"{CALICO}/networkpolicies/default/")
    explain.etcd.put(stored, '{"metadata": {}, "spec": {"selector": "app ="}}')
    said = explain("client", "web-2", "tcp/8080")
    assert said.code == 0
    assert "web: spec.selector" in said.err
    assert "tier default" not in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("client", "nobody"), "there is no pod, endpoint, interface, Service or node 'nobody'"),
        (("client", "n1/eth7"), "nothing says that node n1 has an interface 'eth7': known are eth0"),
        (("10.0.0.0/8", "client"), "10.0.0.0/8 is a network: ask about an address of it"),
        (("client", "security.quarantine"), "GlobalNetworkPolicy security.quarantine can neither send nor receive"),
        (("client", "security"), "Tier security can neither send nor receive: ask about an endpoint that it selects"),
        (("client", "web-1", "tcp/x"), "is no port"),
        (("client", "web-1", "tcpp/80"), "'tcpp' is no protocol"),
        (("198.51.100.7", "198.51.100.8"), "no node of this cluster is between"),
        (("fd00::1", "10.0.1.2"), "no addresses of one family"),
    ],
)
def test_questions_without_an_answer(explain: Asker, arguments: tuple[str, ...], words: str) -> None:
    said = explain(*arguments)
    assert said.code == 2
    assert words in said.err


def test_a_name_that_several_have(explain: Asker) -> None:
    put_endpoint(explain.etcd, "n2", "client", "cali9", ["10.0.2.9"])
    said = explain("client", "web-1")
    assert (said.code, "may be default/client" in said.err) == (2, True)
    assert explain("n2/cali9", "web-1", "8080").code == 1


STAGED = """
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  selector: app == 'web'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'other'}}
"""
DELETED = """
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: security.quarantine}
spec: {tier: security, stagedAction: Delete}
"""
OF_KUBERNETES = """
apiVersion: projectcalico.org/v3
kind: StagedKubernetesNetworkPolicy
metadata: {name: none, namespace: default}
spec: {podSelector: {}, policyTypes: [Egress]}
"""


def apply(explain: Asker, text: str) -> None:
    applied = run("apply", "-f", "-", stdin=text, environment={"FELIXPY_ETCD": explain.etcd.url})
    assert applied.code == 0, applied.err


def test_a_staged_policy_decides_nothing_and_says_what_it_would_do(explain: Asker) -> None:
    apply(explain, STAGED)
    said = explain("client", "web-2", "tcp/8080")
    assert (said.code, said.lines[0].split(":")[0]) == (0, "Allowed")
    assert said.lines[-1] == "  staged: would be denied: end of tier default"
    assert explain.tree("client", "web-2", "tcp/8080")["flows"][0]["staged"]["verdict"] == "denied"
    assert explain("client", "web-2", "tcp/81").lines[-1] == "  staged: would be the same"


def test_a_staged_policy_that_allows_more_is_named_with_its_rule(explain: Asker) -> None:
    apply(explain, STAGED.replace("app == 'other'", "app == 'client'"))
    said = explain("client", "web-2", "tcp/81")
    assert (said.code, said.lines[-2:]) == (
        1,
        [
            "  staged: would be allowed: tier default: StagedNetworkPolicy default/web spec.ingress[0] allows",
            "      {action: Allow, protocol: TCP, source: {selector: app == 'client'}}",
        ],
    )


def test_a_staged_deletion_is_as_if_the_policy_were_gone(explain: Asker) -> None:
    assert explain("sick", "web-2", "tcp/8080").code == 1
    apply(explain, DELETED)
    last = explain("sick", "web-2", "tcp/8080").lines[-2]
    assert last == "  staged: would be allowed: tier default: NetworkPolicy default/web spec.ingress[2] allows"


def test_a_staged_policy_of_kubernetes(explain: Asker) -> None:
    of_kubernetes = {"app": "client", "projectcalico.org/orchestrator": "k8s"}
    put_endpoint(explain.etcd, "n1", "client", "cali1", ["10.0.1.1"], **of_kubernetes)
    apply(explain, OF_KUBERNETES)
    last = explain("client", "web-2", "tcp/8080").lines[-1]
    assert last == "  staged: would be denied: end of tier default"


def test_what_is_staged_to_be_learned_or_ignored_says_nothing(explain: Asker) -> None:
    for action in ("Learn", "Ignore"):
        apply(explain, STAGED.replace("spec:", f"spec:\n  stagedAction: {action}", 1))
        assert "staged" not in explain("client", "web-2", "tcp/8080").out


def guard(explain: Asker, node: str, interface: str, **policy: Any) -> None:
    """Gives a node a host endpoint, and this policy."""
    name = f"{node}-{'all' if interface == '*' else interface}"
    meta = {"name": name, "labels": {"host": name}}
    body = {"kind": "HostEndpoint", "apiVersion": "projectcalico.org/v3", "metadata": meta}
    explain.etcd.put(f"{CALICO}/hostendpoints/{name}", {**body, "spec": {"node": node, "interfaceName": interface}})
    spec = {"tier": "default", "order": 1, "selector": f"host == '{name}'", "types": ["Ingress"], **policy}
    meta = {"name": f"default.{name}"}
    body = {"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": meta, "spec": spec}
    explain.etcd.put(f"{CALICO}/globalnetworkpolicies/default.{name}", body)


def tunnel(explain: Asker) -> None:
    """Puts what pods send to other nodes into VXLAN."""
    pool = {"cidr": "10.0.0.0/16", "vxlanMode": "Always", "ipipMode": "Never"}
    meta = {"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "pool"}}
    explain.etcd.put(f"{CALICO}/ippools/pool", {**meta, "spec": pool})
    for number in (1, 2):
        first = f"10.0.{number}.0"
        block = {"cidr": f"{first}/26", "affinity": f"host:n{number}", "allocations": [0], "unallocated": []}
        block["attributes"] = [{"handle_id": "h", "secondary": {}}]
        explain.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{first}-26", block)
        spec = {"bgp": {"ipv4Address": f"192.0.2.{number}/24"}, "ipv4VXLANTunnelAddr": first}
        node = {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": f"n{number}"}, "spec": spec}
        explain.etcd.put(f"{CALICO}/nodes/n{number}", node)


DENY_ALL = {"ingress": [{"action": "Deny"}], "applyOnForward": True}


def test_what_a_tunnel_carries_is_judged_at_the_tunnel(explain: Asker) -> None:
    guard(explain, "n2", "eth0", **DENY_ALL)
    denied = explain("client", "10.0.2.1", "tcp/8080")
    assert (denied.code, denied.lines[-2].strip()) == (
        1,
        "tier default: GlobalNetworkPolicy n2-eth0 spec.ingress[0] denies",
    )
    assert "n2 towards host endpoint n2-eth0 (forward):" in denied.out
    tunnel(explain)
    assert explain("client", "10.0.2.1", "tcp/8080").code == 0, "eth0 sees VXLAN, from a node"
    assert explain("198.51.100.7", "10.0.2.4", "tcp/8080").code == 1, "what comes from elsewhere is in no tunnel"
    guard(explain, "n2", "*", **DENY_ALL)
    assert explain("client", "10.0.2.1", "tcp/8080").code == 1, "every interface, so the tunnel's too"


@pytest.mark.parametrize("source", ["client", "n1"])
@pytest.mark.parametrize(
    ("address", "node", "words"),
    [
        (
            "10.0.1.50",
            "n1",
            "it is of IPPool pool, in 10.0.1.0/26, a block of node n1, which drops what none of its pods has",
        ),
        (
            "10.0.2.50",
            "n2",
            "it is of IPPool pool, in 10.0.2.0/26, a block of node n2, which drops what none of its pods has",
        ),
        ("10.0.9.9", "", "it is of IPPool pool, in no block"),
    ],
)
def test_an_address_that_nobody_has(explain: Asker, source: str, address: str, node: str, words: str) -> None:
    tunnel(explain)
    said = explain(source, address, "udp/53")
    assert (said.code, said.lines[0].partition(":")[0], said.lines[-1]) == (
        1,
        "Lost",
        f"  nobody has {address}: {words}",
    )
    assert (f"  {node}: its route to {address} is a blackhole" in said.lines) == bool(node)
    assert explain.tree(source, address)["flows"][0]["vacancy"] == f"nobody has {address}: {words}"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"applyOnForward": True}, "host endpoint n2-eth1 (forward)"),
        ({"applyOnForward": True, "preDNAT": True}, "host endpoint n2-eth1 (pre-dnat)"),
        ({"applyOnForward": True, "doNotTrack": True}, "host endpoint n2-eth1 (untracked)"),
    ],
)
def test_by_which_interface_a_packet_comes_in(explain: Asker, policy: dict[str, bool], words: str) -> None:
    guard(explain, "n2", "eth0", applyOnForward=True, ingress=[{"action": "Allow"}])
    guard(explain, "n2", "eth1", **policy, ingress=[{"action": "Deny", "source": {"nets": ["198.51.100.0/24"]}}])
    by_eth0 = explain("198.51.100.7", "10.0.2.4", "tcp/8080", "--via", "n2/eth0")
    assert by_eth0.code == 0
    by_eth1 = explain("198.51.100.7", "10.0.2.4", "tcp/8080", "--via", "n2/eth1")
    assert (by_eth1.code, f"  n2 towards {words}:" in by_eth1.lines) == (1, True)
    assert "{action: Deny, source: {nets: [198.51.100.0/24]}}" in by_eth1.out
    unknown = explain("198.51.100.7", "10.0.2.4", "--via", "n9")
    assert (unknown.code, "there is no node 'n9'" in unknown.err) == (2, True)


def test_a_node_by_one_of_its_interfaces(explain: Asker) -> None:
    guard(explain, "n2", "eth0", ingress=[{"action": "Allow"}])
    guard(explain, "n2", "eth1", ingress=[{"action": "Deny"}])
    for word in ("n2/eth1", "n2-eth1"):
        said = explain("198.51.100.7", word, "tcp/8080")
        assert (said.code, said.lines[0]) == (1, "Denied: 198.51.100.7 → node n2 by eth1 (192.0.2.2), tcp/8080")
        assert "n2 towards host endpoint n2-eth1 (normal):" in said.out
    assert explain("198.51.100.7", "n2/eth0", "tcp/8080").code == 0
    assert explain("198.51.100.7", "n2", "tcp/8080").code == 0


def test_an_interface_with_the_address_that_a_host_endpoint_expects_there(explain: Asker) -> None:
    guard(explain, "n2", "eth0", types=["Ingress", "Egress"], ingress=[{"action": "Allow"}])
    guard(explain, "n2", "eth1", types=["Egress"], egress=[{"action": "Allow"}])
    key = f"{CALICO}/hostendpoints/n2-eth1"
    body = json.loads(explain.etcd.get(key) or "")
    body["spec"]["expectedIPs"] = ["10.9.1.2"]
    explain.etcd.put(key, body)
    assert explain("n2/eth1", "198.51.100.7").lines[0] == "Allowed: node n2 by eth1 (10.9.1.2) → 198.51.100.7, tcp/80"
    assert explain("10.9.1.2", "198.51.100.7").lines[0] == "Allowed: node n2 by eth1 (10.9.1.2) → 198.51.100.7, tcp/80"
    assert explain("n2/eth0", "198.51.100.7").lines[0] == "Denied: node n2 by eth0 (192.0.2.2) → 198.51.100.7, tcp/80"


def test_a_service_sends_as_each_of_those_behind_it(explain: Asker) -> None:
    said = explain("web", "sick", "udp/53")
    assert {line.partition(", ")[0] for line in said.lines if not line.startswith(" ")} == {
        "Allowed: default/web-1 (10.0.2.1) → default/sick (10.0.2.4)",
        "Allowed: default/web-2 (10.0.1.2) → default/sick (10.0.2.4)",
    }


def test_a_service_without_address_is_reached_at_each_of_its_endpoints(explain: Asker) -> None:
    key = "/felixpy/resources/core/v1/services/default/web"
    service = json.loads(explain.etcd.get(key) or "")
    service["spec"] |= {"clusterIP": "None", "clusterIPs": ["None"]}
    explain.etcd.put(key, service)
    said = explain("client", "web", "tcp/8080")
    assert [line for line in said.lines if not line.startswith(" ")] == [
        "Allowed: default/client (10.0.1.1) → default/web-1 (10.0.2.1), tcp/8080",
        "Allowed: default/client (10.0.1.1) → default/web-2 (10.0.1.2), tcp/8080",
    ]
    explain.etcd.delete_prefix("/felixpy/resources/discovery.k8s.io/")
    assert "has no endpoints" in explain("client", "web", "tcp/8080").err


def test_what_is_not_tracked_is_said_to_need_rules_for_its_answers(explain: Asker) -> None:
    fields = {"doNotTrack": True, "applyOnForward": True}
    guard(explain, "n2", "*", **fields, ingress=[{"action": "Allow", "protocol": "UDP"}])
    said = explain("198.51.100.7", "n2", "udp/5000")
    assert (said.code, said.lines[0].partition(":")[0]) == (1, "Allowed")
    lost = said.lines[said.lines.index("Denied: its answers, since not all of this is tracked") :]
    assert (lost[1], lost[-1].strip()) == ("  n2 from host endpoint n2-all (normal):", "denies: no profile allows it")
    assert explain.tree("198.51.100.7", "n2", "udp/5000")["flows"][0]["answers"]["verdict"] == "denied"
    both = {
        "types": ["Ingress", "Egress"],
        "egress": [{"action": "Allow", "protocol": "UDP", "source": {"ports": [5000]}}],
    }
    guard(explain, "n2", "*", **fields, **both, ingress=[{"action": "Allow", "protocol": "UDP"}])
    said = explain("198.51.100.7", "n2", "udp/5000")
    assert (said.code, said.lines[-1].strip()) == (0, "is not tracked: answers need rules of their own")
    assert explain("198.51.100.7", "n2", "udp/5001").code == 1
