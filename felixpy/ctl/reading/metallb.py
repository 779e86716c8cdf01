"""MetalLB's old configuration (a ConfigMap, before 0.13) as the kinds that replaced it.

In, out the parsed `config` text → bodies of IPAddressPool, L2Advertisement, BGPAdvertisement, BGPPeer, BFDProfile and
        Community. Their names follow from the configuration, so that applying it again changes the same objects.
Never   guesses: a field or protocol that it does not know is an error with its path.
Source  MetalLB configmaptocrs/types.go (names of fields).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from felixpy.ctl.manifests import Body, Json, Path, Problem

NAMESPACE = "metallb-system"
CONFIG_LABEL = "felixpy.io/configmap"
"""On what a ConfigMap became: its name, so that a later version of it takes away what it no longer says."""
TOP_FIELDS = frozenset({"address-pools", "peers", "bgp-communities", "bfd-profiles", "peer-autodiscovery"})

_POOL = {"addresses": "addresses", "auto-assign": "autoAssign", "avoid-buggy-ips": "avoidBuggyIPs"}
_POOL_OTHER = {"name", "protocol", "bgp-advertisements"}
_ADVERTISEMENT = {
    "aggregation-length": "aggregationLength",
    "aggregation-length-v6": "aggregationLengthV6",
    "localpref": "localPref",
    "communities": "communities",
}
_PEER = {
    "my-asn": "myASN",
    "peer-asn": "peerASN",
    "peer-address": "peerAddress",
    "source-address": "sourceAddress",
    "peer-port": "peerPort",
    "hold-time": "holdTime",
    "keepalive-time": "keepaliveTime",
    "router-id": "routerID",
    "password": "password",
    "bfd-profile": "bfdProfile",
    "ebgp-multihop": "ebgpMultiHop",
}
_SELECTOR = {"match-labels": "matchLabels", "match-expressions": "matchExpressions"}
_PROFILE = {
    "receive-interval": "receiveInterval",
    "transmit-interval": "transmitInterval",
    "detect-multiplier": "detectMultiplier",
    "echo-interval": "echoInterval",
    "echo-mode": "echoMode",
    "passive-mode": "passiveMode",
    "minimum-ttl": "minimumTtl",
}


@dataclass(frozen=True, slots=True)
class Converted:
    """The bodies that a configuration becomes, in an order that can be applied, and what is wrong with it."""

    bodies: tuple[Body, ...] = ()
    problems: tuple[Problem, ...] = ()


def is_config(body: Body) -> bool:
    """Whether a document is the old configuration itself, without its ConfigMap."""
    return "kind" not in body and "apiVersion" not in body and bool(TOP_FIELDS & body.keys())


def convert_config(config: Body, namespace: str = NAMESPACE) -> Converted:
    """All of a configuration; where it has problems there are no bodies, since half of it may announce wrong things."""
    bodies: list[Body] = []
    problems: list[Problem] = [
        Problem((key,), f"is no field of MetalLB's configuration; those are {', '.join(sorted(TOP_FIELDS))}")
        for key in config
        if key not in TOP_FIELDS
    ]
    if "peer-autodiscovery" in config:
        problems.append(Problem(("peer-autodiscovery",), "is not supported; write the peers"))
    for result in (
        *(_profile(item, path, namespace) for item, path in _items(config, "bfd-profiles", problems)),
        _communities(config.get("bgp-communities"), namespace),
        *(_pool(item, path, namespace) for item, path in _items(config, "address-pools", problems)),
        *(_peer(item, path, namespace) for item, path in _items(config, "peers", problems)),
    ):
        bodies += result.bodies
        problems += result.problems
    problems += _doubles(config)
    return Converted((), tuple(problems)) if problems else Converted(tuple(bodies))


def labelled(converted: Converted, config_map: str) -> Converted:
    """The same bodies, marked as coming from a ConfigMap of this name."""
    marked: list[Body] = []
    for body in converted.bodies:
        metadata = body.get("metadata")
        given = metadata if isinstance(metadata, dict) else {}
        marked.append({**body, "metadata": {**given, "labels": {CONFIG_LABEL: config_map}}})
    return Converted(tuple(marked), converted.problems)


def convert_address_pool(body: Body, namespace: str) -> Converted:
    """The kind AddressPool of MetalLB 0.13, which had a pool's protocol inside."""
    metadata, spec = body.get("metadata"), body.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        return Converted((), (Problem((), "needs metadata and spec"),))
    back = {new: old for old, new in (_POOL | _ADVERTISEMENT).items()} | {"bgpAdvertisements": "bgp-advertisements"}
    old = {back.get(key, key): value for key, value in spec.items()} | {"name": metadata.get("name")}
    advertisements = old.get("bgp-advertisements")
    if isinstance(advertisements, list):
        old["bgp-advertisements"] = [
            {back.get(key, key): value for key, value in item.items()} if isinstance(item, dict) else item
            for item in advertisements
        ]
    return _pool(old, ("spec",), namespace)


def _items(config: Body, field: str, problems: list[Problem]) -> Iterator[tuple[dict[str, Json], Path]]:
    value = config.get(field, [])
    if not isinstance(value, list):
        problems.append(Problem((field,), "must be a list"))
        return
    for index, item in enumerate(value):
        if isinstance(item, dict):
            yield item, (field, index)
        else:
            problems.append(Problem((field, index), "must be a mapping"))


