"""CNI through the whole agent: plugin, etcd, kernel; pools, mtu, families, refusals, and etcd away."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.agent.node import CALICO, Json, Node, resource
from tests.agent.sandbox import NETWORK, MakeSandbox, Sandbox, call_plugin
from tests.support.packets import ping_ok
from tests.support.wait import eventually

OURS = "/felixpy/resources/core/v1"
NO_ADDRESS, TRY_AGAIN, NOT_AS_WIRED, INVALID_CONFIG = 100, 11, 101, 7


def pool(node: Node, name: str, cidr: str, **spec: object) -> None:
    """Writes an IPPool."""
    whole = {"cidr": cidr, "ipipMode": "Never", "vxlanMode": "Never", "nodeSelector": "all()", **spec}
    node.put("ippools", resource("IPPool", name, whole))


def kubernetes(node: Node, kind: str, plural: str, name: str, body: Json, namespace: str = "") -> None:
    """Writes an object of the core group as the importer does."""
    meta = {"name": name, **({"namespace": namespace} if namespace else {}), **body.pop("metadata", {})}
    place = f"{namespace}/{name}" if namespace else name
    node.etcd.put(f"{OURS}/{plural}/{place}", {"kind": kind, "apiVersion": "v1", "metadata": meta, **body})


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node n1 (label rack=r1, address 10.98.0.1 on a device of mtu 1400) whose agent runs; pool 10.64.0.0/24.

    Somebody puts Pods into the datastore, so one that is not there is waited for where the network says so.
    """
    with Node() as made:
        made.namespace.ip("link", "add", "up0", "type", "bridge")
        made.namespace.ip("link", "set", "up0", "up", "mtu", "1400")
        made.namespace.add_address("up0", "10.98.0.1/24")
        made.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.98.0.1/24"}}, {"rack": "r1"}))
        pool(made, "main", "10.64.0.0/24")
        pool(made, "main6", "fd64::/112")
        kubernetes(made, "Pod", "pods", "other", {"spec": {"nodeName": "n2"}}, "shop")
        made.agent.start()
        eventually(lambda: call_plugin(made, "STATUS", "", None, "", {}).exit_status == 0)
        yield made


def test_two_containers_of_a_network_reach_each_other_at_once(node: Node, sandbox: MakeSandbox) -> None:
    a, b = sandbox("a"), sandbox("b")
    a.add()
    (address,) = b.add()
    assert ping_ok(a.netns, address)


def test_both_families(node: Node, sandbox: MakeSandbox) -> None:
    a, b = sandbox("a"), sandbox("b")
    ipam = {"assign_ipv4": "true", "assign_ipv6": "true"}
    a.add(ipam=ipam)
    four, six = b.add(ipam=ipam)
    assert (four.startswith("10.64.0."), six.startswith("fd64::")) == (True, True)
    assert ping_ok(a.netns, four)
    assert ping_ok(a.netns, six)


def test_ipv6_alone_where_the_namespace_has_it_switched_off(node: Node, sandbox: MakeSandbox) -> None:
    a, b = sandbox("a"), sandbox("b")
    ipam = {"assign_ipv4": "false", "assign_ipv6": "true"}
    for one in (a, b):
        one.netns.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    a.add(ipam=ipam)
    (address,) = b.add(ipam=ipam)
    assert address.startswith("fd64::")
    assert "tentative" not in b.netns.ip("-6", "address", "show", "scope", "global"), (
        "no duplicate address detection is waited for"
    )
    eventually(lambda: ping_ok(a.netns, address))


