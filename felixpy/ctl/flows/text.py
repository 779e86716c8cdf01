"""Flows as text: one line each. In: answers of nodes; out: lines, or trees for JSON. Pure but for the time zone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from felixpy.ctl.manifests import Body
from felixpy.flows.records import FlowRecord, FlowsAnswer
from felixpy.resources.scalars import PROTOCOLS
from felixpy.status.answers import render

if TYPE_CHECKING:
    from felixpy.ctl.explain.staged import Otherwise

COLORS = {"denied": "red", "refused": "red", "allowed": "green"}
"""What a terminal shows a line in, by verdict."""
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_ICMP = (1, 58)


def render_flow_record(node: str, flow: FlowRecord) -> str:
    """When, where, what became of it, who to whom, how often, and by which rule or default."""
    when = datetime.fromtimestamp(flow.last_s).strftime("%H:%M:%S")
    often = f" ×{flow.told}" if flow.told > 1 else ""
    whose = f"{flow.direction} of {flow.endpoint}, " if flow.direction and flow.endpoint else ""
    tier = f"tier {flow.tier}: " if flow.tier and not flow.by.startswith("end of tier") else ""
    stage = f" ({flow.stage})" if flow.stage else ""
    words = f"{flow.source} → {flow.destination} {traffic_words(flow)}{often}: {whose}{tier}{flow.by}{stage}"
    return f"{when} {node} {flow.verdict} {words}"


def traffic_words(flow: FlowRecord) -> str:
    """Protocol and port, or ICMP type."""
    name = _NAMES.get(flow.protocol, f"protocol {flow.protocol}")
    if flow.protocol in _ICMP:
        return f"{name} type {flow.icmp_type}"
    return f"{name}/{flow.destination_port}" if flow.destination_port else name


def render_notes(answer: FlowsAnswer) -> Iterator[str]:
    """What the flows of an answer do not tell."""
    if answer.unread:
        yield f"{answer.node}: {answer.unread}"
    if answer.more:
        yield f"{answer.node}: and {answer.more} older flows"
    if answer.lost:
        yield f"{answer.node}: {answer.lost} packets came too fast to be told of"


def flow_tree(node: str, flow: FlowRecord, otherwise: Otherwise | None) -> Body:
    """A flow as JSON, with what staged policies would do where that is something else."""
    staged: Body = {} if otherwise is None else {"staged": otherwise.tree()}
    return {"node": node, **json.loads(render(flow)), **staged}
