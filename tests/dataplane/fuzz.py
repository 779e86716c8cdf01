"""Mutated policies, endpoints and sets: through the decoder, the calculations and the translation, and into a kernel.

A small world stands. One object after another is replaced with a broken form of itself, and then restored. What cannot
be read must be named with its key and field, and the world must be the one without it; what can be read may change
nothing about other policies; and when it goes again nothing of it may stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

from felixpy.calc.graph import Graph
from felixpy.dataplane.objects import Chain, Key, Kind, Object, Outcome, Put, PutMembers, Set
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.resources.codec import Decoder
from felixpy.resources.resource import Broken
from felixpy.resources.tables import Decoded, Ref
from tests.calc.policy_world import NODE
from tests.ctl.verdict_world import CALICO, KEYS, OURS, Json, Maker
from tests.dataplane.translate_world import Kernel

State = tuple[dict[Key, Object], dict[Set, dict[bytes, bytes]]]

TEXTS = (
    "", "x", "²", "٣", "\u0000", "\ud800", "💥" * 40, "a" * 300, "1.2.3.4", "1.2.3.²", "10.0.0.0/8", "1.2.3.4/33",
    "::/0", "fd00::1/127", "0.0.0.0/0", "all()", "!", "a == 'x", "has(", "a == 'x' && (" * 200, "global()", "80:90",
    "90:80", "0:65536", "-1", "*", "cali", "calip1", "eth0", "../../x", "a/b", "Allow", "deny", "TCP", "tcp", "255",
    "Ingress", "default", "kube-admin", "n1", "kns.ns1", "ns1", "ee:ee:ee:ee:ee:ee", "ff:ff", "%s%n",
    "$(x)", "'; flush",
)  # fmt: skip
ODD = (
    *TEXTS,
    0,
    1,
    -1,
    4,
    6,
    255,
    256,
    65535,
    65536,
    1 << 31,
    1 << 63,
    -(1 << 70),
    0.5,
    1e308,
    True,
    False,
    None,
    [],
    {},
)
ODDER: tuple[Any, ...] = (*ODD, [[]], [None], {"": None}, [1, "1", {}], {"a": {"b": {"c": []}}})
TIMES = (2, 3, 60, 300)
UNFORESEEN = re.compile(r"(Key|Value|Type|Attribute|Index|Overflow|Assertion|Unicode\w*|Zero\w*)Error: ")
FULL_LOOK = 5
"""One in so many of the refused is also taken out of the world, as the agent does, and all of the world compared."""
FIELDLESS = ("not JSON", "nested too deeply", "the key has")
"""How words begin that are about a value as a whole."""

ADMIN = f"{OURS}/policy.networking.k8s.io"
MORE: Mapping[str, Json] = {
    f"{CALICO}/felixconfigurations/default": {
        "metadata": {"name": "default"},
        "spec": {
            "vxlanPort": 4790,
            "logPrefix": "x",
            "interfacePrefix": "cali",
            "defaultEndpointToHostAction": "Accept",
            "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22, "net": "10.0.0.0/8"}],
            "natOutgoingAddress": "192.0.2.1",
            "floatingIPs": "Enabled",
        },
    },
    f"{CALICO}/hostendpoints/h1": {
        "metadata": {"name": "h1", "labels": {"a": "x"}},
        "spec": {
            "node": "n1",
            "interfaceName": "eth0",
            "expectedIPs": ["10.0.0.1", "fd00::1"],
            "profiles": ["pr1"],
            "ports": [{"name": "web", "protocol": "TCP", "port": 80}],
        },
    },
    f"{CALICO}/globalnetworkpolicies/host": {
        "metadata": {"name": "host"},
        "spec": {"selector": "a == 'x'", "doNotTrack": True, "applyOnForward": True, "ingress": [{"action": "Allow"}]},
    },
    f"{ADMIN}/v1alpha2/clusternetworkpolicies/c1": {
        "metadata": {"name": "c1"},
        "spec": {
            "tier": "Admin",
            "priority": 10,
            "subject": {"namespaces": {"matchLabels": {"env": "x"}}},
            "ingress": [
                {
                    "action": "Deny",
                    "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "x"}}}}],
                    "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 99}}}}],
                }
            ],
            "egress": [{"action": "Pass", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]}],
        },
    },
    f"{ADMIN}/v1alpha1/baselineadminnetworkpolicies/default": {
        "metadata": {"name": "default"},
        "spec": {
            "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}], "ports": [{"portNumber": {"port": 80}}]}],
        },
    },
}


def mutate(value: Any, random: Random) -> Any:
    """A copy with one thing, or a few, that nobody would write."""
    made = deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(made))
        holder, key = random.choice(places)
        kind = random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list) and len(places) < 500:
            holder.extend(deepcopy(holder[key]) for _ in range(random.choice(TIMES)))
        elif kind == 2 and isinstance(holder[key], dict):
            holder[key][random.choice(("x", "", "nets", "selector", "ports", "name"))] = deepcopy(random.choice(ODDER))
        elif kind == 3:
            other, there = random.choice(places)
            holder[key] = deepcopy(other[there])
        elif kind == 4 and isinstance(holder[key], str) and holder[key]:
            at = random.randrange(len(holder[key]))
            holder[key] = holder[key][:at] + random.choice(("", "'", " ", "/", "²", "0", ":")) + holder[key][at + 1 :]
        else:
            holder[key] = deepcopy(random.choice(ODDER))
        if not list(_places(made)):
            break
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everything inside, as what holds it and where."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def encode(value: Any, random: Random) -> bytes:
    """As JSON; one time in ten with bytes that are wrong."""
    text = json.dumps(value).encode()
    if random.randrange(10) or not text:
        return text
    at = random.randrange(len(text))
    cut = (text[:at], text[at:], text[:at] + bytes([random.randrange(256)]) + text[at + 1 :], text + text, b"[" * 3000)
    return random.choice(cut)


@dataclass
class Counts:
    """What became of the mutated ones."""

    refused: int = 0
    taken: int = 0
    changing: int = 0
    fields: set[str] = field(default_factory=set)


class Fuzzer:
    """A world, and what may happen to it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.maker = Maker(seed)
        self.world: dict[str, Json] = {**{key: self.maker.object(key) for key in KEYS}, **MORE}
        self.keys = list(self.world)
        self.decoder = Decoder(NODE)
        self.kernel = self._fresh(set())
        self.whole = _copied(self.kernel.state())
        self._without: dict[str, State] = {}
        self.counts = Counts()
        self._stirred = False

    def _fresh(self, left_out: set[str]) -> Kernel:
        kernel = Kernel()
        for key, value in self.world.items():
            if key not in left_out:
                self._put(kernel.graph, key, json.dumps(value).encode())
        kernel.flush()
        return kernel

    def _put(self, graph: Graph, key: str, value: bytes) -> None:
        decoded = self.decoder.decode(key.encode(), value)
        assert isinstance(decoded, Decoded), f"{key}: {decoded}"
        graph.update(*decoded)

    def without(self, key: str) -> State:
        """The state from scratch, without one object."""
        if key not in self._without:
            self._without[key] = _copied(self._fresh({key}).state())
        return self._without[key]

    def step(self, key: str) -> bool:
        """A mutated object comes; whether it changes what the kernel should hold."""
        fresh = self.maker.object(key) if key in KEYS and self.random.randrange(2) else self.world[key]
        value = encode(mutate(fresh, self.random), self.random)
        decoded = self.decoder.decode(key.encode(), value)
        try:
            changed = self._take(key, decoded)
        except Exception as error:
            raise AssertionError(f"{key} = {value!r} raises {error!r}") from error
        return changed

    def _take(self, key: str, decoded: object) -> bool:
        ref = self.decoder.ref_of(key)
        assert ref is not None
        if isinstance(decoded, Broken):
            self._refuse(key, ref, decoded)
            return False
        assert isinstance(decoded, Decoded), decoded
        assert decoded.ref == ref
        self.counts.taken += 1
        self._stirred = True
        self.kernel.graph.update(*decoded)
        self.kernel.flush()
        now = self.kernel.state()
        if "polic" in key:
            self._check_others(key, now)
        return now != self.whole

    def _refuse(self, key: str, ref: Ref, broken: Broken) -> None:
        assert broken.key == key
        assert broken.why, broken
        assert broken.field or broken.why.startswith(FIELDLESS) or "Expected `object`" in broken.why, broken
        assert not UNFORESEEN.match(broken.why), broken
        self.counts.refused += 1
        self.counts.fields.add(re.sub(r"\d+|\[\.\.\.\]", "n", broken.field))
        if self.counts.refused % FULL_LOOK:
            return
        self._stirred = True
        self.kernel.graph.update(ref, None)
        self.kernel.flush()
        assert self.kernel.state() == self.without(key)

    def _check_others(self, key: str, now: State) -> None:
        """The chains of other policies and of profiles are what they were."""
        own = {one for one in {*now[0], *self.whole[0]} if _is_own(one, key)}
        for one, was in self.whole[0].items():
            if one.kind is Kind.CHAIN and one not in own and _is_written(one):
                assert now[0].get(one) == was, f"{one} is another"

    def restore(self, key: str) -> None:
        """The world as it was."""
        self._put(self.kernel.graph, key, json.dumps(self.world[key]).encode())
        self.kernel.flush()
        self._stirred = False
        assert self.kernel.state() == self.whole

    def run(self, count: int) -> Iterator[Kernel]:
        """That many mutations; each that the kernel would see is yielded while it stands."""
        for _ in range(count):
            key = self.random.choice(self.keys)
            if self.step(key):
                self.counts.changing += 1
                yield self.kernel
            if self._stirred:
                self.restore(key)


def _copied(state: State) -> State:
    return dict(state[0]), {target: dict(members) for target, members in state[1].items()}


def _is_written(key: Key) -> bool:
    """Whether a chain is that of a policy or a profile."""
    return str(key.id[0]).startswith(("in-", "out-"))


def _is_own(key: Key, resource: str) -> bool:
    """Whether a chain is that of the policy at a key."""
    return str(key.id[0]).endswith(f"/{resource.rpartition('/')[2]}")


def chains_of(kernel: Kernel) -> list[Object]:
    """What netfilter should hold: sets and chains."""
    return [one for one in kernel.objects.values() if isinstance(one, Set | Chain)]


def load(driver: NftDriver, kernel: Kernel) -> list[Outcome]:
    """Gives all of it to the kernel; what the kernel refuses."""
    driver.destroy()
    members = [PutMembers(target, held) for target, held in kernel.members.items() if held]
    return [one for one in driver.apply([*map(Put, chains_of(kernel)), *members]) if one.error]