def test_check_and_del_leave_the_datastore_as_it_was(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    result = a.call("ADD").json
    assert a.call("CHECK", prevResult=result).exit_status == 0
    a.netns.ip("address", "flush", "dev", "eth0", "scope", "global")
    assert a.call("CHECK", prevResult=result).code == NOT_AS_WIRED
    a.delete()
    assert node.etcd.get_prefix(f"{CALICO}/workloadendpoints/") == {}
    assert node.etcd.get_prefix("/calico/ipam/v2/handle/") == {}
    assert a.call("CHECK", prevResult=result).code == NOT_AS_WIRED


def test_gc_takes_what_the_runtime_does_not_know(node: Node, sandbox: MakeSandbox) -> None:
    a, b = sandbox("a"), sandbox("b")
    (kept,) = a.add()
    b.add()
    valid = {"cni.dev/valid-attachments": [{"containerID": a.container, "ifname": "eth0"}]}
    assert call_plugin(node, "GC", "", None, "", valid).exit_status == 0
    assert list(node.etcd.get_prefix("/calico/ipam/v2/handle/")) == [f"/calico/ipam/v2/handle/{NETWORK}.{a.container}"]
    assert ping_ok(node.namespace, kept)


def test_the_pods_mtu_is_what_the_way_between_nodes_leaves(node: Node, sandbox: MakeSandbox) -> None:
    a, b = sandbox("a"), sandbox("b")
    a.add()
    assert "mtu 1400 " in a.netns.ip("link", "show", "eth0")
    pool(node, "tunnelled", "10.66.0.0/24", vxlanMode="Always", nodeSelector="rack == 'other'")
    node.namespace.ip("link", "set", "up0", "mtu", "1300")
    eventually(lambda: _mtu_of_next(b) == 1250, what="50 bytes less than the device's")
    node.drop("ippools", "tunnelled")
    node.namespace.ip("link", "set", "up0", "mtu", "1400")


def test_the_mtu_of_running_pods_follows_at_both_ends(node: Node, sandbox: MakeSandbox) -> None:
    a, fixed = sandbox("a"), sandbox("b")
    host_end = str(a.call("ADD").json["interfaces"][0]["name"])
    fixed_end = str(fixed.call("ADD", mtu=1390).json["interfaces"][0]["name"])

    def ends_have(mtu: int) -> bool:
        inside, outside = a.netns.ip("link", "show", "eth0"), node.namespace.ip("link", "show", host_end)
        return f"mtu {mtu} " in inside and f"mtu {mtu} " in outside

    assert ends_have(1400)
    node.namespace.ip("link", "set", "up0", "mtu", "1300")
    eventually(lambda: ends_have(1300), what="as the device's, both ends")
    pool(node, "tunnelled", "10.66.0.0/24", vxlanMode="Always", nodeSelector="rack == 'other'")
    eventually(lambda: ends_have(1250), what="50 bytes less than the device's")
    node.put("felixconfigurations", resource("FelixConfiguration", "default", {"vxlanMTU": 1222}))
    eventually(lambda: ends_have(1222), what="as it is set")
    a.netns.ip("link", "set", "eth0", "mtu", "1111")
    node.namespace.ip("link", "set", host_end, "mtu", "1111")
    eventually(lambda: ends_have(1222), what="it is repaired")
    assert "mtu 1390 " in fixed.netns.ip("link", "show", "eth0"), "a network's own stays"
    assert "mtu 1390 " in node.namespace.ip("link", "show", fixed_end)
    node.agent.kill()
    node.drop("ippools", "tunnelled")
    node.drop("felixconfigurations", "default")
    node.agent.start()
    eventually(lambda: ends_have(1300), what="a restarted agent puts right what changed meanwhile")
    node.namespace.ip("link", "set", "up0", "mtu", "1400")
    node.namespace.ip("link", "add", "wan7", "mtu", "1270", "up", "type", "veth", "peer", "name", "wan8")
    node.put("felixconfigurations", resource("FelixConfiguration", "default", {"mtuIfacePattern": "wan7"}))
    node.namespace.ip("link", "set", "wan8", "up")
    eventually(lambda: ends_have(1270), what="the devices that count are named")
    node.namespace.ip("link", "del", "wan7")
    node.drop("felixconfigurations", "default")
    eventually(lambda: ends_have(1400))


def _mtu_of_next(sandbox: Sandbox) -> int:
    said = sandbox.call("ADD")
    sandbox.delete()
    return int(said.json["interfaces"][1]["mtu"])


def test_an_asked_address(node: Node, sandbox: MakeSandbox) -> None:
    a, b = sandbox("a"), sandbox("b")
    assert a.add("IP=10.64.0.77") == ["10.64.0.77"]
    said = b.call("ADD", "IP=10.64.0.77")
    assert (said.code, said.details) == (NO_ADDRESS, f"10.64.0.77: another handle holds the address ({NETWORK}.ca)")
    assert b.call("ADD", "IP=10.99.0.1").details == "10.99.0.1: no enabled pool holds the address"
    eventually(lambda: "eth0" not in b.netns.ip("link"))


def test_annotations_of_pod_and_namespace(node: Node, sandbox: MakeSandbox) -> None:
    pool(node, "named", "10.67.0.0/26", nodeSelector="!all()")
    annotated = {"cni.projectcalico.org/ipv4pools": '["named"]'}
    kubernetes(node, "Namespace", "namespaces", "web", {"metadata": {"annotations": annotated}})
    asked = {"cni.projectcalico.org/ipAddrs": '["10.64.0.99"]', "cni.projectcalico.org/hwAddr": "02:00:00:00:00:42"}
    spec = {"serviceAccountName": "robot", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]}
    kubernetes(node, "Pod", "pods", "exact", {"metadata": {"annotations": asked}, "spec": spec}, "web")
    exact, plain = sandbox("exact", "web"), sandbox("plain", "web")
    assert exact.add() == ["10.64.0.99"]
    assert "02:00:00:00:00:42" in exact.netns.ip("link", "show", "eth0")
    (endpoint,) = (json.loads(value) for value in node.etcd.get_prefix(f"{CALICO}/workloadendpoints/web/").values())
    assert endpoint["spec"]["profiles"] == ["kns.web", "ksa.web.robot"]
    assert endpoint["spec"]["ports"] == [{"name": "http", "protocol": "TCP", "port": 80}]
    (address,) = plain.add()
    assert address.startswith("10.67.0."), "the namespace's pool, whatever its selector"
    plain.delete()
    node.drop("ippools", "named")


