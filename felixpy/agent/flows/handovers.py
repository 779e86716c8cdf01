"""Addresses that change hands, while flows that name them are told of: what was told of stays the former holder's.

In: changes of endpoints, nodes, network sets and Services, before they are made; out: the table's flows with the ends
that they had. A change that concerns no address of the table costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.calc.policy.ipsets import Holder
from felixpy.calc.policy.peers import node_addresses
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.flows.names import Rank, addresses_of, endpoint_end, find_networks, node_end, service_end
from felixpy.flows.records import FlowEnd
from felixpy.flows.table import FlowTable
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import HostEndpoint, Node, WorkloadEndpoint

NAMING = frozenset({Table.WORKLOAD, Table.HOST, Table.NODE, Table.NETWORK_SET, Table.GLOBAL_NETWORK_SET})
"""Tables of those who have addresses."""
SEEN_BEFORE_S = 10.0
"""A packet may be told of before the datastore tells of its end: so much later it is still its own."""


class Handovers:
    """Tells the table of flows who its addresses were."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._networks: dict[Ref, NetworkSet] = {}

    def resource_changes(self, ref: Ref, known: Holder | None, value: Resource | None) -> None:
        """Takes a change of a resource of `NAMING` before it is made; `known` is what it was."""
        if ref.table in (Table.NETWORK_SET, Table.GLOBAL_NETWORK_SET):
            self._network_changes(ref, value if isinstance(value, NetworkSet) else None)
        elif self._table and ref.table is Table.NODE:
            had, has = (
                frozenset(node_addresses(one)) if isinstance(one, Node) else frozenset() for one in (known, value)
            )
            self._hand_over(Rank.OWNER, {address: node_end(address, ref.name) for address in had - has}, has - had)
        elif self._table:
            had, has = addresses_of(known), addresses_of(value)
            former: dict[Address, FlowEnd] = {}
            if isinstance(known, WorkloadEndpoint | HostEndpoint):
                former = {address: endpoint_end(address, ref.name, known) for address in had - has}
            self._hand_over(Rank.ENDPOINT, former, has - had)

    def services_change(self, delta: ServiceDelta, frontends: Mapping[Frontend, FrontendIntent]) -> None:
        """Takes changes of Services before they are made; `frontends` are all that there are."""
        told = self._table.addresses
        touched = {
            frontend.address
            for frontend in (*delta.puts, *delta.drops)
            if frontend.address in told and _service(frontends, frontend) != _service(delta.puts, frontend)
        }
        if not touched:
            return
        before = _services_at(touched, frontends.items())
        later = {key: one for key, one in frontends.items() if key.address in touched and key not in delta.drops}
        after = _services_at(touched, {**later, **delta.puts}.items())
        former = {
            address: service_end(address, service)
            for address, service in before.items()
            if after.get(address) != service
        }
        self._hand_over(Rank.OWNER, former, after.keys() - before.keys())

    def _network_changes(self, ref: Ref, value: NetworkSet | None) -> None:
        known = self._networks.get(ref)
        before = dict(self._networks) if self._table else {}
        if value is None:
            self._networks.pop(ref, None)
        else:
            self._networks[ref] = value
        had, has = (frozenset(one.nets) if one is not None else frozenset() for one in (known, value))
        touched = frozenset(_within(had ^ has, self._table.addresses)) if self._table else frozenset()
        if not touched:
            return
        then, now = (find_networks(touched, sets.items()) for sets in (before, self._networks))
        former = {address: end for address, end in then.items() if now.get(address) != end}
        self._hand_over(Rank.NETWORK, former, now.keys() - then.keys())

    def _hand_over(self, rank: Rank, former: Mapping[Address, FlowEnd], gained: Iterable[Address]) -> None:
        for address, end in former.items():
            self._table.hand_over(address, rank, end)
        for address in gained:
            self._table.hand_over(address, rank, None, time.time() - SEEN_BEFORE_S)


def _service(frontends: Mapping[Frontend, FrontendIntent], frontend: Frontend) -> Name | None:
    found = frontends.get(frontend)
    return found.service if found is not None else None


def _services_at(addresses: set[Address], frontends: Iterable[tuple[Frontend, FrontendIntent]]) -> dict[Address, Name]:
    """The Service of each address, as names are given."""
    found: dict[Address, Name] = {}
    for frontend, intent in frontends:
        if frontend.address in addresses:
            found.setdefault(frontend.address, intent.service)
    return found


def _within(nets: frozenset[Prefix], addresses: Iterable[Address]) -> Iterable[Address]:
    """The addresses in one of the networks."""
    lengths = {(len(net.address), net.length) for net in nets}
    for address in addresses if nets else ():
        if any(
            size == len(address) and Prefix(mask_address(address, length), length) in nets for size, length in lengths
        ):
            yield address
