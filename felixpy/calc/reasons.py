"""Why something that a person may expect does not happen, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a frontend has no backends, or a prefix is not announced."""

    NO_SERVICE = "no Service of type LoadBalancer holds the address"
    NO_ENDPOINT = "no endpoint is ready anywhere"
    NOT_IN_KERNEL = "this node's kernel does not hold the Service"
    NO_LOCAL_ENDPOINT = "no endpoint is ready on this node, and the traffic policy is Local"
    EXTERNAL_ADDRESS_NOT_ALLOWED = (
        "the external address is in none of the ranges of BGPConfiguration.serviceExternalIPs"
    )
    TAKEN = "another Service has this address and port"
    NODE_EXCLUDED = "the node is labelled node.kubernetes.io/exclude-from-external-load-balancers"
    NOT_ADVERTISED = "no BGPAdvertisement selects the pool on this node"
    OUTSIDE_RANGES = "the address is in none of the ranges of BGPConfiguration.serviceLoadBalancerIPs"
    UNKNOWN_COMMUNITY = "its BGPAdvertisement names a community that no Community resource gives a number"
    NOT_LAYER2 = "no L2Advertisement selects the pool on this node"
    AFFINITY_PENDING = "the block's affinity is not confirmed"
    AFFINITY_ENDING = "the block is empty and being given back"
    NO_POOL = "the block is empty, and no pool has it"
    NOT_IN_POOL = "no pool has the address"
    FLOATING_DISABLED = "floating addresses are not in use (FelixConfiguration floatingIPs)"
    EXPORT_DISABLED = "the pool is not exported (disableBGPExport)"


@dataclass(frozen=True, slots=True)
class Silent:
    """It does not happen, for this reason."""

    reason: Reason