def test_an_address_that_no_pool_gives_out(node: Node, sandbox: MakeSandbox) -> None:
    asked = {"cni.projectcalico.org/ipAddrsNoIpam": '["192.168.7.7", "fd77::7"]'}
    kubernetes(node, "Pod", "pods", "own", {"metadata": {"annotations": asked}, "spec": {"nodeName": "n1"}}, "web")
    own = sandbox("own", "web")
    assert own.call("ADD").details == "feature_control.ip_addrs_no_ipam"
    offered = {"feature_control": {"ip_addrs_no_ipam": True}}
    assert own.add(**offered) == own.add(**offered) == ["192.168.7.7", "fd77::7"]
    assert ping_ok(node.namespace, "192.168.7.7")
    assert node.etcd.get_prefix(f"/calico/ipam/v2/handle/{NETWORK}.cown") == {}
    own.delete()
    assert node.etcd.get_prefix(f"{CALICO}/workloadendpoints/web/n1-k8s-own-") == {}


def test_labels_follow_the_pod_whenever_it_comes(node: Node, sandbox: MakeSandbox) -> None:
    """Until it comes only the namespace's profile holds; then the Pod's labels do, here and in the datastore."""
    kubernetes(node, "Namespace", "namespaces", "shop", {})
    late, client = sandbox("late", "shop"), sandbox("client", "shop")
    client.add()
    (address,) = late.add()
    node.policy("closed", "app == 'db'", ingress=[])
    assert ping_ok(client.netns, address)
    spec = {"nodeName": "n1", "serviceAccountName": "robot"}
    kubernetes(node, "Pod", "pods", "late", {"metadata": {"labels": {"app": "db"}}, "spec": spec}, "shop")
    eventually(lambda: not ping_ok(client.netns, address, wait_s=0.3), what="the policy selects it")

    def stored() -> Json:
        found = node.etcd.get_prefix(f"{CALICO}/workloadendpoints/shop/n1-k8s-late-")
        return dict(json.loads(next(iter(found.values()))))

    eventually(lambda: stored()["metadata"]["labels"].get("app") == "db", what="as Calico's nodes read it")
    assert stored()["spec"]["profiles"] == ["kns.shop", "ksa.shop.robot"]
    kubernetes(node, "Pod", "pods", "late", {"metadata": {"labels": {"app": "web"}}, "spec": spec}, "shop")
    eventually(lambda: ping_ok(client.netns, address, wait_s=0.3), what="the policy selects it no more")
    eventually(lambda: stored()["metadata"]["labels"]["app"] == "web")
    node.drop("globalnetworkpolicies", "default.closed")


