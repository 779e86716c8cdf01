"""By group and kind of what lies in etcd: the table that it belongs to, the shape of its JSON, and who reads that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from felixpy.resources import (
    admin_documents,
    admin_policies,
    bgp,
    bgp_documents,
    bgp_filters,
    endpoints,
    felix,
    policies,
    routing,
    services,
    settings,
)
from felixpy.resources import documents as docs
from felixpy.resources import kube_documents as kube
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.scalars import read_labels
from felixpy.resources.tables import Table
from felixpy.resources.types import Namespace, ServiceAccount

Reader = Callable[[Any, Name], Resource | None]
"""From a decoded document and the name in its key; None where there is nothing to it. May raise FieldError."""


def _unnamed(read: Callable[[Any], Resource | None]) -> Reader:
    """A reader of what is the same whatever its name."""
    return lambda doc, _: read(doc)


def _namespaced(read: Callable[[Any, str], Resource | None]) -> Reader:
    """A reader that has to know the namespace, "" where there is none."""
    return lambda doc, name: read(doc, name.namespace)


READERS: dict[tuple[str, str], tuple[Table, type, Reader]] = {
    ("projectcalico.org", "HostEndpoint"): (Table.HOST, docs.HostEndpointDoc, endpoints.read_host),
    ("projectcalico.org", "GlobalNetworkPolicy"): (
        Table.GLOBAL_POLICY,
        docs.PolicyDoc,
        _namespaced(policies.read_policy),
    ),
    ("projectcalico.org", "NetworkPolicy"): (
        Table.NAMESPACED_POLICY,
        docs.PolicyDoc,
        _namespaced(policies.read_policy),
    ),
    ("networking.k8s.io", "NetworkPolicy"): (
        Table.KUBERNETES_POLICY,
        kube.KubePolicyDoc,
        _namespaced(policies.read_kubernetes_policy),
    ),
    ("policy.networking.k8s.io", "ClusterNetworkPolicy"): (
        Table.CLUSTER_POLICY,
        admin_documents.AdminPolicyDoc,
        _unnamed(admin_policies.read_cluster_policy),
    ),
    ("policy.networking.k8s.io", "AdminNetworkPolicy"): (
        Table.ADMIN_POLICY,
        admin_documents.AdminPolicyDoc,
        _unnamed(admin_policies.read_admin_policy),
    ),
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"): (
        Table.BASELINE_POLICY,
        admin_documents.AdminPolicyDoc,
        lambda doc, name: admin_policies.read_baseline_policy(doc, name.name),
    ),
    ("projectcalico.org", "Tier"): (Table.TIER, docs.TierDoc, _unnamed(policies.read_tier)),
    ("projectcalico.org", "Profile"): (Table.PROFILE, docs.ProfileDoc, _unnamed(policies.read_profile)),
    ("projectcalico.org", "GlobalNetworkSet"): (
        Table.GLOBAL_NETWORK_SET,
        docs.NetworkSetDoc,
        endpoints.read_network_set,
    ),
    ("projectcalico.org", "NetworkSet"): (Table.NETWORK_SET, docs.NetworkSetDoc, endpoints.read_network_set),
    ("projectcalico.org", "IPPool"): (Table.POOL, docs.IpPoolDoc, _unnamed(routing.read_pool)),
    ("projectcalico.org", "IPReservation"): (
        Table.RESERVATION,
        docs.IpReservationDoc,
        _unnamed(routing.read_reservation),
    ),
    ("projectcalico.org", "KubeControllersConfiguration"): (
        Table.CONTROLLERS_CONFIGURATION,
        docs.ControllersDoc,
        _unnamed(settings.read_controllers),
    ),
    ("projectcalico.org", "Node"): (Table.NODE, docs.NodeDoc, _unnamed(routing.read_node)),
    ("projectcalico.org", "BGPConfiguration"): (
        Table.BGP_CONFIGURATION,
        bgp_documents.BgpConfigurationDoc,
        _unnamed(bgp.read_bgp_configuration),
    ),
    ("projectcalico.org", "BGPPeer"): (
        Table.BGP_PEER,
        bgp_documents.BgpPeerDoc,
        _unnamed(bgp.read_bgp_peer),
    ),
    ("projectcalico.org", "BGPFilter"): (
        Table.BGP_FILTER,
        bgp_documents.BgpFilterDoc,
        _unnamed(bgp_filters.read_bgp_filter),
    ),
    ("projectcalico.org", "FelixConfiguration"): (Table.FELIX_CONFIGURATION, docs.AnySpecDoc, felix.read_felix),
    ("projectcalico.org", "ClusterInformation"): (Table.CLUSTER, docs.ClusterInformationDoc, settings.read_cluster),
    ("projectcalico.org", "CalicoNodeStatus"): (
        Table.NODE_STATUS,
        docs.NodeStatusDoc,
        settings.read_node_status,
    ),
    ("core", "Namespace"): (
        Table.NAMESPACE,
        kube.NamespaceDoc,
        lambda doc, name: Namespace(read_labels(doc.metadata.labels)),
    ),
    ("core", "ServiceAccount"): (
        Table.SERVICE_ACCOUNT,
        kube.ServiceAccountDoc,
        lambda doc, name: ServiceAccount(read_labels(doc.metadata.labels)),
    ),
    ("core", "Pod"): (Table.POD, kube.PodDoc, _unnamed(endpoints.read_pod)),
    ("core", "Service"): (Table.SERVICE, kube.ServiceDoc, _unnamed(services.read_service)),
    ("core", "Endpoints"): (
        Table.ENDPOINTS,
        kube.EndpointsDoc,
        lambda doc, name: services.read_endpoints(doc, name.name),
    ),
    ("discovery.k8s.io", "EndpointSlice"): (
        Table.SLICE,
        kube.EndpointSliceDoc,
        _unnamed(services.read_slice),
    ),
    ("metallb.io", "IPAddressPool"): (
        Table.ADDRESS_POOL,
        kube.AddressPoolDoc,
        _unnamed(services.read_address_pool),
    ),
    ("metallb.io", "BGPAdvertisement"): (
        Table.BGP_ADVERTISEMENT,
        kube.BgpAdvertisementDoc,
        _unnamed(services.read_bgp_advertisement),
    ),
    ("metallb.io", "L2Advertisement"): (
        Table.L2_ADVERTISEMENT,
        kube.L2AdvertisementDoc,
        _unnamed(services.read_l2_advertisement),
    ),
    ("metallb.io", "Community"): (
        Table.COMMUNITY,
        kube.CommunityDoc,
        _unnamed(services.read_communities),
    ),
    ("metallb.io", "BGPPeer"): (
        Table.SPEAKER_PEER,
        bgp_documents.SpeakerPeerDoc,
        _namespaced(bgp.read_speaker_peer),
    ),
    ("metallb.io", "BFDProfile"): (
        Table.BFD_PROFILE,
        bgp_documents.BfdProfileDoc,
        _unnamed(bgp.read_bfd_profile),
    ),
    ("core", "Secret"): (Table.SECRET, bgp_documents.SecretDoc, _unnamed(bgp.read_secret)),
}
