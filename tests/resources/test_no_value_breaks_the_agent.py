"""Whatever stands in etcd, reading it and calculating with it raises nothing: one bad value must not end every agent.

Values are made from the documents' own shapes, out of texts and numbers that are wrong in interesting ways.
"""

from __future__ import annotations

import json
import random
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from felixpy.calc.announcing.announce import AnnounceCalc
from felixpy.calc.announcing.layer2 import Layer2Calc
from felixpy.calc.bgp.speaker import derive_bgp
from felixpy.calc.graph import Graph
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.translate import Translator
from felixpy.resources import documents
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import KINDS, Name
from felixpy.resources.readers import READERS
from felixpy.resources.resource import Broken
from felixpy.resources.tables import Decoded
from felixpy.resources.view import View

ROUNDS = 150
TEXTS = (
    "", "x", "²", "٣", "1.2.3.4", "1.2.3.²", "10.0.0.0/8", "1.2.3.4/33", "::1/128", "fd00::/8", "10.0.0.1:x",
    "[::1]:x", "[::1]", "a == 'b'", "all()", "!", "tcp", "TCP", "99999999999", "-1", "1m", "1s²", "Always",
    "Allow", "Deny", "Pass", "Log", "In", "NotIn", "Exists", "ee:ee:ee:ee:ee:ee", "a/b", "default", "Local",
    "Cluster", "LoadBalancer", "ClusterIP", "10.0.0.1-10.0.0.9", "10.0.0.9-10.0.0.1", "::1-10.0.0.1", "1:2",
    "4200000001:100", "a:b", "host:n1", "host:x", "0.0.0.0/0", "80:90", "90:80", "Ingress", "Egress", "eth0",
    "IPv4", "IPv6", "n1",
)  # fmt: skip
NUMBERS = (0, 1, -1, 4, 6, 99, 255, 256, 65535, 65536, 1 << 32, 1 << 63, -(1 << 40))
KEYS = (
    "name",
    "key",
    "secretKeyRef",
    "a",
    "x/y",
    "",
    "vxlanVNI",
    "interfacePrefix",
    "failsafeInboundHostPorts",
    "logPrefix",
)
UNFORESEEN = re.compile(r"(Key|Value|Type|Attribute|Index|Overflow|Assertion|Unicode\w*|Zero\w*)Error: ")


def make(shape: Any, rng: random.Random) -> Any:
    """Some JSON value of a type, more or less."""
    origin = typing.get_origin(shape)
    arguments = typing.get_args(shape)
    if origin in (typing.Union, types.UnionType):
        return make(rng.choice(arguments), rng)
    if origin in (list, tuple, Sequence):
        return [make(arguments[0], rng) for _ in range(rng.choice((0, 1, 1, 2)))]
    if origin in (dict, Mapping):
        return {rng.choice(KEYS): make(arguments[1], rng) for _ in range(rng.choice((0, 1, 2)))}
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        fields = msgspec.structs.fields(shape)
        return {one.encode_name: make(one.type, rng) for one in fields if one.required or rng.random() < 0.5}
    plain: dict[Any, Any] = {
        str: TEXTS,
        int: NUMBERS,
        bool: (True, False),
        float: (0.5, -1e300, 100.0),
        type(None): (None,),
    }
    return rng.choice(plain.get(shape, (None, 1, "x", {}, [], {"a": 1}, "10.0.0.1/32")))


SOURCES: dict[str, Any] = {
    info.key(Name("ns", "p.x") if info.namespaced else Name("", "n1")): READERS[info.group, info.kind][1]
    for info in KINDS
    if (info.group, info.kind) in READERS
}
SOURCES["/calico/resources/v3/projectcalico.org/workloadendpoints/ns/n1-k8s-p-eth0"] = documents.EndpointDoc
SOURCES["/calico/ipam/v2/assignment/ipv4/block/255.255.255.192-26"] = documents.BlockDoc
SOURCES["/felixpy/grants/addresses/1.2.3.4"] = documents.GrantDoc


class Everything:
    """All that reads resources, as the agent composes it."""

    def __init__(self) -> None:
        self.view, self.graph = View(), Graph("n1")
        self.translator = Translator(self.graph.sets.members)
        self.services, self.announce, self.layer2 = ServiceCalc("n1"), AnnounceCalc("n1"), Layer2Calc("n1")

    def take(self, decoded: Decoded) -> None:
        ref, value = decoded
        self.view.put(ref, value)
        for one in (self.graph, self.services, self.announce, self.layer2):
            one.update(ref, value)
        delta = self.services.flush()
        self.announce.update_frontends(delta)
        self.layer2.update_frontends(delta)
        self.announce.flush()
        self.layer2.flush()
        self.translator.translate(self.graph.flush(), Changes())
        derive_bgp(self.view.tables, "n1", self.announce.announcements.values())


@pytest.mark.parametrize("key", sorted(SOURCES), ids=lambda key: "/".join(key.split("/")[-3:]))
def test_no_value_raises(key: str) -> None:
    rng, decoder, everything = random.Random(key), Decoder("n1"), Everything()
    for base, name in (("nodes", "n1"), ("ippools", "p")):
        spec = {"bgp": {"ipv4Address": "10.0.0.1/24"}} if base == "nodes" else {"cidr": "255.255.0.0/16"}
        body = json.dumps({"metadata": {"name": name}, "spec": spec}).encode()
        decoded = decoder.decode(f"/calico/resources/v3/projectcalico.org/{base}/{name}".encode(), body)
        assert isinstance(decoded, Decoded)
        everything.take(decoded)
    for _ in range(ROUNDS):
        value = json.dumps(make(SOURCES[key], rng)).encode()
        decoded = decoder.decode(key.encode(), value)
        if isinstance(decoded, Broken):
            assert not UNFORESEEN.match(decoded.why), f"{value!r}: {decoded}"
        elif decoded is not None:
            try:
                everything.take(decoded)
            except Exception as error:
                raise AssertionError(f"{value!r} raises {error!r}") from error
