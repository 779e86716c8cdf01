"""What a runtime configures: the network configuration (JSON), parsed and checked.

Pure. Foreign bytes → NetConf; each error says the field. Fields that are not read here are passed over.
Source: CNI specification 1.1.0 and its conventions (CONVENTIONS.md); Calico's cni-plugin/pkg/types/types.go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec

from felixpy.addresses import Address, Prefix, parse_address, parse_prefix
from felixpy.cni.errors import CniError, Code
from felixpy.resources.foreign_json import UNREADABLE

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]
MTU_MIN_BYTES, MTU_MAX_BYTES = 68, 65535
"""Of an Ethernet device (linux/if_ether.h)."""
MTU_MIN_V6_BYTES = 1280
"""Below it the kernel has no IPv6 on a device (RFC 8200 §5)."""
IDENTIFIER_MAX = 118
"""Characters of a container id or network name: both, a device name and two slashes fit an alias (IFALIASZ, 256)."""
_IDENTIFIER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{IDENTIFIER_MAX - 1}}}", re.ASCII)
IPAM_TYPES = ("", "calico-ipam", "felixpy-cni")
KUBERNETES = "k8s"
"""policy.type of Calico's configurations: labels and annotations are the Pod's."""
_IFNAME = re.compile(r"[^\s/:\0]{1,15}", re.ASCII)


class Dns(msgspec.Struct, frozen=True, omit_defaults=True):
    """Name servers that the configuration gives, returned as they are."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """What the ADD before gave: each address with its device ("" where that is not said), and the devices' names.

    `text` is all of it, as it came.
    """

    addresses: tuple[tuple[Prefix, str], ...]
    devices: tuple[str, ...]
    text: bytes = b""


class PublishedPort(NamedTuple):
    """A port of a container that is reached by one of its node; protocol as Kubernetes writes it."""

    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class NetConf:
    """One network: how pods on it get addresses, and how their links are. mtu in bytes, 0 means the node's.

    `node` is the node that it is for, "" for any. `needs_pod`: a pod is not wired before the datastore has its Pod.
    `floating`: pods may ask for floating addresses; `unmanaged`: and for some of their own that no pool gives out.
    `published` are ports that the runtime makes the node's own.
    """

    version: str
    name: str
    mtu: int = 0
    assign_ipv4: bool = True
    assign_ipv6: bool = False
    ipv4_pools: tuple[str, ...] = ()
    ipv6_pools: tuple[str, ...] = ()
    allow_ip_forwarding: bool = False
    addresses: tuple[Address, ...] = ()
    mac: bytes = b""
    node: str = ""
    needs_pod: bool = False
    floating: bool = False
    unmanaged: bool = False
    published: tuple[PublishedPort, ...] = ()
    dns: Dns | None = None
    previous: PreviousResult | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None


class _Ipam(msgspec.Struct):
    type: str = ""
    assign_ipv4: bool | str | None = None
    assign_ipv6: bool | str | None = None
    ipv4_pools: tuple[str, ...] | None = None
    ipv6_pools: tuple[str, ...] | None = None


class _Container(msgspec.Struct):
    allow_ip_forwarding: bool = False


class _Features(msgspec.Struct):
    floating_ips: bool = False
    ip_addrs_no_ipam: bool = False


class _Policy(msgspec.Struct):
    type: str = ""


class _Kubernetes(msgspec.Struct):
    node_name: str = ""


class _RuntimeDns(msgspec.Struct):
    servers: tuple[str, ...] | None = None
    searches: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None


class _Range(msgspec.Struct, rename={"start": "rangeStart", "end": "rangeEnd"}):
    subnet: str
    start: str = ""
    end: str = ""


class _Mapping(msgspec.Struct, rename={"port": "containerPort"}):
    port: int = 0
    protocol: str = "tcp"


class _Asked(msgspec.Struct, rename={"ranges": "ipRanges", "mappings": "portMappings"}):
    ips: tuple[str, ...] | None = None
    mac: str = ""
    dns: _RuntimeDns | None = None
    ranges: tuple[tuple[_Range, ...], ...] | None = None
    mappings: tuple[_Mapping, ...] | None = None


class _Args(msgspec.Struct):
    cni: _Asked | None = None


class _Device(msgspec.Struct):
    name: str


class _Ip(msgspec.Struct):
    address: str
    interface: int | None = None


class _Result(msgspec.Struct):
    interfaces: tuple[_Device, ...] | None = None
    ips: tuple[_Ip, ...] | None = None


class _Valid(msgspec.Struct, rename={"container_id": "containerID"}):
    container_id: str
    ifname: str


class _Conf(
    msgspec.Struct,
    rename={
        "version": "cniVersion",
        "runtime_config": "runtimeConfig",
        "previous": "prevResult",
        "valid": "cni.dev/valid-attachments",
    },
):
    name: str
    version: str = ""
    mtu: int = 0
    nodename: str = ""
    kubernetes: _Kubernetes | None = None
    policy: _Policy | None = None
    feature_control: _Features | None = None
    ipam: _Ipam | None = None
    container_settings: _Container | None = None
    runtime_config: _Asked | None = None
    args: _Args | None = None
    dns: Dns | None = None
    previous: msgspec.Raw = msgspec.Raw()
    valid: tuple[_Valid, ...] | None = None


class _Named(msgspec.Struct, rename={"version": "cniVersion"}):
    name: str
    version: str = ""


_decoder = msgspec.json.Decoder(_Conf)
_result_decoder = msgspec.json.Decoder(_Result | None)
_named_decoder = msgspec.json.Decoder(_Named)
T = TypeVar("T", _Conf, _Named)


def parse_netconf(data: bytes) -> NetConf:
    """The network that standard input describes; an unknown version is kept, for the caller to judge by its verb.

    Raises  CniError DECODE when it is no JSON of the right shape, INVALID_CONFIG when a value cannot be.
    """
    conf = _decode(data, _decoder)
    if conf.mtu and not MTU_MIN_BYTES <= conf.mtu <= MTU_MAX_BYTES:
        words = f"mtu {conf.mtu} is neither 0 nor between {MTU_MIN_BYTES} and {MTU_MAX_BYTES}"
        raise CniError(Code.INVALID_CONFIG, words)
    ipam = conf.ipam or _Ipam()
    assign_ipv6 = _parse_switch("ipam.assign_ipv6", ipam.assign_ipv6, default=False)
    if assign_ipv6 and 0 < conf.mtu < MTU_MIN_V6_BYTES:
        raise CniError(Code.INVALID_CONFIG, f"mtu {conf.mtu}: IPv6 needs {MTU_MIN_V6_BYTES}")
    if ipam.type not in IPAM_TYPES:
        raise CniError(Code.INVALID_CONFIG, f"ipam.type {ipam.type!r}: addresses come from IPPools, so leave it out")
    asked = conf.runtime_config or _Asked()
    by_args = (conf.args.cni if conf.args else None) or _Asked()
    ranges = _parse_ranges(asked.ranges or ())
    return NetConf(
        version=conf.version,
        name=conf.name,
        mtu=conf.mtu,
        assign_ipv4=_parse_switch("ipam.assign_ipv4", ipam.assign_ipv4, default=True),
        assign_ipv6=assign_ipv6,
        ipv4_pools=tuple(str(net) for net in ranges if net.version == 4) or ipam.ipv4_pools or (),
        ipv6_pools=tuple(str(net) for net in ranges if net.version == 6) or ipam.ipv6_pools or (),
        allow_ip_forwarding=bool(conf.container_settings and conf.container_settings.allow_ip_forwarding),
        addresses=parse_asked_addresses("ips", asked.ips or by_args.ips or ()),
        mac=parse_mac("mac", asked.mac or by_args.mac) if asked.mac or by_args.mac else b"",
        node=conf.nodename or (conf.kubernetes.node_name if conf.kubernetes else ""),
        needs_pod=bool(conf.policy and conf.policy.type == KUBERNETES),
        floating=bool(conf.feature_control and conf.feature_control.floating_ips),
        unmanaged=bool(conf.feature_control and conf.feature_control.ip_addrs_no_ipam),
        published=_parse_published(asked.mappings or ()),
        dns=_merge_dns(conf.dns, asked.dns),
        previous=_parse_previous(conf.previous) if conf.previous else None,
        valid_attachments=None if conf.valid is None else frozenset((v.container_id, v.ifname) for v in conf.valid),
    )


def parse_name(data: bytes) -> NetConf:
    """The network's name and version alone: what was wired under a configuration that is refused now can be deleted.

    Raises  CniError as `parse_netconf`, for these two.
    """
    conf = _decode(data, _named_decoder)
    return NetConf(conf.version, conf.name)


def find_version(data: bytes) -> str:
    """The version to answer in: the configuration's, or the newest where that is none of ours."""
    try:
        version = _named_decoder.decode(data).version
    except UNREADABLE:
        return NEWEST_VERSION
    return version if version in SUPPORTED_VERSIONS else NEWEST_VERSION


