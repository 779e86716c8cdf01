"""BGPConfigurations and Nodes → what the speakers of nodes are by themselves: AS, port, addresses, ids. Pure.

A node's own BGPConfiguration (`node.<name>`) comes before the one of all (`default`), in the fields in which Calico's
does. Source: Calico's BGPConfiguration (api/pkg/apis/projectcalico/v3), confd's bgp_processor.go (populateNodeConfig).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from birdpy import topology
from birdpy.addresses import parse_address
from birdpy.fib import NORMAL_METRIC
from birdpy.intent import BGP_PORT
from felixpy.calc.bgp.peers import Tables
from felixpy.resources.bgp_types import BgpConfiguration, PrefixCommunities
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table
from felixpy.resources.types import Node

DEFAULT_AS = 64512
DEFAULT_CONFIGURATION = "default"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration of all nodes and a node's own, as one."""

    default: BgpConfiguration
    own: BgpConfiguration

    @property
    def asn(self) -> int:
        return self.default.as_number or DEFAULT_AS

    @property
    def port(self) -> int:
        return self.own.listen_port or self.default.listen_port or BGP_PORT

    @property
    def binds_to_node(self) -> bool:
        said = self.own.bind_to_node
        return bool(self.default.bind_to_node if said is None else said)

    @property
    def communities(self) -> tuple[PrefixCommunities, ...]:
        said = self.own.prefix_communities
        return (self.default.prefix_communities if said is None else said) or ()

    def normal_priority(self, version: int) -> int:
        if version == 4:
            return self.default.normal_priority4 or NORMAL_METRIC
        return self.default.normal_priority6 or NORMAL_METRIC


def read_settings(tables: Tables, node: str) -> Configuration:
    """Those of a node."""
    return Configuration(_configuration(tables, DEFAULT_CONFIGURATION), _configuration(tables, f"node.{node}"))


def derive_router(name: str, node: Node, settings: Configuration, tables: Tables) -> topology.Node:
    """A node as a router; `settings` are those of any node."""
    own = replace(settings, own=_configuration(tables, f"node.{name}"))
    addresses = tuple(one.address for one in (node.ipv4, node.ipv6) if one is not None)
    cluster = _cluster_id(node.route_reflector_cluster_id) if node.route_reflector_cluster_id else None
    return topology.Node(name, addresses, node.as_number or settings.asn, cluster, own.port)


def derive_router_id(name: str, node: Node) -> bytes:
    """The node's IPv4 address, else a hash of its name."""
    return node.ipv4.address if node.ipv4 is not None else blake2b(name.encode(), digest_size=4).digest()


def _cluster_id(text: str) -> bytes:
    """A cluster id as four bytes; text of another form is hashed, so that equal texts stay equal."""
    try:
        address = parse_address(text)
    except ValueError:
        address = b""
    return address if len(address) == 4 else blake2b(text.encode(), digest_size=4).digest()


def _configuration(tables: Tables, name: str) -> BgpConfiguration:
    found = tables[Table.BGP_CONFIGURATION].get(Name("", name))
    return found if isinstance(found, BgpConfiguration) else BgpConfiguration()
