"""What applying an object would do, decided from what is in etcd: one write, none, or a refusal.

In, out a Manifest and the keys that it may be at → a Change: the key, the revision it must still have, the body before
        and after. Never reads or writes etcd itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from felixpy.ctl.manifests import Body, Json, Manifest, Problem, Severity
from felixpy.ctl.policy_names import possible_names, tier_of, typed_name
from felixpy.ctl.stored import Stamp, changes_refused, find_hidden, parse_body, stored_body
from felixpy.datastore.model import KeyValue
from felixpy.resources.kinds import Name


class Outcome(StrEnum):
    """What became of an object."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    DELETED = "deleted"
    NOT_FOUND = "not found"


@dataclass(frozen=True, slots=True)
class Change:
    """One object's way from `before` to `after` (the stored bodies; before is None when it is new).

    `revision` is the key's mod_revision that the change is based on, 0 for none.
    """

    manifest: Manifest
    outcome: Outcome
    name: Name
    revision: int = 0
    before: Body | None = None
    after: Body | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def key(self) -> str:
        return self.manifest.info.key(self.name)


def keys_to_read(manifest: Manifest) -> tuple[str, ...]:
    """What `plan_change` needs to see: per possible name, the object and our status of it."""
    info = manifest.info
    names = possible_names(info, manifest.name, tier_of(manifest.body))
    return tuple(key for name in names for key in (info.key(name), info.status_key(name)))


def plan_change(
    manifest: Manifest, found: Sequence[KeyValue | None], stamp: Stamp, *, prefixing: bool = False
) -> Change:
    """The change that makes etcd say what the manifest says; `found` answers `keys_to_read`.

    `prefixing` says that a new policy goes where Calico before 3.32 looks for it.
    """
    names = possible_names(manifest.info, manifest.name, tier_of(manifest.body))
    held = [(name, found[index * 2], found[index * 2 + 1]) for index, name in enumerate(names)]
    held = [held[0], *(one for one in held[1:] if prefixing or _is_named(one[1], manifest.name.name))]
    if prefixing:
        held.reverse()
    name, current, status = next((entry for entry in held if entry[1] is not None), held[0])
    problems = tuple(_other_copies(manifest, held, name))
    before: Body | None = None
    if current is not None:
        try:
            before = parse_body(current.value)
        except ValueError:
            said = f"what is in etcd at {manifest.info.key(name)} is no JSON object; it is replaced"
            problems += (Problem((), said, Severity.WARNING),)
        if (conflict := _conflict(manifest, current)) is not None:
            return Change(manifest, Outcome.REFUSED, name, current.mod_revision, before, None, (*problems, conflict))
    after = stored_body(manifest, name, before, _decided(status), stamp)
    refusals = tuple(changes_refused(manifest.info, before, after)) if before else ()
    refusals += tuple(find_hidden(manifest.info, after))
    revision = current.mod_revision if current else 0
    if refusals:
        return Change(manifest, Outcome.REFUSED, name, revision, before, None, (*problems, *refusals))
    outcome = Outcome.CREATED if current is None else Outcome.CONFIGURED
    if before is not None and before == after:
        outcome = Outcome.UNCHANGED
    return Change(manifest, outcome, name, revision, before, after, problems)


def _is_named(stored: KeyValue | None, typed: str) -> bool:
    """Whether what is in etcd is the object that was typed so, and not another one with a name like it."""
    if stored is None:
        return False
    try:
        return typed_name(parse_body(stored.value)) == typed
    except ValueError:
        return False


def _other_copies(
    manifest: Manifest, held: Sequence[tuple[Name, KeyValue | None, KeyValue | None]], chosen: Name
) -> Iterator[Problem]:
    for name, current, _ in held:
        if current is not None and name != chosen:
            said = f"there is a second copy at {manifest.info.key(name)}; delete one of the two"
            yield Problem((), said, Severity.WARNING)


def _conflict(manifest: Manifest, current: KeyValue) -> Problem | None:
    """A file that says which revision it was made from does not overwrite a later one."""
    metadata = manifest.body.get("metadata")
    given = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if given is None or given == "" or str(given) == str(current.mod_revision):
        return None
    said = f"is {given}, and the object has changed since (now {current.mod_revision}): get it anew, or leave this out"
    return Problem(("metadata", "resourceVersion"), said)


def _decided(status: KeyValue | None) -> dict[str, Json]:
    if status is None:
        return {}
    try:
        return parse_body(status.value)
    except ValueError:
        return {}
