"""MetalLB's old ConfigMap becomes the kinds that replaced it, bare and wrapped."""

import pytest

from felixpy.ctl.reading.intake import Intake, take_in
from felixpy.ctl.reading.yaml_text import parse_documents
from felixpy.ctl.validate import check

SNIPPET = """\
address-pools:
- name: default
  protocol: layer2
  addresses: [172.25.1.100-172.25.1.200]
"""


PEER = "peers: [{peer-address: 10.0.0.1, peer-asn: 64501, my-asn: 64500, %s}]"


def wrap(config: str) -> str:
    indented = "".join(f"    {line}\n" for line in config.splitlines())
    return (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  namespace: metallb-system\n  name: config\n"
        f"data:\n  config: |\n{indented}"
    )


def taken(text: str) -> Intake:
    return take_in(parse_documents(text, "metallb.yaml"))


@pytest.mark.parametrize("text", [SNIPPET, wrap(SNIPPET)], ids=["bare", "wrapped"])
def test_the_snippet_everyone_pastes(text: str) -> None:
    intake = taken(text)

    assert intake.reports == ()
    assert [(str(m), m.body["spec"]) for m in intake.manifests] == [
        ("IPAddressPool metallb-system/default", {"addresses": ["172.25.1.100-172.25.1.200"]}),
        ("L2Advertisement metallb-system/default", {"ipAddressPools": ["default"]}),
    ]


def test_a_full_bgp_configuration() -> None:
    intake = taken("""
peers:
- {peer-address: 10.0.0.1, peer-asn: 64501, my-asn: 64500, hold-time: 30s, bfd-profile: fast,
   node-selectors: [{match-labels: {rack: "1"}}]}
bgp-communities: {no-export: "65535:65281"}
bfd-profiles: [{name: fast, receive-interval: 100}]
address-pools:
- name: edge
  protocol: bgp
  auto-assign: false
  avoid-buggy-ips: true
  addresses: [198.51.100.0/24]
  bgp-advertisements:
  - {aggregation-length: 32, localpref: 100, communities: [no-export]}
  - {aggregation-length: 24}
""")

    assert intake.reports == ()
    assert {str(m): m.body["spec"] for m in intake.manifests} == {
        "BFDProfile metallb-system/fast": {"receiveInterval": 100},
        "Community metallb-system/communities": {"communities": [{"name": "no-export", "value": "65535:65281"}]},
        "IPAddressPool metallb-system/edge": {
            "addresses": ["198.51.100.0/24"],
            "autoAssign": False,
            "avoidBuggyIPs": True,
        },
        "BGPAdvertisement metallb-system/edge": {
            "ipAddressPools": ["edge"],
            "aggregationLength": 32,
            "localPref": 100,
            "communities": ["no-export"],
        },
        "BGPAdvertisement metallb-system/edge-2": {"ipAddressPools": ["edge"], "aggregationLength": 24},
        "BGPPeer metallb-system/peer-10.0.0.1": {
            "myASN": 64500,
            "peerASN": 64501,
            "peerAddress": "10.0.0.1",
            "holdTime": "30s",
            "bfdProfile": "fast",
            "nodeSelectors": [{"matchLabels": {"rack": "1"}}],
        },
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SNIPPET.replace("layer2", "l2"), "address-pools[0].protocol: pool 'default': the protocol is 'l2'"),
        (SNIPPET.replace("  protocol: layer2\n", ""), "pool 'default': the protocol is missing"),
        (SNIPPET.replace("addresses", "adresses"), "address-pools[0].adresses: is no field here"),
        (SNIPPET + SNIPPET.partition("\n")[2], "address-pools[1].name: 'default' is given twice"),
        ("peers: [{peer-address: 10.0.0.1, my-asn: 1}]", "peers[0].peer-asn: is needed"),
        ("address-pools: {name: x}", "address-pools: must be a list"),
        ("address-pools: [x]", "address-pools[0]: must be a mapping"),
        (SNIPPET.replace("layer2", "BGP"), "the protocol is 'BGP'; it must be layer2 or bgp"),
        (SNIPPET.replace("- name: default\n ", "-"), "address-pools[0].name: is needed"),
        (SNIPPET.replace("[172.25.1.100-172.25.1.200]", "[]"), "pool 'default' has no addresses"),
        (SNIPPET + "  bgp-advertisements: [{aggregation-length: 24}]\n", "pool 'default' has protocol layer2"),
        (
            SNIPPET.replace("layer2", "bgp") + "  bgp-advertisements: [{aggregationLength: 24}]\n",
            "address-pools[0].bgp-advertisements[0].aggregationLength: is no field here",
        ),
        (SNIPPET + "address-pool: []\n", "address-pool: is no field of MetalLB's configuration"),
        ("peer-autodiscovery: {}", "peer-autodiscovery: is not supported; write the peers"),
        (PEER % "node-selectors: {rack: a}", "peers[0].node-selectors: must be a list"),
        (PEER % "node-selectors: [rack]", "peers[0].node-selectors[0]: must be a mapping"),
        (PEER % "node-selectors: [{matchLabels: {a: b}}]", "peers[0].node-selectors[0].matchLabels: is no field here"),
        (PEER % "hold: 3s", "peers[0].hold: is no field here"),
        ("bgp-communities: [a]", "bgp-communities: must map names to communities"),
        ("bfd-profiles: [{receive-interval: 10}]", "bfd-profiles[0].name: is needed"),
        ("bfd-profiles: [{name: a, interval: 10}]", "bfd-profiles[0].interval: is no field here"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_what_it_does_not_know_is_refused_by_name(config: str, said: str, wrapped: bool) -> None:
    intake = taken(wrap(config) if wrapped else config)

    assert said in str(intake.reports[0])
    assert intake.manifests == ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SNIPPET.replace("172.25.1.100-", ""), "spec.addresses[0]: '172.25.1.200' is neither a CIDR nor a range"),
        (SNIPPET + "  auto-assign: maybe\n", "spec.autoAssign: must be true or false, not the text 'maybe'"),
        (PEER.replace("64501", "x") % "hold-time: 9s", "spec.peerASN: must be a whole number, not the text 'x'"),
        (PEER % "hold-time: 1s", "spec.holdTime: is 0, or between 3s and 65535s"),
        (PEER % "peer-port: 70000", "spec.peerPort: "),
        ("bgp-communities: {a: x}", "spec.communities[0].value: 'x' is no community"),
        ("bfd-profiles: [{name: a, receive-interval: 1}]", "spec.receiveInterval: is 1; the least is 10"),
    ],
)
def test_what_it_becomes_is_checked_as_if_it_had_been_written(config: str, said: str) -> None:
    (first, *_) = taken(config).manifests

    assert str(check(first)[0]).startswith(said)


def test_another_config_map_is_skipped() -> None:
    intake = taken("{apiVersion: v1, kind: ConfigMap, metadata: {name: web}, data: {config: 'a: b'}}")

    assert [str(s) for s in intake.skipped] == ["ConfigMap web (v1)"]


def test_the_kind_address_pool_of_metallb_0_13() -> None:
    intake = taken("""
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: old, namespace: metallb-system}
spec: {protocol: layer2, autoAssign: false, addresses: [192.0.2.0/28]}
""")

    assert [(str(m), m.body["spec"]) for m in intake.manifests] == [
        ("IPAddressPool metallb-system/old", {"addresses": ["192.0.2.0/28"], "autoAssign": False}),
        ("L2Advertisement metallb-system/old", {"ipAddressPools": ["old"]}),
    ]
