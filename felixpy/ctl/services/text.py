"""Services as text: the list of all, and one in full. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from felixpy.addresses import format_address
from felixpy.ctl.cells import align_rows, list_some
from felixpy.ctl.manifests import Body, Json
from felixpy.ctl.services.reach import Reach
from felixpy.ctl.services.view import (
    EVERY_NODE,
    PROTOCOLS,
    Facts,
    FrontendView,
    derive_frontends,
    derive_reaches,
    list_backends,
)
from felixpy.resources.service_types import PortUse, ServicePort
from felixpy.status.answers import NodeStatus

NOTHING = "-"
Nodes = Mapping[str, NodeStatus | None]


def render_services(services: Iterable[Facts]) -> list[str]:
    """A line per Service, the headings first."""
    heads = ("SERVICE", "TYPE", "CLUSTER-IP", "GRANTED", "PORTS", "READY", "NOTE")
    return align_rows([heads, *map(_cells, services)])


def _cells(facts: Facts) -> tuple[str, ...]:
    service = facts.service
    ready = f"{facts.ready}/{sum(len(one.addresses) for one in facts.backends)}"
    return (
        str(facts.name),
        service.type,
        list_some([format_address(one) for one in service.cluster_addresses]) or NOTHING,
        list_some([format_address(one.address) for one in facts.grants]) or NOTHING,
        ",".join(_port(facts, port) for port in service.ports) or NOTHING,
        ready,
        facts.find_trouble() or "ok",
    )


def _port(facts: Facts, port: ServicePort) -> str:
    use = PortUse(port.protocol, port.port)
    granted = next((one.port for one in facts.ports if use in one.uses), 0)
    number = port.node_port or granted
    return f"{port.port}{f':{number}' if number else ''}/{_protocol(port.protocol)}"


def _protocol(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def render_service(facts: Facts, nodes: Nodes) -> Iterator[str]:
    """Everything about one Service."""
    service = facts.service
    yield f"Service {facts.name}: {facts.find_trouble() or 'ok'}"
    told = [
        ("type", service.type),
        ("policy", f"external {service.external_policy}, internal {service.internal_policy}"),
        ("affinity", f"by client, {service.affinity_timeout_s} s" if service.affinity_timeout_s else "none"),
        ("sources", list_some([str(one) for one in service.source_ranges]) or "all"),
    ]
    if facts.health_port:
        told.append(("health check", f"port {facts.health_port} of every node"))
    yield from align_rows([(f"  {key}:", value) for key, value in told])
    yield ""
    heads = ("FRONTEND", "FROM", "ENDPOINTS", "IN THE KERNEL OF", "NOT OF")
    rows = [frontend_cells(one) for one in derive_frontends(facts.name, nodes)]
    yield from align_rows([heads, *rows]) if rows else ("No node has a frontend of it.",)
    yield ""
    backends = list(list_backends(facts, nodes))
    yield from align_rows([("ENDPOINT", "NODE", "STATE"), *backends]) if backends else ("It has no endpoints.",)
    for address, reach in derive_reaches(facts, nodes).items():
        yield ""
        pool = next(grant.pool for grant in facts.grants if grant.address == address)
        yield f"{format_address(address)} of pool {pool}:"
        yield from (f"  {line}" for line in render_reach(reach))


def frontend_cells(one: FrontendView) -> tuple[str, ...]:
    """A frontend, where it comes from, how many endpoints, who has it, and who not and why."""
    where = "every node" if one.address in EVERY_NODE else one.address
    family = " (IPv6)" if one.address == "::" else ""
    outside = {counts[0] for counts in one.serving.values()}
    inside = {counts[1] for counts in one.serving.values()}
    counts = NOTHING if not one.serving else f"{_range(outside)} outside, {_range(inside)} inside"
    missing = "; ".join(f"{list_some(names)}: {reason}" for reason, names in one.missing.items())
    return (
        f"{where}{family} {_protocol(one.protocol)}/{one.port}",
        one.origin.replace("_", " "),
        counts,
        list_some(tuple(one.serving)) or NOTHING,
        missing or NOTHING,
    )


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


def render_reach(reach: Reach) -> Iterator[str]:
    """Who announces an address, and who does not and why."""
    if reach.announced_by:
        yield f"announced by BGP from {', '.join(reach.announced_by)}"
    if reach.layer2:
        yield f"answered at layer 2 by {', '.join(reach.layer2)}"
    if not reach.announced_by and not reach.layer2:
        yield "announced by nobody"
    for rival in reach.rivals:
        yield f"{rival} answers for it too, and is no node"
    for reason, names in reach.silent.items():
        yield f"not from {', '.join(names)}: {reason}"


def services_tree(services: Iterable[Facts], nodes: Nodes | None) -> Body:
    """All of it as JSON; frontends where the nodes were asked."""
    return {"services": [_tree(one, nodes) for one in services]}


def _tree(facts: Facts, nodes: Nodes | None) -> dict[str, Json]:
    tree: dict[str, Json] = {
        "service": str(facts.name),
        "type": facts.service.type,
        "granted": [format_address(one.address) for one in facts.grants],
        "ready": facts.ready,
        "trouble": facts.find_trouble(),
        "endpoints": [
            {"endpoint": endpoint, "node": node, "state": state}
            for endpoint, node, state in list_backends(facts, nodes)
        ],
    }
    if nodes is None:
        return tree
    tree["frontends"] = [
        {
            "address": one.address,
            "protocol": _protocol(one.protocol),
            "port": one.port,
            "origin": one.origin,
            "nodes": {node: {"outside": outside, "inside": inside} for node, (outside, inside) in one.serving.items()},
            "missing": [{"reason": reason, "nodes": list(names)} for reason, names in one.missing.items()],
        }
        for one in derive_frontends(facts.name, nodes)
    ]
    return tree
