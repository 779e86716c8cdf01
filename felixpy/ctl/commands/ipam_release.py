"""`felixctl ipam release`: giving back what nobody uses, guarded so that what is used again stays."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec

from felixpy.ctl.connect import EXIT_FAILED, print_error, with_store
from felixpy.ctl.ipam.audit import (
    PREFIXES,
    AuditReport,
    derive_alive,
    parse_report,
    repairs_of,
    run_audit,
    suspects_of,
)
from felixpy.ctl.ipam.pool_blocks import RELEASER
from felixpy.ctl.ipam.settings import Refused
from felixpy.ctl.ipam.view import find_address
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.model import Store
from ipam.addresses import Address, format_address, parse_address
from ipam.audit import GRACE, Audit, Finding, derive_releases
from ipam.block import Release, ReleaseRefusal
from ipam.engine import Allocator
from ipam.model import node_owner, parse_affinity_key, parse_block_key, parse_handle_key, parse_owner
from ipam.request import IpamError

RELEASES_AT_ONCE = 40
"""Addresses that one transaction gives back; each may need a block and a handle of its own."""

Values = Mapping[str, bytes]


class AddressType(click.ParamType[Address]):
    """An address on the command line."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return parse_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


async def read_all(store: Store) -> tuple[Values, int]:
    """Every key that bears on addresses, and the revision that they are of."""
    snapshot = await store.snapshot(PREFIXES)
    return {pair.key.decode("utf-8", "replace"): pair.value for pair in snapshot.items}, snapshot.revision


@dataclass(slots=True)
class _Done:
    """What came of it, address by address; `given_up` are handles, claims and blocks."""

    released: list[Address] = field(default_factory=list)
    refused: dict[Address, ReleaseRefusal] = field(default_factory=dict)
    given_up: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


@click.command()
@click.option("--ip", "address", type=AddressType(), metavar="IP", help="One address.")
@click.option("--from-report", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--force", is_flag=True, help="Although it is in use, or the report younger than it should be.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="Instead of text.")
@click.pass_obj
def release(etcd: str | None, address: Address | None, file: Path | None, force: bool, output: str | None) -> None:
    """Give back an address, or what a report of `check` and a second look agree that nobody uses."""
    if (address is None) == (file is None):
        raise click.UsageError("give either --ip IP, or --from-report FILE")
    first = _read_report(file) if file is not None else None

    async def work(store: Store) -> _Done:
        values, _ = await read_all(store)
        allocator = Allocator(
            IpamStore(store), node_owner(RELEASER), now=lambda: datetime.now(UTC), rng=random.Random()
        )
        done = _Done()
        if address is not None:
            await _give_back(allocator, [_release_of(values, address, force)], done)
        elif first is not None:
            second = _look_again(values, first, force)
            grace = timedelta(0) if force else GRACE
            releases = derive_releases(suspects_of(first), first.taken_at, second, datetime.now(UTC), grace)
            await _give_back(allocator, releases, done)
            await _give_up(allocator, repairs_of(first, second), done)
        return done

    try:
        done = with_store(etcd, work)
    except (IpamError, Refused) as error:
        print_error(f"error: {error}")
        sys.exit(EXIT_FAILED)
    _print(done, output)
    if done.refused or done.kept:
        sys.exit(EXIT_FAILED)


def _print(done: _Done, output: str | None) -> None:
    released = [format_address(one) for one in done.released]
    kept = {**{format_address(one): str(why) for one, why in done.refused.items()}, **done.kept}
    if output:
        body = {"released": released, "givenUp": done.given_up, "kept": kept}
        click.echo(msgspec.json.format(msgspec.json.encode(body)).decode())
        return
    for one in released:
        click.echo(f"{one} released")
    for what in done.given_up:
        click.echo(f"{what} given up")
    for what, why in kept.items():
        print_error(f"error: {what}: {why}")


def _read_report(file: Path) -> AuditReport:
    try:
        return parse_report(file.read_bytes())
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{file}: is no report of `ipam check -o json`: {error}") from None


def _release_of(values: Values, address: Address, force: bool) -> Release:
    held = find_address(values, address)[2]
    if held is None or held.cooling:
        raise Refused(f"{format_address(address)} is not held by anybody")
    users = derive_alive(values).users.get(address)
    if users and not force:
        raise Refused(f"{format_address(address)} is in use by {', '.join(users)}; with --force all the same")
    return Release(address, held.attribute.holder or None, held.sequence)


def _look_again(values: Values, first: AuditReport, force: bool) -> Audit:
    age = datetime.now(UTC) - first.taken_at
    if not force and age < GRACE:
        left = int((GRACE - age).total_seconds())
        raise Refused(f"the report is too young: an address may still be in the making; {left} s more, or --force")
    return run_audit(values, derive_alive(values))


async def _give_back(allocator: Allocator, releases: Sequence[Release], done: _Done) -> None:
    for start in range(0, len(releases), RELEASES_AT_ONCE):
        receipt = await allocator.release_addresses(releases[start : start + RELEASES_AT_ONCE])
        done.released += receipt.released
        done.refused.update(receipt.refused)


async def _give_up(allocator: Allocator, repairs: Iterable[Finding], done: _Done) -> None:
    """Handles without addresses, claims to others' blocks, empty blocks without a pool; none that is in use by now."""
    for finding in repairs:
        handle_id, claim = parse_handle_key(finding.key), parse_affinity_key(finding.key)
        cidr, owner = parse_block_key(finding.key), parse_owner(finding.detail)
        try:
            if handle_id is not None:
                await allocator.release(handle_id, only_empty=True)
                done.given_up.append(f"handle {handle_id}")
            elif claim is not None:
                await allocator.release_block(claim[1], claim[0])
                done.given_up.append(f"claim of {claim[0]} to {claim[1]}")
            elif cidr is not None and owner is not None:
                await allocator.release_block(cidr, owner)
                done.given_up.append(f"block {cidr}")
        except IpamError as error:
            done.kept[finding.subject] = str(error)
