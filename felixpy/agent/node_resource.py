"""This node's Node resource: made where there is none, with the address that the host uses.

In: the datastore and the host's devices; out: a Node as Calico writes it. One that exists is never changed here: an
address that someone wrote stays. Source: node/pkg/lifecycle/startup of Calico.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Sequence
from contextlib import closing

import msgspec

from felixpy.addresses import Address, parse_address
from felixpy.agent.clock import utc_now
from felixpy.calc.node_address import AddressRule, Chosen, HostAddress, Method, choose_address
from felixpy.dataplane.objects import DeviceAddress
from felixpy.datastore.model import Expect, Store, Write
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.resources.kinds import CALICO, KINDS, Name

_log = logging.getLogger(__name__)

_NODES = next(info for info in KINDS if (info.kind, info.api_version) == ("Node", CALICO))
_OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, 3849): routed like any other, and never answering."""
_DISCARD_PORT = 9


async def ensure_node(store: Store, node: str, rules: Sequence[AddressRule], quiet: bool = False) -> bool:
    """Makes the Node resource where there is none; whether there is one now. A host without address gets none yet."""
    key = _NODES.key(Name("", node)).encode()
    if await store.get(key) is not None:
        return True
    bgp: dict[str, str] = {}
    addresses = read_addresses()
    for version, field in ((4, "ipv4Address"), (6, "ipv6Address")):
        found = choose_address(version, addresses, rules, outgoing_address(version, rules))
        if isinstance(found, Chosen):
            bgp[field] = str(found.host)
            _log.info("this node's IPv%d address is %s on %s: %s", version, found.host, found.host.device, found.why)
        else:
            _log.log(logging.DEBUG if quiet else logging.INFO, "this node has no IPv%d address: %s", version, found)
    if not bgp:
        return False
    meta = {"name": node, "uid": str(uuid.uuid4()), "creationTimestamp": utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")}
    value = msgspec.json.encode({"kind": "Node", "apiVersion": CALICO, "metadata": meta, "spec": {"bgp": bgp}})
    await store.transact([Expect(key, 0)], [Write(key, value)])
    return True


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
