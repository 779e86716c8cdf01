"""The tables of the View: one per kind that some calculation reads, and how one of its resources is named."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource


class Table(StrEnum):
    """Where a resource belongs in the View."""

    WORKLOAD = "WorkloadEndpoint"
    HOST = "HostEndpoint"
    GLOBAL_POLICY = "GlobalNetworkPolicy"
    NAMESPACED_POLICY = "NetworkPolicy"
    KUBERNETES_POLICY = "KubernetesNetworkPolicy"
    CLUSTER_POLICY = "ClusterNetworkPolicy"
    ADMIN_POLICY = "AdminNetworkPolicy"
    BASELINE_POLICY = "BaselineAdminNetworkPolicy"
    TIER = "Tier"
    PROFILE = "Profile"
    GLOBAL_NETWORK_SET = "GlobalNetworkSet"
    NETWORK_SET = "NetworkSet"
    POOL = "IPPool"
    RESERVATION = "IPReservation"
    CONTROLLERS_CONFIGURATION = "KubeControllersConfiguration"
    NODE = "Node"
    BGP_CONFIGURATION = "BGPConfiguration"
    BGP_PEER = "BGPPeer"
    BGP_FILTER = "BGPFilter"
    FELIX_CONFIGURATION = "FelixConfiguration"
    CLUSTER = "ClusterInformation"
    NODE_STATUS = "CalicoNodeStatus"
    BLOCK = "IPAMBlock"
    AFFINITY = "BlockAffinity"
    NAMESPACE = "Namespace"
    SERVICE_ACCOUNT = "ServiceAccount"
    POD = "Pod"
    SERVICE = "Service"
    SLICE = "EndpointSlice"
    ENDPOINTS = "Endpoints"
    ADDRESS_POOL = "IPAddressPool"
    BGP_ADVERTISEMENT = "BGPAdvertisement"
    L2_ADVERTISEMENT = "L2Advertisement"
    COMMUNITY = "Community"
    SPEAKER_PEER = "BGPPeer.metallb.io"
    BFD_PROFILE = "BFDProfile"
    SECRET = "Secret"
    GRANT = "Grant"
    PORT_GRANT = "PortGrant"
    ANSWERING = "Answering"


POLICY_TABLES = (
    Table.GLOBAL_POLICY,
    Table.NAMESPACED_POLICY,
    Table.KUBERNETES_POLICY,
    Table.CLUSTER_POLICY,
    Table.ADMIN_POLICY,
    Table.BASELINE_POLICY,
)


class Ref(NamedTuple):
    """Identity of a resource in the View."""

    table: Table
    name: Name

    def __str__(self) -> str:
        return f"{self.table} {self.name}"


class Decoded(NamedTuple):
    """A change of one resource; value None means that there is none (now)."""

    ref: Ref
    value: Resource | None
