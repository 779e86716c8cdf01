"""`felixctl explain`: what becomes of a packet between two parties, and which tier, policy, rule or default decides.

Of a Service address alone: who has it and who announces it, and who does not and why.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from felixpy.ctl.connect import EXIT_FAILED, print_warning, with_store
from felixpy.datastore.model import Snapshot, Store

if TYPE_CHECKING:
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
    from felixpy.ctl.explain.cluster import WITH_TUNNELS, read_cluster
    from felixpy.ctl.explain.counted import counting_chains, counts_tree, render_counts
    from felixpy.ctl.explain.flow import SOURCE_PORT, Unexplained
    from felixpy.ctl.explain.parties import UnknownParty, find_party
    from felixpy.ctl.explain.senders import explain_parties
    from felixpy.ctl.explain.staged import compare_flows, stage
    from felixpy.ctl.explain.text import flows_tree, lost_answer, render_flow
    from felixpy.ctl.explain.traffic import parse_traffic

    try:
        asked = parse_traffic(traffic, SOURCE_PORT if source_port is None else source_port)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def work(store: Store) -> Snapshot:
        return await store.snapshot(WITH_TUNNELS, at_revision or 0)

    snapshot = with_store(etcd, work)
    cluster = read_cluster(snapshot.items)
    for broken in cluster.broken[:MOST_BROKEN]:
        print_warning(f"{broken.what}: {broken}")
    if len(cluster.broken) > MOST_BROKEN:
        print_warning(f"and {len(cluster.broken) - MOST_BROKEN} others")
    try:
        parties = find_party(cluster, source, namespace), find_party(cluster, destination, namespace)
        flows = explain_parties(cluster, *parties, asked, via)
        staged = stage(cluster, snapshot.items)
        then = explain_parties(staged, *parties, asked, via) if staged is not None else flows
    except (UnknownParty, Unexplained) as error:
        raise click.UsageError(str(error)) from None
    otherwise = compare_flows(staged or cluster, flows, then)
    chains = counting_chains(flows) if live else {}
    counted = _count(etcd, chains) if live else {}
    if output:
        from felixpy.ctl.showing.output import render_json, render_yaml

        tree = flows_tree(
            cluster, flows, snapshot.revision, [one.tree() if one is not None else None for one in otherwise]
        )
        if live:
            tree = {**tree, "counted": counts_tree(counted)}
        click.echo(render_json(tree) if output == "json" else render_yaml(tree).rstrip("\n"))
    else:
        for flow, other in zip(flows, otherwise, strict=True):
            for line in render_flow(cluster, flow, verbose):
                click.echo(click.style(line.text, fg=line.color or None))
            if staged is not None:
                click.echo(f"  {other or 'staged: would be the same'}")
                if other is not None and other.rule:
                    click.echo(f"      {other.rule}")
        for words in render_counts(chains, counted) if live else ():
            click.echo(words)
    if not all(flow.allowed and lost_answer(flow) is None for flow in flows):
        sys.exit(EXIT_FAILED)


def _count(etcd: str | None, chains: Mapping[str, frozenset[str]]) -> Mapping[str, NodeStatus | None]:
    """What the nodes answer that count in these chains."""
    from felixpy.ctl.asking import survey

    async def work(store: Store) -> Mapping[str, NodeStatus | None]:
        wanted = frozenset[str]().union(*chains.values())
        return (await survey(store, tuple(chains), chains=wanted)).nodes if chains else {}

    return with_store(etcd, work)


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
