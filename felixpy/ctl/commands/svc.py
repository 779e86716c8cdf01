"""`felixctl svc`: Services: what they have, and of one where it is served, by whom, and where not and why."""

from __future__ import annotations

import sys

import click

from felixpy.ctl.asking import TIMEOUT_S, Survey, survey
from felixpy.ctl.cells import list_some
from felixpy.ctl.connect import EXIT_FAILED, print_error, with_store
from felixpy.ctl.manifests import Body
from felixpy.ctl.node_text import NO_ANSWER
from felixpy.ctl.services.text import render_service, render_services, services_tree
from felixpy.ctl.services.view import PREFIXES, Facts, read_facts
from felixpy.datastore.model import Snapshot, Store
from felixpy.resources.kinds import Name
from felixpy.status.answers import Want


@click.command()
@click.argument("service", required=False, metavar="[NAMESPACE/]NAME")
@click.option("-n", "--namespace", default="", help="The namespace of Services to list, or of a bare name (default).")
@click.option("--timeout", type=click.FloatRange(min=0.1), help=f"Seconds; about {TIMEOUT_S:g}.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Instead of tables.")
@click.pass_obj
def command(etcd: str | None, service: str | None, namespace: str, timeout: float | None, output: str | None) -> None:
    """Show all Services, or one in full: its frontends, its endpoints, and where it is served.

    Exit code 0: what is shown works, as far as can be told; 1: it does not, or there is no such Service.
    """
    name = _name(service, namespace) if service else None

    async def work(store: Store) -> tuple[Snapshot, Survey | None]:
        asked = None
        if name is not None:
            asked = await survey(store, (), (Want.SERVED, Want.ANNOUNCED), timeout, services=(str(name),))
        return await store.snapshot(PREFIXES), asked

    snapshot, found = with_store(etcd, work)
    facts = read_facts(snapshot.items)
    if name is None:
        shown = [one for one in facts.values() if namespace in ("", one.name.namespace)]
        _show_all(shown, output)
    elif name not in facts:
        print_error(f"error: there is no Service {name}")
        sys.exit(EXIT_FAILED)
    else:
        assert found is not None
        _show_one(facts[name], found, output)


def _name(word: str, namespace: str) -> Name:
    head, slash, tail = word.rpartition("/")
    return Name(head if slash else namespace or "default", tail)


def _show_all(shown: list[Facts], output: str | None) -> None:
    if output:
        _dump(services_tree(shown, None), output)
        return
    for line in render_services(shown):
        click.echo(line)


def _show_one(facts: Facts, found: Survey, output: str | None) -> None:
    if output:
        _dump(services_tree([facts], found.nodes), output)
    else:
        for line in render_service(facts, found.nodes):
            click.echo(line)
    unheard = [name for name, status in found.nodes.items() if status is None]
    if unheard:
        print_error(f"{list_some(unheard)}: {NO_ANSWER}")
    if facts.find_trouble():
        sys.exit(EXIT_FAILED)


def _dump(body: Body, output: str) -> None:
    from felixpy.ctl.showing.output import render_body

    click.echo(render_body(body, output))
