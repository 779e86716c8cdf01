"""KubeControllersConfiguration, ClusterInformation and CalicoNodeStatus: documents → types.

Source: api/pkg/apis/projectcalico/v3 (kubecontrollersconfig, nodestatus).
"""

from __future__ import annotations

from felixpy.resources.documents import ClusterInformationDoc, ControllersDoc, NodeStatusDoc
from felixpy.resources.kinds import Name
from felixpy.resources.scalars import FieldError
from felixpy.resources.types import (
    ClusterInformation,
    ControllersConfiguration,
    NodeStatusWish,
)

CLASSES_ANNOTATION = "felixpy.io/load-balancer-classes"
"""On KubeControllersConfiguration: the classes of Services that are ours (--lb-class of MetalLB)."""
NO_CLASS = "none"
"""In that list: Services without a class."""
ALL_SERVICES, REQUESTED_ONLY = "AllServices", "RequestedServicesOnly"
DEFAULT_STATUS_PERIOD_S = 10


def read_cluster(doc: ClusterInformationDoc, name: Name) -> ClusterInformation:
    """The cluster's identity; its data may be used unless it says otherwise."""
    return ClusterInformation(doc.spec.cluster_guid, doc.spec.datastore_ready is not False)


def read_controllers(doc: ControllersDoc) -> ControllersConfiguration:
    """Who is given addresses; of Calico's pools all Services where nothing is said."""
    controllers = doc.spec.controllers
    said = controllers.load_balancer.assign_ips if controllers and controllers.load_balancer else ""
    if said not in ("", ALL_SERVICES, REQUESTED_ONLY):
        raise FieldError("spec.controllers.loadBalancer.assignIPs", f"is neither {ALL_SERVICES} nor {REQUESTED_ONLY}")
    listed = (doc.metadata.annotations or {}).get(CLASSES_ANNOTATION)
    if listed is None:
        return ControllersConfiguration(said == REQUESTED_ONLY)
    return ControllersConfiguration(said == REQUESTED_ONLY, read_classes(listed))


def read_classes(listed: str) -> frozenset[str]:
    """The classes of a list with commas."""
    return frozenset("" if word == NO_CLASS else word for part in listed.split(",") if (word := part.strip()))


def read_node_status(doc: NodeStatusDoc, name: Name) -> NodeStatusWish:
    """What is to be told of which node; every 10 s where it does not say."""
    period_s = doc.spec.update_period_seconds
    if period_s is not None and period_s < 0:
        raise FieldError("spec.updatePeriodSeconds", "is negative")
    return NodeStatusWish(
        doc.spec.node, tuple(doc.spec.classes), DEFAULT_STATUS_PERIOD_S if period_s is None else period_s
    )