def _decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        conf = decoder.decode(data)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, "invalid network configuration", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CniError(Code.DECODE, "the network configuration is not JSON", str(error)) from None
    if not _IDENTIFIER.fullmatch(conf.name):
        raise CniError(Code.INVALID_CONFIG, f"name {conf.name!r} is no network name")
    return conf


def parse_asked_addresses(field: str, texts: Sequence[str]) -> tuple[Address, ...]:
    """Addresses, each with or without a prefix length, at most one of a family.

    Raises  CniError INVALID_CONFIG naming `field`.
    """
    try:
        addresses = tuple(parse_address(text.partition("/")[0]) for text in texts)
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"{field}: {error}") from None
    if len({len(address) for address in addresses}) < len(addresses):
        raise CniError(Code.INVALID_CONFIG, f"{field}: more than one address of a family")
    return addresses


def parse_mac(field: str, text: str) -> bytes:
    """Six bytes of a unicast MAC in the usual notation.

    Raises  CniError INVALID_CONFIG naming `field`.
    """
    parts = text.split(":")
    if len(parts) != 6 or not all(re.fullmatch("[0-9a-fA-F]{2}", part) for part in parts):
        raise CniError(Code.INVALID_CONFIG, f"{field}: {text!r} is no MAC")
    mac = bytes(int(part, 16) for part in parts)
    if mac[0] & 1 or mac == bytes(6):
        raise CniError(Code.INVALID_CONFIG, f"{field}: {text!r} is no MAC of one device")
    return mac


