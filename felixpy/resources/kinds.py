"""The kinds of resource: their names, and where each lives in etcd.

Calico's kinds live at Calico's own keys; kinds that Calico has no key for live beside them under /felixpy/resources.
Source: libcalico-go/lib/backend/model (keys), ../../docs/architecture.md (ours).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

NAME_LIMIT = 253
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*")

CALICO = "projectcalico.org/v3"
ADMIN_V1 = "policy.networking.k8s.io/v1alpha1"
ADMIN_V2 = "policy.networking.k8s.io/v1alpha2"
CALICO_PREFIX = "/calico/resources/v3/projectcalico.org/"
OURS_PREFIX = "/felixpy/resources/"
STATUS_PREFIX = "/felixpy/status/"
GRANTS_PREFIX = "/felixpy/grants/"
IPAM_PREFIX = "/calico/ipam/v2/"
ASK_PREFIX = "/felixpy/ask/"
ANSWERS_PREFIX = "/felixpy/answers/"
HOLDERS_PREFIX = "/felixpy/holders/"
NODES_PREFIX = "/felixpy/nodes/"
ANSWERING_PREFIX = "/felixpy/answering/"
WATCHED_PREFIXES = (
    "/calico/resources/v3/projectcalico.org/",
    f"{IPAM_PREFIX}assignment/",
    f"{IPAM_PREFIX}host/",
    f"{IPAM_PREFIX}virtual/",
    f"{IPAM_PREFIX}config",
    "/felixpy/resources/",
    "/felixpy/grants/",
    HOLDERS_PREFIX,
    NODES_PREFIX,
    ANSWERING_PREFIX,
    "/felixpy/ask/",
)


class Name(NamedTuple):
    """A resource's name inside its kind; namespace is "" for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def is_object_name(text: str) -> bool:
    """Whether an object may be called so: a DNS-1123 subdomain."""
    return len(text) <= NAME_LIMIT and _SUBDOMAIN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A kind, as in its YAML (`kind`, `api_version`) and as in its key (`plural`); `short` are names for the CLI.

    Every key of the kind begins with `prefix`, and every key of our status of it with `status_prefix`.
    """

    kind: str
    api_version: str
    plural: str
    namespaced: bool
    short: tuple[str, ...] = ()
    prefix: str = field(init=False, compare=False, repr=False)
    status_prefix: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        path = f"{self.group}/{self.version}/{self.plural}/"
        prefix = f"{CALICO_PREFIX}{self.plural}/" if self.api_version == CALICO else f"{OURS_PREFIX}{path}"
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "status_prefix", f"{STATUS_PREFIX}{path}")

    @property
    def group(self) -> str:
        """API group as it stands in our keys; the Kubernetes core group is `core`."""
        return self.api_version.partition("/")[0] if "/" in self.api_version else "core"

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def key(self, name: Name) -> str:
        """The etcd key of one resource."""
        return f"{self.prefix}{name.namespace}/{name.name}" if self.namespaced else f"{self.prefix}{name.name}"

    def status_key(self, name: Name) -> str:
        """Where our status of one resource is."""
        return f"{self.status_prefix}{name}"

    def parse_status_name(self, key: str) -> Name | None:
        """The resource whose status a key holds; None when the key is no such key."""
        return self._parse(key, self.status_prefix) if key.startswith(self.status_prefix) else None

    def parse_name(self, key: str) -> Name | None:
        """The name in a key of this kind; None when the key has another shape."""
        return self._parse(key, self.prefix)

    def _parse(self, key: str, prefix: str) -> Name | None:
        parts = key.removeprefix(prefix).split("/")
        if len(parts) != 1 + self.namespaced or not all(parts) or "'" in key or '"' in key:
            return None
        return Name(parts[0], parts[1]) if self.namespaced else Name("", parts[0])


def _calico(kind: str, plural: str, *short: str, namespaced: bool = False) -> KindInfo:
    return KindInfo(kind, CALICO, plural, namespaced, short)


KINDS: tuple[KindInfo, ...] = (
    _calico("WorkloadEndpoint", "workloadendpoints", "wep", "weps", namespaced=True),
    _calico("Node", "nodes", "node", "no"),
    _calico("IPPool", "ippools", "ippool", "pool"),
    _calico("IPReservation", "ipreservations", "ipreservation"),
    _calico("Tier", "tiers", "tier"),
    _calico("NetworkPolicy", "networkpolicies", "np", "policy", namespaced=True),
    _calico("GlobalNetworkPolicy", "globalnetworkpolicies", "gnp", "globalnetworkpolicy"),
    _calico("StagedNetworkPolicy", "stagednetworkpolicies", "snp", namespaced=True),
    _calico("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", "sgnp"),
    _calico("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", "sknp", namespaced=True),
    _calico("Profile", "profiles", "profile"),
    _calico("GlobalNetworkSet", "globalnetworksets", "gns", "globalnetworkset"),
    _calico("NetworkSet", "networksets", "ns-set", "networkset", namespaced=True),
    _calico("HostEndpoint", "hostendpoints", "hep", "heps"),
    _calico("BGPConfiguration", "bgpconfigurations", "bgpconfig"),
    _calico("BGPPeer", "bgppeers", "bgppeer"),
    _calico("BGPFilter", "bgpfilters", "bgpfilter"),
    _calico("FelixConfiguration", "felixconfigurations", "felixconfig"),
    _calico("KubeControllersConfiguration", "kubecontrollersconfigurations", "kcc"),
    _calico("ClusterInformation", "clusterinformations", "clusterinfo"),
    _calico("IPAMConfiguration", "ipamconfigurations", "ipamconfig"),
    _calico("CalicoNodeStatus", "caliconodestatuses", "caliconodestatus"),
    KindInfo("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", True, ("k8snp", "netpol")),
    KindInfo("ClusterNetworkPolicy", ADMIN_V2, "clusternetworkpolicies", False, ("cnp",)),
    KindInfo("AdminNetworkPolicy", ADMIN_V1, "adminnetworkpolicies", False, ("anp",)),
    KindInfo("BaselineAdminNetworkPolicy", ADMIN_V1, "baselineadminnetworkpolicies", False, ("banp",)),
    KindInfo("Namespace", "v1", "namespaces", False, ("namespace", "ns")),
    KindInfo("Service", "v1", "services", True, ("service", "svc")),
    KindInfo("Endpoints", "v1", "endpoints", True, ("ep",)),
    KindInfo("Pod", "v1", "pods", True, ("pod", "po")),
    KindInfo("ServiceAccount", "v1", "serviceaccounts", True, ("serviceaccount", "sa")),
    KindInfo("Secret", "v1", "secrets", True, ("secret",)),
    KindInfo("Event", "v1", "events", True, ("event", "ev")),
    KindInfo("EndpointSlice", "discovery.k8s.io/v1", "endpointslices", True, ("endpointslice", "eps")),
    KindInfo("IPAddressPool", "metallb.io/v1beta1", "ipaddresspools", True, ("ipaddresspool", "addresspool")),
    KindInfo("L2Advertisement", "metallb.io/v1beta1", "l2advertisements", True, ("l2adv",)),
    KindInfo("BGPAdvertisement", "metallb.io/v1beta1", "bgpadvertisements", True, ("bgpadv",)),
    KindInfo("BGPPeer", "metallb.io/v1beta2", "bgppeers", True, ("metallbpeer",)),
    KindInfo("BFDProfile", "metallb.io/v1beta1", "bfdprofiles", True, ("bfdprofile",)),
    KindInfo("Community", "metallb.io/v1beta1", "communities", True, ("community",)),
)

REPORTED_KINDS = (
    KindInfo("ServiceL2Status", "metallb.io/v1beta1", "servicel2statuses", True, ("servicel2status",)),
    KindInfo("ServiceBGPStatus", "metallb.io/v1beta1", "servicebgpstatuses", True, ("servicebgpstatus",)),
)
"""Kinds that nobody but nodes write: the whole of such an object is a status, and lies where those are."""

BY_TYPE = {(info.api_version, info.kind): info for info in KINDS}
"""A kind by the two fields that name it in YAML."""


def find_kind(word: str) -> tuple[KindInfo, ...]:
    """The kinds that a person may mean by `word` (kind, plural or short name, any case); usually one."""
    low = word.lower()
    return tuple(info for info in KINDS if low in {info.kind.lower(), info.plural, *info.short})


def grant_key(address: str) -> str:
    """Where the grant of one LoadBalancer address lies; `address` in its canonical text."""
    return f"{GRANTS_PREFIX}addresses/{address}"


def answering_key(node: str) -> str:
    """Where a node says what it answers for at layer 2."""
    return f"{ANSWERING_PREFIX}{node}"


def port_grant_key(port: int) -> str:
    """Where the grant of one port of every node lies."""
    return f"{GRANTS_PREFIX}ports/{port}"
