"""What a node says of each Service that it answers for, or tells neighbours of, as MetalLB's speakers say it.

In: grants, and what is so (on which interfaces the responder has which address; which neighbour is told of what). Out:
bodies in MetalLB's form, by name. Pure.
Source  metallb api/v1beta1 (ServiceL2Status, ServiceBGPStatus), internal/k8s/controllers (labels).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.resources.kinds import REPORTED_KINDS, KindInfo, Name
from felixpy.resources.service_types import Grant

L2_STATUS, BGP_STATUS = REPORTED_KINDS
STATUSES_MOST = 50_000
"""Of each kind in a cluster: Services times nodes may be more than etcd should hold."""


def derive_l2_statuses(
    node: str, grants: Iterable[Grant], answered: Mapping[Address, Collection[str]], most: int
) -> Mapping[str, bytes]:
    """By key. `answered` are the addresses that this node answers for, and on which interfaces."""
    interfaces: dict[Name, set[str]] = {}
    for grant in grants:
        for service in grant.services if grant.address in answered else ():
            interfaces.setdefault(service, set()).update(answered[grant.address])
    shown = ((service, {"interfaces": [{"name": one} for one in sorted(some)]}) for service, some in interfaces.items())
    return dict(_render(L2_STATUS, node, shown, most))


def derive_bgp_statuses(
    node: str, grants: Iterable[Grant], told: Mapping[str, Collection[Prefix]], most: int
) -> Mapping[str, bytes]:
    """By key. `told` are the prefixes that each peer has been told, by the peer's name.

    Cost    a look a grant and peer for each length of the prefixes, however many these are.
    """
    shapes = {
        peer: (frozenset(prefixes), frozenset((len(one.address), one.length) for one in prefixes))
        for peer, prefixes in told.items()
    }
    peers: dict[Name, set[str]] = {}
    for grant in grants:
        knowing = {peer for peer, (prefixes, lengths) in shapes.items() if _covers(prefixes, lengths, grant.address)}
        for service in grant.services if knowing else ():
            peers.setdefault(service, set()).update(knowing)
    return dict(_render(BGP_STATUS, node, ((name, {"peers": sorted(some)}) for name, some in peers.items()), most))


def _covers(prefixes: Collection[Prefix], lengths: Iterable[tuple[int, int]], address: Address) -> bool:
    return any(
        size == len(address) and Prefix(mask_address(address, length), length) in prefixes for size, length in lengths
    )


def _render(
    info: KindInfo, node: str, shown: Iterable[tuple[Name, Mapping[str, object]]], most: int
) -> Iterator[tuple[str, bytes]]:
    """The first so many by the names of their Services. No name of a Service has a dot, that of a node may."""
    for service, fields in islice(sorted(shown, key=lambda one: one[0]), most):
        name = Name(service.namespace, f"{service.name}.{node}")
        body = {
            "apiVersion": info.api_version,
            "kind": info.kind,
            "metadata": {
                "name": name.name,
                "namespace": name.namespace,
                "labels": {
                    "metallb.io/node": node,
                    "metallb.io/service-name": service.name,
                    "metallb.io/service-namespace": service.namespace,
                },
            },
            "spec": {},
            "status": {"node": node, "serviceName": service.name, "serviceNamespace": service.namespace, **fields},
        }
        yield info.status_key(name), msgspec.json.encode(body)
