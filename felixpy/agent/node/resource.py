"""This node's Node resource: made where there is none, with the address that the host uses.

In: the datastore and the host's devices; out: a Node as Calico writes it. An address that someone wrote stays; one that
was found here (an annotation says so) follows the host. Source: node/pkg/lifecycle/startup of Calico.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec

from felixpy.addresses import Address, parse_address
from felixpy.agent.clock import utc_now
from felixpy.calc.node_address import AddressRule, HostAddress, Method, choose_address, still_fits
from felixpy.dataplane.objects import DeviceAddress
from felixpy.datastore.model import Expect, Store, Write
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE, CALICO, Name

_log = logging.getLogger(__name__)

_NODES = BY_TYPE[CALICO, "Node"]
_FIELDS = {
    4: ("ipv4Address", "felixpy.io/found-ipv4-address"),
    6: ("ipv6Address", "felixpy.io/found-ipv6-address"),
}
"""By family: the field of spec.bgp, and the annotation that holds the same text where it was found and not written."""
_OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, 3849): routed like any other, and never answering."""
_DISCARD_PORT = 9


async def ensure_node(store: Store, node: str, rules: Sequence[AddressRule], quiet: bool = False) -> bool:
    """Makes the Node resource where there is none, and keeps an address in it that was found here what the host has.

    Whether there is a Node now. A host without address gets none yet; one that lost its address keeps the last.
    """
    key = _NODES.key(Name("", node)).encode()
    pair = await store.get(key)
    stored = {} if pair is None else decode_or_none(pair.value, dict[str, Any])
    if stored is None:
        return True
    found = _find_addresses(stored, rules, quiet)
    if not found:
        return pair is not None
    if pair is None:
        created = utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
        meta = {"name": node, "uid": str(uuid.uuid4()), "creationTimestamp": created}
        stored = {"kind": "Node", "apiVersion": CALICO, "metadata": meta, "spec": {}}
    value = msgspec.json.encode(with_addresses(stored, found))
    result = await store.transact([Expect(key, pair.mod_revision if pair else 0)], [Write(key, value)])
    return result.succeeded


def _find_addresses(stored: Mapping[str, Any], rules: Sequence[AddressRule], quiet: bool) -> Mapping[int, str]:
    """The addresses to write by family: those that the Node does not have yet or that are no longer the host's."""
    addresses = read_addresses()
    found: dict[int, str] = {}
    for version, (field, annotation) in _FIELDS.items():
        held = _at(stored, "spec", "bgp").get(field)
        if stored and (held is None or held != _at(stored, "metadata", "annotations").get(annotation)):
            continue
        if isinstance(held, str) and still_fits(held, version, addresses, rules):
            continue
        chosen = choose_address(version, addresses, rules, outgoing_address(version, rules))
        if isinstance(chosen, str):
            level = logging.WARNING if held else logging.DEBUG if quiet else logging.INFO
            kept = f"; {held} stays" if held else ""
            _log.log(level, "this node has no IPv%d address: %s%s", version, chosen, kept)
        elif str(chosen.host) != held:
            was = f" (it was {held}, which the host has no longer)" if held else ""
            _log.info(
                "this node's IPv%d address is %s on %s: %s%s",
                version,
                chosen.host,
                chosen.host.device,
                chosen.why,
                was,
            )
            found[version] = str(chosen.host)
    return found


def with_addresses(document: Mapping[str, Any], found: Mapping[int, str]) -> dict[str, Any]:
    """A Node's document with addresses by family, and the note that they were found; everything else stays."""
    spec, metadata = dict(_at(document, "spec")), dict(_at(document, "metadata"))
    bgp, annotations = dict(_at(spec, "bgp")), dict(_at(metadata, "annotations"))
    for version, address in found.items():
        field, annotation = _FIELDS[version]
        bgp[field] = annotations[annotation] = address
    return {**document, "metadata": {**metadata, "annotations": annotations}, "spec": {**spec, "bgp": bgp}}


def _at(document: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for name in path:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document


def read_addresses() -> tuple[HostAddress, ...]:
    """The addresses of this namespace's devices."""
    with RouteDriver(protocols=()) as driver:
        seen = driver.read()
    return tuple(
        HostAddress(one.device, one.prefix.address, one.prefix.length)
        for one in seen.objects.values()
        if isinstance(one, DeviceAddress)
    )


def outgoing_address(version: int, rules: Sequence[AddressRule]) -> Address | None:
    """The source that the kernel takes towards the outside; nothing is sent to find out. None without a route."""
    reach = [rule.argument for rule in rules if rule.method is Method.CAN_REACH]
    target = next((one for one in reach if (":" in one) == (version == 6)), _OUTSIDE[version])
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((target, _DISCARD_PORT))
            return parse_address(probe.getsockname()[0])
    except OSError:
        return None
