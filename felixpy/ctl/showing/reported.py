"""Kinds that nodes alone write, each under its own lease: ServiceL2Status and ServiceBGPStatus, as MetalLB has them.

In, out kinds, namespace and revision → what lies in etcd of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from felixpy.ctl.showing.selection import Found
from felixpy.ctl.stored import parse_body
from felixpy.datastore.model import KeyValue, Store
from felixpy.resources.kinds import REPORTED_KINDS, KindInfo


def reported_named(words: str) -> tuple[KindInfo, ...]:
    """The kinds of these that a comma-separated list names; none unless all of it are."""
    asked = [word.lower() for word in words.split(",")]
    found = [info for word in asked for info in REPORTED_KINDS if word in {info.kind.lower(), info.plural, *info.short}]
    return tuple(dict.fromkeys(found)) if len(found) == len(asked) else ()


async def select_reported(
    store: Store, kinds: Iterable[KindInfo], namespace: str | None, revision: int = 0
) -> tuple[Found, ...]:
    """The objects of these kinds; no namespace means all, revision 0 now."""
    found: list[Found] = []
    for info in kinds:
        prefix = info.status_prefix if namespace is None else f"{info.status_prefix}{namespace}/"
        found += _read(info, (await store.snapshot([prefix.encode()], revision)).items)
    return tuple(found)


def _read(info: KindInfo, items: Iterable[KeyValue]) -> Iterator[Found]:
    for item in items:
        name = info.parse_status_name(item.key.decode("utf-8", "replace"))
        if name is None:
            continue
        try:
            yield Found(info, name, name, parse_body(item.value))
        except ValueError:
            continue
