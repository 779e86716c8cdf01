"""felixpy beside a real API server: what people apply with kubectl, and what kubectl shows them of it.

`make kube` builds kube-apiserver and runs this. One node of felixpy with a pod, and a client beside it on a segment.
deploy/rbac.yaml is all that felixpy may do.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from felixpy.kube.convert import IMPORTED
from felixpy.resources.kinds import BY_TYPE, Name
from tests.agent.node import CALICO, PORT, Node, Pod, resource
from tests.kube.kubernetes import MODULES, Kubernetes
from tests.support.etcd import Etcd
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import ask_tcp
from tests.support.wait import eventually

METALLB_DEFINITIONS = sorted((MODULES / "metallb@v0.16.1/config/crd/bases").glob("*.yaml"))
POLICY_DEFINITIONS = [
    *sorted((MODULES / "network-policy-api@v0.1.7/config/crd/standard").glob("policy*.yaml")),
    *sorted((MODULES / "network-policy-api@v0.2.0/config/crd/standard").glob("policy*.yaml")),
]
RBAC = Path("deploy/rbac.yaml")
METALLB = """\
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: default, namespace: metallb-system}
spec: {addresses: [10.9.0.100-10.9.0.109, "fd09::100-fd09::109"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: default, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: default, namespace: metallb-system}
spec: {communities: ["65535:65282"]}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.9.0.9}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: fast, namespace: metallb-system}
spec: {receiveInterval: 100}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: names, namespace: metallb-system}
spec: {communities: [{name: none, value: "65535:65281"}]}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: nginx, ports: [{name: http, containerPort: 8080}]}]}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"""

POLICIES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80, endPort: 90}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {guarded: "yes"}}}
  ingress: [{name: none, action: Deny, from: [{namespaces: {matchLabels: {team: a}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: guard}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {guarded: "yes"}}}
  ingress: [{name: none, action: Deny, from: [{namespaces: {matchLabels: {team: a}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec: {subject: {namespaces: {}}, egress: [{name: all, action: Allow, to: [{namespaces: {matchLabels: {team: a}}}]}]}
"""
CALICO_YAML = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.calico}
spec: {tier: default, order: 10, selector: app == 'db', types: [Ingress], ingress: [{action: Allow, protocol: TCP}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: partners, namespace: shop, labels: {partner: "yes"}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {logSeverityScreen: Info}
"""
LOST = "/felixpy/resources/metallb.io/v1beta1/communities/metallb-system/names"

Json = dict[str, Any]


def calico_definitions() -> str:
    """Calico's kinds as custom resources that take any fields; what is published with them is not to be had here."""
    found = []
    for info in (one for one in IMPORTED if one.api_version == "projectcalico.org/v3"):
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        names = {"kind": info.kind, "plural": info.plural, "singular": info.kind.lower()}
        version = {"name": info.version, "served": True, "storage": True, "schema": schema}
        scope = "Namespaced" if info.namespaced else "Cluster"
        spec = {"group": info.group, "names": names, "scope": scope, "versions": [version]}
        meta = {"name": f"{info.plural}.{info.group}"}
        found.append(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": meta,
                "spec": spec,
            }
        )
    return yaml.safe_dump_all(found)


class Cluster:
    """A node called n1, which runs felixpy, etcd and Kubernetes; a client on its segment."""

    def __init__(self, node: Node, client: Namespace, kubernetes: Kubernetes) -> None:
        self.node, self.client, self.kubernetes = node, client, kubernetes

    def kept(self, key: str) -> Json | None:
        """What etcd has at a key."""
        value = self.node.etcd.get(key)
        return None if value is None else dict(json.loads(value))

    def vips(self, service: str = "web") -> list[str]:
        """The addresses that kubectl shows of a Service."""
        found = self.kubernetes.get("service", service, "--namespace=shop")
        return [one["ip"] for one in found["status"]["loadBalancer"].get("ingress", [])]

    def put_service(self, name: str, **spec: object) -> None:
        """Applies a Service of type LoadBalancer, or as it is said."""
        meta = {"name": name, "namespace": "shop"}
        body = {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}
        self.kubernetes.apply(json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": body}))

    def restart(self, account: str = "felixpy") -> None:
        """felixpy anew, with a token of this account."""
        self.node.agent.stop()
        self.node.agent = self.node.make_agent("--kubernetes", str(self.kubernetes.config_for(account, "kube-system")))
        self.node.agent.start()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Node("agent,bgp,controllers") as node:
        client = Namespace.create("c")
        kubernetes = Kubernetes(node.namespace, node.etcd, tmp_path_factory.mktemp("kubernetes"))
        try:
            link_namespaces(
                node.namespace, "eth0", client, "eth0",
                left_addresses=["10.9.0.1/24", "fd09::1/64"], right_addresses=["10.9.0.9/24", "fd09::9/64"],
            )  # fmt: skip
            bgp = {"ipv4Address": "10.9.0.1/24", "ipv6Address": "fd09::1/64"}
            node.put("nodes", resource("Node", "n1", {"bgp": bgp}))
            kubernetes.start()
            kubernetes.define(*METALLB_DEFINITIONS, *POLICY_DEFINITIONS)
            kubernetes.apply(calico_definitions())
            kubernetes.kubectl("apply", "-f", RBAC)
            for name in ("metallb-system", "shop"):
                kubernetes.kubectl("create", "namespace", name)
            made = Cluster(node, client, kubernetes)
            made.restart()
            yield made
        finally:
            node.agent.stop()
            kubernetes.close()
            client.delete()


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Pod:
    """A pod that serves, as kubelet and CNI make one, and a Service of type LoadBalancer in front of it."""
    pod = cluster.node.pod("web", "10.65.0.2", "fd65::2")
    pod.write()
    cluster.kubernetes.apply(METALLB)
    cluster.kubernetes.apply(POD)
    cluster.kubernetes.apply(SERVICE)
    for address in pod.addresses:
        cluster.kubernetes.apply(slice_of("web", address))
    eventually(lambda: len(cluster.vips()) == 2, 30, what="both addresses of the Service in its status")
    return pod


def slice_of(service: str, address: str) -> str:
    """What the controller of endpoint slices makes of a Service and its ready pod on n1."""
    family = "IPv6" if ":" in address else "IPv4"
    labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "by-hand"}
    return json.dumps(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{service}-{family.lower()}", "namespace": "shop", "labels": labels},
            "addressType": family,
            "endpoints": [{"addresses": [address], "nodeName": "n1", "conditions": {"ready": True}}],
            "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
        }
    )


