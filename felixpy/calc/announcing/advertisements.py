"""Which advertisements hold for a Service address on this node, and with what communities.

In: BGPAdvertisements, L2Advertisements (whether there are any), Communities, labels of nodes, pools and Services. Out:
`Terms` for the node, and the advertisements that cover a grant. Pure. Never announces more widely than was written: an
advertisement with a community that has no number is none.
Source: metallb internal/config/config.go (selections, aliases), speaker/bgp_controller.go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from felixpy.resources.kinds import Name
from felixpy.resources.service_types import BgpAdvertisement, CommunityAliases, Grant, Service
from felixpy.resources.types import LabelPairs
from felixpy.selector import Selector, compile_selector

EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
"""A node with this label announces no Service address, whatever the value."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all Service addresses of this node: whether it may announce any, and the advertisements for it.

    `advertisements` None means that nobody wrote any, of either kind; their communities are numbers. `unresolved` are
    those that name a community without a number.
    """

    excluded: bool
    advertisements: tuple[BgpAdvertisement, ...] | None
    unresolved: tuple[BgpAdvertisement, ...] = ()


@dataclass(frozen=True, slots=True)
class Subjects:
    """What advertisements select by: pools' labels by their names, and Services."""

    pools: Mapping[str, LabelPairs] = field(default_factory=dict)
    services: Mapping[Name, Service] = field(default_factory=dict)


def derive_terms(
    labels: LabelPairs,
    advertisements: Collection[BgpAdvertisement],
    aliases: Iterable[CommunityAliases] = (),
    layer2: bool = False,
) -> Terms:
    """The part of the advertisements that concerns a node with these labels; `layer2`: there are L2Advertisements."""
    named = dict(labels)
    numbers = dict(pair for one in aliases for pair in one.values)
    resolved: list[BgpAdvertisement] = []
    unresolved: list[BgpAdvertisement] = []
    for one in advertisements:
        if not selects(one.node_selectors, named):
            continue
        communities = [word if ":" in word else numbers.get(word) for word in one.communities]
        known = tuple(word for word in communities if word is not None)
        if len(known) < len(communities):
            unresolved.append(one)
        else:
            resolved.append(replace(one, communities=known))
    written = bool(advertisements) or layer2
    return Terms(EXCLUDE_LABEL in named, tuple(resolved) if written else None, tuple(unresolved))


def find_unknown(
    labels: LabelPairs, advertisements: Mapping[Name, BgpAdvertisement], aliases: Iterable[CommunityAliases]
) -> Mapping[Name, tuple[str, ...]]:
    """Names of communities without a number, by the advertisements for a node with these labels that name them."""
    named, known = dict(labels), {word for one in aliases for word, _ in one.values}
    found = {
        name: tuple(word for word in one.communities if ":" not in word and word not in known)
        for name, one in sorted(advertisements.items())
        if selects(one.node_selectors, named)
    }
    return {name: words for name, words in found.items() if words}


def covers(one: BgpAdvertisement, grant: Grant, subjects: Subjects) -> bool:
    """Whether an advertisement is for the granted address: by its pool, and by a Service that has it."""
    if one.pools or one.pool_selectors:
        labels = dict(subjects.pools.get(grant.pool, ()))
        by_label = bool(one.pool_selectors) and selects(one.pool_selectors, labels)
        if grant.pool not in one.pools and not by_label:
            return False
    if not one.service_selectors:
        return True
    services = (subjects.services.get(name) for name in grant.services)
    return any(selects(one.service_selectors, dict(service.labels)) for service in services if service)


def selects(selectors: Collection[Selector], labels: Mapping[str, str]) -> bool:
    """Whether any of them does; none at all selects everything."""
    return not selectors or any(compile_selector(selector)(labels) for selector in selectors)
