"""Explanations for people, and for programs. In: Flows and the cluster they are in; out: lines, or a tree. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

import yaml

from felixpy.addresses import format_address
from felixpy.ctl.explain.answers import answer_passages
from felixpy.ctl.explain.cluster import Cluster
from felixpy.ctl.explain.flow import Flow, Passage
from felixpy.ctl.explain.reading import FIELDS, Said, Statement, read_passage
from felixpy.ctl.manifests import Body, Json
from felixpy.ctl.policy_names import typed_name
from felixpy.ctl.stored import parse_body
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Fate
from felixpy.dataplane.nftables import render_rule
from felixpy.resources.kinds import Name
from felixpy.resources.scalars import PORTED
from felixpy.resources.tables import Ref, Table

PROTOCOL_NAMES = {1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_VERDICTS = {Fate.ACCEPTED: "Allowed", Fate.DROPPED: "Denied", Fate.REJECTED: "Refused", Fate.UNROUTED: "Lost"}
_COLORS = {Said.ALLOWS: "green", Said.DENIES: "red", Said.REFUSES: "red"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, with the colour that a terminal shows it in."""

    text: str
    color: str = ""


def render_flow(cluster: Cluster, flow: Flow, walked: bool) -> Iterator[Line]:
    """One flow: the verdict, then each node with what was said there; with `walked`, also every rule it met."""
    yield Line(
        f"{_VERDICTS[flow.fate]}: {_ends(flow)}, {describe_traffic(flow.packet)}", "green" if flow.allowed else "red"
    )
    if not flow.passages:
        yield Line("  it does not leave the pod or node that sends it")
    for passage in flow.passages:
        yield from _render_passage(cluster, passage, walked)
    if flow.vacancy is not None:
        yield Line(f"  {flow.vacancy}", "red")
    lost = lost_answer(flow)
    if lost is not None:
        yield Line("Denied: its answers, since not all of this is tracked", "red")
        yield from _render_passage(cluster, lost, walked)


def lost_answer(flow: Flow) -> Passage | None:
    """Where the first answer to an allowed packet is lost; None where it gets back."""
    return next((one for one in answer_passages(flow) if not one.verdict.accepted), None)


def _render_passage(cluster: Cluster, passage: Passage, walked: bool) -> Iterator[Line]:
    statements = read_passage(passage)
    if not statements:
        yield Line(f"  {passage.compiled.node}: nothing here decides about it")
    if passage.verdict.fate is Fate.UNROUTED:
        address = format_address(passage.verdict.packet.destination)
        yield Line(f"  {passage.compiled.node}: its route to {address} is a blackhole", "red")
    for (scope, direction), group in groupby(statements, key=lambda one: (one.scope, one.direction)):
        way = {"in": " towards ", "out": " from "}[direction] if direction is not None and scope else ""
        yield Line(f"  {passage.compiled.node}{way}{scope}:")
        for statement in group:
            yield from _render_statement(cluster, statement)
    if walked:
        yield from (Line(f"      {words}") for words in _walk(passage))


def _ends(flow: Flow) -> str:
    first, last = flow.packet, flow.end
    words = f"{_end(str(flow.source), first.source)} → "
    if flow.service is not None and first.destination != last.destination:
        words += f"Service {flow.service} ({format_address(first.destination)}) → "
    return words + _end(str(flow.destination), last.destination)


def _end(words: str, address: bytes) -> str:
    text = format_address(address)
    return text if words == text else f"{words} ({text})"


def describe_traffic(packet: Packet) -> str:
    """Protocol and port, or ICMP type."""
    name = PROTOCOL_NAMES.get(packet.protocol, f"protocol {packet.protocol}")
    if packet.protocol in PORTED:
        return f"{name}/{packet.destination_port}"
    return f"{name} type {packet.icmp[0]}" if packet.icmp is not None else name


def _render_statement(cluster: Cluster, statement: Statement) -> Iterator[Line]:
    yield Line(f"    {describe_statement(cluster, statement)}", _COLORS.get(statement.said, ""))
    written = written_text(cluster, statement)
    if written:
        yield Line(f"        {written}")


def describe_statement(cluster: Cluster, statement: Statement) -> str:
    """Who says what: tier, policy or profile with the place of the rule, or the default."""
    tier = f"tier {statement.tier}: " if statement.tier else ""
    where = f"{_owner(cluster, statement)} {statement.field}".rstrip()
    words = f"{statement.said}: {where}" if statement.default else f"{where} {statement.said}"
    return f"{tier}{words}"


