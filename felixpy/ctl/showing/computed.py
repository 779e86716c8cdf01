"""Kinds that are computed when they are asked for: what MetalLB's speakers write, from what is really so.

In: grants, and what the nodes said; out: objects in MetalLB's form. Nothing of them is in etcd: Services times nodes
are too many to keep there, and what was written may no longer be so.
Source: metallb api/v1beta1 (ServiceL2Status, ServiceBGPStatus).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from felixpy.addresses import Address, format_address, parse_prefix
from felixpy.ctl.asking import survey
from felixpy.ctl.manifests import Body, Json
from felixpy.ctl.showing.selection import Found
from felixpy.datastore.model import KeyValue, Store
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import GRANTS_PREFIX, KindInfo, Name
from felixpy.resources.service_types import Grant
from felixpy.resources.tables import Decoded
from felixpy.status import BgpStatus, NodeStatus, Want

L2_STATUS = KindInfo("ServiceL2Status", "metallb.io/v1beta1", "servicel2statuses", True, ("servicel2status",))
BGP_STATUS = KindInfo("ServiceBGPStatus", "metallb.io/v1beta1", "servicebgpstatuses", True, ("servicebgpstatus",))
COMPUTED = (L2_STATUS, BGP_STATUS)


def computed_named(words: str) -> tuple[KindInfo, ...]:
    """The computed kinds that a comma-separated list names; none unless all of it are."""
    asked = [word.lower() for word in words.split(",")]
    found = [info for word in asked for info in COMPUTED if word in {info.kind.lower(), info.plural, *info.short}]
    return tuple(dict.fromkeys(found)) if len(found) == len(asked) else ()


async def compute(store: Store, kinds: Iterable[KindInfo], namespace: str | None) -> tuple[Found, ...]:
    """The objects of these kinds, as the nodes are now; no namespace means all."""
    answers = await survey(store, (), (Want.ANNOUNCED,))
    pairs = (await store.snapshot([GRANTS_PREFIX.encode()])).items
    made = [one for info in kinds for one in derive_statuses(info, pairs, answers.nodes)]
    return tuple(one for one in made if namespace in (None, one.name.namespace))


def derive_statuses(
    info: KindInfo, pairs: Iterable[KeyValue], nodes: Mapping[str, NodeStatus | None]
) -> Iterator[Found]:
    """One object for each Service and node that answers for it (at layer 2), or tells a peer of it (BGP)."""
    addresses: dict[Name, list[Address]] = {}
    decoder = Decoder("")
    for pair in pairs:
        decoded = decoder.decode(pair.key, pair.value)
        if isinstance(decoded, Decoded) and isinstance(decoded.value, Grant):
            for service in decoded.value.services:
                addresses.setdefault(service, []).append(decoded.value.address)
    for service, held in sorted(addresses.items()):
        for node, status in nodes.items():
            if status is None:
                continue
            field, names = ("interfaces", _interfaces(status, held)) if info == L2_STATUS else ("peers", [])
            if info == BGP_STATUS and status.bgp is not None:
                names = _peers(status.bgp, held)
            if names:
                shown: list[Json] = [{"name": name} for name in names] if info == L2_STATUS else list(names)
                yield _found(info, service, node, {field: shown})


def _interfaces(status: NodeStatus, held: Iterable[Address]) -> list[str]:
    texts = set(map(format_address, held))
    stands = status.layer2.addresses if status.layer2 is not None else ()
    return sorted({one.interface for one in stands if one.owns and one.address in texts})


def _peers(bgp: BgpStatus, held: Iterable[Address]) -> list[str]:
    """The peers that are told of one of the addresses, by the names of the objects that ask for their sessions."""
    found: set[str] = set()
    for address in held:
        for one in bgp.announcements:
            if not parse_prefix(one.prefix).contains(address):
                continue
            for session in bgp.sessions:
                askers = [word.rpartition(" ")[2] for word in session.asked_by]
                told = not one.peers or any(name in one.peers for name in askers)
                if session.established and told and not bgp.no_speaker:
                    found.update(askers or [session.address])
    return sorted(found)


def _found(info: KindInfo, service: Name, node: str, status: dict[str, Json]) -> Found:
    name = Name(service.namespace, f"{service.name}-{node}")
    labels: dict[str, Json] = {
        "metallb.io/node": node,
        "metallb.io/service-name": service.name,
        "metallb.io/service-namespace": service.namespace,
    }
    body: Body = {
        "apiVersion": info.api_version,
        "kind": info.kind,
        "metadata": {"name": name.name, "namespace": name.namespace, "labels": labels},
        "spec": {},
        "status": {"node": node, "serviceName": service.name, "serviceNamespace": service.namespace, **status},
    }
    return Found(info, name, name, body)
