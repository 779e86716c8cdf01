"""Nodes' status as text: the table of all, what is wrong in words, one node in full; and as a tree for JSON and YAML.

In: what the nodes said; out: lines. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from felixpy.ctl.cells import align_rows, count_words, format_duration, list_some
from felixpy.ctl.manifests import Body, Json
from felixpy.status.answers import BgpStatus, NodeStatus, SessionStatus
from felixpy.status.problems import find_problems, why_unheard

NO_ANSWER = "no answer (frozen, down or unreachable; on the node: felixctl status --local)"
NODES_SHOWN = 10
NOTHING = "-"
SESSION_HEADINGS = (
    *("NODE", "NEIGHBOUR", "NAME", "ASKED BY", "AS", "STATE", "SINCE"),
    *("RECEIVED", "ACCEPTED", "ADVERTISED", "THEY ACCEPTED", "LAST ERROR"),
)
HEADINGS = ("NODE", "ROLES", "REVISION", "ENDPOINTS", "OBJECTS", "FAILED", "BGP UP", "NOTE")

Nodes = Mapping[str, NodeStatus | None]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, and whether all is well with what it tells of."""

    text: str
    well: bool


def why_silent(name: str, known: Collection[str] | None) -> str:
    """Why a node did not answer, where these are all that there are, if they were looked for."""
    if known is None or name in known:
        return NO_ANSWER
    return f"there is no such node; there are: {list_some(sorted(known), NODES_SHOWN)}" if known else "there is no node"


def problems_of(status: NodeStatus | None) -> tuple[str, ...]:
    """What is wrong with a node, whether it answered or not."""
    return (NO_ANSWER,) if status is None else find_problems(status)


def render_nodes(nodes: Nodes, revision: int) -> tuple[str, list[Row]]:
    """The headings, and a line per node."""
    cells = [_node_cells(name, status, revision) for name, status in nodes.items()]
    head, *lines = align_rows([HEADINGS, *cells])
    wells = (not problems_of(status) for status in nodes.values())
    return head, [Row(line, well) for line, well in zip(lines, wells, strict=True)]


def _node_cells(name: str, status: NodeStatus | None, revision: int) -> Sequence[str]:
    if status is None:
        return (name, *(NOTHING for _ in HEADINGS[1:-1]), "no answer")
    behind = f" (-{revision - status.revision})" if status.revision < revision else ""
    kernel = status.kernel
    failed = (kernel.failed if kernel else 0) + (status.bgp.failed if status.bgp else 0)
    return (
        name,
        ",".join(status.roles),
        f"{status.revision}{behind}",
        str(kernel.endpoints) if kernel else NOTHING,
        str(kernel.objects) if kernel else NOTHING,
        str(failed),
        f"{status.bgp.established}/{len(status.bgp.sessions)}" if _speaks(status.bgp) and status.bgp else NOTHING,
        _note(status),
    )


def _speaks(bgp: BgpStatus | None) -> bool:
    return bgp is not None and not bgp.no_speaker


def _note(status: NodeStatus) -> str:
    problems = find_problems(status)
    if problems:
        return count_words(len(problems), "problem")
    return "ok, leads the controllers" if status.leader else "ok"


def render_problems(nodes: Nodes) -> list[str]:
    """Each problem once, after the names of the nodes that have it."""
    found: dict[str, list[str]] = {}
    for name, status in nodes.items():
        for problem in problems_of(status):
            found.setdefault(problem, []).append(name)
    return [f"{list_some(names)}: {problem}" for problem, names in found.items()] + find_disagreements(nodes)


def find_disagreements(nodes: Nodes) -> list[str]:
    """What nodes should have in common and have not: packets of full size between them are lost or broken up."""
    by_mtu: dict[int, list[str]] = {}
    for name, status in nodes.items():
        if status is not None and status.kernel is not None and status.kernel.pod_mtu:
            by_mtu.setdefault(status.kernel.pod_mtu, []).append(name)
    if len(by_mtu) < 2:
        return []
    words = "; ".join(f"{mtu} on {list_some(names)}" for mtu, names in sorted(by_mtu.items()))
    return [f"warning: pods have not the same mtu everywhere: {words}"]