def test_a_client_reaches_a_service_at_the_address_that_kubectl_shows(cluster: Cluster, web: Pod) -> None:
    for address in cluster.vips():
        eventually(lambda address=address: (ask_tcp(cluster.client, address, 80, wait_s=1) or "").startswith("web"), 30)  # type: ignore[misc]
    assert "10.9.0.100,fd09::100" in cluster.kubernetes.kubectl("get", "service", "web", "--namespace=shop")


def test_kubectl_shows_what_became_of_a_service(cluster: Cluster, web: Pod) -> None:
    service = cluster.kubernetes.get("service", "web", "--namespace=shop")
    assert service["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"] == "default"

    def reasons() -> set[str]:
        events = cluster.kubernetes.get("events", "--namespace=shop", "--field-selector=involvedObject.name=web")
        return {one["reason"] for one in events}

    def told() -> Json:
        (found,) = cluster.kubernetes.get("servicel2statuses", "--namespace=shop")
        return dict(found["status"])

    eventually(lambda: reasons() >= {"IPAllocated", "nodeAssigned"}, 30)
    assert "nodeAssigned" in cluster.kubernetes.kubectl("describe", "service", "web", "--namespace=shop")
    wanted = {"node": "n1", "serviceName": "web", "serviceNamespace": "shop", "interfaces": [{"name": "eth0"}]}
    eventually(lambda: told() == wanted, 30)
    eventually(lambda: pool_status(cluster)["assignedIPv4"] == 1, 30)
    assert pool_status(cluster) == {"assignedIPv4": 1, "availableIPv4": 9, "assignedIPv6": 1, "availableIPv6": 9}
    cluster.kubernetes.kubectl("delete", "servicel2status", "--all", "--namespace=shop")
    eventually(lambda: told() == wanted, 30, what="what somebody deletes is told again")


def pool_status(cluster: Cluster) -> Json:
    return dict(cluster.kubernetes.get("ipaddresspool", "default", "--namespace=metallb-system").get("status") or {})


