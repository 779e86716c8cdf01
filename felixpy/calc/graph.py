"""All calculations together: resources in, one delta of the node's Intent out. Pure; order within a flush is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from felixpy.calc.options import Options, derive_options
from felixpy.calc.policy.active import PolicyCalc, PolicyDelta
from felixpy.calc.policy.hosts import HostClaims, Interfaces
from felixpy.calc.policy.ipsets import IpSets, SetsDelta
from felixpy.calc.policy.peers import Peers, PeersIntent
from felixpy.calc.policy.pods import Workloads
from felixpy.calc.pools import PoolsIntent, derive_pools
from felixpy.calc.tunnels import TunnelCalc, TunnelDelta
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import EndpointSlice
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import FelixConfiguration, HostEndpoint, IpPool, Node, Pod, WorkloadEndpoint


@dataclass(frozen=True, slots=True)
class IntentDelta:
    """What changed in the Intent since the last flush. Pools, options and peers are whole when they changed."""

    policy: PolicyDelta
    sets: SetsDelta
    pools: PoolsIntent | None = None
    options: Options | None = None
    peers: PeersIntent | None = None
    claims: Mapping[str, Name | None] = field(default_factory=dict)
    """Interfaces of the host by name, and the host endpoints that govern them now."""
    tunnels: TunnelDelta = field(default_factory=TunnelDelta)


class Graph:
    """Feeds each calculation the resources that it reads."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.sets = IpSets()
        self.policy = PolicyCalc(node, self.sets)
        self.hosts = HostClaims()
        self.options = Options()
        self.tunnels = TunnelCalc(node)
        self._workloads = Workloads()
        self._peers = Peers()
        self._pools: dict[Name, IpPool] = {}
        self._pools_dirty = False
        self._configurations: dict[str, FelixConfiguration] = {}
        self._options_dirty = True
        self._bgp: dict[str, BgpConfiguration | None] = {}

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View; None means that the resource is gone."""
        match ref.table:
            case Table.WORKLOAD:
                endpoint = value if isinstance(value, WorkloadEndpoint) else None
                self._put_workload(ref, self._workloads.put_endpoint(ref.name, endpoint))
            case Table.POD:
                for name, endpoint in self._workloads.put_pod(ref.name, value if isinstance(value, Pod) else None):
                    self._put_workload(Ref(Table.WORKLOAD, name), endpoint)
            case Table.NETWORK_SET | Table.GLOBAL_NETWORK_SET | Table.HOST | Table.NODE:
                if isinstance(value, NetworkSet | HostEndpoint | Node):
                    self.sets.put(ref, value)
                else:
                    self.sets.drop(ref)
                if ref.table is Table.HOST:
                    self.policy.update(ref, value)
                    own = isinstance(value, HostEndpoint) and value.node == self.node
                    self.hosts.put_host(ref.name, value if own and isinstance(value, HostEndpoint) else None)
            case Table.SLICE | Table.ENDPOINTS:
                self.sets.put_slice(ref, value if isinstance(value, EndpointSlice) else None)
            case Table.POOL:
                self._pools_dirty = True
                if isinstance(value, IpPool):
                    self._pools[ref.name] = value
                else:
                    self._pools.pop(ref.name, None)
            case Table.FELIX_CONFIGURATION if ref.name.name in ("default", f"node.{self.node}"):
                self._options_dirty = True
                if isinstance(value, FelixConfiguration):
                    self._configurations[ref.name.name] = value
                else:
                    self._configurations.pop(ref.name.name, None)
            case Table.BGP_CONFIGURATION if ref.name.name in ("default", f"node.{self.node}"):
                self._options_dirty = True
                self._bgp[ref.name.name] = value if isinstance(value, BgpConfiguration) else None
            case _:
                self.policy.update(ref, value)
        self._peers.update(ref, value)
        self.tunnels.update(ref, value)

    def _put_workload(self, ref: Ref, endpoint: WorkloadEndpoint | None) -> None:
        if endpoint is None:
            self.sets.drop(ref)
        else:
            self.sets.put(ref, endpoint)
        self.policy.update(ref, endpoint)

    @property
    def nodes(self) -> Mapping[Name, Node]:
        """The nodes of the cluster."""
        return self._peers.nodes

    def put_interfaces(self, interfaces: Interfaces) -> None:
        """Takes the host's own interfaces as they are now."""
        self.hosts.put_interfaces(interfaces)

    def flush(self) -> IntentDelta:
        """The delta; policies first, since they decide which sets are needed."""
        policy = self.policy.flush()
        pools = derive_pools(self._pools.values()) if self._pools_dirty else None
        self._pools_dirty = False
        return IntentDelta(
            policy,
            self.sets.flush(),
            pools,
            self._flush_options(),
            self._peers.flush(),
            self.hosts.flush(),
            self.tunnels.flush(),
        )

    def _flush_options(self) -> Options | None:
        if not self._options_dirty:
            return None
        self._options_dirty = False
        common, own = "default", f"node.{self.node}"
        felix, bgp = self._configurations, self._bgp
        self.options = derive_options(felix.get(common), felix.get(own), bgp.get(common), bgp.get(own))
        return self.options
