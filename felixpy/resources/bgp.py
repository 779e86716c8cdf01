"""BGP's kinds: documents → types. A value that BGP cannot carry is an error of its field, so the object is missing.

Source: projectcalico/calico api/pkg/apis/projectcalico/v3, libcalico-go/lib/validator/v3; metallb internal/config.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from felixpy.addresses import Address, Prefix
from felixpy.resources.bgp_documents import (
    BfdProfileDoc,
    BgpConfigurationDoc,
    BgpPeerDoc,
    PrefixAdvertisement,
    SecretDoc,
    SpeakerPeerDoc,
    SpeakerPeerSpec,
)
from felixpy.resources.bgp_extras import read_extras
from felixpy.resources.bgp_types import (
    BfdProfile,
    BgpConfiguration,
    BgpPeer,
    NextHopMode,
    PrefixCommunities,
    Secret,
    SecretKey,
    SpeakerPeer,
)
from felixpy.resources.scalars import (
    FieldError,
    read_address,
    read_as_number,
    read_interface,
    read_label_selector,
    read_prefix,
    read_seconds,
    read_selector,
)
from felixpy.resources.services import read_community

OWN_AS_MOST = 255
"""What GoBGP holds of how often the own AS may be in a path (AllowOwnAs, uint8); Calico sets no limit."""
PRIORITY_MOST = (1 << 31) - 2
"""The largest route priority of Calico: local_pref is 2^31 - 1 less the priority."""
PASSWORD_KEY = "password"
"""The key of a `kubernetes.io/basic-auth` Secret that MetalLB reads."""


def read_bgp_configuration(doc: BgpConfigurationDoc) -> BgpConfiguration:
    spec = doc.spec
    cidrs = {
        field: tuple(read_prefix(f"spec.{field}[{index}].cidr", item.cidr) for index, item in enumerate(items or ()))
        for field, items in (
            ("serviceClusterIPs", spec.service_cluster_ips),
            ("serviceExternalIPs", spec.service_external_ips),
            ("serviceLoadBalancerIPs", spec.service_lb_ips),
        )
    }
    for field, priority in (
        ("ipv4NormalRoutePriority", spec.normal_priority4),
        ("ipv6NormalRoutePriority", spec.normal_priority6),
    ):
        read_priority(f"spec.{field}", priority)
    numbers = {
        one.name: read_community(f"spec.communities[{index}].value", one.value)
        for index, one in enumerate(spec.communities or ())
    }
    port = spec.listen_port
    if port is not None and not 0 < port < 1 << 16:
        raise FieldError("spec.listenPort", f"{port} is no port")
    peering = [
        read_peering(f"spec.localWorkloadPeeringIPV{version}", text, version)
        for version, text in ((4, spec.local_peering4), (6, spec.local_peering6))
        if text
    ]
    return BgpConfiguration(
        as_number=read_as_number("spec.asNumber", spec.as_number),
        mesh=spec.node_to_node_mesh_enabled,
        listen_port=port,
        service_cluster_cidrs=cidrs["serviceClusterIPs"],
        service_external_cidrs=cidrs["serviceExternalIPs"],
        service_lb_cidrs=cidrs["serviceLoadBalancerIPs"],
        aggregate_lb=_choice(
            "spec.serviceLoadBalancerAggregation", spec.service_lb_aggregation, ("Enabled", "Disabled")
        )
        != "Disabled",
        prefix_communities=_prefix_communities(spec.prefix_advertisements, numbers),
        mesh_password=_secret("spec.nodeMeshPassword", spec.node_mesh_password),
        mesh_restart_s=read_seconds("spec.nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),
        bind_to_node=None
        if spec.bind_mode is None
        else _choice("spec.bindMode", spec.bind_mode, ("None", "NodeIP")) == "NodeIP",
        normal_priority4=spec.normal_priority4,
        normal_priority6=spec.normal_priority6,
        extras=read_extras(doc.metadata.annotations),
        workload_peering=tuple(one for one in peering if not _is_of_one_link(one)),
        peering_on_links=tuple(one for one in peering if _is_of_one_link(one)),
    )


def read_peer_range(field: str, text: str) -> Prefix:
    """A prefix from which peers connect."""
    prefix = read_prefix(field, text)
    if prefix.is_host:
        raise FieldError(field, f"{text} is one address: without its length it is a peer")
    return prefix


def read_peering(field: str, text: str, version: int) -> Address:
    """An address at which a node speaks with its workloads."""
    address = read_address(field, text)
    if (len(address) == 4) is not (version == 4):
        raise FieldError(field, f"{text} is no IPv{version} address")
    return address


def _is_of_one_link(address: Address) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def _prefix_communities(
    given: Iterable[PrefixAdvertisement] | None, numbers: dict[str, str]
) -> tuple[PrefixCommunities, ...] | None:
    """None where nothing is said."""
    if given is None:
        return None
    found = []
    for index, one in enumerate(given):
        field = f"spec.prefixAdvertisements[{index}]"
        words = one.communities or []
        values = {
            read_community(f"{field}.communities[{at}]", word) if ":" in word else numbers[word]
            for at, word in enumerate(words)
            if ":" in word or word in numbers
        }
        unknown = tuple(word for word in words if ":" not in word and word not in numbers)
        found.append(PrefixCommunities(read_prefix(f"{field}.cidr", one.cidr), tuple(sorted(values)), unknown))
    return tuple(found)


def read_bgp_peer(doc: BgpPeerDoc) -> BgpPeer:
    spec = doc.spec
    in_range = "/" in spec.peer_ip
    host, port = _split_port("spec.peerIP", spec.peer_ip) if spec.peer_ip and not in_range else ("", None)
    if not (host or in_range or spec.peer_selector or spec.local_workload_selector):
        raise FieldError("spec", "gives neither peerIP nor peerSelector nor localWorkloadSelector")
    address = read_address("spec.peerIP", host) if host else None
    gateway = read_address("spec.reachableBy", spec.reachable_by) if spec.reachable_by else None
    if gateway is not None and (address is None or len(gateway) != len(address)):
        raise FieldError("spec.reachableBy", "is of another family than peerIP, or there is none")
    if spec.ttl_security is not None and not 0 <= spec.ttl_security <= 255:
        raise FieldError("spec.ttlSecurity", f"{spec.ttl_security} is not between 0 and 255")
    if spec.allow_local_as is not None and not 0 <= spec.allow_local_as <= OWN_AS_MOST:
        raise FieldError("spec.numAllowedLocalASNumbers", f"{spec.allow_local_as} is not between 0 and {OWN_AS_MOST}")
    mode = _choice("spec.nextHopMode", spec.next_hop_mode, tuple(NextHopMode))
    return BgpPeer(
        peer_address=address,
        peer_port=port,
        as_number=read_as_number("spec.asNumber", spec.as_number),
        node=spec.node,
        node_selector=read_selector("spec.nodeSelector", spec.node_selector) if spec.node_selector else None,
        peer_selector=read_selector("spec.peerSelector", spec.peer_selector) if spec.peer_selector else None,
        workload_selector=read_selector("spec.localWorkloadSelector", spec.local_workload_selector)
        if spec.local_workload_selector
        else None,
        local_as_number=read_as_number("spec.localASNumber", spec.local_as_number) or None,
        next_hop=NextHopMode(mode or NextHopMode.AUTO),
        legacy_keep=spec.keep_original_next_hop and not mode,
        use_node_source=_choice("spec.sourceAddress", spec.source_address, ("UseNodeIP", "None")) != "None",
        ttl_security_hops=spec.ttl_security,
        keepalive_s=read_seconds("spec.keepaliveTime", spec.keepalive_time),
        allow_local_as=spec.allow_local_as or 0,
        reachable_by=gateway,
        password=_secret("spec.password", spec.password),
        filters=tuple(spec.filters or ()),
        max_restart_s=read_seconds("spec.maxRestartTime", spec.max_restart_time),
        reverse=_choice("spec.reversePeering", spec.reverse_peering, ("Auto", "Manual")) != "Manual",
        extras=read_extras(doc.metadata.annotations),
        peer_range=read_peer_range("spec.peerIP", spec.peer_ip) if in_range else None,
    )


def read_secret(doc: SecretDoc) -> Secret:
    """Only values that are texts. Never repeats one, whatever is wrong."""
    texts = dict(doc.string_data or {})
    for key, value in (doc.data or {}).items():
        try:
            plain = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise FieldError(f"data.{key}", "is no base64") from None
        with suppress(UnicodeDecodeError):
            texts.setdefault(key, plain.decode())
    return Secret(texts, doc.type)


def read_speaker_peer(doc: SpeakerPeerDoc, namespace: str) -> SpeakerPeer:
    spec = doc.spec
    if bool(spec.peer_asn) == bool(spec.dynamic_asn):
        raise FieldError("spec.peerASN", "is needed, or dynamicASN, and not both")
    if bool(spec.peer_address) == bool(spec.interface):
        raise FieldError("spec.peerAddress", "is needed, or interface, and not both")
    if spec.password and spec.password_secret:
        raise FieldError("spec.passwordSecret", "cannot stand beside password")
    for field, asn in (("myASN", spec.my_asn), ("peerASN", spec.peer_asn), ("localASN", spec.local_asn)):
        if not 0 <= asn < 1 << 32 or (field == "myASN" and not asn):
            raise FieldError(f"spec.{field}", f"{asn} is no AS number")
    if not 0 <= spec.peer_port < 1 << 16:
        raise FieldError("spec.peerPort", f"{spec.peer_port} is no port")
    hold_s, keepalive_s = (
        read_seconds(field, text)
        for field, text in (("spec.holdTime", spec.hold_time), ("spec.keepaliveTime", spec.keepalive_time))
    )
    if hold_s is not None and 0 < hold_s < 3:
        raise FieldError("spec.holdTime", "is 0, or 3 seconds and more")
    if hold_s is None and keepalive_s is not None:
        hold_s = 3 * keepalive_s
    if keepalive_s is not None and hold_s is not None and keepalive_s > hold_s:
        raise FieldError("spec.keepaliveTime", "is longer than holdTime")
    dynamic = _choice("spec.dynamicASN", spec.dynamic_asn, ("internal", "external"))
    return SpeakerPeer(
        my_asn=spec.my_asn,
        asn=spec.peer_asn or None,
        internal=dynamic == "internal",
        address=_address_or_none("spec.peerAddress", spec.peer_address),
        interface=read_interface("spec.interface", spec.interface) if spec.interface else "",
        local_asn=spec.local_asn or None,
        port=spec.peer_port or None,
        source=_address_or_none("spec.sourceAddress", spec.source_address),
        hold_time_s=hold_s,
        keepalive_s=keepalive_s,
        connect_retry_s=read_seconds("spec.connectTime", spec.connect_time),
        router_id=_router_id(spec.router_id),
        node_selectors=tuple(
            read_label_selector(f"spec.nodeSelectors[{index}]", one)
            for index, one in enumerate(spec.node_selectors or ())
        ),
        password=spec.password,
        password_secret=_password_secret(spec, namespace),
        bfd_profile=spec.bfd_profile,
        graceful_restart=spec.graceful_restart,
        multihop=spec.multihop,
        extras=read_extras(doc.metadata.annotations),
        both_families=spec.dual_stack_address_family,
        unsupported=tuple(word for word, given in (("vrf", spec.vrf), ("holdTime 0", hold_s == 0)) if given),
    )


def _password_secret(spec: SpeakerPeerSpec, namespace: str) -> SecretKey | None:
    name = (spec.password_secret or {}).get("name")
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise FieldError("spec.passwordSecret", "names no Secret")
    return SecretKey(name, PASSWORD_KEY, namespace)


def _router_id(text: str) -> Address | None:
    address = _address_or_none("spec.routerID", text)
    if address is not None and len(address) != 4:
        raise FieldError("spec.routerID", f"{text} is no IPv4 address")
    return address


def read_bfd_profile(doc: BfdProfileDoc) -> BfdProfile:
    spec = doc.spec
    for field, value, least, most in (
        ("receiveInterval", spec.receive_interval, 10, 60000),
        ("transmitInterval", spec.transmit_interval, 10, 60000),
        ("detectMultiplier", spec.detect_multiplier, 2, 255),
    ):
        if value is not None and not least <= value <= most:
            raise FieldError(f"spec.{field}", f"{value} is not between {least} and {most}")
    asked = (
        ("echoMode", spec.echo_mode),
        ("passiveMode", spec.passive_mode),
        ("minimumTtl", spec.minimum_ttl is not None),
    )
    return BfdProfile(
        spec.receive_interval or 300,
        spec.transmit_interval or 300,
        spec.detect_multiplier or 3,
        tuple(field for field, given in asked if given),
    )


def read_priority(field: str, value: int | None) -> int | None:
    """A route priority of Calico, which is a kernel metric."""
    if value is not None and not 1 <= value <= PRIORITY_MOST:
        raise FieldError(field, f"{value} is not between 1 and {PRIORITY_MOST}")
    return value


def _choice(field: str, word: str | None, words: Iterable[str]) -> str:
    """One of the words, or nothing."""
    if word and word not in (known := tuple(words)):
        raise FieldError(field, f"{word!r} is none of {', '.join(known)}")
    return word or ""


def _address_or_none(field: str, text: str) -> Address | None:
    return read_address(field, text) if text else None


def _secret(field: str, password: dict[str, Any] | None) -> SecretKey | None:
    reference = (password or {}).get("secretKeyRef")
    if reference is None:
        return None
    if not isinstance(reference, dict) or not isinstance(reference.get("name"), str):
        raise FieldError(f"{field}.secretKeyRef", "names no Secret")
    if not isinstance(reference.get("key"), str):
        raise FieldError(f"{field}.secretKeyRef", "names no key of the Secret")
    return SecretKey(reference["name"], reference["key"])


def _split_port(field: str, text: str) -> tuple[str, int | None]:
    """`10.0.0.1`, `10.0.0.1:1790`, `fd00::1` or `[fd00::1]:1790` → the address's text, and the port if there is one."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise FieldError(field, f"{text!r} is no address and port")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not port:
        return host, None
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 1 << 16):
        raise FieldError(field, f"{port!r} is no port")
    return host, int(port)
