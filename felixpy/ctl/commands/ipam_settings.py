"""`felixctl ipam configure` and `split`: what is changed of address management as a whole."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import click
import msgspec

from felixpy.ctl.cells import align_rows
from felixpy.ctl.connect import EXIT_FAILED, print_error, print_warning, with_store
from felixpy.ctl.ipam.settings import (
    PERSISTENCE,
    Part,
    Refused,
    Settings,
    check_settings,
    read_settings,
    render_settings,
    split_pool,
)
from felixpy.ctl.manifests import Json
from felixpy.ctl.stored import Stamp
from felixpy.datastore.model import Expect, KeyValue, Store, Write
from ipam.addresses import Prefix, parse_prefix
from ipam.codec import Malformed, parse_pool
from ipam.model import CONFIG_KEY, CONFIGURATION_KEY, POOLS_PREFIX, Pool, pool_key

ATTEMPTS = 5
"""How often settings that somebody else changes meanwhile are looked at again."""


class _PrefixType(click.ParamType[Prefix]):
    name = "cidr"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Prefix:
        try:
            return parse_prefix(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


async def load_settings(store: Store) -> tuple[Settings, KeyValue | None]:
    """The settings, and what is at their key.

    Raises  Refused.
    """
    own, applied = await store.get_many([CONFIG_KEY.encode(), CONFIGURATION_KEY.encode()])
    settings = read_settings(*(pair.value if pair is not None else None for pair in (own, applied)))
    return settings, own if settings.key == CONFIG_KEY else applied


def print_settings(values: Mapping[str, Json], output: str | None) -> None:
    """Settings by name."""
    if output == "yaml":
        from felixpy.ctl.showing.output import render_yaml

        click.echo(render_yaml(dict(values)).rstrip("\n"))
    elif output:
        click.echo(msgspec.json.format(msgspec.json.encode(values)).decode())
    else:
        click.echo("\n".join(align_rows([(f"{name}:", _words(value)) for name, value in values.items()])))


def _words(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command()
@click.option("--strict-affinity", "--strictaffinity", "strict", type=bool, help="Nodes borrow no address.")
@click.option("--auto-allocate-blocks", "auto", type=bool, help="Nodes claim blocks by themselves.")
@click.option("--max-blocks-per-host", "most", type=int, help="Blocks that a node may have; 0: the usual 20.")
@click.option("--kubevirt-ip-persistence", "persistence", type=click.Choice(["Enabled", "Disabled"]))
@click.option("--ip-cooldown-seconds", "cooldown", type=int, help="How long a released address rests (0-1200).")
@click.option("-o", "--output", type=click.Choice(["json"]), help="All settings, as they are then.")
@click.pass_obj
def configure(
    etcd: str | None,
    strict: bool | None,
    auto: bool | None,
    most: int | None,
    persistence: str | None,
    cooldown: int | None,
    output: str | None,
) -> None:
    """Change how addresses are given out, in the whole cluster."""
    given: dict[str, Json] = {
        "strictAffinity": strict,
        "autoAllocateBlocks": auto,
        "maxBlocksPerHost": most,
        PERSISTENCE: persistence,
        "ipCooldownSeconds": cooldown,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        raise click.UsageError("name at least one setting; `felixctl ipam show --configuration` shows them all")

    async def work(store: Store) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
        for _ in range(ATTEMPTS):
            settings, pair = await load_settings(store)
            values = {**settings.values, **wanted}
            if problems := check_settings(values):
                raise Refused("; ".join(str(problem) for problem in problems))
            value = render_settings(settings, values, pair.value if pair is not None else None)
            expect = Expect(settings.key.encode(), pair.mod_revision if pair is not None else 0)
            if (await store.transact([expect], [Write(expect.key, value)])).succeeded:
                return settings.values, values
        raise Refused("the settings keep changing")

    try:
        before, after = with_store(etcd, work)
    except Refused as error:
        print_error(f"error: {error}")
        sys.exit(EXIT_FAILED)
    if output:
        print_settings(after, output)
    else:
        for name in wanted:
            was = "unchanged" if before[name] == after[name] else f"was {_words(before[name])}"
            click.echo(f"{name}: {_words(after[name])} ({was})")
    if persistence == "Enabled":
        print_warning(f"{PERSISTENCE} is for Calico's nodes: ours do not know when a machine is gone for good")


@click.command()
@click.argument("parts", type=int)
@click.option("--name", help="The pool's name.")
@click.option("--cidr", type=_PrefixType(), help="The pool's range.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="The new pools' ranges by name.")
@click.pass_obj
def split(etcd: str | None, parts: int, name: str | None, cidr: Prefix | None, output: str | None) -> None:
    """Make a pool into PARTS equal ones, in one transaction; addresses and blocks stay as they are."""
    if (name is None) == (cidr is None):
        raise click.UsageError("give either --name NAME, or --cidr CIDR")

    async def work(store: Store) -> tuple[Pool, tuple[Part, ...]]:
        pair = await (store.get(pool_key(name).encode()) if name is not None else _find_pool(store, cidr))
        if pair is None:
            raise Refused(f"there is no pool {name if name is not None else f'of {cidr}'}")
        pool, made = split_pool(pair.value, parts, _stamps())
        absent = [Expect(part.key.encode(), 0) for part in made]
        writes = [Write(part.key.encode(), part.value) for part in made]
        result = await store.transact([Expect(pair.key, pair.mod_revision), *absent], [Write(pair.key, None), *writes])
        if not result.succeeded:
            taken = [part.name for part, found in zip(made, result.current[1:], strict=True) if found is not None]
            raise Refused(
                f"there is a pool {taken[0]} already" if taken else "the pool was changed meanwhile: try again"
            )
        return pool, made

    try:
        pool, made = with_store(etcd, work)
    except Refused as error:
        print_error(f"error: {error}")
        sys.exit(EXIT_FAILED)
    if output:
        print_settings({part.name: str(part.cidr) for part in made}, output)
        return
    click.echo(f"IPPool {pool.name} {pool.cidr} split into {len(made)}:")
    for part in made:
        click.echo(f"  {part.name} {part.cidr}")


async def _find_pool(store: Store, cidr: Prefix | None) -> KeyValue | None:
    for pair in (await store.snapshot([POOLS_PREFIX.encode()])).items:
        try:
            if parse_pool(pair.value).cidr == cidr:
                return pair
        except Malformed:
            continue
    return None


def _stamps() -> Iterator[Stamp]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    while True:
        yield Stamp(now, str(uuid.uuid4()))
