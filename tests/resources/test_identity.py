"""A value that says that it is another object than its key says counts as missing: nothing is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from felixpy.resources.codec import Decoder
from felixpy.resources.resource import Broken
from felixpy.resources.tables import Decoded

CALICO = "/calico/resources/v3/projectcalico.org/"
GLOBAL, POLICY = f"{CALICO}globalnetworkpolicies/default.web", f"{CALICO}networkpolicies/ns/default.web"
ENDPOINT = f"{CALICO}workloadendpoints/ns/n1-k8s-p-eth0"
ADMIN = "/felixpy/resources/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies/first"


def decode(key: str, kind: str, version: str, metadata: dict[str, Any]) -> Decoded | Broken | None:
    spec = {"node": "n2"} if key == ENDPOINT else {"priority": 1, "subject": {"namespaces": {}}} if key == ADMIN else {}
    body = {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec}
    return Decoder("n1").decode(key.encode(), json.dumps({k: v for k, v in body.items() if v != ""}).encode())


@pytest.mark.parametrize(
    ("key", "kind", "version", "metadata", "field"),
    [
        (GLOBAL, "NetworkSet", "projectcalico.org/v3", {"name": "default.web"}, "kind"),
        (GLOBAL, "GlobalNetworkPolicy", "crd/v3", {"name": "default.web"}, "apiVersion"),
        (GLOBAL, "GlobalNetworkPolicy", "v1", {"name": "default.web"}, "apiVersion"),
        (GLOBAL, "GlobalNetworkPolicy", "projectcalico.org/v3", {"name": "default.other"}, "metadata.name"),
        (POLICY, "NetworkPolicy", "networking.k8s.io/v1", {"name": "web", "namespace": "ns"}, "apiVersion"),
        (POLICY, "NetworkPolicy", "projectcalico.org/v3", {"name": "web", "namespace": "other"}, "metadata.namespace"),
        (ENDPOINT, "WorkloadEndpoint", "projectcalico.org/v3", {"name": "n2-k8s-p-eth0"}, "metadata.name"),
        (ENDPOINT, "Pod", "v1", {"name": "n1-k8s-p-eth0"}, "kind"),
        (ADMIN, "BaselineAdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1", {"name": "first"}, "kind"),
    ],
)
def test_another_object_is_named(key: str, kind: str, version: str, metadata: dict[str, Any], field: str) -> None:
    broken = decode(key, kind, version, metadata)
    assert isinstance(broken, Broken)
    assert (broken.key, broken.field) == (key, field)


@pytest.mark.parametrize(
    ("key", "kind", "version", "metadata"),
    [
        (GLOBAL, "GlobalNetworkPolicy", "projectcalico.org/v3", {"name": "web"}),
        (GLOBAL.replace("default.", ""), "GlobalNetworkPolicy", "projectcalico.org/v3", {"name": "default.web"}),
        (POLICY, "NetworkPolicy", "projectcalico.org/v3", {"name": "default.web", "namespace": "ns"}),
        (POLICY, "", "", {}),
        (ENDPOINT, "WorkloadEndpoint", "projectcalico.org/v3", {"name": "n1-k8s-p-eth0", "namespace": "ns"}),
        (ADMIN, "AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha2", {"name": "first", "namespace": ""}),
    ],
)
def test_the_same_object_is_read_however_releases_write_it(
    key: str, kind: str, version: str, metadata: dict[str, Any]
) -> None:
    assert isinstance(decode(key, kind, version, metadata), Decoded)