def render_sessions(nodes: Nodes, names: Mapping[str, str]) -> list[str]:
    """A line per BGP session, the headings first; `names` tells who has an address."""
    rows: list[Sequence[str]] = [SESSION_HEADINGS]
    for name, status in nodes.items():
        bgp = status.bgp if status is not None else None
        if bgp is not None:
            rows += (_session_cells(name, session, nodes, names) for session in bgp.sessions)
    return align_rows(rows)


def _session_cells(node: str, session: SessionStatus, nodes: Nodes, names: Mapping[str, str]) -> Sequence[str]:
    counts = (session.received, session.accepted, session.advertised)
    return (
        node,
        session.address,
        names.get(session.address, NOTHING),
        list_some(session.asked_by) or "the mesh",
        str(session.asn),
        session.state,
        format_duration(session.since_s),
        *(map(str, counts) if session.established else [NOTHING] * 3),
        _other_side(node, session, nodes, names),
        session.last_error or NOTHING,
    )


def _other_side(node: str, session: SessionStatus, nodes: Nodes, names: Mapping[str, str]) -> str:
    """What the neighbour says of the same session, where it is a node that was asked too."""
    there = nodes.get(names.get(session.address, ""))
    bgp = there.bgp if there is not None else None
    version6 = ":" in session.address
    for other in bgp.sessions if bgp is not None else ():
        if names.get(other.address) == node and (":" in other.address) == version6:
            return str(other.accepted) if other.established else other.state
    return NOTHING


def render_node(status: NodeStatus, names: Mapping[str, str]) -> Iterator[str]:
    """Everything about one node."""
    facts = [
        ("node", status.node),
        ("version", status.version),
        ("roles", ", ".join(status.roles) + (" (leads the controllers)" if status.leader else "")),
        ("datastore", f"{status.datastore}, applied up to revision {status.revision}"),
    ]
    if status.kernel is not None:
        kernel = status.kernel
        wanted = f"{count_words(kernel.objects, 'object')} for {count_words(kernel.endpoints, 'endpoint')}"
        facts.append(("kernel", f"{wanted}, {kernel.failed} not done"))
        facts.append(("CNI", "ready" if status.cni_unready is None else f"not ready: {status.cni_unready}"))
    if status.bgp is not None:
        facts.append(("BGP", _bgp_words(status, status.bgp)))
    facts.append(("broken", f"{count_words(status.broken, 'value')} in the datastore that cannot be read"))
    yield from align_rows([(f"{key}:", value) for key, value in facts])
    if status.bgp is not None and status.bgp.sessions:
        yield ""
        yield from render_sessions({status.node: status}, names)
    problems = find_problems(status)
    if problems:
        yield ""
        yield from problems


def _bgp_words(status: NodeStatus, bgp: BgpStatus) -> str:
    if bgp.no_speaker:
        return f"none: {bgp.no_speaker}"
    if not bgp.generation:
        return why_unheard(status)
    words = f"gobgpd {bgp.generation}, {bgp.established} of {len(bgp.sessions)} sessions up"
    words = f"{words}; prefixes: {bgp.announced} announced, {bgp.silent} held silent, {bgp.learned} learned"
    return f"{words}; no nexthop objects: {bgp.plain}" if bgp.plain else words


def node_tree(name: str, status: NodeStatus | None) -> dict[str, Json]:
    """A node as JSON: what it said, whether it did, and what is wrong."""
    said: dict[str, Json] = msgspec.to_builtins(status) if status is not None else {"node": name}
    return {**said, "answered": status is not None, "problems": list(problems_of(status))}


def survey_tree(nodes: Nodes, revision: int) -> Body:
    """All nodes as JSON."""
    items: list[Json] = [node_tree(name, status) for name, status in nodes.items()]
    return {"revision": revision, "nodes": items}


def all_well(statuses: Iterable[NodeStatus | None]) -> bool:
    """Whether nothing is wrong with any of them."""
    return not any(problems_of(status) for status in statuses)
