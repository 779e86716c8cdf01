"""What may be configured, and how each mistake is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import Prefix, parse_address
from felixpy.cni.errors import CniError, Code
from felixpy.cni.netconf import Dns, parse_netconf
from felixpy.cni.pod_args import PodArgs, parse_args


def conf(**fields: object) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "felixpy-cni", **fields}).encode()


def test_defaults() -> None:
    parsed = parse_netconf(conf())
    assert (parsed.assign_ipv4, parsed.assign_ipv6, parsed.mtu, parsed.ipv4_pools) == (True, False, 0, ())
    assert (parsed.previous, parsed.valid_attachments) == (None, None)


def test_what_calico_configures() -> None:
    parsed = parse_netconf(
        conf(
            mtu=1440,
            nodename="n1",
            datastore_type="etcdv3",
            log_level="info",
            policy={"type": "k8s"},
            kubernetes={"kubeconfig": "/etc/cni/net.d/calico-kubeconfig", "node_name": "overridden"},
            feature_control={"floating_ips": True},
            container_settings={"allow_ip_forwarding": True},
            ipam={"type": "calico-ipam", "assign_ipv4": "false", "assign_ipv6": "true", "ipv6_pools": ["v6"]},
        )
    )
    assert (parsed.assign_ipv4, parsed.assign_ipv6, parsed.ipv6_pools) == (False, True, ("v6",))
    assert (parsed.mtu, parsed.allow_ip_forwarding) == (1440, True)
    assert (parsed.node, parsed.needs_pod, parsed.floating) == ("n1", True, True)


def test_ranges_are_pools_and_the_runtimes_name_servers_go_first() -> None:
    parsed = parse_netconf(
        conf(
            ipam={"ipv4_pools": ["usual"]},
            dns={"nameservers": ["10.96.0.10"], "domain": "a", "search": ["a"]},
            runtimeConfig={
                "ipRanges": [[{"subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}], [{"subnet": "fd01::/112"}]],
                "dns": {"servers": ["10.0.0.53"], "searches": []},
            },
        )
    )
    assert (parsed.ipv4_pools, parsed.ipv6_pools) == (("10.1.0.0/16",), ("fd01::/112",))
    assert parsed.dns == Dns(("10.0.0.53",), "a", ("a",))


def test_what_runtimes_add() -> None:
    parsed = parse_netconf(
        conf(
            runtimeConfig={"ips": ["10.0.0.5/24", "fd00::5"], "mac": "02:00:00:00:00:05", "bandwidth": {}},
            args={"cni": {"ips": ["10.0.0.6"]}},
            prevResult={"interfaces": [{"name": "cali1"}], "ips": [{"address": "10.0.0.5/32", "interface": 0}]},
            **{"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]},
        )
    )
    assert parsed.addresses == (parse_address("10.0.0.5"), parse_address("fd00::5"))
    assert parsed.mac == bytes([2, 0, 0, 0, 0, 5])
    assert parsed.previous
    assert parsed.previous.addresses == ((Prefix(parse_address("10.0.0.5"), 32), "cali1"),)
    assert parsed.valid_attachments == {("a", "eth0")}


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"", Code.DECODE, ""),
        (b"{", Code.DECODE, ""),
        (b"\xff", Code.DECODE, ""),
        (b'{"name": "net", "x": ' + b"[" * 100_000, Code.DECODE, ""),
        (b"[]", Code.INVALID_CONFIG, "object"),
        (b"{}", Code.INVALID_CONFIG, "name"),
        (conf(name=""), Code.INVALID_CONFIG, "name"),
        (conf(name="a/b"), Code.INVALID_CONFIG, "name"),
        (conf(name="n" * 119), Code.INVALID_CONFIG, "name"),
        (conf(mtu=-1), Code.INVALID_CONFIG, "mtu"),
        (conf(mtu=65536), Code.INVALID_CONFIG, "mtu"),
        (conf(mtu=60), Code.INVALID_CONFIG, "mtu 60 is neither 0 nor between 68"),
        (conf(mtu=1000, ipam={"assign_ipv6": True}), Code.INVALID_CONFIG, "mtu 1000: IPv6 needs 1280"),
        (conf(mtu="1500"), Code.INVALID_CONFIG, "mtu"),
        (conf(ipam={"assign_ipv4": "yes"}), Code.INVALID_CONFIG, "assign_ipv4"),
        (conf(ipam={"ipv4_pools": "pool"}), Code.INVALID_CONFIG, "ipv4_pools"),
        (conf(ipam={"type": "host-local"}), Code.INVALID_CONFIG, "'host-local': addresses come from IPPools"),
        (conf(runtimeConfig={"ipRanges": [[{"subnet": "x"}]]}), Code.INVALID_CONFIG, "ipRanges"),
        (conf(runtimeConfig={"ipRanges": [[{"subnet": "10.0.0.0/8", "rangeEnd": "10.0.0.9"}]]}), Code(7), "rangeEnd"),
        (conf(runtimeConfig={"ips": ["10.0.0.300"]}), Code.INVALID_CONFIG, "ips"),
        (conf(runtimeConfig={"ips": ["10.0.0.1", "10.0.0.2"]}), Code.INVALID_CONFIG, "family"),
        (conf(runtimeConfig={"mac": "01:00:00:00:00:01"}), Code.INVALID_CONFIG, "mac"),
        (conf(runtimeConfig={"mac": "2:0:0:0:0:1"}), Code.INVALID_CONFIG, "mac"),
        (conf(prevResult={"ips": [{"address": "10.0.0.1/33"}]}), Code.INVALID_CONFIG, "prevResult.ips"),
        (conf(prevResult={"ips": [{"address": "10.0.0.1/32", "interface": 1}]}), Code(7), "prevResult.ips"),
        (conf(prevResult={"interfaces": [{}]}), Code.INVALID_CONFIG, "prevResult"),
        (conf(runtimeConfig={"portMappings": [{"containerPort": 0}]}), Code.INVALID_CONFIG, "portMappings"),
    ],
)
def test_mistakes(data: bytes, code: Code, told: str) -> None:
    with pytest.raises(CniError) as raised:
        parse_netconf(data)
    assert raised.value.code is code
    assert told in str(raised.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("cniVersion", "name", "mtu", "ipam", "runtimeConfig", "args", "prevResult", "cni.dev/valid-attachments")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_json_is_a_configuration_or_a_cni_error(fields: dict[str, object]) -> None:
    try:
        parse_netconf(conf(**fields))
    except CniError:
        pass


def test_args_of_a_pod() -> None:
    args = (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u;IP=10.0.0.9;MAC=02:00:00:00:00:42"
    )
    mac = bytes.fromhex("020000000042")
    assert parse_args(args) == PodArgs("default", "web-0", "u", parse_address("10.0.0.9"), mac)
    assert parse_args("") == PodArgs()
    assert parse_args("IgnoreUnknown=1;K8S_POD_NAME=web") == PodArgs(), "podman's plain container"


@pytest.mark.parametrize(
    "args",
    [
        "A",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../b",
        "K8S_POD_NAMESPACE=A;K8S_POD_NAME=b",
        "IP=1.2.3",
        "MAC=1:2",
    ],
)
def test_args_that_cannot_be(args: str) -> None:
    with pytest.raises(CniError) as raised:
        parse_args(args)
    assert raised.value.code is Code.INVALID_ENVIRONMENT
