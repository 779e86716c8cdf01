"""`felixctl doctor`: looks for what is known to go wrong, on this machine and in the cluster, and says it in words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from felixpy.ctl.connect import EXIT_FAILED, etcd_settings, with_store
from felixpy.ctl.doctor.finding import Finding, Level, worst
from felixpy.ctl.local import run_dir_option

_COLORS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: ""}


@click.command()
@click.option("--host/--no-host", "host", default=None, help="Look at this machine (if a node runs here, or as said).")
@click.option("--cluster/--no-cluster", "cluster", default=True, help="Look at etcd and ask all nodes.")
@click.option("--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True)
@click.option("--bin-dir", type=click.Path(path_type=Path), default=Path("/opt/cni/bin"), show_default=True)
@run_dir_option
@click.pass_obj
def command(etcd: str | None, host: bool | None, cluster: bool, conf_dir: Path, bin_dir: Path, run_dir: Path) -> None:
    """Look for what is known to go wrong: the kernel, other programs in our way, etcd, nodes, configuration.

    Exit code 0: nothing is wrong; 1: something is.
    """
    looked_at: list[str] = []
    findings: list[Finding] = []
    if host if host is not None else run_dir.exists():
        looked_at.append("this machine")
        findings += _judge_host(conf_dir, bin_dir, run_dir)
    if cluster:
        looked_at.append("the cluster")
        findings += _judge_cluster(etcd)
    for finding in sorted(findings, key=lambda one: list(Level).index(one.level)):
        click.echo(click.style(f"{finding.level}: ", fg=_COLORS[finding.level] or None) + str(finding))
    if not findings:
        click.echo(f"Nothing wrong was found with {' and '.join(looked_at) or 'nothing'}.")
    if worst(findings) in (Level.ERROR, Level.WARNING):
        sys.exit(EXIT_FAILED)


def _judge_host(conf_dir: Path, bin_dir: Path, run_dir: Path) -> Iterator[Finding]:
    from felixpy.ctl.doctor.facts import read_host
    from felixpy.ctl.doctor.host import judge_host

    yield from judge_host(read_host(conf_dir, bin_dir, layer2=(run_dir / "l2.sock").exists()))


def _judge_cluster(etcd: str | None) -> Iterator[Finding]:
    from felixpy.ctl.applying.overlaps import CLAIMING_KINDS, Claimed, claims_of
    from felixpy.ctl.asking import Survey, survey
    from felixpy.ctl.doctor.cluster import judge_cluster, judge_etcd
    from felixpy.ctl.doctor.facts import read_member
    from felixpy.ctl.showing.selection import select
    from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, parse_cluster_information
    from felixpy.datastore.model import DatastoreError, Store

    try:
        settings = etcd_settings(etcd, os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    members = [read_member(endpoint, settings) for endpoint in settings.endpoints]
    yield from judge_etcd(members)
    if all(member.error for member in members):
        return

    async def work(store: Store) -> tuple[Survey | DatastoreError, list[Claimed], bool]:
        found = (await select(store, CLAIMING_KINDS, None)).objects
        claimed = [one for it in found for one in claims_of(it.info, it.key.removeprefix(it.info.prefix), it.body)]
        pair = await store.get(CLUSTER_INFORMATION_KEY)
        guid, ready = parse_cluster_information(pair.value if pair is not None else None)
        ready = bool(guid and ready)
        try:
            return await survey(store), claimed, ready
        except DatastoreError as error:  # it can be read, and takes no question
            return error, claimed, ready

    asked, claimed, ready = with_store(etcd, work)
    if isinstance(asked, DatastoreError):
        yield Finding(Level.ERROR, "nodes", "they cannot be asked", str(asked))
    else:
        yield from judge_cluster(asked.nodes, claimed, ready)
