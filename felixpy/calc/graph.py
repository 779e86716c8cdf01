"""All calculations together: resources in, one delta of the node's Intent out. Pure; order within a flush is fixed."""

from __future__ import annotations

from dataclasses import dataclass

from felixpy.calc.ipsets import IpSets, SetsDelta
from felixpy.calc.policy import PolicyCalc, PolicyDelta
from felixpy.calc.pools import PoolsIntent, derive_pools
from felixpy.resources.codec import Ref, Table
from felixpy.resources.kinds import Name
from felixpy.resources.types import EndpointSlice, HostEndpoint, IpPool, NetworkSet, Resource, WorkloadEndpoint


@dataclass(frozen=True, slots=True)
class IntentDelta:
    """What changed in the Intent since the last flush."""

    policy: PolicyDelta
    sets: SetsDelta
    pools: PoolsIntent | None = None
    """The whole of it when it changed."""


class Graph:
    """Feeds each calculation the resources that it reads."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.sets = IpSets()
        self.policy = PolicyCalc(node, self.sets)
        self._pools: dict[Name, IpPool] = {}
        self._pools_dirty = False

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View; None means that the resource is gone."""
        if ref.table in (Table.WORKLOAD, Table.NETWORK_SET, Table.GLOBAL_NETWORK_SET, Table.HOST):
            if isinstance(value, WorkloadEndpoint | NetworkSet | HostEndpoint):
                self.sets.put(ref, value)
            else:
                self.sets.drop(ref)
        elif ref.table in (Table.SLICE, Table.ENDPOINTS):
            self.sets.put_slice(ref, value if isinstance(value, EndpointSlice) else None)
        elif ref.table is Table.POOL:
            self._pools_dirty = True
            if isinstance(value, IpPool):
                self._pools[ref.name] = value
            else:
                self._pools.pop(ref.name, None)
        self.policy.update(ref, value)

    def flush(self) -> IntentDelta:
        """The delta; policies first, since they decide which sets are needed."""
        policy = self.policy.flush()
        pools = derive_pools(self._pools.values()) if self._pools_dirty else None
        self._pools_dirty = False
        return IntentDelta(policy, self.sets.flush(), pools)
