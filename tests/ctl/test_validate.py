"""Each rule about a field, by the words that its breach is answered with; the cases are in answers.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from felixpy.ctl.manifests import Severity
from felixpy.ctl.reading.intake import take_in
from felixpy.ctl.reading.yaml_text import parse_documents
from felixpy.ctl.validate import check
from felixpy.ctl.validate.nodes import FelixSpec
from felixpy.resources.felix import FELIX_FIELDS
from felixpy.resources.kinds import KINDS

ANSWERS = Path(__file__).with_name("answers.yaml")


def problems(kind: str, fields: str, version: str = "") -> list[str]:
    """Errors bare, warnings with their word, of an object with these fields."""
    version = version or next(info.api_version for info in KINDS if info.kind == kind)
    metadata = "" if "metadata:" in fields else "metadata: {name: x}\n"
    intake = take_in(parse_documents(f"apiVersion: {version}\nkind: {kind}\n{metadata}{fields}", "f.yaml"))
    assert intake.reports == ()
    words = {Severity.ERROR: "", Severity.WARNING: "warning: "}
    return [f"{words[problem.severity]}{problem}" for problem in check(intake.manifests[0])]


def answers() -> Iterator[tuple[str, str, str, str]]:
    (document,) = parse_documents(ANSWERS.read_text(), ANSWERS.name)
    cases = document.body["answers"]
    assert isinstance(cases, list)
    for case in cases:
        assert isinstance(case, dict)
        yield str(case["kind"]), str(case.get("version", "")), str(case["given"]), str(case["said"])


@pytest.mark.parametrize(("kind", "version", "given", "said"), list(answers()))
def test_answers(kind: str, version: str, given: str, said: str) -> None:
    assert problems(kind, given, version)[0].startswith(said)


def test_every_kind_with_rules_has_a_case() -> None:
    unchecked = {"Pod", "ServiceAccount", "Secret", "Event", "IPAMConfiguration"}
    assert {info.kind for info in KINDS} - {kind for kind, *_ in answers()} == unchecked


def test_all_errors_of_an_object_come_at_once() -> None:
    found = problems(
        "NetworkPolicy",
        """\
metadata: {name: Web_1, labels: {version: 1.10, 'a b': c}, annotations: {n: 3}}
spec:
  selector: app = 1
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [1, 99999, x y]}}, {action: allow}]
""",
    )

    assert [line.partition(": ")[0] for line in found] == [
        "metadata.name",
        "metadata.labels.version",
        "metadata.labels['a b']",
        "metadata.annotations.n",
        "spec.selector",
        "spec.ingress[0].destination.ports[1]",
        "spec.ingress[0].destination.ports[2]",
        "spec.ingress[1].action",
    ]


def test_rules_between_fields_are_among_them() -> None:
    found = problems(
        "GlobalNetworkPolicy",
        """\
spec:
  order: x
  doNotTrack: true
  preDNAT: true
  types: [Ingress, Up, Ingress]
  ingress:
  - {action: Maybe, icmp: {code: 3}, source: {services: {name: x}, nets: [x, 10.0.0.0/8]}}
  - {action: Allow, protocol: 300, icmp: {type: 1}, destination: {ports: [1]}}
  - {action: Allow, ipVersion: 4, source: {nets: [10.0.0.0/99, 'fd00::/8']}}
  egress: [{action: Allow}]
