"""The WorkloadEndpoint that an ADD leaves in the datastore, in Calico's own JSON.

Pure. Attachment, facts and addresses → EndpointWrite; and back, as far as garbage collection needs it.
Source: libcalico-go/lib/apis/internalapi/workloadendpoint.go; cni-plugin/pkg/plugin/plugin.go (profile of a network).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from felixpy.addresses import Address, format_address, host_prefix
from felixpy.cni.leaks import Place, Recorded, parse_place
from felixpy.cni.plan import PLAIN_NAMESPACE, Attachment, Claim, PodFacts
from felixpy.cni.result import format_mac
from felixpy.dataplane.pod import PodLink
from felixpy.resources.endpoints import POD_ANNOTATION
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import CALICO, Name

NETWORK_ANNOTATION = "felixpy.io/network"
"""Which CNI network the endpoint is of; Calico, which has one network a node, has no field for it."""
PUBLISHED = "published"
"""The name of the ports of a plain container that its node's lead to; its network's profile lets anybody in there."""
PLACE_ANNOTATION = "felixpy.io/place"
"""Where and when the pod was wired (leaks.Place)."""
MTU_ANNOTATION = "felixpy.io/mtu"
"""The mtu that the network's configuration gave the pod; without it, the pod's follows its node."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the writer draws and reads, and nothing here may: uid, time (RFC 3339, UTC) and place."""

    uid: str
    created: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class EndpointWrite:
    """An endpoint to put at `name`, and the profile that it uses, to be created where there is none of that name."""

    name: Name
    value: bytes
    profile: str = ""
    profile_value: bytes = b""


class _Port(msgspec.Struct):
    name: str
    protocol: str
    port: int


class _Nat(msgspec.Struct, rename={"internal": "internalIP", "external": "externalIP"}):
    internal: str
    external: str


class _Metadata(msgspec.Struct, omit_defaults=True, rename="camel"):
    name: str
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Spec(
    msgspec.Struct,
    omit_defaults=True,
    rename={
        "container_id": "containerID",
        "service_account_name": "serviceAccountName",
        "ip_networks": "ipNetworks",
        "nats": "ipNATs",
        "interface_name": "interfaceName",
        "spoofed": "allowSpoofedSourcePrefixes",
    },
):
    orchestrator: str = ""
    workload: str = ""
    node: str = ""
    container_id: str = ""
    pod: str = ""
    endpoint: str = ""
    service_account_name: str = ""
    ip_networks: tuple[str, ...] = ()
    nats: tuple[_Nat, ...] = ()
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    mac: str = ""
    ports: tuple[_Port, ...] = ()
    spoofed: tuple[str, ...] = ()


class _Endpoint(msgspec.Struct, rename={"api_version": "apiVersion"}):
    kind: str
    api_version: str
    metadata: _Metadata
    spec: _Spec


def derive_endpoint(
    claim: Claim, link: PodLink, facts: PodFacts, addresses: tuple[Address, ...], identity: Identity
) -> EndpointWrite:
    """The endpoint to store for an attachment that holds `addresses`, at most one of a family.

    A pod uses the profiles of its namespace and service account, which follow those; a container without orchestrator
    uses its network's, which lets in what is on the same network or for a published port, and everything out.
    """
    attachment = claim.attachment
    own = {len(address): format_address(address) for address in addresses}
    labels = {
        **facts.labels,
        "projectcalico.org/namespace": attachment.namespace or PLAIN_NAMESPACE,
        "projectcalico.org/orchestrator": attachment.orchestrator,
    }
    profiles: tuple[str, ...] = (attachment.network,)
    if attachment.pod:
        profiles = _pod_profiles(attachment.namespace, facts.service_account)
        labels |= _account_label(facts.service_account)
    name = attachment.endpoint
    annotations = {NETWORK_ANNOTATION: attachment.network}
    if identity.place:
        annotations[PLACE_ANNOTATION] = str(identity.place)
    if attachment.pod and facts.uid:
        annotations[POD_ANNOTATION] = facts.uid
    if link.mtu != facts.mtu:
        annotations[MTU_ANNOTATION] = str(link.mtu)
    endpoint = _Endpoint(
        kind="WorkloadEndpoint",
        api_version=CALICO,
        metadata=_Metadata(
            name=name.name,
            generate_name=facts.generate_name,
            namespace=name.namespace,
            uid=identity.uid,
            creation_timestamp=identity.created,
            labels=dict(sorted(labels.items())),
            annotations=annotations,
        ),
        spec=_Spec(
            orchestrator=attachment.orchestrator,
            node=attachment.node,
            container_id=attachment.container_id,
            pod=attachment.pod,
            endpoint=attachment.ifname,
            service_account_name=facts.service_account,
            ip_networks=tuple(str(host_prefix(address)) for address in addresses),
            profiles=profiles,
            interface_name=link.host_device,
            mac=format_mac(link.pod_mac),
            nats=tuple(_Nat(own[len(one)], format_address(one)) for one in claim.floating if len(one) in own),
            ports=(
                *(_Port(port.name, port.protocol, port.port) for port in facts.ports),
                *(_Port(PUBLISHED, port.protocol, port.port) for port in claim.published),
            ),
            spoofed=tuple(map(str, claim.spoofed)),
        ),
    )
    value = msgspec.json.encode(endpoint)
    if attachment.pod:
        return EndpointWrite(name, value)
    return EndpointWrite(name, value, attachment.network, _render_profile(attachment.network, identity))


