"""All that AnnounceCalc keeps up to date, from scratch: what its property test holds it to. Pure.

In: the tables of a View; out: the announcements of a node by prefix, and why the rest stays silent.
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.calc.announcing.advertisements import Subjects, derive_terms
from felixpy.calc.announcing.announce import rows, silences
from felixpy.calc.announcing.announcements import (
    Announcement,
    announce_floating,
    derive_address,
    derive_block,
    derive_range,
    derive_routed,
    granted_intents,
    merge_announcements,
)
from felixpy.calc.announcing.floating import floating_of, is_enabled
from felixpy.calc.announcing.service_ranges import read_ranges, routed_at
from felixpy.calc.reasons import Silent
from felixpy.calc.services.arbitration import Tables, derive_services
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.resources.codec import parse_block_name
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import AddressPool, BgpAdvertisement, CommunityAliases, Grant, Service
from felixpy.resources.tables import Table
from felixpy.resources.types import Block, BlockAffinity, IpPool, Node, WorkloadEndpoint


def derive_announcements(
    tables: Tables, node: str, drained: bool = True
) -> tuple[Mapping[Prefix, Announcement], Mapping[Prefix, Silent]]:
    """All announcements of `node` by prefix, and all that stays silent."""
    this = tables.get(Table.NODE, {}).get(Name("", node))
    terms = derive_terms(
        this.labels if isinstance(this, Node) else (),
        [one for one in rows(tables.get(Table.BGP_ADVERTISEMENT, {})) if isinstance(one, BgpAdvertisement)],
        [one for one in rows(tables.get(Table.COMMUNITY, {})) if isinstance(one, CommunityAliases)],
        bool(tables.get(Table.L2_ADVERTISEMENT)),
    )
    address_pools, services = tables.get(Table.ADDRESS_POOL, {}), tables.get(Table.SERVICE, {})
    subjects = Subjects(
        {name.name: one.labels for name, one in address_pools.items() if isinstance(one, AddressPool)},
        {name: one for name, one in services.items() if isinstance(one, Service)},
    )
    pools = [pool for pool in tables.get(Table.POOL, {}).values() if isinstance(pool, IpPool)]
    at: dict[Address, dict[Frontend, FrontendIntent]] = {}
    frontends = derive_services(tables, node)
    for frontend, intent in frontends.items():
        at.setdefault(frontend.address, {})[frontend] = intent
    ranges = read_ranges(tables.get(Table.BGP_CONFIGURATION, {}).get(Name("", "default")))
    devices: dict[Address, str] = {}
    for endpoint in tables.get(Table.WORKLOAD, {}).values():
        if isinstance(endpoint, WorkloadEndpoint) and endpoint.node == node:
            devices.update({one: max(devices.get(one, ""), endpoint.interface) for one in endpoint.addresses})
    found: list[tuple[Prefix, tuple[Announcement, ...] | Silent]] = [
        (prefix, derive_range(prefix, terms, drained)) for prefix in ranges.whole
    ]
    for address, intents in routed_at(frontends).items():
        made = derive_routed(address, intents, terms, subjects.services, ranges, drained)
        found.append((host_prefix(address), made))
    for name, block in tables.get(Table.BLOCK, {}).items():
        affinity = tables.get(Table.AFFINITY, {}).get(Name(node, name.name))
        state = affinity.state if isinstance(affinity, BlockAffinity) else ""
        if isinstance(block, Block):
            prefix = parse_block_name(name.name)
            found.append((prefix, derive_block(prefix, block, state, pools, node, devices)))
    enabled = is_enabled(tables.get(Table.FELIX_CONFIGURATION, {}), node)
    for endpoint in tables.get(Table.WORKLOAD, {}).values():
        for address in floating_of(endpoint, node):
            found.append((host_prefix(address), announce_floating(address, pools, enabled)))
    for grant in tables.get(Table.GRANT, {}).values():
        if isinstance(grant, Grant):
            intents = granted_intents(grant, at.get(grant.address, {}))
            made = derive_address(grant, intents, terms, subjects, ranges, drained)
            found.append((host_prefix(grant.address), made))
    by_prefix: dict[Prefix, list[Announcement]] = {}
    silent: list[tuple[Prefix, Silent]] = []
    for prefix, made in found:
        if isinstance(made, Silent):
            silent.append((prefix, made))
        else:
            for one in made:
                by_prefix.setdefault(one.prefix, []).append(one)
    return {prefix: merge_announcements(several) for prefix, several in by_prefix.items()}, silences(silent)