def test_a_pod_that_must_have_a_pod_waits_for_it(node: Node, sandbox: MakeSandbox) -> None:
    pod, conf = sandbox("awaited", "shop"), {"policy": {"type": "k8s"}}
    refused = pod.call("ADD", "K8S_POD_UID=u2", **conf)
    assert (refused.code, refused.json["msg"]) == (TRY_AGAIN, "the datastore has no Pod shop/awaited")
    body = {"metadata": {"labels": {"app": "old"}, "uid": "u1"}, "spec": {"nodeName": "n1"}}
    kubernetes(node, "Pod", "pods", "awaited", dict(body), "shop")
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(pod.call, "ADD", "K8S_POD_UID=u2", **conf)
        body = {"metadata": {"labels": {"app": "new"}, "uid": "u2"}, "spec": {"nodeName": "n1"}}
        kubernetes(node, "Pod", "pods", "awaited", body, "shop")
        assert adding.result().exit_status == 0
    (endpoint,) = node.etcd.get_prefix(f"{CALICO}/workloadendpoints/shop/n1-k8s-awaited-").values()
    assert json.loads(endpoint)["metadata"]["labels"]["app"] == "new"


def test_selectors_of_pools(node: Node, sandbox: MakeSandbox) -> None:
    spec = {"disabled": True}
    pool(node, "main", "10.64.0.0/24", **spec)
    pool(node, "here", "10.68.0.0/26", nodeSelector="rack == 'r1'", namespaceSelector="team == 'blue'")
    pool(node, "elsewhere", "10.69.0.0/26", nodeSelector="rack == 'r2'")
    kubernetes(node, "Namespace", "namespaces", "blue", {"metadata": {"labels": {"team": "blue"}}})
    blue, red = sandbox("p", "blue"), sandbox("q", "red")
    eventually(lambda: "main: the pool is disabled" in red.call("ADD").details, what="the agent knows the pools")
    refused = red.call("ADD")
    assert refused.code == NO_ADDRESS
    not_selected = "the pool's selectors leave this node or namespace out"
    for name in ("here", "elsewhere"):
        assert f"{name}: {not_selected}" in refused.details
    (address,) = blue.add()
    assert address.startswith("10.68.0.")
    node.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.98.0.1/24"}}, {"rack": "r2"}))
    eventually(lambda: red.call("ADD").exit_status == 0, what="the node is in another rack")
    assert red.add()[0].startswith("10.69.0.")
    blue.delete()
    red.delete()
    node.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.98.0.1/24"}}, {"rack": "r1"}))
    for name in ("here", "elsewhere"):
        node.drop("ippools", name)
    pool(node, "main", "10.64.0.0/24")


