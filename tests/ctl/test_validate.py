"""Each rule about a field, by the words that its breach is answered with; the cases are in answers.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from felixpy.ctl.intake import take_in
from felixpy.ctl.manifests import Severity
from felixpy.ctl.validate import check
from felixpy.ctl.yaml_text import parse_documents
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
    unchecked = {"Pod", "ServiceAccount", "Secret", "Event", "KubeControllersConfiguration", "IPAMConfiguration"}
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


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_rules_have_calicos_limit(direction: str) -> None:
    spec = f"spec: {{{direction}: [{', '.join(['{action: Deny}'] * 1025)}]}}"
    assert problems("NetworkPolicy", spec) == [f"spec.{direction}: has 1025 entries; the most is 1024"]


def test_a_kind_without_rules_is_taken_as_it_is() -> None:
    assert problems("Secret", "data: {a: b}\nwhatever: [1]") == []