def _pool(pool: dict[str, Json], path: Path, namespace: str) -> Converted:
    name = pool.get("name")
    problems = list(_strangers(pool, _POOL.keys() | _POOL_OTHER, path))
    if not isinstance(name, str) or not name:
        return Converted((), (*problems, Problem((*path, "name"), "is needed")))
    if not pool.get("addresses"):
        problems.append(Problem((*path, "addresses"), f"pool {name!r} has no addresses"))
    bodies = [_body("v1beta1", "IPAddressPool", name, namespace, _renamed(pool, _POOL))]
    match pool.get("protocol"):
        case "layer2":
            if "bgp-advertisements" in pool:
                problems.append(Problem((*path, "bgp-advertisements"), f"pool {name!r} has protocol layer2"))
            bodies.append(_body("v1beta1", "L2Advertisement", name, namespace, {"ipAddressPools": [name]}))
        case "bgp":
            advertisements = pool.get("bgp-advertisements") or [{}]
            for index, item in enumerate(advertisements if isinstance(advertisements, list) else [advertisements]):
                where = (*path, "bgp-advertisements", index)
                if not isinstance(item, dict):
                    problems.append(Problem(where, "must be a mapping"))
                    continue
                problems += _strangers(item, _ADVERTISEMENT.keys(), where)
                spec: dict[str, Json] = {"ipAddressPools": [name], **_renamed(item, _ADVERTISEMENT)}
                suffix = f"-{index + 1}" if index else ""
                bodies.append(_body("v1beta1", "BGPAdvertisement", name + suffix, namespace, spec))
        case other:
            said = f"{other!r}" if other is not None else "missing"
            problems.append(
                Problem((*path, "protocol"), f"pool {name!r}: the protocol is {said}; it must be layer2 or bgp")
            )
    return Converted(tuple(bodies), tuple(problems))


def _peer(peer: dict[str, Json], path: Path, namespace: str) -> Converted:
    problems = list(_strangers(peer, _PEER.keys() | {"node-selectors"}, path))
    problems += [
        Problem((*path, field), "is needed") for field in ("my-asn", "peer-asn", "peer-address") if field not in peer
    ]
    spec = _renamed(peer, _PEER)
    selectors = peer.get("node-selectors")
    if selectors is not None:
        given = selectors if isinstance(selectors, list) else []
        problems += _selector_problems(selectors, (*path, "node-selectors"))
        spec["nodeSelectors"] = [_renamed(item, _SELECTOR) for item in given if isinstance(item, dict)]
    name = f"peer-{str(peer.get('peer-address')).replace(':', '-').strip('-')}"
    if "peer-port" in peer:
        name += f"-{peer['peer-port']}"
    return Converted((_body("v1beta2", "BGPPeer", name, namespace, spec),), tuple(problems))


def _selector_problems(selectors: Json, path: Path) -> Iterator[Problem]:
    """A selector that is not understood must not come to select all nodes."""
    if not isinstance(selectors, list):
        yield Problem(path, "must be a list")
        return
    for index, item in enumerate(selectors):
        if isinstance(item, dict):
            yield from _strangers(item, _SELECTOR, (*path, index))
        else:
            yield Problem((*path, index), "must be a mapping")


def _profile(profile: dict[str, Json], path: Path, namespace: str) -> Converted:
    name = profile.get("name")
    problems = list(_strangers(profile, _PROFILE.keys() | {"name"}, path))
    if not isinstance(name, str) or not name:
        return Converted((), (*problems, Problem((*path, "name"), "is needed")))
    return Converted((_body("v1beta1", "BFDProfile", name, namespace, _renamed(profile, _PROFILE)),), tuple(problems))


def _communities(aliases: Json, namespace: str) -> Converted:
    if aliases is None:
        return Converted()
    if not isinstance(aliases, dict):
        return Converted((), (Problem(("bgp-communities",), "must map names to communities"),))
    spec: dict[str, Json] = {"communities": [{"name": key, "value": value} for key, value in aliases.items()]}
    return Converted((_body("v1beta1", "Community", "communities", namespace, spec),))


def _doubles(config: Body) -> Iterator[Problem]:
    for field, key in (("address-pools", "name"), ("bfd-profiles", "name")):
        seen: set[str] = set()
        items = config.get(field)
        for index, item in enumerate(items if isinstance(items, list) else []):
            name = item.get(key) if isinstance(item, dict) else None
            if isinstance(name, str):
                if name in seen:
                    yield Problem((field, index, key), f"{name!r} is given twice")
                seen.add(name)


def _strangers(given: Mapping[str, Json], known: Iterable[str], path: Path) -> Iterator[Problem]:
    fields = set(known)
    for key in given:
        if key not in fields:
            yield Problem((*path, key), f"is no field here; those are {', '.join(sorted(fields))}")


def _renamed(old: Mapping[str, Json], names: Mapping[str, str]) -> dict[str, Json]:
    return {new: old[key] for key, new in names.items() if key in old}


def _body(version: str, kind: str, name: str, namespace: str, spec: dict[str, Json]) -> Body:
    return {
        "apiVersion": f"metallb.io/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