def test_a_service_that_is_refused_says_why_and_gets_one_once_it_may(cluster: Cluster, web: Pod) -> None:
    cluster.put_service("late", loadBalancerIP="10.9.0.100")
    try:
        shown = eventually(lambda: said(cluster, "late", "AllocationFailed"), 30)
        assert "another Service holds the address" in shown
        cluster.put_service("late")
        eventually(lambda: cluster.vips("late") == ["10.9.0.101"], 30)
        cluster.put_service("late", type="ClusterIP")
        eventually(lambda: not cluster.kept("/felixpy/grants/addresses/10.9.0.101"), 30)
        shown_as = ("get", "service", "late", "--namespace=shop", "-o", "yaml")
        eventually(lambda: "felixpy.io" not in cluster.kubernetes.kubectl(*shown_as), 30)
    finally:
        cluster.kubernetes.kubectl("delete", "service", "late", "--namespace=shop")


def said(cluster: Cluster, service: str, reason: str) -> str:
    """The message of a Service's event."""
    events = cluster.kubernetes.get("events", "--namespace=shop", f"--field-selector=involvedObject.name={service}")
    return next((str(one["message"]) for one in events if one["reason"] == reason), "")


def test_every_kind_comes_to_where_agents_read_it(cluster: Cluster, web: Pod) -> None:
    for text in (POLICIES, CALICO_YAML):
        cluster.kubernetes.apply(text)
    for document in [*yaml.safe_load_all(METALLB), *yaml.safe_load_all(POLICIES), *yaml.safe_load_all(CALICO_YAML)]:
        info = BY_TYPE[document["apiVersion"], document["kind"]]
        name = Name(document["metadata"].get("namespace", ""), document["metadata"]["name"])
        kept = eventually(lambda info=info, name=name: cluster.kept(info.key(name)), 70, what=f"{info.kind} {name}")  # type: ignore[misc]
        there = cluster.kubernetes.get(f"{info.plural}.{info.group}", name.name, f"--namespace={name.namespace}")
        assert kept.get("spec") == there.get("spec"), "with what the API fills in"
        assert kept["metadata"]["annotations"]["felixpy.io/imported-from"] == "kubernetes"
    core = "/felixpy/resources/core/v1"
    assert (cluster.kept(f"{core}/pods/shop/web") or {})["metadata"]["labels"] == {"app": "web"}
    assert cluster.kept(f"{core}/namespaces/shop")
    assert cluster.kept(f"{core}/serviceaccounts/kube-system/felixpy")
    slices = cluster.node.etcd.get_prefix("/felixpy/resources/discovery.k8s.io/v1/endpointslices/shop/")
    assert {json.loads(value)["addressType"] for value in slices.values()} == {"IPv4", "IPv6"}
    status = cluster.node.felixctl("status", "--wait")
    assert "cannot be read" not in status.out, status.out


def test_labels_of_nodes_are_those_of_calico_s_node(cluster: Cluster) -> None:
    cluster.kubernetes.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}")

    def labels() -> Json:
        return dict((cluster.kept(f"{CALICO}/nodes/n1") or {})["metadata"].get("labels") or {})

    eventually(lambda: labels().get("zone") == "a", 30)
    cluster.kubernetes.kubectl("label", "node", "n1", "zone-")
    eventually(lambda: "zone" not in labels(), 30)


def test_a_service_that_is_made_anew_at_once_is_told_its_address(cluster: Cluster, web: Pod) -> None:
    before = cluster.vips()
    cluster.kubernetes.kubectl("replace", "--force", "-f", "-", stdin=SERVICE)
    eventually(lambda: cluster.vips() == before, 30)
    uid = cluster.kubernetes.get("service", "web", "--namespace=shop")["metadata"]["uid"]

    def owner() -> str:
        (found,) = cluster.kubernetes.get("servicel2statuses", "--namespace=shop")
        return str(found["metadata"]["ownerReferences"][0]["uid"])

    eventually(lambda: owner() == uid, 40)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_an_api_server_that_starts_anew_takes_nothing_away(cluster: Cluster, web: Pod, how: str) -> None:
    """Nothing that it has is gone for a moment, and what comes then is heard of."""
    before, address = made_at(cluster.node.etcd), cluster.vips()[0]
    (cluster.kubernetes.api.stop if how == "stopped" else cluster.kubernetes.api.kill)()
    eventually(lambda: "the API server is away" in cluster.node.log(), 20, what="the importer says that nobody answers")
    assert ask_tcp(cluster.client, address, 80, wait_s=2), "served all the while"
    cluster.kubernetes.start()
    cluster.kubernetes.kubectl("create", "namespace", f"after-{how}")
    cluster.kubernetes.apply(METALLB.replace("-10.9.0.109", f"-10.9.0.{HIGHEST[how]}"))
    pool = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"].key(Name("metallb-system", "default"))
    eventually(lambda: HIGHEST[how] in str(cluster.kept(pool)), 90, what="the pool's change")
    eventually(lambda: cluster.kept(f"/felixpy/resources/core/v1/namespaces/after-{how}"), 60)
    assert before.items() <= made_at(cluster.node.etcd).items(), "nothing was made anew"