""",
    )
    assert found == [
        "spec.order: must be a number, not the text 'x'",
        "spec.types[1]: the text 'Up' is not Ingress or Egress",
        "spec.ingress[0].action: the text 'Maybe' is not Allow, Deny, Log or Pass",
        "spec.ingress[0].icmp.code: needs a type beside it",
        "spec.ingress[0].source.nets[0]: 'x' has no prefix length",
        "spec.ingress[1].protocol: the number 300 is no protocol (TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or 1-255)",
        "spec.ingress[2].source.nets[0]: '10.0.0.0/99' has no prefix length between 0 and 32",
        "spec.ingress[0].source.nets: cannot stand beside services",
        "spec.ingress[0].icmp: needs protocol ICMP or ICMPv6 in the same rule",
        "spec.ingress[2].source.nets[1]: 'fd00::/8' is not of ipVersion 4",
        "spec.types: names a direction twice",
        "spec.egress: has rules, and types leaves out Egress: they would do nothing",
        "spec.preDNAT: cannot stand beside doNotTrack",
        "spec.applyOnForward: must be true with doNotTrack or preDNAT",
        "spec.egress: a preDNAT policy has no egress",
        "spec.ingress[0].source.services.namespace: is needed in a global policy",
    ]


TAKEN = (
    ("NetworkPolicy", "spec: {ingress: [{action: Allow, destination: {ports: [web]}, source: {notPorts: [dns]}}]}"),
    ("NetworkPolicy", "spec: {ingress: [{action: Allow, source: {namespaceSelector: global()}}]}"),
    ("NetworkPolicy", "metadata: {name: knp.default.some.long.name}"),
    ("NetworkPolicy", "spec: {ingress: [{action: Deny, source: {nets: [0.0.0.0/0], notNets: [10.0.0.0/8]}}]}"),
    ("GlobalNetworkPolicy", "metadata: {name: default.web}"),
    ("StagedNetworkPolicy", "spec: {stagedAction: Delete, tier: default}"),
    ("GlobalNetworkSet", "spec: {nets: [10.0.0.1/8, 10.0.0.1, 'fd00::/8']}"),
)


@pytest.mark.parametrize(("kind", "given"), TAKEN)
def test_what_calico_takes_is_taken(kind: str, given: str) -> None:
    assert problems(kind, given) == []


def test_a_policy_may_be_as_long_as_calico_takes_it() -> None:
    nets = ", ".join(f"10.{one}.0.0/16" for one in range(256))
    ports = ", ".join(map(str, range(1, 100)))
    ends = f"source: {{nets: [{nets}, 172.16.0.0/12]}}, destination: {{ports: [{ports}]}}"
    rule = f"{{action: Allow, protocol: TCP, {ends}}}"
    selector = " || ".join(f"app == 'a{number}'" for number in range(200))
    spec = f'spec: {{selector: "{selector}", ingress: [{", ".join([rule, *["{action: Deny}"] * 1100])}]}}'

    assert problems("NetworkPolicy", spec) == []


def test_a_kind_without_rules_is_taken_as_it_is() -> None:
    assert problems("Secret", "data: {a: b}\nwhatever: [1]") == []


def test_settings_that_no_agent_reads_are_named() -> None:
    found = problems(
        "FelixConfiguration",
        """\
metadata: {name: default}
spec:
  bpfEnabled: true
  bpfLogLevel: Debug
  chainInsertMode: Append
  floatingIPs: Disabled
  ipv6Support: false
  logSeverityScreen: Info
  vxlanEnabled: true
  wireguardEnabled: false
  wireguardListeningPort: 51820
""",
    )

    unread = ("bpfEnabled", "bpfLogLevel", "chainInsertMode", "ipv6Support")
    assert found == [f"warning: spec.{field}: is kept, and not acted on yet" for field in unread]


def test_settings_that_would_be_passed_over_are_refused() -> None:
    found = problems(
        "FelixConfiguration",
        """\
metadata: {name: default}
spec:
  interfacePrefix: cali,eth
  logPrefix: 5
  prometheusMetricsEnabled: 'true'
  prometheusMetricsPort: 99999
  vxlanPort: nine
""",
    )

    assert [line.partition(": ")[0] for line in found] == [
        "spec.interfacePrefix",
        "spec.logPrefix",
        "spec.prometheusMetricsEnabled",
        "spec.prometheusMetricsPort",
        "spec.vxlanPort",
    ]
    assert "'eth' begins the name of interfaces of the node itself (eth0)" in found[0]


@pytest.mark.parametrize("prefix", ["", "cali", "cali,tap", "eni", "azv", "gke"])
def test_prefixes_of_pods_interfaces_are_taken(prefix: str) -> None:
    assert problems("FelixConfiguration", f"metadata: {{name: default}}\nspec: {{interfacePrefix: '{prefix}'}}") == []


@pytest.mark.parametrize("protocol", ["TCP", "tcp", "udp"])
def test_failsafe_ports_are_taken_as_calico_writes_them(protocol: str) -> None:
    ports = f"[{{net: '', protocol: {protocol}, port: 22}}]"
    spec = f"metadata: {{name: default}}\nspec: {{failsafeInboundHostPorts: {ports}}}"
    assert problems("FelixConfiguration", spec) == []


def test_the_address_that_calico_recommends_for_workloads_to_peer_with_is_taken() -> None:
    spec = "metadata: {name: default}\nspec: {asNumber: 64512, localWorkloadPeeringIPV6: fe80::179}"
    assert problems("BGPConfiguration", spec) == []


def test_every_setting_that_an_agent_reads_is_looked_at_before() -> None:
    assert set(FelixSpec.model_fields) >= FELIX_FIELDS
