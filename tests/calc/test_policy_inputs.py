"""What policy is calculated from: endpoints with their Pods, implied profiles, options, peers to keep open for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.options import DEFAULTS, HostAction, Options, derive_options
from felixpy.calc.policy.peers import PeersIntent, derive_peers
from felixpy.calc.policy.pods import join_pod
from felixpy.calc.policy.profiles import Profiles
from felixpy.resources.bgp_types import BgpConfiguration, BgpPeer, SpeakerPeer
from felixpy.resources.codec import Decoder
from felixpy.resources.endpoints import digest_uid
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import Profile
from felixpy.resources.tables import Decoded, Ref, Table
from felixpy.resources.types import (
    FailsafePort,
    FelixConfiguration,
    NamedPort,
    Namespace,
    Node,
    NodeAddress,
    Pod,
    ServiceAccount,
    WorkloadEndpoint,
)


def felix(**spec: Any) -> FelixConfiguration:
    key = "/calico/resources/v3/projectcalico.org/felixconfigurations/default"
    decoded = Decoder("n").decode(key.encode(), json.dumps({"metadata": {"name": "default"}, "spec": spec}).encode())
    assert isinstance(decoded, Decoded)
    assert isinstance(decoded.value, FelixConfiguration)
    return decoded.value


def options(**spec: Any) -> Options:
    return derive_options(felix(**spec), None)


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({"interfacePrefix": "cali, tap"}, "interface_prefixes", ("cali", "tap")),
        ({"interfacePrefix": ""}, "interface_prefixes", ("cali",)),
        ({"defaultEndpointToHostAction": "ACCEPT"}, "endpoint_to_host", HostAction.ACCEPT),
        ({"defaultEndpointToHostAction": "Return"}, "endpoint_to_host", HostAction.RETURN),
        ({"failsafeInboundHostPorts": []}, "failsafe_in", ()),
        ({"failsafeInboundHostPorts": None}, "failsafe_in", DEFAULTS.failsafe_in),
        ({"failsafeOutboundHostPorts": [{"port": 5}]}, "failsafe_out", (FailsafePort(6, 5),)),
        (
            {"failsafeInboundHostPorts": [{"protocol": "UDP", "port": 5, "net": "10.0.0.0/8"}]},
            "failsafe_in",
            (FailsafePort(17, 5, parse_prefix("10.0.0.0/8")),),
        ),
        ({"disableConntrackInvalidCheck": True}, "drop_invalid", False),
        ({"allowVXLANPacketsFromWorkloads": True}, "allow_vxlan_from_workloads", True),
        ({"logPrefix": "here"}, "log_prefix", "here"),
    ],
    ids=str,
)
def test_options(spec: dict[str, Any], field: str, value: object) -> None:
    assert getattr(options(**spec), field) == value


def test_the_nodes_own_configuration_goes_first_field_by_field() -> None:
    common = FelixConfiguration((("interfacePrefix", "tap"), ("logPrefix", "all")), failsafe_in=())
    own = FelixConfiguration((("logPrefix", "mine"),), failsafe_out=())
    derived = derive_options(common, own)
    assert (derived.interface_prefixes, derived.log_prefix) == (("tap",), "mine")
    assert (derived.failsafe_in, derived.failsafe_out) == ((), ())


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ({"port": 0}, "spec.failsafeInboundHostPorts[0]"),
        ({"port": 1, "protocol": "odd"}, "spec.failsafeInboundHostPorts[0].protocol"),
        ({"port": 1, "net": "10.0.0.0/40"}, "spec.failsafeInboundHostPorts[0].net"),
        (7, "spec.failsafeInboundHostPorts[0]"),
    ],
    ids=str,
)
def test_a_broken_failsafe_port_is_named_and_the_usual_ones_hold(port: object, field: str) -> None:
    read = felix(failsafeInboundHostPorts=[port], failsafeOutboundHostPorts=[], logPrefix="mine")
    assert [fault.field for fault in read.passed_over] == [field]
    derived = derive_options(read, None)
    assert (derived.failsafe_in, derived.failsafe_out, derived.log_prefix) == (DEFAULTS.failsafe_in, (), "mine")


WRONG: dict[str, tuple[object, ...]] = {
    "allowIPIPPacketsFromWorkloads": ("true", 1),
    "defaultEndpointToHostAction": ("Odd", True),
    "disableConntrackInvalidCheck": ("false",),
    "failsafeInboundHostPorts": ("tcp:22", {"port": 22}),
    "floatingIPs": (True, "On"),
    "flowLogsFileEnabledForDenied": ("no",),
    "healthHost": (7,),
    "healthPort": ("9099", 0, 65536, True),
    "interfacePrefix": (7, ["cali"], "e", "cali,ens", "a/b", "a-prefix-too-long"),
    "iptablesNATOutgoingInterfaceFilter": ("eth 0",),
    "logPrefix": (True, {}),
    "mtuIfacePattern": ("(", 7),
    "natOutgoingAddress": ("here", 7),
    "natOutgoingExclusions": ("All",),
    "prometheusMetricsEnabled": ("yes",),
    "serviceLoopPrevention": ("None",),
    "vxlanPort": ("4789", 0, 4789.5, True),
    "vxlanVNI": (1 << 24, "1"),
}


@pytest.mark.parametrize(("field", "value"), [(field, one) for field, values in WRONG.items() for one in values])
def test_a_value_that_does_not_fit_is_named_and_loses_nothing_else(field: str, value: object) -> None:
    read = felix(**{field: value}, allowVXLANPacketsFromWorkloads=True)
    assert [fault.field for fault in read.passed_over] == [f"spec.{field}"]
    assert derive_options(read, None) == replace(DEFAULTS, allow_vxlan_from_workloads=True)


def test_every_wrong_field_is_named_at_once() -> None:
    read = felix(**{field: values[0] for field, values in WRONG.items()})
    assert {fault.field for fault in read.passed_over} == {f"spec.{field}" for field in WRONG}


def test_what_a_wrong_field_of_a_node_leaves_out_the_common_one_says() -> None:
    assert derive_options(felix(logPrefix="common"), felix(logPrefix=7)).log_prefix == "common"


ENDPOINT = WorkloadEndpoint(
    "n", "cali1", (), (("app", "old"), ("projectcalico.org/namespace", "ns1")), ("kns.ns1",), orchestrator="k8s"
)


def test_a_pods_labels_are_its_endpoints() -> None:
    joined = join_pod(ENDPOINT, Pod((("team", "red"),), "sa1", (NamedPort("web", 6, 80),)), "ns1")
    assert joined.labels == (
        ("projectcalico.org/namespace", "ns1"),
        ("projectcalico.org/serviceaccount", "sa1"),
        ("team", "red"),
    )
    assert (joined.profiles, joined.ports) == (("kns.ns1",), (NamedPort("web", 6, 80),))


def test_a_pod_of_the_same_name_that_is_another_says_nothing_of_an_endpoint() -> None:
    mine = msgspec.structs.replace(ENDPOINT, pod_uid=digest_uid("u1"))
    labels = (("team", "red"),)
    assert join_pod(mine, Pod(labels, uid=digest_uid("u2")), "ns1") == mine
    for uid in ("u1", ""):
        assert ("team", "red") in join_pod(mine, Pod(labels, uid=digest_uid(uid)), "ns1").labels
    assert ("team", "red") in join_pod(ENDPOINT, Pod(labels, uid=digest_uid("u2")), "ns1").labels, "of Calico's none"


@pytest.mark.parametrize(("annotations", "same"), [({}, False), ({"kubernetes.io/config.mirror": "u1"}, True)])
def test_a_static_pod_is_known_by_its_own_uid_and_not_its_mirror_s(annotations: dict[str, str], same: bool) -> None:
    decoder = Decoder("n")

    def read(path: str, annotations: dict[str, str], uid: str, spec: dict[str, Any]) -> Any:
        name = path.rpartition("/")[2]
        body = {"metadata": {"name": name, "namespace": "a", "uid": uid, "annotations": annotations}, "spec": spec}
        decoded = decoder.decode(path.encode(), json.dumps(body).encode())
        assert isinstance(decoded, Decoded)
        return decoded.value

    endpoint = read(
        "/calico/resources/v3/projectcalico.org/workloadendpoints/a/n-k8s-web-eth0",
        {"felixpy.io/pod-uid": "u1"},
        "of the endpoint",
        {"node": "n", "orchestrator": "k8s", "pod": "web", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"]},
    )
    pod = read("/felixpy/resources/core/v1/pods/a/web", annotations, "u2", {})
    assert (endpoint.pod_uid == pod.uid) is same


def test_an_endpoint_without_profiles_has_its_pods() -> None:
    bare = WorkloadEndpoint("n", "cali1", (), (), (), ports=(NamedPort("own", 6, 1),), orchestrator="k8s")
    joined = join_pod(bare, Pod((), "sa1", (NamedPort("web", 6, 80),)), "ns1")
    assert (joined.profiles, joined.ports) == (("kns.ns1", "ksa.ns1.sa1"), bare.ports)


def test_what_namespaces_and_service_accounts_stand_for() -> None:
    profiles = Profiles()
    profiles.put(Ref(Table.NAMESPACE, Name("", "ns1")), Namespace((("env", "x"),)))
    profiles.put(Ref(Table.SERVICE_ACCOUNT, Name("ns1", "sa1")), ServiceAccount((("role", "y"),)))
    namespace, account = profiles.get("kns.ns1"), profiles.get("ksa.ns1.sa1")
    assert namespace is not None
    names = (("pcns.kubernetes.io/metadata.name", "ns1"), ("pcns.projectcalico.org/name", "ns1"))
    assert namespace.labels_to_apply == (("pcns.env", "x"), *names)
    assert namespace.ingress
    assert account == Profile((), (), (("pcsa.projectcalico.org/name", "sa1"), ("pcsa.role", "y")))
    assert profiles.get("kns.ns2") is None


def test_a_stored_profile_keeps_the_labels_of_its_namespace() -> None:
    profiles = Profiles()
    profiles.put(Ref(Table.NAMESPACE, Name("", "ns1")), Namespace((("env", "x"), ("zone", "z"))))
    profiles.put(Ref(Table.PROFILE, Name("", "kns.ns1")), Profile(labels_to_apply=(("a", "b"), ("pcns.env", "own"))))
    names = (("pcns.kubernetes.io/metadata.name", "ns1"), ("pcns.projectcalico.org/name", "ns1"))
    labels = (("a", "b"), ("pcns.env", "own"), *names, ("pcns.zone", "z"))
    assert profiles.get("kns.ns1") == Profile((), (), labels), "its own rules, and its own labels before inherited ones"
    profiles.put(Ref(Table.NAMESPACE, Name("", "ns1")), None)
    assert profiles.get("kns.ns1") == Profile(labels_to_apply=(("a", "b"), ("pcns.env", "own")))


def test_peers_are_nodes_and_bgp_peers_at_every_port_that_is_used() -> None:
    inside, outside = parse_address("10.0.0.1"), parse_address("10.0.0.254")
    node = Node(ipv4=NodeAddress(inside, parse_prefix("10.0.0.0/24")))
    derived = derive_peers([node], [BgpPeer(outside, 1179, None)], [BgpConfiguration(listen_port=2179)])
    assert derived == PeersIntent(frozenset({inside}), frozenset({inside, outside}), (179, 1179, 2179))
    anyone = replace(BgpPeer(None, None, 65000), peer_range=parse_prefix("10.9.0.0/16"))
    assert derive_peers([], [anyone], []).neighbours == {parse_prefix("10.9.0.0/16")}
    theirs = SpeakerPeer(64512, 65000, address=outside, port=3179)
    assert derive_peers([node], [theirs], []) == replace(derived, bgp_ports=(179, 3179))


def test_equal_labels_of_pods_are_kept_once() -> None:
    body = json.dumps({"metadata": {"labels": {"app": "x"}}, "spec": {}}).encode()
    decoder = Decoder("n")
    read = [decoder.decode(f"/felixpy/resources/core/v1/pods/ns1/{name}".encode(), body) for name in "pq"]
    first, second = (one.value for one in read if isinstance(one, Decoded))
    assert isinstance(first, Pod)
    assert isinstance(second, Pod)
    assert first.labels is second.labels
