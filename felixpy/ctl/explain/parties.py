"""Who is meant by a word: a pod, an endpoint, an interface, a Service, a node or an address. Pure.

    [NAMESPACE/]NAME   a pod, a WorkloadEndpoint or a Service      [NODE/]DEVICE   the endpoint behind an interface
    NODE, NODE/DEVICE  the node itself, by an interface of it     ADDRESS         whoever has it, else the world outside
    NAME               of a HostEndpoint: its node, by the interface that it governs

Source: libcalico-go/lib/names (a WorkloadEndpoint's name is node-orchestrator-workload-endpoint, dashes doubled).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from felixpy.addresses import Address, format_address, parse_address, parse_prefix
from felixpy.calc.policy.hosts import EVERY_INTERFACE
from felixpy.calc.policy.peers import node_addresses
from felixpy.calc.policy.pods import workload_of
from felixpy.ctl.explain.cluster import Cluster
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import Grant, Service
from felixpy.resources.tables import POLICY_TABLES, Ref, Table
from felixpy.resources.types import HostEndpoint, Node, WorkloadEndpoint

DEFAULT_NAMESPACE = "default"
MOST_NAMED = 5
_AN_ADDRESS = "ask about an address of it"
_NOBODIES = {
    Table.GLOBAL_NETWORK_SET: _AN_ADDRESS,
    Table.NETWORK_SET: _AN_ADDRESS,
    Table.POOL: _AN_ADDRESS,
    Table.NAMESPACE: "ask about a pod of it (NAMESPACE/NAME)",
    Table.SERVICE_ACCOUNT: "ask about a pod of it",
    **dict.fromkeys((*POLICY_TABLES, Table.TIER, Table.PROFILE), "ask about an endpoint that it selects"),
}
"""Kinds of what has a name and is no end of a packet's way, and what to ask about instead."""


