"""What `get` and `delete` mean by KIND and NAME: kinds from words, and the objects in etcd that are meant.

In, out words → kinds; kinds, namespace and names → the objects found, with our status merged in, as they were at one
        revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from felixpy.ctl.manifests import DEFAULT_NAMESPACE, Body, Json
from felixpy.ctl.policy_names import DEFAULT_TIER, is_tiered_policy, possible_names, typed_name
from felixpy.ctl.stored import parse_body, shown_body
from felixpy.datastore.model import KeyValue, Store
from felixpy.resources.kinds import KINDS, STATUS_PREFIX, KindInfo, Name, find_kind

EVERYTHING = "all"
USUAL = "?"
"""In place of a namespace, the one that people mean who name none: of each kind its own."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object in etcd: its stored name, the one that was typed, and how it is shown."""

    info: KindInfo
    name: Name
    shown_name: Name
    body: Body

    @property
    def key(self) -> str:
        return self.info.key(self.name)

    def __str__(self) -> str:
        return f"{self.info.kind} {self.shown_name}"


@dataclass(frozen=True, slots=True)
class Selected:
    """The objects found, and the keys whose values are no objects."""

    objects: tuple[Found, ...]
    unreadable: tuple[str, ...]


def kinds_named(words: str) -> tuple[KindInfo, ...]:
    """The kinds that a comma-separated list names; `kind.group` where one word has two.

    Raises  ValueError for a word that names none.
    """
    if words == EVERYTHING:
        return KINDS
    found: list[KindInfo] = []
    for word in words.split(","):
        kinds = find_kind(word) or _qualified(word)
        if not kinds:
            known = {name for info in KINDS for name in (info.kind.lower(), info.plural, *info.short)}
            near = get_close_matches(word.lower(), known, 1)
            raise ValueError(f"there is no kind {word!r}" + (f"; did you mean {near[0]}?" if near else ""))
        found += kinds
    return tuple(dict.fromkeys(found))


def _qualified(word: str) -> tuple[KindInfo, ...]:
    kind, dot, group = word.lower().partition(".")
    return tuple(info for info in find_kind(kind) if info.group == group) if dot else ()


async def select(
    store: Store, kinds: Sequence[KindInfo], namespace: str | None, names: Sequence[str] = (), revision: int = 0
) -> Selected:
    """Objects of these kinds, in the order of their keys. No namespace means all, USUAL each kind's; no name means all.

    Raises  Compacted and FutureRevision when etcd does not have that revision.
    """
    wanted = {info: tuple(_prefixes(info, namespace, names)) for info in kinds}
    prefixes = [prefix for pairs in wanted.values() for pair in pairs for prefix in pair]
    snapshot = await store.snapshot([prefix.encode() for prefix in prefixes], revision)
    by_key = {item.key.decode(): item for item in snapshot.items}
    objects: list[Found] = []
    unreadable: list[str] = []
    for info in kinds:
        for key, item in by_key.items():
            name = info.parse_name(key) if key.startswith(info.prefix) else None
            if name is None:
                continue
            try:
                body = parse_body(item.value)
            except ValueError:
                unreadable.append(key)
                continue
            typed = typed_name(body) if is_tiered_policy(info) else name.name
            if names and not {name.name, typed} & set(names):
                continue
            status = _decided(by_key.get(info.status_key(name)))
            shown = shown_body(info, body, status, item.mod_revision)
            objects.append(Found(info, name, Name(name.namespace, typed), shown))
    return Selected(tuple(objects), tuple(unreadable))


def usual_namespace(info: KindInfo) -> str | None:
    """Objects of MetalLB live in its own namespace, wherever that is; of the others, people mean `default`."""
    return None if info.group == "metallb.io" else DEFAULT_NAMESPACE


def _prefixes(info: KindInfo, namespace: str | None, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key prefixes of the objects and of their status."""
    if namespace == USUAL:
        namespace = usual_namespace(info)
    status = f"{STATUS_PREFIX}{info.group}/{info.version}/{info.plural}/"
    if info.namespaced and namespace is None:
        yield info.prefix, status
        return
    space = namespace if info.namespaced and namespace is not None else ""
    if not names:
        inside = f"{space}/" if info.namespaced else ""
        yield info.prefix + inside, status + inside
        return
    for word in names:
        for name in possible_names(info, Name(space, word), DEFAULT_TIER):
            yield info.key(name), info.status_key(name)


def _decided(item: KeyValue | None) -> dict[str, Json]:
    if item is None:
        return {}
    try:
        return parse_body(item.value)
    except ValueError:
        return {}
