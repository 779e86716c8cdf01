"""`felixctl explain`: what becomes of a packet between two parties, and which tier, policy, rule or default decides.

Of a Service address alone: who has it and who announces it, and who does not and why.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from felixpy.ctl.connect import EXIT_FAILED, print_warning, with_store
from felixpy.datastore.model import Snapshot, Store

if TYPE_CHECKING:
    from felixpy.ctl.explain.cluster import Cluster
    from felixpy.ctl.explain.flow import Flow, Traffic
    from felixpy.ctl.explain.staged import Otherwise
    from felixpy.status.answers import NodeStatus

MOST_BROKEN = 5


@click.command()
@click.argument("source")
@click.argument("destination", required=False)
@click.argument("traffic", default="tcp/80", metavar="[PROTOCOL/PORT]")
@click.option("-n", "--namespace", default="", help="Where bare names are looked for first; else default.")
@click.option("--at-revision", type=click.IntRange(min=1), help="As it was at this revision of etcd.")
@click.option("--via", default="", metavar="NODE[/DEVICE]", help="Where a packet from outside comes in.")
@click.option("--source-port", type=click.IntRange(0, 65535), help="40000 unless given.")
@click.option("--live", is_flag=True, help="And what the nodes have counted there, asked now.")
@click.option("-v", "--verbose", is_flag=True, help="Every rule that the packet meets.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Instead of lines.")
@click.pass_obj
def command(
    etcd: str | None,
    source: str,
    destination: str | None,
    traffic: str,
    namespace: str,
    at_revision: int | None,
    via: str,
    source_port: int | None,
    live: bool,
    verbose: bool,
    output: str | None,
) -> None:
    """Say whether SOURCE may send to DESTINATION, and what decides; of a Service address alone, who announces it.

    Each is a pod ([NAMESPACE/]NAME), an address, an interface ([NODE/]DEVICE: of a pod, or the node itself by one of
    its own), a host endpoint, a Service or a node. A Service sends as each of the endpoints behind it. PROTOCOL/PORT
    is like tcp/80 (if not given), udp/53, 443, icmp or icmp/8.

    Exit code 0: allowed; 1: denied, at least in part.
    """
    if live and at_revision:
        raise click.UsageError("--live is about now, and --at-revision about the past")
    if destination is None:
        _explain_address(etcd, source, namespace)
        return
    from felixpy.ctl.explain.flow import SOURCE_PORT
    from felixpy.ctl.explain.text import lost_answer
    from felixpy.ctl.explain.traffic import parse_traffic

    try:
        asked = parse_traffic(traffic, SOURCE_PORT if source_port is None else source_port)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    explained = _explain(etcd, (source, destination), _Question(asked, namespace, via, at_revision or 0))
    counted = _count(etcd, explained.flows) if live else None
    if output:
        _print_tree(explained, counted, output)
    else:
        _print_lines(explained, counted, verbose)
    if not all(flow.allowed and lost_answer(flow) is None for flow in explained.flows):
        sys.exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of two parties: where bare names are looked for first, where packets from outside come in, when."""

    traffic: Traffic
    namespace: str
    via: str
    revision: int


@dataclass(frozen=True, slots=True)
class _Explained:
    """The flows, and how each would be otherwise with what is staged; `staged`: whether anything is."""

    cluster: Cluster
    revision: int
    flows: Sequence[Flow]
    otherwise: Sequence[Otherwise | None]
    staged: bool


@dataclass(frozen=True, slots=True)
class _Counted:
    """Nodes' answers, and the chains that each was asked for."""

    chains: Mapping[str, frozenset[str]]
    answers: Mapping[str, NodeStatus | None]


