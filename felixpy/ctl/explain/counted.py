"""What nodes have counted where an explanation ends: the chains of the causes that its packets come to.

In: Flows, and what their nodes answered; out: which chains to ask which nodes for, and lines or a tree. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from felixpy.ctl.explain.flow import Flow
from felixpy.ctl.manifests import Json
from felixpy.dataplane.chains.report import effect_of
from felixpy.status.answers import NodeStatus


def counting_chains(flows: Iterable[Flow]) -> dict[str, frozenset[str]]:
    """By node, the chains on the way of some packets that count them."""
    found: dict[str, set[str]] = {}
    for flow in flows:
        for passage in flow.passages:
            chains = found.setdefault(passage.compiled.node, set())
            chains |= {step.chain for step in passage.verdict.steps if effect_of(step.chain) is not None}
    return {node: frozenset(chains) for node, chains in found.items()}


def render_counts(asked: Mapping[str, frozenset[str]], answers: Mapping[str, NodeStatus | None]) -> Iterator[str]:
    """What each node has counted of all packets that came to the same causes."""
    yield "Counted until now, of all packets that end there:"
    for node, chains in asked.items():
        status = answers.get(node)
        if status is None:
            yield f"  {node}: does not answer"
            continue
        counted = {one.chain: one for one in status.counted}
        for chain in sorted(chains):
            one = counted.get(chain)
            words = "nothing" if one is None else f"{one.packets} packets, {one.bytes} bytes"
            yield f"  {node}: {chain}: {words}"
        if not chains:
            yield f"  {node}: no rule that counts is on the way"


def counts_tree(answers: Mapping[str, NodeStatus | None]) -> dict[str, Json]:
    """By node, None for one that did not answer."""
    return {
        node: None
        if status is None
        else [{"chain": one.chain, "packets": one.packets, "bytes": one.bytes} for one in status.counted]
        for node, status in answers.items()
    }