def is_identifier(text: str) -> bool:
    """Whether `text` can be a CNI_CONTAINERID or a network's name (the specification's characters)."""
    return bool(_IDENTIFIER.fullmatch(text))


def is_ifname(text: str) -> bool:
    """Whether `text` can name a network device (net/core/dev.c, dev_valid_name)."""
    return bool(_IFNAME.fullmatch(text)) and text not in (".", "..")


def _parse_switch(field: str, value: bool | str | None, *, default: bool) -> bool:
    """Calico writes these as text."""
    if value is None:
        return default
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise CniError(Code.INVALID_CONFIG, f"{field}: {value!r} is neither true nor false")


def _parse_ranges(sets: Sequence[Sequence[_Range]]) -> tuple[Prefix, ...]:
    """Subnets that are pools; which addresses of them are given is the pools' own affair."""
    found = []
    for one in (one for ranges in sets for one in ranges):
        if one.start or one.end:
            raise CniError(Code.INVALID_CONFIG, "ipRanges: rangeStart and rangeEnd are for IPPools and IPReservations")
        try:
            found.append(parse_prefix(one.subnet))
        except ValueError as error:
            raise CniError(Code.INVALID_CONFIG, f"ipRanges: {error}") from None
    return tuple(found)


def _merge_dns(conf: Dns | None, asked: _RuntimeDns | None) -> Dns | None:
    """What the runtime asks for goes before what the network says."""
    if asked is None:
        return conf
    base = conf or Dns()
    return Dns(
        asked.servers or base.nameservers, base.domain, asked.searches or base.search, asked.options or base.options
    )


def _parse_published(mappings: Sequence[_Mapping]) -> tuple[PublishedPort, ...]:
    found = []
    for one in mappings:
        protocol = one.protocol.upper() or "TCP"
        if protocol not in ("TCP", "UDP", "SCTP") or not 0 < one.port < 65536:
            raise CniError(Code.INVALID_CONFIG, f"portMappings: {one.protocol} {one.port} is no port")
        found.append(PublishedPort(protocol, one.port))
    return tuple(dict.fromkeys(found))


def _parse_previous(text: msgspec.Raw) -> PreviousResult | None:
    try:
        result = _result_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, "invalid prevResult", str(error)) from None
    if result is None:
        return None
    devices = tuple(device.name for device in result.interfaces or ())
    try:
        addresses = tuple(
            (_parse_interface_address(ip.address), "" if ip.interface is None else devices[ip.interface])
            for ip in result.ips or ()
        )
    except (ValueError, IndexError) as error:
        raise CniError(Code.INVALID_CONFIG, f"prevResult.ips: {error}") from None
    return PreviousResult(addresses, devices, bytes(text))


def _parse_interface_address(text: str) -> Prefix:
    return Prefix(parse_address(text.partition("/")[0]), parse_prefix(text).length)
