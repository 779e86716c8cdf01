"""What `get` and `delete` mean by KIND and NAME: kinds from words, and the objects in etcd that are meant.

In, out words → kinds, namespace and names; these → the objects found, with our status merged in, as they were at one
        revision. Kinds that nobody but nodes write are a status as a whole, and lie where those are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import click

from felixpy.ctl.manifests import DEFAULT_NAMESPACE, Body, Json
from felixpy.ctl.policy_names import DEFAULT_TIER, is_tiered_policy, possible_names, typed_name
from felixpy.ctl.stored import parse_body, shown_body
from felixpy.datastore.model import KeyValue, Store
from felixpy.resources.kinds import KINDS, REPORTED_KINDS, KindInfo, Name, find_kind

EVERYTHING = "all"
_SHOWN = (*KINDS, *REPORTED_KINDS)
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


def name_of(found: Found) -> str:
    """What means this object alone, wherever a KIND/NAME is asked for."""
    return f"{found.info.kind.lower()}.{found.info.group}/{found.shown_name}"


@dataclass(frozen=True, slots=True)
class Selected:
    """The objects found, and the keys whose values are no objects."""

    objects: tuple[Found, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What words ask for: objects of these kinds in a namespace (None: in any; USUAL), those of these names or all."""

    kinds: tuple[KindInfo, ...]
    namespace: str | None
    names: tuple[str, ...] = ()


def parse_asked(words: Sequence[str], namespace: str | None) -> tuple[Asked, ...]:
    """What `KIND [NAME]...` or `KIND/NAME...` asks for; a NAME may be NAMESPACE/NAME, as it is where we print one.

    Raises  ValueError for a word that names no kind, nothing, or an object of another namespace than `namespace`.
    """
    first, *others = words
    if "/" not in first:
        kinds = kinds_named(first)
        return _merge(_place(kinds, name, namespace) for name in others) if others else (Asked(kinds, namespace),)
    named: list[Asked] = []
    for word in words:
        kind, slash, name = word.partition("/")
        if not slash:
            raise ValueError(f"{word!r} beside {first!r}: give KIND NAME..., or KIND/NAME...")
        named.append(_place(kinds_named(kind), name, namespace))
    return _merge(named)


def _place(kinds: tuple[KindInfo, ...], word: str, namespace: str | None) -> Asked:
    """One object, in the namespace that is part of its name, or else in the one that was given beside it."""
    space, slash, name = word.rpartition("/")
    if not name or (slash and not space) or "/" in space:
        raise ValueError(f"{word!r} names nothing")
    if not slash:
        return Asked(kinds, namespace, (name,))
    if not all(info.namespaced for info in kinds):
        raise ValueError(f"{word!r} is no name of a {kinds[0].kind}, which belongs to no namespace")
    if namespace not in (None, USUAL, space):
        raise ValueError(f"{word!r} is not in namespace {namespace}")
    return Asked(kinds, space, (name,))


def _merge(some: Iterable[Asked]) -> tuple[Asked, ...]:
    """Names of the same kinds and namespace together."""
    names: dict[tuple[tuple[KindInfo, ...], str | None], list[str]] = {}
    for one in some:
        names.setdefault((one.kinds, one.namespace), []).extend(one.names)
    return tuple(Asked(*place, tuple(dict.fromkeys(found))) for place, found in names.items())


def kinds_named(words: str) -> tuple[KindInfo, ...]:
    """The kinds that a comma-separated list names; `kind.group` where one word has two.

    Raises  ValueError for a word that names none.
    """
    if words == EVERYTHING:
        return KINDS
    found: list[KindInfo] = []
    for word in words.split(","):
        kinds = find_kind(word) or _qualified(word) or _reported(word)
        if not kinds:
            known = {name for info in _SHOWN for name in (info.kind.lower(), info.plural, *info.short)}
            near = get_close_matches(word.lower(), known, 1)
            raise ValueError(f"there is no kind {word!r}" + (f"; did you mean {near[0]}?" if near else ""))
        found += kinds
    return tuple(dict.fromkeys(found))


def _qualified(word: str) -> tuple[KindInfo, ...]:
    kind, dot, group = word.lower().partition(".")
    return tuple(info for info in find_kind(kind) if info.group == group) if dot else ()


def _reported(word: str) -> tuple[KindInfo, ...]:
    low = word.lower().removesuffix(".metallb.io")
    return tuple(info for info in REPORTED_KINDS if low in {info.kind.lower(), info.plural, *info.short})


def complete_kinds(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """What a shell may make of the beginning of a KIND, or of the last of several."""
    before, comma, last = begun.rpartition(",")
    words = (EVERYTHING, *(word for info in _SHOWN for word in (info.plural, *info.short)))
    return sorted({f"{before}{comma}{word}" for word in words if word.startswith(last.lower())})


async def select(
    store: Store, kinds: Sequence[KindInfo], namespace: str | None, names: Sequence[str] = (), revision: int = 0
) -> Selected:
    """Objects of these kinds, in the order of their keys. No namespace means all, USUAL each kind's; no name means all.

    Raises  Compacted and FutureRevision when etcd does not have that revision.
    """
    wanted = {info: tuple(_prefixes(info, namespace, names)) for info in kinds}
    prefixes = [prefix for pairs in wanted.values() for pair in pairs for prefix in pair]
    snapshot = await store.snapshot([prefix.encode() for prefix in prefixes], revision)
    by_key = {item.key.decode("utf-8", "replace"): item for item in snapshot.items}
    objects: list[Found] = []
    unreadable: list[str] = []
    for info in kinds:
        stored = {it.name for word in names for it in possible_names(info, Name("", word), DEFAULT_TIER)}
        parse = info.parse_status_name if info in REPORTED_KINDS else info.parse_name
        for key, item in by_key.items():
            name = parse(key) if key.startswith(_prefix(info)) else None
            if name is None:
                continue
            try:
                body = parse_body(item.value)
            except ValueError:
                if not names or name.name in stored:
                    unreadable.append(key)
                continue
            typed = typed_name(body) if is_tiered_policy(info) else name.name
            if names and not {name.name, typed} & set(names):
                continue
            status = _decided(by_key.get(info.status_key(name))) if info not in REPORTED_KINDS else {}
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
    if info.namespaced and namespace is None:
        yield _prefix(info), info.status_prefix
        return
    space = namespace if info.namespaced and namespace is not None else ""
    if not names:
        inside = f"{space}/" if info.namespaced else ""
        yield _prefix(info) + inside, info.status_prefix + inside
        return
    if info in REPORTED_KINDS:
        yield from ((key, key) for key in (info.status_key(Name(space, word)) for word in names))
        return
    for word in names:
        for name in possible_names(info, Name(space, word), DEFAULT_TIER):
            yield info.key(name), info.status_key(name)


def _prefix(info: KindInfo) -> str:
    """Where objects of a kind lie."""
    return info.status_prefix if info in REPORTED_KINDS else info.prefix


def _decided(item: KeyValue | None) -> dict[str, Json]:
    if item is None:
        return {}
    try:
        return parse_body(item.value)
    except ValueError:
        return {}
