"""Which servers the node itself needs, from what it was told."""

from __future__ import annotations

import pytest

from felixpy.addresses import parse_address
from felixpy.agent.reserved import find_reserved
from felixpy.dataplane.chains.host import Reserved
from felixpy.datastore.settings import EtcdSettings, parse_endpoints

API = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.mark.parametrize(
    ("etcd", "environment", "expected"),
    [
        ("http://10.0.0.1:2380,https://[fd00::1]:2379", {}, [("10.0.0.1", 2380), ("fd00::1", 2379)]),
        ("http://10.0.0.1", API, [("10.0.0.1", 2379), ("10.96.0.1", 6443)]),
        ("unix:/run/etcd.sock:0", {}, []),
        ("http://localhost:5", {}, [("127.0.0.1", 5)]),
        ("http://no..name:5", {"KUBERNETES_SERVICE_HOST": ""}, []),
    ],
    ids=str,
)
def test_reserved(etcd: str, environment: dict[str, str], expected: list[tuple[str, int]]) -> None:
    found = find_reserved(EtcdSettings(parse_endpoints(etcd)), environment)
    wanted = {Reserved(parse_address(text), port) for text, port in expected}
    assert wanted <= set(found)
    assert all(len(one.address) == 16 for one in set(found) - wanted), "localhost may be ::1 as well"


def test_an_etcd_of_our_own_needs_nothing() -> None:
    assert find_reserved(None, {}) == ()
