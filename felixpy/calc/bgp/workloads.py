"""Which of this node's workloads are its BGP neighbours: those that a BGPPeer's localWorkloadSelector selects. Pure.

In: resources one at a time; out: addresses by BGPPeer, the first of each family of each workload that it selects. Where
nobody selects workloads a change of one costs an index entry. `derive_selected` is the same from scratch.
Source: Calico's felix/calc (active BGP peers), confd's local_bgp_peer_watcher.go (which addresses).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felixpy.addresses import Address
from felixpy.calc.policy.ipsets import effective_labels
from felixpy.calc.policy.labels import LabelIndex
from felixpy.calc.policy.pods import Workloads, derive_workloads
from felixpy.calc.policy.profiles import PROFILE_TABLES, Profiles, derive_profiles
from felixpy.resources.bgp_types import BgpPeer
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Pod, WorkloadEndpoint
from felixpy.selector import compile_selector

Selected = Mapping[str, tuple[Address, ...]]
"""Addresses of workloads, ascending, by the BGPPeer that selects them."""


class SelectedWorkloads:
    """Fed every change of the View; `addresses` is current after each."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.addresses: Selected = {}
        self._index: LabelIndex[Name, str] = LabelIndex()
        self._workloads = Workloads()
        self._profiles = Profiles()
        self._endpoints: dict[Name, WorkloadEndpoint] = {}
        self._peers: dict[str, BgpPeer] = {}

    def update(self, ref: Ref, value: Resource | None) -> bool:
        """Takes one change; whether `addresses` is another than before."""
        match ref.table:
            case Table.WORKLOAD:
                endpoint = value if isinstance(value, WorkloadEndpoint) and value.node == self.node else None
                self._put_endpoint(ref.name, self._workloads.put_endpoint(ref.name, endpoint))
            case Table.POD:
                for name, joined in self._workloads.put_pod(ref.name, value if isinstance(value, Pod) else None):
                    self._put_endpoint(name, joined)
            case Table.BGP_PEER:
                self._put_peer(ref.name.name, value if isinstance(value, BgpPeer) else None)
            case _ if ref.table in PROFILE_TABLES:
                parent = self._profiles.put(ref, value)
                profile = self._profiles.get(parent)
                self._index.put_parent(parent, profile.labels_to_apply if profile is not None else ())
            case _:
                return False
        if not self._peers and not self.addresses:
            return False
        before, self.addresses = self.addresses, self._collect()
        return self.addresses != before

    def _put_endpoint(self, name: Name, endpoint: WorkloadEndpoint | None) -> None:
        if endpoint is None:
            self._endpoints.pop(name, None)
            self._index.drop_item(name)
        else:
            self._endpoints[name] = endpoint
            self._index.put_item(name, endpoint.labels, endpoint.profiles)

    def _put_peer(self, name: str, peer: BgpPeer | None) -> None:
        if name in self._peers:
            del self._peers[name]
            self._index.drop_selector(name)
        if peer is not None and peer.workload_selector is not None:
            self._peers[name] = peer
            self._index.put_selector(name, peer.workload_selector)

    def _collect(self) -> Selected:
        return {name: _addresses(self._endpoints[one] for one in self._index.members(name)) for name in self._peers}


def derive_selected(tables: Mapping[Table, Mapping[Name, Resource]], node: str) -> Selected:
    """The same of all resources, from scratch."""
    profiles = {name: one.labels_to_apply for name, one in derive_profiles(tables).items()}
    own = [one for one in derive_workloads(tables).values() if one.node == node]
    found: dict[str, tuple[Address, ...]] = {}
    for name, peer in tables[Table.BGP_PEER].items():
        if isinstance(peer, BgpPeer) and peer.workload_selector is not None:
            matches = compile_selector(peer.workload_selector)
            found[name.name] = _addresses(
                one for one in own if matches(effective_labels(one.labels, one.profiles, profiles))
            )
    return found


def _addresses(endpoints: Iterable[WorkloadEndpoint]) -> tuple[Address, ...]:
    """Two workloads may have one address while one gives way to the other."""
    found: set[Address] = set()
    for endpoint in endpoints:
        for size in (4, 16):
            found.update([one for one in endpoint.addresses if len(one) == size][:1])
    return tuple(sorted(found))
