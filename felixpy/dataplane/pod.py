"""How one pod is wired to its node, as a value: the veth pair, and what each end of it holds.

Pure. cni/plan.py derives it, drivers/netlink/pods/ makes the kernel so. The pod sees one neighbour, its node, at a
fixed gateway address with a fixed MAC; it has host addresses (/32, /128) and default routes through that gateway. The
node's own routes to the pod are calc's, and not here. Source: Calico's wiring (cni-plugin/pkg/dataplane/linux).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from felixpy.addresses import Address, Prefix, host_prefix, parse_address
from felixpy.dataplane.objects import DeviceAddress, Key, Kind, Neighbour, Route, Sysctl

HOST_MAC = b"\xee" * 6
"""MAC of every veth's node end: a point-to-point link needs no two of them, and pods may keep it cached."""
GATEWAY_V4 = parse_address("169.254.1.1")
GATEWAY_V6 = parse_address("fe80::ecee:eeff:feee:eeee")
"""The link-local address that HOST_MAC makes (RFC 4291 appendix A)."""
METRIC_V6 = 1024
"""What the kernel makes of a metric that is not said, for IPv6 (IP6_RT_PRIO_USER, net/ip6_route.h)."""
ROUTE_PROTOCOL_BOOT = 3
"""rtm_protocol of the routes inside pods: what `ip` leaves where nothing is said (linux/rtnetlink.h)."""


@dataclass(frozen=True, slots=True)
class SourceRule:
    """What has this source looks in `table`, before the main one; the rule's priority is the table's number."""

    source: Address
    table: int

    @property
    def key(self) -> Key:
        return Key(Kind.IP_RULE, (4 if len(self.source) == 4 else 6, self.table))


PodObject = DeviceAddress | Neighbour | Route | SourceRule


@dataclass(frozen=True, slots=True)
class PodLink:
    """A veth pair. `owner` is the node end's alias, and says whose it is; mtu in bytes, 0 leaves the kernel's."""

    host_device: str
    pod_device: str
    owner: str
    pod_mac: bytes
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class PodWiring:
    """The pair, the pod's addresses and its routes through the gateway of their family, and sysctls of each end.

    Without addresses it is what can be made before they are known. `rank` is 0 for the pod's usual interface; another
    one has a table of that number, and its default routes in the main table count after those of lower ranks.
    """

    link: PodLink
    addresses: tuple[Address, ...]
    routes: tuple[Prefix, ...] = ()
    host_sysctls: tuple[Sysctl, ...] = ()
    pod_sysctls: tuple[Sysctl, ...] = ()
    rank: int = 0


def gateway_for(address: bytes) -> Address:
    """The gateway of an address's family, seen from the pod."""
    return GATEWAY_V4 if len(address) == 4 else GATEWAY_V6


def derive_pod_objects(wiring: PodWiring) -> tuple[PodObject, ...]:
    """What the pod's namespace holds beside the link, in the order in which the kernel takes it.

    The gateway's MAC is given, so that a pod's first packet waits for no ARP. An IPv6 gateway is link-local, and needs
    no route of its own. What has the address of an interface beyond the usual one leaves by it.
    """
    device = wiring.link.pod_device
    gateways = tuple(dict.fromkeys(gateway_for(route.address) for route in wiring.routes))
    objects: list[PodObject] = [DeviceAddress(device, host_prefix(address)) for address in wiring.addresses]
    objects += [Neighbour(device, gateway, HOST_MAC) for gateway in gateways]
    if wiring.rank:
        return (*objects, *_beyond_the_usual(wiring))
    if GATEWAY_V4 in gateways:
        objects.append(Route(host_prefix(GATEWAY_V4), ROUTE_PROTOCOL_BOOT, device=device, link_scope=True))
    objects += [
        Route(prefix, ROUTE_PROTOCOL_BOOT, device=device, gateway=gateway_for(prefix.address))
        for prefix in wiring.routes
    ]
    return tuple(objects)


def _beyond_the_usual(wiring: PodWiring) -> Iterator[PodObject]:
    for prefix in wiring.routes:
        route = Route(
            prefix,
            ROUTE_PROTOCOL_BOOT,
            device=wiring.link.pod_device,
            gateway=gateway_for(prefix.address),
            onlink=True,
        )
        yield replace(route, metric=wiring.rank + (0 if prefix.version == 4 else METRIC_V6))
        yield replace(route, table=wiring.rank)
    yield from (SourceRule(address, wiring.rank) for address in wiring.addresses)
