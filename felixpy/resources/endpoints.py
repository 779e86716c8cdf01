"""Host endpoints, network sets and pods: documents → types.

Workload endpoints are read by the codec itself, which shares what they have in common.
Source: libcalico-go/lib/backend/syncersv1/updateprocessors (host endpoints, network sets).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from felixpy.resources.documents import HostEndpointDoc, NetworkSetDoc, Port
from felixpy.resources.kinds import Name
from felixpy.resources.kube_documents import PodDoc
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.scalars import (
    FieldError,
    read_address,
    read_interface,
    read_labels,
    read_named_ports,
    read_prefixes,
)
from felixpy.resources.types import HostEndpoint, Pod

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
"""On the Pod that the API server has of a static one: the static one's own uid."""
POD_ANNOTATION = "felixpy.io/pod-uid"
"""On an endpoint: which Pod of its name it is of, where that is known."""


def read_host(doc: HostEndpointDoc, name: Name) -> HostEndpoint:
    """Raises FieldError also where it says neither an interface nor addresses: it would govern nothing."""
    spec = doc.spec
    if not spec.interface_name and not spec.expected_ips:
        raise FieldError("spec.interfaceName", "is missing, and so are expectedIPs")
    return HostEndpoint(
        node=spec.node,
        interface=read_interface("spec.interfaceName", spec.interface_name) if spec.interface_name else "",
        expected_addresses=tuple(
            read_address(f"spec.expectedIPs[{index}]", text) for index, text in enumerate(spec.expected_ips or ())
        ),
        labels=read_labels(doc.metadata.labels),
        profiles=tuple(spec.profiles or ()),
        ports=read_named_ports("spec.ports", spec.ports),
    )


def read_network_set(doc: NetworkSetDoc, name: Name) -> NetworkSet:
    """A namespaced set is of its namespace, and inherits its labels."""
    labels = dict(doc.metadata.labels or {})
    profiles: tuple[str, ...] = ()
    if name.namespace:
        labels["projectcalico.org/namespace"] = name.namespace
        profiles = (f"kns.{name.namespace}",)
    return NetworkSet(read_prefixes("spec.nets", doc.spec.nets), read_labels(labels), profiles)


def read_pod(doc: PodDoc) -> Pod:
    """Labels, service account, and the ports of its containers that have names."""
    ports = [port for container in doc.spec.containers or () for port in container.ports or ()]
    named = [Port(port.name, port.protocol, port.container_port) for port in ports if port.name]
    return Pod(
        read_labels(doc.metadata.labels),
        doc.spec.service_account_name,
        read_named_ports("spec.containers.ports", named),
        digest_uid(uid_of_pod(doc.metadata.uid, doc.metadata.annotations or {})),
    )


def uid_of_pod(uid: str, annotations: Mapping[str, str]) -> str:
    """A Pod's uid as its node's kubelet and its runtime know it: a static pod's is another than its mirror's."""
    return annotations.get(MIRROR_ANNOTATION) or uid


def digest_uid(uid: str) -> bytes:
    """What is kept of a uid, as there are as many as pods; of none, nothing."""
    return blake2b(uid.encode(), digest_size=8).digest() if uid else b""