def written_text(cluster: Cluster, statement: Statement) -> str:
    """The rule as it was written, in a line; "" where nobody wrote one."""
    written = written_rule(cluster, statement)
    return "" if written is None else _flow_yaml(written)


def _owner(cluster: Cluster, statement: Statement) -> str:
    if statement.policy is not None:
        kind, name = _policy_name(cluster, statement)
        return f"{'Staged' if Ref(*statement.policy) in cluster.staged else ''}{kind} {name}"
    return f"Profile {statement.profile}" if statement.profile else statement.default


def _policy_name(cluster: Cluster, statement: Statement) -> tuple[str, Name]:
    """A policy's kind, and its name as its writer typed it."""
    assert statement.policy is not None
    table, name = statement.policy
    body = _body(cluster, Ref(table, name))
    if body is None or table not in (Table.GLOBAL_POLICY, Table.NAMESPACED_POLICY):
        return str(table), name
    return str(table), Name(name.namespace, typed_name(body))


def _body(cluster: Cluster, ref: Ref) -> Body | None:
    pair = cluster.values.get(ref)
    return parse_body(pair.value) if pair is not None else None


def written_rule(cluster: Cluster, statement: Statement) -> Json:
    """The rule as it was written; None where nobody wrote one."""
    if statement.index is None or statement.direction is None:
        return None
    ref = Ref(*statement.policy) if statement.policy else Ref(Table.PROFILE, Name("", statement.profile))
    body = _body(cluster, ref)
    spec = body.get("spec") if body is not None else None
    rules = spec.get(FIELDS[statement.direction]) if isinstance(spec, dict) else None
    return rules[statement.index] if isinstance(rules, list) and statement.index < len(rules) else None


def _flow_yaml(value: Json) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.strip()


def _walk(passage: Passage) -> Iterable[str]:
    for step in passage.verdict.steps:
        yield f"{step.chain}[{step.index}]: {render_rule(step.rule)}"


def flows_tree(cluster: Cluster, flows: Sequence[Flow], revision: int, staged: Sequence[Json] = ()) -> Body:
    """All of it as JSON; `staged` is for each flow what would become of it with staged policies."""
    return {
        "allowed": all(flow.allowed and lost_answer(flow) is None for flow in flows),
        "revision": revision,
        "flows": [
            {**_flow_tree(cluster, flow), "staged": then} for flow, then in zip_longest(flows, staged[: len(flows)])
        ],
    }


def _flow_tree(cluster: Cluster, flow: Flow) -> dict[str, Json]:
    first, last = flow.packet, flow.end
    return {
        "verdict": _VERDICTS[flow.fate].lower(),
        "source": {"name": str(flow.source), "address": format_address(first.source)},
        "destination": {"name": str(flow.destination), "address": format_address(last.destination)},
        "service": None
        if flow.service is None
        else {"name": str(flow.service), "address": format_address(first.destination)},
        "traffic": describe_traffic(flow.packet),
        "vacancy": str(flow.vacancy or ""),
        "nodes": [_passage_tree(cluster, passage) for passage in flow.passages],
        "answers": _answers_tree(cluster, flow),
    }


def _answers_tree(cluster: Cluster, flow: Flow) -> Json:
    """Where answers are lost; None where they get back, or are none."""
    lost = lost_answer(flow)
    return None if lost is None else _passage_tree(cluster, lost)


def _passage_tree(cluster: Cluster, passage: Passage) -> dict[str, Json]:
    return {
        "node": passage.compiled.node,
        "verdict": _VERDICTS[passage.verdict.fate].lower(),
        "statements": [statement_tree(cluster, one) for one in read_passage(passage)],
        "path": list(_walk(passage)),
    }


def statement_tree(cluster: Cluster, statement: Statement) -> dict[str, Json]:
    """One statement as JSON."""
    tree: dict[str, Json] = {
        "said": str(statement.said),
        "endpoint": statement.scope,
        "direction": FIELDS[statement.direction] if statement.direction else "",
        "tier": statement.tier,
        "by": _owner(cluster, statement),
        "field": statement.field,
    }
    written = written_rule(cluster, statement)
    return tree if written is None else {**tree, "rule": json.loads(json.dumps(written))}
