"""Calico's address pools, reservations, network sets, and the settings of address management.

Source  projectcalico/calico api/pkg/apis/projectcalico/v3/{ippool,ipreservation,ipamconfig,networkset}.go,
        libcalico-go/lib/clientv3/ippool.go (what a pool may be), libcalico-go/lib/ipam/ipam.go (SetIPAMConfig).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from felixpy.addresses import parse_prefix
from felixpy.ctl.validate.fields import Cidr, Prefix, SelectorText, Text, is_qualified_name
from felixpy.ctl.validate.metadata import Resource
from felixpy.ctl.validate.shape import Fault, Shape
from felixpy.resources.settings import CLASSES_ANNOTATION, NO_CLASS, read_classes
from felixpy.selector import NAMESPACE_LABEL

BLOCK_SIZES = {4: (20, 32, 26), 6: (116, 128, 122)}
"""Shortest, longest and usual block length in bits, by IP version."""
_LINK_LOCAL = (parse_prefix("169.254.0.0/16"), parse_prefix("fe80::/10"))

Encapsulation = Literal["Never", "Always", "CrossSubnet"]


class PoolSpec(Shape):
    cidr: Cidr
    blockSize: int | None = None
    ipipMode: Encapsulation = "Never"
    vxlanMode: Encapsulation = "Never"
    natOutgoing: bool = False
    disabled: bool = False
    disableBGPExport: bool = False
    nodeSelector: SelectorText = ""
    namespaceSelector: SelectorText = ""
    allowedUses: list[Literal["Workload", "Tunnel", "LoadBalancer"]] = []
    assignmentMode: Literal["Automatic", "Manual"] = "Automatic"

    def faults(self) -> Iterator[Fault]:
        cidr = parse_prefix(self.cidr)
        least, most, usual = BLOCK_SIZES[cidr.version]
        block = self.blockSize or usual
        if not least <= block <= most:
            yield Fault(("blockSize",), f"is {block}; for IPv{cidr.version} it is {least}-{most}")
        elif cidr.length > block:
            yield Fault(("cidr",), f"{self.cidr} is smaller than one block of /{block}")
        if any(cidr.overlaps(link_local) for link_local in _LINK_LOCAL):
            yield Fault(("cidr",), f"{self.cidr} holds link-local addresses")
        if self.ipipMode != "Never" and self.vxlanMode != "Never":
            yield Fault(("vxlanMode",), "cannot stand beside ipipMode: one of the two must be Never")
        if self.ipipMode != "Never" and cidr.version == 6:
            yield Fault(("ipipMode",), "IPIP carries IPv4 only")
        if "LoadBalancer" in self.allowedUses:
            yield from self._load_balancer_faults()

    def _load_balancer_faults(self) -> Iterator[Fault]:
        if len(self.allowedUses) > 1:
            yield Fault(("allowedUses",), "LoadBalancer cannot stand beside another use")
        if self.nodeSelector not in ("", "all()"):
            yield Fault(("nodeSelector",), "a LoadBalancer pool belongs to no node: leave it out or write all()")
        if self.ipipMode != "Never" or self.vxlanMode != "Never":
            field = "ipipMode" if self.ipipMode != "Never" else "vxlanMode"
            yield Fault((field,), "a LoadBalancer pool has no encapsulation")
        if self.disableBGPExport:
            yield Fault(("disableBGPExport",), "must be false in a LoadBalancer pool")


class IPPool(Resource):
    spec: PoolSpec


class ReservationSpec(Shape):
    reservedCIDRs: list[Prefix] = []


class IPReservation(Resource):
    spec: ReservationSpec = ReservationSpec()


MOST_COOLDOWN_S = 1200
"""How long a released address may rest at most."""


class ConfigurationSpec(Shape):
    strictAffinity: bool = False
    autoAllocateBlocks: bool = True
    maxBlocksPerHost: Annotated[int, Field(ge=0, lt=2**31)] = 0
    kubeVirtVMAddressPersistence: Literal["Enabled", "Disabled"] | None = None
    ipCooldownSeconds: Annotated[int, Field(ge=0, le=MOST_COOLDOWN_S)] = 0

    def faults(self) -> Iterator[Fault]:
        if not self.strictAffinity and not self.autoAllocateBlocks:
            said = "cannot be off while strictAffinity is: nodes would have to look for free addresses everywhere"
            yield Fault(("autoAllocateBlocks",), said)


class IPAMConfiguration(Resource):
    spec: ConfigurationSpec = ConfigurationSpec()

    def faults(self) -> Iterator[Fault]:
        if self.metadata.name != "default":
            yield Fault(("metadata", "name"), "there is one, and its name is `default`")


class LoadBalancerController(Shape):
    assignIPs: Literal["AllServices", "RequestedServicesOnly"] | None = None


class Controllers(Shape):
    anything_else = True

    loadBalancer: LoadBalancerController | None = None


class ControllersSpec(Shape):
    anything_else = True

    controllers: Controllers = Controllers()


class KubeControllersConfiguration(Resource):
    spec: ControllersSpec = ControllersSpec()

    def faults(self) -> Iterator[Fault]:
        if self.metadata.name != "default":
            yield Fault(("metadata", "name"), "there is one, and its name is `default`")
        at = ("metadata", "annotations", CLASSES_ANNOTATION)
        for word in sorted(read_classes(self.metadata.annotations.get(CLASSES_ANNOTATION, "")) - {""}):
            if not is_qualified_name(word):
                yield Fault(at, f"{word!r} is no class of Services: [PREFIX/]NAME, or `{NO_CLASS}`")


class NetworkSetSpec(Shape):
    nets: list[Prefix] = []
    allowedEgressDomains: list[Text] = []


class NetworkSet(Resource):
    spec: NetworkSetSpec = NetworkSetSpec()

    def faults(self) -> Iterator[Fault]:
        if NAMESPACE_LABEL in self.metadata.labels:
            yield Fault(("metadata", "labels", NAMESPACE_LABEL), "is given by the namespace, and by nobody else")
