"""Names, claims, wiring, endpoints and results, as Calico and the specification have them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import Address, parse_address
from felixpy.cni.endpoint import Identity, derive_endpoint, follow_pod, parse_recorded
from felixpy.cni.errors import CniError, Code
from felixpy.cni.leaks import Recorded
from felixpy.cni.netconf import SUPPORTED_VERSIONS, Dns
from felixpy.cni.plan import (
    Attachment,
    Call,
    Claim,
    NamedPort,
    PodFacts,
    derive_claim,
    derive_link,
    derive_wiring,
    parse_call,
    parse_owner,
)
from felixpy.cni.result import AddResult, render_result
from felixpy.cni.wire import Request
from felixpy.dataplane.pod import derive_pod_objects

GOLDEN = Path(__file__).parent / "golden"
CONTAINER = "3f5b8b2c9d" * 6 + "abcd"
POD = Attachment("node-1", "k8s-pod-network", CONTAINER, "eth0", "default", "my-nginx-b1337a")
PLAIN = Attachment("node-1", "net", CONTAINER, "eth0")
DUAL = (parse_address("10.65.0.3"), parse_address("fd00:65::3"))
IDENTITY = Identity("0a9c3f5e-7f57-4b1c-8f63-3d8a7c6b5a49", "2026-01-01T00:00:00Z")


def request(command: str = "ADD", args: str = "", version: str = "1.0.0", **fields: object) -> Request:
    config = json.dumps({"cniVersion": version, "name": "net", **fields}).encode()
    return Request(command, CONTAINER, "/run/netns/p", "eth0", args, "/opt/cni/bin", config)


def call(args: str = "", **fields: object) -> tuple[Call, Attachment]:
    parsed = parse_call(request(args=args, **fields), "node-1")
    assert parsed.attachment
    return parsed, parsed.attachment


def test_names_are_calicos() -> None:
    assert POD.endpoint == ("default", "node--1-k8s-my--nginx--b1337a-eth0")
    assert POD.handle == f"k8s-pod-network.{CONTAINER}"
    assert POD.host_device == "calidf6f7cbdf39"
    assert PLAIN.endpoint == ("default", f"node--1-cni-{CONTAINER}-eth0")
    assert PLAIN.host_device == "cali3f5b8b2c9d3"


def test_containers_whose_ids_begin_alike_have_devices_of_their_own() -> None:
    one, two = (Attachment("n", "net", f"my-container-{number}", "eth0") for number in (1, 2))
    assert one.host_device != two.host_device
    assert len(one.host_device) == 15


def test_interfaces_of_one_container_have_names_of_their_own() -> None:
    for first in (POD, PLAIN):
        second = Attachment(first.node, first.network, first.container_id, "net1", first.namespace, first.pod)
        for name in ("endpoint", "handle", "owner", "host_device"):
            assert getattr(first, name) != getattr(second, name), name


identifiers = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,117}", fullmatch=True)


@settings(deadline=None)
@given(identifiers, identifiers, st.sampled_from(["eth0", "net1", "a.b-c"]))
def test_an_owner_names_its_attachment(network: str, container: str, ifname: str) -> None:
    attachment = Attachment("n", network, container, ifname)
    assert parse_owner(attachment.owner, "n") == attachment
    assert len(attachment.owner) < 256
    assert len(attachment.host_device) <= 15


@pytest.mark.parametrize("alias", ["", "a", "a/b", "a/b/", "a/b/c/d", "/b/c", "uplink to tor/1/x y"])
def test_an_alias_that_is_not_ours(alias: str) -> None:
    assert parse_owner(alias, "n") is None


def test_what_is_asked_for_by_default_is_one_ipv4_address() -> None:
    claim = derive_claim(*call(), PodFacts())
    assert (claim.versions, claim.ipv4_pools, claim.addresses) == ({4}, (), ())


def test_a_pods_pools_go_before_its_namespaces_and_those_before_the_networks() -> None:
    asked = call(ipam={"ipv4_pools": ["conf"]})
    by_namespace = {"cni.projectcalico.org/ipv4pools": '["namespace"]'}
    by_pod = {"cni.projectcalico.org/ipv4pools": '["pod"]'}
    assert derive_claim(*asked, PodFacts()).ipv4_pools == ("conf",)
    assert derive_claim(*asked, PodFacts(namespace_annotations=by_namespace)).ipv4_pools == ("namespace",)
    assert derive_claim(*asked, PodFacts(by_pod, by_pod, by_namespace)).ipv4_pools == ("pod",)


def test_whose_addresses_a_pod_may_give_as_its_own() -> None:
    annotation = "cni.projectcalico.org/allowedSourcePrefixes"
    asked = derive_claim(*call(), PodFacts(annotations={annotation: '["198.51.100.0/24", "fd00::9"]'}))
    assert [*map(str, asked.spoofed)] == ["198.51.100.0/24", "fd00::9/128"]
    with pytest.raises(CniError, match="allowedSourcePrefixes"):
        derive_claim(*call(), PodFacts(annotations={annotation: '["198.51.100.0/33"]'}))


def test_asked_addresses_say_which_families() -> None:
    annotated = PodFacts(annotations={"cni.projectcalico.org/ipAddrs": '["10.0.0.9", "fd00::9"]'})
    assert derive_claim(*call(args="IP=10.0.0.8"), annotated).versions == {4, 6}
    assert derive_claim(*call(args="IP=fd00::8"), PodFacts()).addresses == (parse_address("fd00::8"),)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("ipAddrs", "10.0.0.9"), ("ipAddrs", '["x"]'), ("ipv4pools", "{}"), ("ipFamilies", '["IPv5"]'), ("hwAddr", "x")],
)
def test_annotations_that_cannot_be(annotation: str, value: str) -> None:
    facts = PodFacts(annotations={f"cni.projectcalico.org/{annotation}": value})
    derive = derive_link if annotation == "hwAddr" else derive_claim
    with pytest.raises(CniError) as raised:
        derive(*call(), facts)
    assert raised.value.code is Code.INVALID_CONFIG


def test_a_pod_that_comes_again_has_the_mac_it_had() -> None:
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"
    first, second = (derive_link(*call(args, mtu=mtu), PodFacts(mtu=1440)) for mtu in (0, 1400))
    assert first.pod_mac == second.pod_mac
    assert first.pod_mac[0] & 3 == 2
    assert (first.mtu, second.mtu) == (1440, 1400)


@pytest.mark.parametrize("addresses", [DUAL[:1], DUAL[1:], DUAL])
def test_wiring_speaks_of_the_families_that_it_has(addresses: tuple[Address, ...]) -> None:
    wiring = derive_wiring(derive_link(*call(), PodFacts()), addresses, forwarding=True)
    versions = {4 if len(address) == 4 else 6 for address in addresses}
    assert {prefix.version for prefix in wiring.routes} == versions
    for version in (4, 6):
        sysctls = [item.path for item in (*wiring.host_sysctls, *wiring.pod_sysctls)]
        assert any(path.startswith(f"net/ipv{version}/") for path in sysctls) == (version in versions)
    assert len(derive_pod_objects(wiring)) == 3 * len(versions) + (4 in versions)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request("WHAT"), Code.INVALID_ENVIRONMENT),
        (request(version=""), Code.INCOMPATIBLE_VERSION),
        (request(version="0.2.0"), Code.INCOMPATIBLE_VERSION),
        (request(version="1.2.0"), Code.INCOMPATIBLE_VERSION),
        (request("CHECK", version="0.3.1"), Code.INCOMPATIBLE_VERSION),
        (request("GC", version="1.0.0"), Code.INCOMPATIBLE_VERSION),
        (request("STATUS", version="1.0.0"), Code.INCOMPATIBLE_VERSION),
        (request("CHECK"), Code.INVALID_CONFIG),
        (Request("ADD", "", "/n", "eth0", config=request().config), Code.INVALID_ENVIRONMENT),
        (Request("ADD", "a/b", "/n", "eth0", config=request().config), Code.INVALID_ENVIRONMENT),
        (Request("ADD", "a", "/n", "eth/0", config=request().config), Code.INVALID_ENVIRONMENT),
        (Request("ADD", "a", "/n", "..", config=request().config), Code.INVALID_ENVIRONMENT),
        (Request("ADD", "a", "/n", "e" * 16, config=request().config), Code.INVALID_ENVIRONMENT),
        (Request("ADD", "a", "", "eth0", config=request().config), Code.INVALID_ENVIRONMENT),
    ],
)
def test_calls_that_are_refused(asked: Request, code: Code) -> None:
    with pytest.raises(CniError) as raised:
        parse_call(asked, "n")
    assert raised.value.code is code


def test_another_nodes_configuration_is_refused() -> None:
    with pytest.raises(CniError, match="nodename is n2, and the agent's node is n1"):
        parse_call(request(nodename="n2"), "n1")
    assert parse_call(request(nodename="n1"), "n1").conf.node == "n1"


def test_what_was_wired_under_a_configuration_that_is_refused_now_can_be_deleted() -> None:
    parsed = parse_call(request("DEL", nodename="n2", mtu=-1, ipam={"type": "host-local"}), "n1")
    assert parsed.attachment == Attachment("n1", "net", CONTAINER, "eth0")


def test_a_del_is_taken_whatever_its_version_and_without_namespace() -> None:
    parsed = parse_call(Request("DEL", "a", "", "eth0", config=request(version="9.9.9").config), "n")
    assert parsed.attachment == Attachment("n", "net", "a", "eth0")


def matches_golden(name: str, produced: bytes) -> bool:
    """Compares as JSON, and shows both when they differ."""
    expected: Any = json.loads((GOLDEN / name).read_text())
    assert json.loads(produced) == expected
    return True


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_results(version: str) -> None:
    asked, attachment = call(args="K8S_POD_NAMESPACE=default;K8S_POD_NAME=my-nginx-b1337a")
    wiring = derive_wiring(derive_link(asked, attachment, PodFacts(mtu=1440)), DUAL)
    dns = Dns(nameservers=("10.96.0.10",))
    assert matches_golden(f"result-{version}.json", render_result(AddResult(wiring, "/run/netns/p", dns), version))


@pytest.mark.parametrize(
    ("value", "offered", "told"),
    [
        ('["192.0.2.1"]', False, "the network does not offer it: feature_control.floating_ips"),
        ('["x"]', True, "'x'"),
        ('["2001:db8::1"]', True, "the pod has no address of the family of 2001:db8::1"),
    ],
)
def test_floating_addresses_that_cannot_be(value: str, offered: bool, told: str) -> None:
    facts = PodFacts(annotations={"cni.projectcalico.org/floatingIPs": value})
    with pytest.raises(CniError, match=told) as raised:
        derive_claim(*call(feature_control={"floating_ips": offered}), facts)
    assert raised.value.code is Code.INVALID_CONFIG


FACTS = PodFacts(
    labels={"app": "nginx", "pod-template-hash": "b1337a"},
    service_account="web",
    generate_name="my-nginx-",
    ports=(NamedPort("http", "TCP", 80),),
)


def claim_of(attachment: Attachment, *floating: str) -> Claim:
    return Claim(attachment, frozenset({4, 6}), floating=tuple(map(parse_address, floating)))


def test_endpoint_of_a_pod() -> None:
    write = derive_endpoint(claim_of(POD), derive_link(call()[0], POD, FACTS), FACTS, DUAL, IDENTITY)
    assert matches_golden("endpoint-pod.json", write.value)
    assert (write.name, write.profile) == (POD.endpoint, "")
    assert parse_recorded(write.value) == Recorded(POD, None)


def test_endpoint_of_a_plain_container() -> None:
    write = derive_endpoint(claim_of(PLAIN), derive_link(call()[0], PLAIN, PodFacts()), PodFacts(), DUAL[:1], IDENTITY)
    assert matches_golden("endpoint-plain.json", write.value)
    assert write.profile == "net"
    assert matches_golden("profile-plain.json", write.profile_value)
    assert parse_recorded(write.value) == Recorded(PLAIN, None)


def test_floating_addresses_lead_to_the_address_of_their_family() -> None:
    claim = claim_of(POD, "192.0.2.1", "2001:db8::1", "192.0.2.2")
    spec = json.loads(derive_endpoint(claim, derive_link(call()[0], POD, FACTS), FACTS, DUAL, IDENTITY).value)["spec"]
    assert spec["ipNATs"] == [
        {"internalIP": "10.65.0.3", "externalIP": "192.0.2.1"},
        {"internalIP": "fd00:65::3", "externalIP": "2001:db8::1"},
        {"internalIP": "10.65.0.3", "externalIP": "192.0.2.2"},
    ]


def test_an_endpoint_follows_its_pod() -> None:
    first = derive_endpoint(claim_of(POD), derive_link(call()[0], POD, PodFacts()), PodFacts(), DUAL, IDENTITY).value
    known = json.loads(first)
    known["spec"]["qosControls"] = {"somebody": "else's"}
    followed = follow_pod(json.dumps(known).encode(), FACTS)
    assert followed is not None
    whole = json.loads(followed)
    expected = json.loads((GOLDEN / "endpoint-pod.json").read_text())
    assert whole["metadata"]["labels"] == expected["metadata"]["labels"]
    assert whole["spec"] == {**expected["spec"], "qosControls": {"somebody": "else's"}}
    assert follow_pod(followed, FACTS) is None
    fewer = follow_pod(followed, replace(FACTS, labels={"app": "db"}))
    assert fewer is not None
    assert set(json.loads(fewer)["metadata"]["labels"]) == {"app"} | {
        f"projectcalico.org/{name}" for name in ("namespace", "orchestrator", "serviceaccount")
    }
    plain = derive_endpoint(claim_of(PLAIN), derive_link(call()[0], PLAIN, PodFacts()), PodFacts(), (), IDENTITY)
    assert follow_pod(plain.value, FACTS) is None


def test_an_endpoint_does_not_follow_another_pod_of_its_name() -> None:
    facts = replace(FACTS, uid="u1")
    value = derive_endpoint(claim_of(POD), derive_link(call()[0], POD, facts), facts, DUAL, IDENTITY).value
    assert json.loads(value)["metadata"]["annotations"]["felixpy.io/pod-uid"] == "u1"
    other = replace(facts, labels={"app": "db"})
    assert follow_pod(value, replace(other, uid="u2")) is None
    assert follow_pod(value, other) is not None
    nameless = derive_endpoint(claim_of(POD), derive_link(call()[0], POD, FACTS), FACTS, DUAL, IDENTITY).value
    adopted = follow_pod(nameless, facts)
    assert adopted is not None, "the first Pod that is seen is its own"
    assert follow_pod(adopted, replace(other, uid="u2")) is None


CALICOS = b'{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"a"},"spec":{"node":"n"}}'


@pytest.mark.parametrize("value", [b"", b"{}", CALICOS])
def test_an_endpoint_that_is_not_ours(value: bytes) -> None:
    assert parse_recorded(value) is None
