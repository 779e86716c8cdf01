"""What one object names and another has to be: what is missing is said when it is applied, what is in use when deleted.

In, out objects about to be written, or deleted, and those in etcd → what is named and not there, with the field; who
        names an object. A missing thing stops no object: it may come later, and agents say so themselves until then.
Source  metallb internal/config (TransientError), internal/k8s/webhooks (a BFDProfile in use stays).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from felixpy.ctl.manifests import Body, Json, Manifest, Path, Problem, Severity
from felixpy.ctl.showing.selection import Found, select
from felixpy.datastore.model import Store
from felixpy.resources.kinds import BY_TYPE, CALICO, KindInfo, Name

BFD_PROFILES = BY_TYPE["metallb.io/v1beta1", "BFDProfile"]
FILTERS = BY_TYPE[CALICO, "BGPFilter"]
COMMUNITIES = BY_TYPE["metallb.io/v1beta1", "Community"]
_SECRETS = BY_TYPE["v1", "Secret"]
_PEERS = BY_TYPE[CALICO, "BGPPeer"]
_SPEAKER_PEERS = tuple(info for key, info in BY_TYPE.items() if key[1] == "BGPPeer" and info is not _PEERS)
_ADVERTISEMENTS = BY_TYPE["metallb.io/v1beta1", "BGPAdvertisement"]
_NAMING = (_PEERS, *_SPEAKER_PEERS, _ADVERTISEMENTS)
_NO_SESSION = "nobody gets a session by this object"


@dataclass(frozen=True, slots=True)
class Reference:
    """`path` of an object names another: the object of a kind, or an `alias` that any of the kind may give."""

    info: KindInfo
    name: Name
    path: Path
    lost: str
    alias: str = ""


def find_references(info: KindInfo, name: Name, body: Body) -> Iterator[Reference]:
    """What an object names."""
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return
    if info is _PEERS:
        for index, word in _words(spec.get("filters")):
            yield Reference(FILTERS, Name("", word), ("spec", "filters", index), _NO_SESSION)
    if info in _SPEAKER_PEERS:
        profile, secret = spec.get("bfdProfile"), spec.get("passwordSecret")
        if isinstance(profile, str) and profile:
            yield Reference(BFD_PROFILES, Name(name.namespace, profile), ("spec", "bfdProfile"), _NO_SESSION)
        key = secret.get("name") if isinstance(secret, dict) else None
        if isinstance(key, str) and key:
            yield Reference(_SECRETS, Name(name.namespace, key), ("spec", "passwordSecret"), _NO_SESSION)
    if info is _ADVERTISEMENTS:
        for index, word in _words(spec.get("communities")):
            if ":" not in word:
                path = ("spec", "communities", index)
                yield Reference(COMMUNITIES, Name("", ""), path, "nothing is announced by this object", word)


async def find_missing(store: Store, manifests: Collection[Manifest]) -> list[tuple[Manifest, Problem]]:
    """What these name and neither they nor etcd have; nothing is asked of etcd where they name nothing."""
    named = [(one, it) for one in manifests for it in find_references(one.info, one.name, one.body)]
    if not named:
        return []
    kinds = tuple({it.info: None for _, it in named})
    known: dict[tuple[KindInfo, Name], Body] = {
        (one.info, one.name): one.body for one in (await select(store, kinds, None)).objects
    }
    known |= {(one.info, one.name): one.body for one in manifests if one.info in kinds}
    aliases = {word for (info, _), body in known.items() if info is COMMUNITIES for word in _aliases(body)}
    found: list[tuple[Manifest, Problem]] = []
    for manifest, it in named:
        if it.alias in aliases or (it.info, it.name) in known:
            continue
        what = f"no Community gives {it.alias!r} a number" if it.alias else f"there is no {it.info.kind} {it.name}"
        found.append((manifest, Problem(it.path, f"{what}: {it.lost} until there is", Severity.WARNING)))
    return found


async def find_users(store: Store, target: Found, leaving: Collection[tuple[KindInfo, Name]]) -> list[Found]:
    """The objects that name one that is to be deleted, but for those that are `leaving` with it."""
    if target.info not in (BFD_PROFILES, FILTERS, COMMUNITIES):
        return []
    given: set[str] = set()
    others = (await select(store, (*_NAMING, COMMUNITIES), None)).objects
    if target.info is COMMUNITIES:
        kept = (one for one in others if one.info is COMMUNITIES and one.name != target.name)
        given = set(_aliases(target.body)) - {word for one in kept for word in _aliases(one.body)}
    return [
        one
        for one in others
        if (one.info, one.name) not in leaving
        and any(
            it.alias in given or (it.info, it.name) == (target.info, target.name)
            for it in find_references(one.info, one.name, one.body)
        )
    ]


def _words(given: Json) -> Iterator[tuple[int, str]]:
    items: Iterable[Json] = given if isinstance(given, list) else ()
    return ((index, one) for index, one in enumerate(items) if isinstance(one, str))


def _aliases(body: Body) -> Iterator[str]:
    spec = body.get("spec")
    items = spec.get("communities") if isinstance(spec, Mapping) else None
    for one in items if isinstance(items, list) else ():
        if isinstance(one, dict) and isinstance(word := one.get("name"), str):
            yield word
