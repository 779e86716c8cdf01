"""What a selector cannot say is refused where it is read: further in, nothing could read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from felixpy.resources.codec import Decoder
from felixpy.resources.resource import Broken

KUBERNETES = "/felixpy/resources/networking.k8s.io/v1/networkpolicies/ns/p"
CALICO = "/calico/resources/v3/projectcalico.org/networkpolicies"
BOTH = 'it\'s "quoted"'


def read(key: str, spec: dict[str, Any]) -> object:
    return Decoder("n1").decode(key.encode(), json.dumps({"metadata": {"name": "p"}, "spec": spec}).encode())


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        ({"matchLabels": {"": "x"}}, "spec.podSelector.matchLabels"),
        ({"matchLabels": {"a b": "x"}}, "spec.podSelector.matchLabels"),
        ({"matchLabels": {"a": BOTH}}, "spec.podSelector.matchLabels"),
        ({"matchExpressions": [{"key": "!", "operator": "Exists"}]}, "spec.podSelector.matchExpressions[0].key"),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", BOTH]}]},
            "spec.podSelector.matchExpressions[0].values",
        ),
    ],
    ids=str,
)
def test_labels_and_values(selector: dict[str, Any], field: str) -> None:
    broken = read(KUBERNETES, {"podSelector": selector})
    assert isinstance(broken, Broken)
    assert broken.field == field


def test_service_accounts_and_namespaces() -> None:
    rule = {"action": "Allow", "source": {"serviceAccounts": {"names": [BOTH]}}}
    broken = read(f"{CALICO}/ns/p", {"ingress": [rule]})
    assert isinstance(broken, Broken)
    assert broken.field == "spec.ingress[0].source.serviceAccounts.names"
    assert isinstance(read(f"{CALICO}/{BOTH.replace(' ', '')}/p", {}), Broken)