def _pod_profiles(namespace: str, service_account: str) -> tuple[str, ...]:
    account = (f"ksa.{namespace}.{service_account}",) if service_account else ()
    return (f"kns.{namespace}", *account)


def _account_label(service_account: str) -> dict[str, str]:
    return {"projectcalico.org/serviceaccount": service_account} if service_account else {}


def follow_pod(value: bytes, facts: PodFacts) -> bytes | None:
    """A pod's endpoint with what its Pod says now; None where that is what it says, or it is not one of ours.

    Labels are the Pod's, but for the endpoint's own (projectcalico.org/...). A service account and named ports are
    taken over where the endpoint has none. Fields that we do not know stay. What another Pod of the same name says is
    none of its business: it stays as it is until the runtime takes it away.
    """
    known = parse_recorded(value)
    whole = decode_or_none(value, dict[str, Any])
    if known is None or whole is None or not known.attachment.pod:
        return None
    meta, spec = whole["metadata"], whole["spec"]
    if facts.uid:
        annotations = meta.get("annotations") or {}
        if annotations.get(POD_ANNOTATION, facts.uid) != facts.uid:
            return None
        meta["annotations"] = annotations | {POD_ANNOTATION: facts.uid}
    own = {name: text for name, text in (meta.get("labels") or {}).items() if name.startswith("projectcalico.org/")}
    meta["labels"] = dict(sorted({**facts.labels, **_account_label(facts.service_account), **own}.items()))
    if facts.service_account and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = facts.service_account
        spec["profiles"] = _pod_profiles(known.attachment.namespace, facts.service_account)
    if facts.ports and not spec.get("ports"):
        spec["ports"] = [_Port(port.name, port.protocol, port.port) for port in facts.ports]
    wanted = msgspec.json.encode(whole)
    return wanted if msgspec.json.decode(wanted) != msgspec.json.decode(value) else None


def parse_recorded(value: bytes) -> Recorded | None:
    """The attachment that a stored endpoint belongs to; None when it is not one that `derive_endpoint` wrote."""
    endpoint = decode_or_none(value, _Endpoint)
    if endpoint is None:
        return None
    spec, network = endpoint.spec, endpoint.metadata.annotations.get(NETWORK_ANNOTATION, "")
    if not (network and spec.node and spec.container_id and spec.endpoint):
        return None
    namespace = endpoint.metadata.namespace if spec.pod else ""
    attachment = Attachment(spec.node, network, spec.container_id, spec.endpoint, namespace, spec.pod)
    return Recorded(attachment, parse_place(endpoint.metadata.annotations.get(PLACE_ANNOTATION, "")))


def parse_follower(value: bytes) -> str | None:
    """The device of a stored endpoint of ours whose mtu follows its node; None for any other."""
    endpoint = decode_or_none(value, _Endpoint)
    if endpoint is None:
        return None
    annotations = endpoint.metadata.annotations
    follows = NETWORK_ANNOTATION in annotations and MTU_ANNOTATION not in annotations
    return endpoint.spec.interface_name if follows else None


def _render_profile(network: str, identity: Identity) -> bytes:
    profile = {
        "kind": "Profile",
        "apiVersion": CALICO,
        "metadata": {"name": network, "uid": identity.uid, "creationTimestamp": identity.created},
        "spec": {
            "ingress": [
                {"action": "Allow", "source": {"selector": f"has({network})"}, "destination": {}},
                *(
                    {"action": "Allow", "protocol": protocol, "source": {}, "destination": {"ports": [PUBLISHED]}}
                    for protocol in ("TCP", "UDP", "SCTP")
                ),
            ],
            "egress": [{"action": "Allow", "source": {}, "destination": {}}],
            "labelsToApply": {network: ""},
        },
    }
    return msgspec.json.encode(profile)
