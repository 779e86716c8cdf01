"""What a CNI call asks for, and how its pod is to be named, addressed and wired.

Pure. wire.Request → Call → Attachment, Claim, PodLink, PodWiring. Names are Calico's (node end of the veth, endpoint,
IPAM handle), so that Calico's tools and nodes find them. Must never know which addresses are free.
Source: Calico's cni-plugin and libcalico-go/lib/names/workloadendpoint.go; CNI specification 1.1.0.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import msgspec

from felixpy.addresses import Address, Prefix, format_address, parse_address, parse_prefix, version_of
from felixpy.cni.errors import CniError, Code
from felixpy.cni.netconf import (
    SUPPORTED_VERSIONS,
    NetConf,
    PublishedPort,
    is_identifier,
    is_ifname,
    parse_asked_addresses,
    parse_mac,
    parse_name,
    parse_netconf,
)
from felixpy.cni.pod_args import PodArgs, parse_args
from felixpy.cni.wire import Request
from felixpy.dataplane.objects import Sysctl
from felixpy.dataplane.pod import PodLink, PodWiring
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kinds import Name

INTERFACE_PREFIX = "cali"
USUAL_IFNAME = "eth0"
PLAIN_NAMESPACE = "default"
"""Where endpoints live whose container belongs to no orchestrator."""
_FIRST_RANK = 1000
"""Beyond the numbers that tables usually have (253 to 255 are the kernel's)."""
_ANNOTATIONS = "cni.projectcalico.org/"
_DEFAULT_ROUTES = {4: Prefix(Address(bytes(4)), 0), 6: Prefix(Address(bytes(16)), 0)}


class Verb(StrEnum):
    """CNI_COMMAND, but for VERSION, which the shim answers."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


_SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container on one network, and every name that follows from it.

    `namespace` and `pod` are "" for a container that belongs to no orchestrator.
    """

    node: str
    network: str
    container_id: str
    ifname: str
    namespace: str = ""
    pod: str = ""

    @property
    def orchestrator(self) -> Literal["k8s", "cni"]:
        return "k8s" if self.pod else "cni"

    @property
    def endpoint(self) -> Name:
        """The WorkloadEndpoint's name; the parts' own hyphens are doubled."""
        parts = (self.node, self.orchestrator, self.pod or self.container_id, self.ifname)
        return Name(self.namespace or PLAIN_NAMESPACE, "-".join(part.replace("-", "--") for part in parts))

    @property
    def handle(self) -> str:
        """The IPAM handle: Calico's, and the interface where it is not the usual one."""
        suffix = "" if self.ifname == USUAL_IFNAME else f".{self.ifname}"
        return f"{self.network}.{self.container_id}{suffix}"

    @property
    def owner(self) -> str:
        """The alias of the node end, by which it is known whose it is."""
        return f"{self.network}/{self.container_id}/{self.ifname}"

    @property
    def host_device(self) -> str:
        """The node end: Calico's name wherever that cannot be another container's.

        A pod's is a hash of namespace and name; otherwise the container's id begins it, hashed where its first eleven
        characters need not be its own, and with every interface beyond the usual one.
        """
        if self.pod:
            whose = f"{self.namespace}.{self.pod}"
        elif self.ifname == USUAL_IFNAME and (
            len(self.container_id) <= 11 or re.fullmatch("[0-9a-f]{32,}", self.container_id)
        ):
            return INTERFACE_PREFIX + self.container_id[:11]
        else:
            whose = self.container_id
        if self.ifname != USUAL_IFNAME:
            whose += f".{self.ifname}"
        return INTERFACE_PREFIX + hashlib.sha1(whose.encode(), usedforsecurity=False).hexdigest()[:11]


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request. `attachment` is None for GC and STATUS; `netns` is the path as the runtime names it.

    `args` are what CNI_ARGS ask for.
    """

    verb: Verb
    conf: NetConf
    attachment: Attachment | None = None
    netns: str = ""
    args: PodArgs = field(default_factory=PodArgs)


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A port of a pod that policy may name; protocol as Kubernetes writes it (TCP, UDP, SCTP)."""

    name: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What is known of the pod, its namespace and its node beyond the call. mtu in bytes, 0 leaves the kernel's.

    `known` is false for a pod that the datastore does not have, and should. `uid` is the Pod's, "" where nobody says.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    generate_name: str = ""
    ports: tuple[NamedPort, ...] = ()
    mtu: int = 0
    known: bool = True
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The addresses that an attachment asks for: one of each version in `versions`, from these pools (names or CIDRs;
    none means any that is for a namespace with these labels), or exactly `addresses`. `floating` are addresses that
    lead to those of their family, `published` ports that the node's own lead to. Without `managed` no pool is
    asked: whoever wrote `addresses` answers for them. `spoofed`: whose addresses the pod may give as its own.
    """

    attachment: Attachment
    versions: frozenset[Literal[4, 6]]
    ipv4_pools: tuple[str, ...] = ()
    ipv6_pools: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    floating: tuple[Address, ...] = ()
    published: tuple[PublishedPort, ...] = ()
    managed: bool = True
    spoofed: tuple[Prefix, ...] = ()


def parse_call(request: Request, node: str) -> Call:
    """What a request asks of `node`.

    Raises  CniError with the specification's code for what is wrong. A DEL is only refused when it names nothing.
    """
    try:
        verb = Verb(request.command)
    except ValueError:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_COMMAND {request.command!r} is unknown") from None
    conf = parse_name(request.config) if verb is Verb.DEL else parse_netconf(request.config)
    if verb is not Verb.DEL:
        _check_version(conf.version, verb)
    if verb not in (Verb.DEL, Verb.GC) and conf.node not in ("", node):
        raise CniError(Code.INVALID_CONFIG, f"nodename is {conf.node}, and the agent's node is {node}")
    if verb in (Verb.GC, Verb.STATUS):
        return Call(verb, conf)
    if not is_identifier(request.container_id):
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_CONTAINERID {request.container_id!r} is no container id")
    if not is_ifname(request.ifname):
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_IFNAME {request.ifname!r} is no device name")
    if verb is not Verb.DEL and not request.netns:
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS is missing")
    if verb is Verb.CHECK and conf.previous is None:
        raise CniError(Code.INVALID_CONFIG, "CHECK needs prevResult")
    args = parse_args(request.args)
    attachment = Attachment(node, conf.name, request.container_id, request.ifname, args.namespace, args.pod)
    return Call(verb, conf, attachment, request.netns, args)


def derive_claim(call: Call, attachment: Attachment, facts: PodFacts) -> Claim:
    """The addresses to ask for; the pod's annotations go before its namespace's, and those before the network's.

    Raises  CniError INVALID_CONFIG for annotations that cannot be.
    """
    conf = call.conf
    unmanaged = _read_list(facts.annotations, "ipAddrsNoIpam")
    if unmanaged:
        if not conf.unmanaged:
            field = f"{_ANNOTATIONS}ipAddrsNoIpam: the network does not offer it"
            raise CniError(Code.INVALID_CONFIG, field, "feature_control.ip_addrs_no_ipam")
        addresses = parse_asked_addresses(_ANNOTATIONS + "ipAddrsNoIpam", unmanaged)
    elif asked := _read_list(facts.annotations, "ipAddrs"):
        addresses = parse_asked_addresses(_ANNOTATIONS + "ipAddrs", asked)
    else:
        addresses = conf.addresses or ((call.args.address,) if call.args.address else ())
    if addresses:
        versions = frozenset[Literal[4, 6]](4 if len(address) == 4 else 6 for address in addresses)
    else:
        versions = _wanted_versions(conf, facts)
    return Claim(
        attachment,
        versions,
        _read_pools(facts, "ipv4pools") or conf.ipv4_pools,
        _read_pools(facts, "ipv6pools") or conf.ipv6_pools,
        addresses,
        facts.namespace_labels,
        _read_floating(conf, facts, versions),
        () if attachment.pod else conf.published,
        not unmanaged,
        _read_spoofed(facts),
    )


def derive_link(call: Call, attachment: Attachment, facts: PodFacts) -> PodLink:
    """The pod's veth pair; it does not depend on the addresses. The MAC is the same for the pod's whole life.

    Raises  CniError INVALID_CONFIG for an annotated MAC that cannot be.
    """
    if text := facts.annotations.get(_ANNOTATIONS + "hwAddr"):
        mac = parse_mac(_ANNOTATIONS + "hwAddr", text)
    else:
        mac = call.conf.mac or call.args.mac or _derive_mac(attachment)
    device = attachment.host_device
    return PodLink(device, attachment.ifname, attachment.owner, mac, call.conf.mtu or facts.mtu)


def derive_wiring(
    link: PodLink, addresses: tuple[Address, ...], *, versions: Collection[int] = (), forwarding: bool = False
) -> PodWiring:
    """How the pair is set up: default routes and both ends' sysctls, for the families of `addresses` and `versions`.

    The node end answers ARP and NDP for every address, should the pod's permanent neighbour entry be lost.
    """
    host, pod = link.host_device, link.pod_device
    versions = sorted({*versions, *(4 if len(address) == 4 else 6 for address in addresses)})
    host_sysctls = {
        4: (
            (f"net/ipv4/conf/{host}/forwarding", "1"),
            (f"net/ipv4/conf/{host}/proxy_arp", "1"),
            (f"net/ipv4/conf/{host}/route_localnet", "1"),
            (f"net/ipv4/neigh/{host}/proxy_delay", "0"),
        ),
        6: (
            (f"net/ipv6/conf/{host}/disable_ipv6", "0"),
            (f"net/ipv6/conf/{host}/forwarding", "1"),
            (f"net/ipv6/conf/{host}/accept_ra", "0"),
            (f"net/ipv6/conf/{host}/proxy_ndp", "1"),
        ),
    }
    forwarding_sysctls = {4: ("net/ipv4/ip_forward", "1"), 6: ("net/ipv6/conf/all/forwarding", "1")}
    pod_sysctls: list[tuple[str, str]] = []
    if 6 in versions:
        pod_sysctls += [(f"net/ipv6/conf/{where}/disable_ipv6", "0") for where in ("all", "default", pod)]
    if forwarding:
        pod_sysctls += [forwarding_sysctls[version] for version in versions]
    return PodWiring(
        link,
        addresses,
        tuple(_DEFAULT_ROUTES[version] for version in versions),
        tuple(Sysctl(path, value) for version in versions for path, value in host_sysctls[version]),
        tuple(Sysctl(path, value) for path, value in pod_sysctls),
        _rank(pod),
    )


def parse_owner(alias: str, node: str) -> Attachment | None:
    """The attachment that an alias names, without its pod; None when the alias is not one of ours."""
    parts = alias.split("/")
    if len(parts) != 3 or not is_identifier(parts[0]) or not is_identifier(parts[1]) or not is_ifname(parts[2]):
        return None
    return Attachment(node, *parts)


def _check_version(version: str, verb: Verb) -> None:
    if version not in SUPPORTED_VERSIONS:
        known = ", ".join(SUPPORTED_VERSIONS)
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not supported", f"known: {known}")
    since = _SINCE.get(verb, SUPPORTED_VERSIONS[0])
    if SUPPORTED_VERSIONS.index(version) < SUPPORTED_VERSIONS.index(since):
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion {version} has no {verb}", f"it came with {since}")


def _wanted_versions(conf: NetConf, facts: PodFacts) -> frozenset[Literal[4, 6]]:
    switches: tuple[tuple[Literal[4, 6], bool], ...] = ((4, conf.assign_ipv4), (6, conf.assign_ipv6))
    if families := _read_list(facts.annotations, "ipFamilies"):
        switches = ((4, "IPv4" in families), (6, "IPv6" in families))
    versions = frozenset[Literal[4, 6]](version for version, wanted in switches if wanted)
    if not versions:
        raise CniError(Code.INVALID_CONFIG, "neither an IPv4 nor an IPv6 address is asked for")
    return versions


def _read_floating(conf: NetConf, facts: PodFacts, versions: frozenset[Literal[4, 6]]) -> tuple[Address, ...]:
    field = _ANNOTATIONS + "floatingIPs"
    texts = _read_list(facts.annotations, "floatingIPs")
    if texts and not conf.floating:
        raise CniError(Code.INVALID_CONFIG, f"{field}: the network does not offer it", "feature_control.floating_ips")
    try:
        addresses = tuple(dict.fromkeys(map(parse_address, texts)))
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"{field}: {error}") from None
    for address in addresses:
        if version_of(address) not in versions:
            text = format_address(address)
            raise CniError(Code.INVALID_CONFIG, f"{field}: the pod has no address of the family of {text}")
    return addresses


def _read_spoofed(facts: PodFacts) -> tuple[Prefix, ...]:
    try:
        return tuple(map(parse_prefix, _read_list(facts.annotations, "allowedSourcePrefixes")))
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"{_ANNOTATIONS}allowedSourcePrefixes: {error}") from None


def _read_pools(facts: PodFacts, name: str) -> tuple[str, ...]:
    return _read_list(facts.annotations, name) or _read_list(facts.namespace_annotations, name)


def _read_list(annotations: Mapping[str, str], name: str) -> tuple[str, ...]:
    text = annotations.get(_ANNOTATIONS + name)
    if not text:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except UNREADABLE as error:
        raise CniError(Code.INVALID_CONFIG, f"annotation {_ANNOTATIONS}{name}", str(error)) from None


def _rank(ifname: str) -> int:
    """0 for the usual interface; for others a number that is a free routing table's and metric, in their order."""
    if ifname == USUAL_IFNAME:
        return 0
    numbered = re.fullmatch(r"eth(\d{1,3})", ifname)
    return _FIRST_RANK + (int(numbered[1]) if numbered else 1000 + zlib.crc32(ifname.encode()) % 1_000_000)


def _derive_mac(attachment: Attachment) -> bytes:
    """Locally administered and unicast, from the endpoint's name: a pod that comes again has the MAC it had."""
    digest = hashlib.sha1("/".join(attachment.endpoint).encode(), usedforsecurity=False).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]
