"""Names of devices in endpoints are names that the kernel takes, since they end up in paths and in nftables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from felixpy.resources.codec import Decoder
from felixpy.resources.resource import Broken
from felixpy.resources.tables import Decoded

CALICO = "/calico/resources/v3/projectcalico.org"


def read(key: str, spec: dict[str, Any]) -> Decoded | Broken | None:
    return Decoder("n1").decode(f"{CALICO}/{key}".encode(), json.dumps({"metadata": {}, "spec": spec}).encode())


def read_both(interface: str) -> list[Decoded | Broken | None]:
    return [
        read("workloadendpoints/ns1/w", {"node": "n1", "interfaceName": interface}),
        read("hostendpoints/h", {"node": "n1", "interfaceName": interface}),
    ]


@pytest.mark.parametrize("interface", ["cali0123456789a", "eth0.100", "br-é"])
def test_a_name(interface: str) -> None:
    assert all(isinstance(one, Decoded) for one in read_both(interface))


@pytest.mark.parametrize("interface", ["cali0123456789ab", "../all", "a/b", "..", "a b", "eth0:1", "", "é" * 8, "a\0b"])
def test_no_name(interface: str) -> None:
    found = read_both(interface)
    assert [one.field for one in found if isinstance(one, Broken)] == ["spec.interfaceName"] * 2


def test_every_interface_and_none() -> None:
    assert isinstance(read("hostendpoints/h", {"node": "n1", "interfaceName": "*"}), Decoded)
    assert isinstance(read("hostendpoints/h", {"node": "n1", "expectedIPs": ["10.0.0.1"]}), Decoded)