def test_an_exhausted_pool_is_named(node: Node, sandbox: MakeSandbox) -> None:
    pool(node, "tiny", "10.70.0.0/31", blockSize=31, nodeSelector="!all()")
    ipam = {"ipv4_pools": ["tiny"]}
    first, second, third = sandbox("a"), sandbox("b"), sandbox("c")
    eventually(lambda: first.call("ADD", ipam=ipam).exit_status == 0)
    assert {*first.add(ipam=ipam), *second.add(ipam=ipam)} == {"10.70.0.0", "10.70.0.1"}
    refused = third.call("ADD", ipam=ipam)
    assert (refused.code, "tiny: every block of the pool is taken" in refused.details) == (NO_ADDRESS, True)
    second.delete()
    assert third.add(ipam=ipam) == ["10.70.0.1"], "a released address is free at once"
    first.delete()
    third.delete()
    node.drop("ippools", "tiny")


def test_strict_affinity_and_the_block_limit(node: Node, sandbox: MakeSandbox) -> None:
    pool(node, "small", "10.71.0.0/29", blockSize=31, nodeSelector="!all()")
    node.put("ipamconfigurations", resource("IPAMConfiguration", "default", {"maxBlocksPerHost": 1}))
    ipam = {"ipv4_pools": ["small"]}
    first, second, third = sandbox("a"), sandbox("b"), sandbox("c")
    eventually(lambda: first.call("ADD", ipam=ipam).exit_status == 0)
    second.add(ipam=ipam)
    refused = third.call("ADD", ipam=ipam)
    assert (refused.code, "as many blocks as it may have" in refused.details) == (NO_ADDRESS, True)
    node.drop("ipamconfigurations", "default")
    eventually(lambda: third.call("ADD", ipam=ipam).exit_status == 0, what="without a limit")
    for each in (first, second, third):
        each.delete()
    node.drop("ippools", "small")


def test_what_cannot_be_asked_for(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    assert a.call("ADD", ipam={"assign_ipv4": "false"}).code == INVALID_CONFIG
    assert a.call("ADD", mtu=70000).code == INVALID_CONFIG
    assert a.call("ADD", ipam={"ipv4_pools": ["none"]}).details == "no IPv4 address: none: there is no such pool"


def test_status_while_the_kernel_takes_no_rules() -> None:
    """The table is another process's own, so the kernel refuses ours; what is there may have limited connectivity."""
    with Node() as node:
        pool(node, "main", "10.64.0.0/24")
        holder = node.namespace.popen("nft", "-i", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            assert holder.stdin
            holder.stdin.write("add table inet felixpy { flags owner; }\n")
            holder.stdin.flush()
            eventually(lambda: "felixpy" in node.nft("list", "tables"))
            node.agent.start()
            said = eventually(lambda: (said := call_plugin(node, "STATUS", "", None, "", {})).code == 51 and said)
            assert said.json["msg"] == "not all packet rules are in the kernel"
            assert said.details
        finally:
            holder.kill()
            holder.communicate(timeout=40)
        eventually(lambda: call_plugin(node, "STATUS", "", None, "", {}).exit_status == 0, within_s=20)


def test_etcd_away(sandbox: MakeSandbox, node: Node) -> None:
    a, b = sandbox("a"), sandbox("b")
    (address,) = a.add()
    node.etcd.kill()
    try:
        a.delete()
        assert not ping_ok(node.namespace, address, wait_s=0.3), "the pod's traffic ends at once"
        refused = b.call("ADD")
        assert (refused.code, "the connection is refused" in refused.details) == (TRY_AGAIN, True)
        eventually(lambda: "eth0" not in b.netns.ip("link"))
    finally:
        node.etcd.start()
    eventually(lambda: node.etcd.get_prefix("/calico/ipam/v2/handle/") == {}, within_s=30, what="the DEL is finished")
    assert node.etcd.get_prefix(f"{CALICO}/workloadendpoints/") == {}
    eventually(lambda: b.call("ADD").exit_status == 0)