class UnknownParty(LookupError):
    """A word that means nobody, or several; the text says which."""


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a flow: `endpoint` with its node where it is a workload, `node` alone where it is a node itself.

    `door` is the interface by which the node is left or reached, where one was asked about. Neither endpoint nor node:
    an address outside, or of a Service (`service`).
    """

    words: str
    addresses: tuple[Address, ...]
    node: str = ""
    endpoint: Name | None = None
    interface: str = ""
    service: Name | None = None
    door: str = ""

    def __str__(self) -> str:
        return self.words


def find_party(cluster: Cluster, word: str, namespace: str = "") -> Party:
    """The one that `word` means; a bare name is looked for in `namespace`, or `default`, before other namespaces.

    Raises  UnknownParty.
    """
    try:
        address = parse_address(word)
    except ValueError:
        return _named(cluster, word, namespace)
    return party_at(cluster, address)


def party_at(cluster: Cluster, address: Address) -> Party:
    """Whoever has the address."""
    text = format_address(address)
    for name in cluster.holders.get(address, ()):
        found = _workload(cluster, name)
        if found is not None:
            return Party(found.words, (address,), found.node, name, found.interface)
    floating = cluster.floating.get(address)
    if floating is not None:
        to = _workload(cluster, floating.endpoint)
        return Party(f"{text} (floating address of {to or floating.endpoint})", (address,))
    node = cluster.node_names.get(address)
    if node is not None:
        placed = cluster.interfaces(node, "")
        door = next((device for device, own in placed.items() if device and address in own), "")
        return _host_party(node, (address,), door)
    services = cluster.services_at((address,))
    if services:
        return Party(f"Service {services[0]}", (address,), service=services[0])
    return Party(text, (address,))


def _named(cluster: Cluster, word: str, namespace: str) -> Party:
    head, slash, tail = word.rpartition("/")
    found = list(_candidates(cluster, head, tail))
    if not slash and len(found) > 1:
        preferred = namespace or DEFAULT_NAMESPACE
        found = [one for one in found if _namespace_of(one) == preferred] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownParty(_why_nobody(cluster, word, head, tail))
    names = ", ".join(str(one) for one in found[:MOST_NAMED])
    raise UnknownParty(f"{word!r} may be {names}{' or others' if len(found) > MOST_NAMED else ''}")


def _namespace_of(party: Party) -> str:
    name = party.endpoint or party.service
    return name.namespace if name is not None else ""


def _candidates(cluster: Cluster, head: str, tail: str) -> Iterator[Party]:
    """Everyone called `tail` in namespace `head`, or at node `head`; anywhere when it is empty."""
    quoted = f'"{tail}"'.encode()
    for name, endpoint in cluster.tables[Table.WORKLOAD].items():
        if not isinstance(endpoint, WorkloadEndpoint):
            continue
        called = tail == name.name or tail == workload_of(name)
        here = head in ("", name.namespace) and called
        behind = head in ("", endpoint.node) and quoted in cluster.values[Ref(Table.WORKLOAD, name)].value
        if here or behind:
            party = _workload(cluster, name)
            if party is not None and (here or party.interface == tail):
                yield party
    for name, service in cluster.tables[Table.SERVICE].items():
        if isinstance(service, Service) and name.name == tail and head in ("", name.namespace):
            yield Party(f"Service {name}", _service_addresses(cluster, name, service), service=name)
    if not head:
        yield from _nodes_called(cluster, tail)
    elif isinstance(cluster.tables[Table.NODE].get(Name("", head)), Node):
        yield from _interface_of(cluster, head, tail)


def _nodes_called(cluster: Cluster, word: str) -> Iterator[Party]:
    """The node of that name, and the one that a host endpoint of that name is of."""
    node = cluster.tables[Table.NODE].get(Name("", word))
    if isinstance(node, Node):
        yield Party(f"node {word}", node_addresses(node), word)
    host = cluster.tables[Table.HOST].get(Name("", word))
    if isinstance(host, HostEndpoint) and not (isinstance(node, Node) and host.node == word):
        device = "" if host.interface == EVERY_INTERFACE else host.interface
        at_device = cluster.interfaces(host.node, device).get(device, frozenset())
        yield _host_party(host.node, host.expected_addresses or tuple(sorted(at_device)), device)


def _interface_of(cluster: Cluster, node: str, device: str) -> Iterator[Party]:
    """A node by one of its interfaces, as far as anything says that it has it."""
    known = cluster.interfaces(node, cluster.uplink(node))
    if device in known or cluster.governs_all(node):
        placed = cluster.interfaces(node, device)[device]
        yield _host_party(node, tuple(sorted(placed, key=lambda one: (len(one), one))), device)


def _host_party(node: str, addresses: tuple[Address, ...], door: str) -> Party:
    return Party(f"node {node}{' by ' if door else ''}{door}", addresses, node, door=door)


def _why_nobody(cluster: Cluster, word: str, head: str, tail: str) -> str:
    """What a word means that can neither send nor receive."""
    if isinstance(cluster.tables[Table.NODE].get(Name("", head)), Node):
        known = ", ".join(device for device in cluster.interfaces(head, cluster.uplink(head)))
        return f"nothing says that node {head} has an interface {tail!r}: known are {known}"
    try:
        network = parse_prefix(word)
    except ValueError:
        pass
    else:
        return f"{network} is a network: ask about an address of it"
    for table, advice in _NOBODIES.items():
        for name in cluster.tables[table]:
            if name.name == tail and head in ("", name.namespace):
                return f"{table} {name} can neither send nor receive: {advice}"
    return f"there is no pod, endpoint, interface, Service or node {word!r}"


def _workload(cluster: Cluster, name: Name) -> Party | None:
    endpoint = cluster.endpoint(name)
    if endpoint is None:
        return None
    called = Name(name.namespace, workload_of(name) or name.name)
    return Party(str(called), endpoint.addresses, endpoint.node, name, endpoint.interface)


def _service_addresses(cluster: Cluster, name: Name, service: Service) -> tuple[Address, ...]:
    """Its cluster addresses; where it has none, those granted to it."""
    granted = tuple(
        grant.address
        for grant in cluster.tables[Table.GRANT].values()
        if isinstance(grant, Grant) and name in grant.services
    )
    return service.cluster_addresses or granted or service.external_addresses
