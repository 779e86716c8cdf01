"""Who is meant by a word: a pod, an endpoint, an interface, a Service, a node or an address. Pure.

    [NAMESPACE/]NAME   a pod, a WorkloadEndpoint or a Service      [NODE/]DEVICE   the endpoint behind an interface
    NODE               the node itself                            ADDRESS         whoever has it, else the world outside

Source: libcalico-go/lib/names (a WorkloadEndpoint's name is node-orchestrator-workload-endpoint, dashes doubled).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from felixpy.addresses import Address, format_address, parse_address
from felixpy.calc.policy.peers import node_addresses
from felixpy.calc.policy.pods import workload_of
from felixpy.ctl.explain.cluster import Cluster
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import Grant, Service
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node, WorkloadEndpoint

DEFAULT_NAMESPACE = "default"
MOST_NAMED = 5


class UnknownParty(LookupError):
    """A word that means nobody, or several; the text says which."""


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a flow: `endpoint` with its node where it is a workload, `node` alone where it is a node itself.

    Neither: an address outside, or of a Service (`service`).
    """

    words: str
    addresses: tuple[Address, ...]
    node: str = ""
    endpoint: Name | None = None
    interface: str = ""
    service: Name | None = None

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
        return Party(f"node {node}", (address,), node)
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
        raise UnknownParty(f"there is no pod, endpoint, interface, Service or node {word!r}")
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
    node = cluster.tables[Table.NODE].get(Name("", tail)) if not head else None
    if isinstance(node, Node):
        yield Party(f"node {tail}", node_addresses(node), tail)


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