def test_an_address_that_metallb_gave_stays(cluster: Cluster, web: Pod) -> None:
    """Its controller is gone, its status of a Service is there; an older Service has none."""
    cluster.node.agent.stop()
    cluster.put_service("older")
    cluster.put_service("had")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.101"}]}}}
    patch = ("--namespace=shop", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    cluster.kubernetes.kubectl("patch", "service", "had", *patch)
    cluster.restart()
    try:
        eventually(lambda: cluster.vips("older") == ["10.9.0.102"], 30)
        assert cluster.vips("had") == ["10.9.0.101"]
        assert said(cluster, "had", "IPAllocated") == "has 10.9.0.101 of pool default"
    finally:
        cluster.kubernetes.kubectl("delete", "service", "older", "had", "--namespace=shop")


HIGHEST = {"stopped": "108", "killed": "107"}


def made_at(etcd: Etcd) -> Mapping[str, str]:
    """The revision at which each key of the API's objects was made."""
    end = base64.b64encode(b"/felixpy/resources0").decode()
    found = etcd.call("kv/range", {"key": base64.b64encode(b"/felixpy/resources/").decode(), "range_end": end})
    keys = {base64.b64decode(one["key"]).decode(): one["create_revision"] for one in found["kvs"]}
    return {key: revision for key, revision in keys.items() if "/events/" not in key}


def test_a_kind_that_goes_and_comes_back(cluster: Cluster, web: Pod) -> None:
    eventually(lambda: cluster.kept(LOST), 30)
    cluster.kubernetes.kubectl("delete", "crd", "communities.metallb.io")
    eventually(lambda: cluster.kept(LOST) is None, 90)
    cluster.kubernetes.define(*(one for one in METALLB_DEFINITIONS if "communities" in one.name))
    cluster.kubernetes.apply(METALLB)
    eventually(lambda: cluster.kept(LOST), 90)


def test_what_roles_do_not_allow_is_named_and_holds_up_nothing_else(cluster: Cluster, web: Pod) -> None:
    role = next(one for one in yaml.safe_load_all(RBAC.read_text()) if one["kind"] == "ClusterRole")
    denied = {"networkpolicies", "services/status", "events"}
    rules = [
        {**rule, "resources": [one for one in rule["resources"] if one not in denied]}
        for rule in role["rules"]
        if set(rule["resources"]) - denied
    ]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "less"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "less"},
        "subjects": [{"kind": "ServiceAccount", "name": "less", "namespace": "kube-system"}],
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "less", "namespace": "kube-system"}}
    less = {**role, "metadata": {"name": "less"}, "rules": rules}
    cluster.kubernetes.apply(yaml.safe_dump_all([account, less, binding]))
    policies = cluster.node.etcd.get_prefix("/felixpy/resources/networking.k8s.io/")
    try:
        cluster.restart("less")
        eventually(lambda: 'cannot list resource "networkpolicies"' in cluster.node.log(), 60)
        cluster.kubernetes.kubectl("create", "namespace", "all-the-same")
        eventually(lambda: cluster.kept("/felixpy/resources/core/v1/namespaces/all-the-same"), 30)
        cluster.put_service("mute")
        eventually(lambda: 'cannot patch resource "services/status"' in cluster.node.log(), 30)
        eventually(lambda: 'cannot create resource "events"' in cluster.node.log(), 30)
        assert cluster.node.etcd.get_prefix("/felixpy/resources/networking.k8s.io/") == policies
    finally:
        cluster.restart()
    eventually(lambda: cluster.vips("mute"), 60, what="told once it may be")
