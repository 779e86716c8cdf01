"""FelixConfiguration, KubeControllersConfiguration, ClusterInformation and CalicoNodeStatus: documents → types.

Source: api/pkg/apis/projectcalico/v3 (felixconfig, kubecontrollersconfig, nodestatus).
"""

from __future__ import annotations

from typing import Any

from felixpy.resources.documents import AnySpecDoc, ClusterInformationDoc, ControllersDoc, NodeStatusDoc
from felixpy.resources.kinds import Name
from felixpy.resources.scalars import FieldError, read_prefix, read_protocol
from felixpy.resources.types import (
    ClusterInformation,
    ControllersConfiguration,
    FailsafePort,
    FelixConfiguration,
    NodeStatusWish,
)

ALL_SERVICES, REQUESTED_ONLY = "AllServices", "RequestedServicesOnly"
DEFAULT_STATUS_PERIOD_S = 10


def read_felix(doc: AnySpecDoc, name: Name) -> FelixConfiguration:
    """Scalars as they stand, and the failsafe ports."""
    port = doc.spec.get("vxlanPort")
    if isinstance(port, int) and not 0 < port <= 65535:
        raise FieldError("spec.vxlanPort", f"{port} is no port")
    scalars = {key: value for key, value in doc.spec.items() if isinstance(value, str | int | float | bool)}
    return FelixConfiguration(
        tuple(sorted(scalars.items())),
        _read_failsafe("spec.failsafeInboundHostPorts", doc.spec.get("failsafeInboundHostPorts")),
        _read_failsafe("spec.failsafeOutboundHostPorts", doc.spec.get("failsafeOutboundHostPorts")),
    )


def _read_failsafe(field: str, ports: Any) -> tuple[FailsafePort, ...] | None:
    """None where nothing is said; an empty list says that there is none."""
    if ports is None:
        return None
    if not isinstance(ports, list):
        raise FieldError(field, "is no list")
    found = []
    for index, port in enumerate(ports):
        where = f"{field}[{index}]"
        if not isinstance(port, dict) or not isinstance(port.get("port"), int) or not 0 < port["port"] <= 65535:
            raise FieldError(where, "has no port between 1 and 65535")
        named = port.get("protocol") or "TCP"
        if not isinstance(named, str | int):
            raise FieldError(f"{where}.protocol", "is neither a name nor a number")
        protocol = read_protocol(f"{where}.protocol", named)
        net = read_prefix(f"{where}.net", str(port["net"])) if port.get("net") else None
        found.append(FailsafePort(protocol or 6, port["port"], net))
    return tuple(found)


def read_cluster(doc: ClusterInformationDoc, name: Name) -> ClusterInformation:
    """The cluster's identity; its data may be used unless it says otherwise."""
    return ClusterInformation(doc.spec.cluster_guid, doc.spec.datastore_ready is not False)


def read_controllers(doc: ControllersDoc) -> ControllersConfiguration:
    """Whom Calico's pools give addresses of their own accord; all Services where nothing is said."""
    controllers = doc.spec.controllers
    said = controllers.load_balancer.assign_ips if controllers and controllers.load_balancer else ""
    if said not in ("", ALL_SERVICES, REQUESTED_ONLY):
        raise FieldError("spec.controllers.loadBalancer.assignIPs", f"is neither {ALL_SERVICES} nor {REQUESTED_ONLY}")
    return ControllersConfiguration(said == REQUESTED_ONLY)


def read_node_status(doc: NodeStatusDoc, name: Name) -> NodeStatusWish:
    """What is to be told of which node; every 10 s where it does not say."""
    period_s = doc.spec.update_period_seconds
    if period_s is not None and period_s < 0:
        raise FieldError("spec.updatePeriodSeconds", "is negative")
    return NodeStatusWish(
        doc.spec.node, tuple(doc.spec.classes), DEFAULT_STATUS_PERIOD_S if period_s is None else period_s
    )
