"""Every resource that is read, as one closed union, and what stands for one that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

from felixpy.resources.bgp_types import (
    BfdProfile,
    BgpConfiguration,
    BgpFilter,
    BgpPeer,
    Secret,
    SpeakerPeer,
)
from felixpy.resources.policy_types import (
    NetworkSet,
    Policy,
    Profile,
    Tier,
)
from felixpy.resources.service_types import (
    AddressPool,
    Answering,
    BgpAdvertisement,
    CommunityAliases,
    EndpointSlice,
    Grant,
    L2Advertisement,
    PortGrant,
    Service,
)
from felixpy.resources.types import (
    Block,
    BlockAffinity,
    ClusterInformation,
    ControllersConfiguration,
    FelixConfiguration,
    HostEndpoint,
    IpPool,
    IpReservation,
    Namespace,
    Node,
    NodeStatusWish,
    Pod,
    ServiceAccount,
    WorkloadEndpoint,
)

Resource = (
    WorkloadEndpoint
    | HostEndpoint
    | Policy
    | Tier
    | Profile
    | NetworkSet
    | IpPool
    | IpReservation
    | ControllersConfiguration
    | Node
    | BgpConfiguration
    | BgpPeer
    | BgpFilter
    | FelixConfiguration
    | ClusterInformation
    | NodeStatusWish
    | Block
    | BlockAffinity
    | Namespace
    | ServiceAccount
    | Pod
    | Service
    | EndpointSlice
    | AddressPool
    | BgpAdvertisement
    | CommunityAliases
    | L2Advertisement
    | SpeakerPeer
    | BfdProfile
    | Secret
    | Grant
    | PortGrant
    | Answering
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A value that is not what its key says it is: counts as missing, and is reported once.

    With `in_part` it is the field that counts as missing; the rest of the object does not.
    """

    key: str
    field: str
    why: str
    in_part: bool = False

    @property
    def what(self) -> str:
        """What of the object counts as missing, in words that an object's name goes behind."""
        return "one field counts as missing" if self.in_part else "counts as missing"

    def __str__(self) -> str:
        return f"{self.key}: {self.field}: {self.why}" if self.field else f"{self.key}: {self.why}"