def _explain(etcd: str | None, words: tuple[str, str], question: _Question) -> _Explained:
    """Raises  click.UsageError where there is no such party, or nothing can be said of it."""
    from felixpy.ctl.explain.cluster import WITH_TUNNELS, read_cluster
    from felixpy.ctl.explain.flow import Unexplained
    from felixpy.ctl.explain.parties import UnknownParty, find_party
    from felixpy.ctl.explain.senders import explain_parties
    from felixpy.ctl.explain.staged import compare_flows, stage

    async def work(store: Store) -> Snapshot:
        return await store.snapshot(WITH_TUNNELS, question.revision)

    snapshot = with_store(etcd, work)
    cluster = read_cluster(snapshot.items)
    for broken in cluster.broken[:MOST_BROKEN]:
        print_warning(f"{broken.what}: {broken}")
    if len(cluster.broken) > MOST_BROKEN:
        print_warning(f"and {len(cluster.broken) - MOST_BROKEN} others")
    try:
        source, destination = (find_party(cluster, word, question.namespace) for word in words)
        flows = explain_parties(cluster, source, destination, question.traffic, question.via)
        staged = stage(cluster, snapshot.items)
        then = flows
        if staged is not None:
            then = explain_parties(staged, source, destination, question.traffic, question.via)
    except (UnknownParty, Unexplained) as error:
        raise click.UsageError(str(error)) from None
    otherwise = compare_flows(staged or cluster, flows, then)
    return _Explained(cluster, snapshot.revision, flows, otherwise, staged is not None)


def _print_tree(explained: _Explained, counted: _Counted | None, output: str) -> None:
    from felixpy.ctl.explain.counted import counts_tree
    from felixpy.ctl.explain.text import flows_tree
    from felixpy.ctl.showing.output import render_body

    otherwise = [one.tree() if one is not None else None for one in explained.otherwise]
    tree = flows_tree(explained.cluster, explained.flows, explained.revision, otherwise)
    if counted is not None:
        tree = {**tree, "counted": counts_tree(counted.answers)}
    click.echo(render_body(tree, output))


def _print_lines(explained: _Explained, counted: _Counted | None, verbose: bool) -> None:
    from felixpy.ctl.explain.counted import render_counts
    from felixpy.ctl.explain.text import render_flow

    for flow, other in zip(explained.flows, explained.otherwise, strict=True):
        for line in render_flow(explained.cluster, flow, verbose):
            click.echo(click.style(line.text, fg=line.color or None))
        if explained.staged:
            click.echo(f"  {other or 'staged: would be the same'}")
            if other is not None and other.rule:
                click.echo(f"      {other.rule}")
    for words in render_counts(counted.chains, counted.answers) if counted is not None else ():
        click.echo(words)


def _count(etcd: str | None, flows: Sequence[Flow]) -> _Counted:
    """What the nodes answer that count in the flows' chains."""
    from felixpy.ctl.asking import survey
    from felixpy.ctl.explain.counted import counting_chains

    chains = counting_chains(flows)

    async def work(store: Store) -> Mapping[str, NodeStatus | None]:
        wanted = frozenset[str]().union(*chains.values())
        return (await survey(store, tuple(chains), chains=wanted)).nodes if chains else {}

    return _Counted(chains, with_store(etcd, work))


def _explain_address(etcd: str | None, word: str, namespace: str) -> None:
    """Who has a Service address (or the addresses of a Service), and who announces it."""
    from felixpy.addresses import Address, parse_address
    from felixpy.ctl.asking import Survey, survey
    from felixpy.ctl.services.address import PREFIXES, AddressView
    from felixpy.resources.kinds import Name
    from felixpy.status.answers import Want

    async def work(store: Store) -> tuple[Snapshot, Survey]:
        return await store.snapshot(PREFIXES), await survey(store, (), (Want.ANNOUNCED, Want.SERVED))

    snapshot, found = with_store(etcd, work)
    view = AddressView(snapshot.items, found.nodes)
    addresses: tuple[Address, ...]
    try:
        addresses = (parse_address(word),)
    except ValueError:
        head, slash, tail = word.rpartition("/")
        addresses = view.addresses_of(Name(head if slash else namespace or "default", tail))
    if not any(map(view.knows, addresses)):
        raise click.UsageError(f"{word!r} is no address of a Service or of a pool; a flow needs a DESTINATION as well")
    for address in addresses:
        for line in view.render(address):
            click.echo(line)
