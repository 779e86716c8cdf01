"""`felixctl delete`: objects by name, or those in files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import click

from felixpy.ctl.applying.references import BFD_PROFILES, find_users
from felixpy.ctl.cells import count_words
from felixpy.ctl.connect import EXIT_FAILED, EXIT_USAGE, print_error, print_warning, with_store
from felixpy.ctl.manifests import DEFAULT_NAMESPACE
from felixpy.ctl.policy_names import is_tiered_policy, tier_of
from felixpy.ctl.reading.intake import Skipped
from felixpy.ctl.showing.selection import (
    USUAL,
    Found,
    Selected,
    complete_kinds,
    name_of,
    parse_asked,
    select,
    usual_namespace,
)
from felixpy.datastore.model import Store
from felixpy.resources.kinds import KINDS, REPORTED_KINDS, KindInfo, Name

SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Target:
    """`namespace` may be USUAL."""

    kinds: tuple[KindInfo, ...]
    name: str
    namespace: str | None

    def __str__(self) -> str:
        info = self.kinds[0]
        space = usual_namespace(info) if self.namespace == USUAL else self.namespace
        return f"{info.kind} {Name(space or '' if info.namespaced else '', self.name)}"


@click.command()
@click.argument("kind", required=False, shell_complete=complete_kinds)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="File, directory or -.")
@click.option("-R", "--recursive", is_flag=True, help="Directories with all below them.")
@click.option("-n", "--namespace", default="", help=f"Namespace; else {DEFAULT_NAMESPACE}.")
@click.option("--ignore-not-found", is_flag=True, help="It is no error when an object is not there.")
@click.option("--strict", is_flag=True, help="Exit with 2 when a document was skipped.")
@click.pass_obj
def command(
    etcd: str | None,
    kind: str | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    namespace: str,
    ignore_not_found: bool,
    strict: bool,
) -> None:
    """Delete objects, by KIND and NAME or by the files that made them."""
    if bool(files) == bool(kind):
        raise click.UsageError("give either KIND and NAME, or -f FILE")
    if files:
        targets, skipped, failed = _from_files(files, recursive, namespace)
    else:
        targets, skipped, failed = _from_words(kind or "", names, namespace), (), 0

    async def work(store: Store) -> int:
        found = [await select(store, one.kinds, one.namespace, [one.name]) for one in targets]
        leaving = {(it.info, it.name) for those in found for it in those.objects}
        pairs = zip(targets, found, strict=True)
        return sum([await _delete(store, target, those, ignore_not_found, leaving) for target, those in pairs])

    failed += with_store(etcd, work)
    for document in skipped:
        click.echo(f"{document} skipped: {document.source}: not a kind that felixpy holds")
    if failed:
        sys.exit(EXIT_FAILED)
    if strict and skipped:
        sys.exit(EXIT_USAGE)


def _from_files(
    files: Sequence[str], recursive: bool, namespace: str
) -> tuple[list[_Target], tuple[Skipped, ...], int]:
    from felixpy.ctl.collect import collect, print_reports

    intake = collect(files, recursive, namespace)
    failed = print_reports(intake.reports)
    targets = [_Target((one.info,), one.name.name, one.name.namespace) for one in intake.manifests]
    return targets, intake.skipped, failed


def _from_words(kind: str, names: tuple[str, ...], namespace: str) -> list[_Target]:
    try:
        asked = parse_asked((kind, *names), namespace or USUAL)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for info in (info for one in asked for info in one.kinds):
        if info in REPORTED_KINDS:
            raise click.UsageError(f"nodes write each {info.kind}, and they alone take it away")
    if not all(one.names for one in asked):
        raise click.UsageError("give the NAME of what is to be deleted")
    return [_Target(one.kinds, name, one.namespace) for one in asked for name in one.names]


async def _delete(
    store: Store,
    target: _Target,
    selected: Selected,
    ignore_not_found: bool,
    leaving: Collection[tuple[KindInfo, Name]],
) -> int:
    """How many errors there were: 0 or 1."""
    found = selected.objects
    if not found and selected.unreadable:
        for key in selected.unreadable:
            await store.delete(key.encode())
            click.echo(f"{target} {click.style('deleted', fg='yellow')}: what was at {key} was no JSON object")
        return 0
    if len({(one.info, one.name.namespace) for one in found}) > 1:
        named = " or ".join(map(name_of, found))
        print_error(f"error: {target}: there are several; say which: {named}")
        return 1
    if found and (why := _kept(found[0])):
        print_error(f"error: {target}: {why}")
        return 1
    if found and found[0].info.kind == "Tier" and (members := await _members(store, target.name)):
        print_error(f"error: {target}: it has policies: {_name_some(members)}")
        return 1
    users = [user for one in found for user in await find_users(store, one, leaving)]
    if users and found[0].info is BFD_PROFILES:
        print_error(f"error: {target}: it is in use: {_name_some(users)}")
        return 1
    deleted = [one for one in found if await store.delete(one.key.encode())]
    if deleted and users:
        print_warning(f"{target}: is missed now, as felixctl bgp will say: {_name_some(users)}")
    for one in deleted:
        click.echo(f"{one} {click.style('deleted', fg='yellow')}")
        if one.info.kind == "IPPool":
            await _release_blocks(store, one)
        if one.info.kind == "Node":
            await _tell_of_addresses(store, one)
    if not deleted and not ignore_not_found:
        print_error(f"error: {target} is not found")
    return 0 if deleted or ignore_not_found else 1


def _name_some(users: Sequence[Found]) -> str:
    more = f" and {len(users) - SHOWN} more" if len(users) > SHOWN else ""
    return f"{', '.join(map(str, users[:SHOWN]))}{more}"


def _kept(one: Found) -> str:
    """Why nobody should delete an object, as with calicoctl; "" for all others."""
    if one.info.kind == "ClusterInformation":
        return "agents know the cluster by it, and would all stop obeying; to lock it set datastoreReady to false"
    if one.info.kind == "Tier":
        from felixpy.ctl.validate.policy import BUILT_IN_TIERS

        return "it is built in" if one.name.name in BUILT_IN_TIERS else ""
    return ""


async def _release_blocks(store: Store, pool: Found) -> None:
    from felixpy.ctl.ipam.pool_blocks import release_blocks
    from ipam.addresses import parse_prefix

    spec = pool.body.get("spec")
    try:
        cidr = parse_prefix(str(spec.get("cidr"))) if isinstance(spec, dict) else None
    except ValueError:
        cidr = None
    if cidr is None:
        return
    left = await release_blocks(store, cidr)
    if left.released:
        click.echo(f"{pool}: empty blocks released: {left.released}")
    for why in left.kept:
        print_warning(f"{pool}: {why}")


async def _tell_of_addresses(store: Store, node: Found) -> None:
    """The elected controller waits for a node to come back before it takes anything from it."""
    from ipam.audit import GRACE
    from ipam.model import affinities_prefix, node_owner

    prefix = affinities_prefix(node_owner(node.name.name)).encode()
    blocks = len((await store.snapshot([prefix])).items)
    if blocks:
        minutes = int(GRACE.total_seconds() // 60)
        click.echo(
            f"{node}: its {count_words(blocks, 'block')} and addresses go in {minutes} minutes, unless it is back"
        )


async def _members(store: Store, tier: str) -> list[Found]:
    """The policies of a tier; without it they would be of none."""
    policies = [info for info in KINDS if is_tiered_policy(info)]
    return [one for one in (await select(store, policies, None)).objects if tier_of(one.body) == tier]
