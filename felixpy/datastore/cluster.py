"""Whether the datastore that we see is one to obey: which cluster it holds, and whether its history is the one we know.

In: what this node remembers and what it sees; out: Obey or Freeze with a reason. Pure. A frozen node keeps its kernel
as it is; what it remembers is kept by `remembered.py`.
Source: Calico's ClusterInformation (libcalico-go/lib/apis/v3/clusterinfo.go); etcd's ResponseHeader.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from felixpy.resources.foreign_json import decode_or_none

CLUSTER_INFORMATION_KEY = b"/calico/resources/v3/projectcalico.org/clusterinformations/default"


class FreezeReason(StrEnum):
    """Why a datastore is not obeyed. The texts are part of the state file's format."""

    UNINITIALISED = "the datastore holds no cluster yet, and this node has never obeyed one"
    EMPTY = "the datastore holds no cluster any more"
    NOT_READY = "the datastore is marked as not ready"
    OTHER_CLUSTER = "the datastore holds another cluster than this node last obeyed"
    ROLLED_BACK = "the datastore is older than what this node last obeyed"


DOUBTS = frozenset({FreezeReason.EMPTY, FreezeReason.OTHER_CLUSTER, FreezeReason.ROLLED_BACK})
"""Reasons after which only its history, or a person, can show a datastore to be the one that was obeyed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A datastore as it is now; `guid` is empty when it has no ClusterInformation.

    `mark_kept` tells whether the remembered mark is in its history; None when that is compacted or was not looked at.
    """

    guid: str
    ready: bool
    cluster_id: int
    revision: int
    mark_kept: bool | None = None


class Mark(NamedTuple):
    """One put or deletion, in so far as it tells one history from another; the digest of a deletion is empty."""

    key: bytes
    mod_revision: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Remembered:
    """The datastore that was last obeyed: Calico's GUID, etcd's own id, the newest revision seen.

    The mark is an event of its history, the value as its digest. An etcd that was restored from a backup and has since
    passed `revision` has another event at that revision. `frozen` is the doubt that the node froze with since.
    """

    guid: str
    cluster_id: int
    revision: int
    mark: Mark | None = None
    frozen: FreezeReason | None = None


@dataclass(frozen=True, slots=True)
class Obey:
    """The datastore is a desired state. `continues`: revisions mean what they meant when we last looked."""

    continues: bool


@dataclass(frozen=True, slots=True)
class Freeze:
    """The datastore is no desired state."""

    reason: FreezeReason


def judge_cluster(remembered: Remembered | None, seen: Seen) -> Obey | Freeze:
    """Whether to obey `seen`.

    A cluster that was moved to another etcd without loss (same GUID, not older) is obeyed, but read as a whole.
    A node that has frozen with a doubt stays frozen, whatever the revision, until the remembered mark is found in the
    datastore's history: a mark that is compacted, or that there never was, proves nothing then.
    """
    if not seen.guid:
        return Freeze(FreezeReason.EMPTY if remembered else FreezeReason.UNINITIALISED)
    if not seen.ready:
        return Freeze(FreezeReason.NOT_READY)
    if remembered is None:
        return Obey(continues=False)
    if seen.guid != remembered.guid:
        return Freeze(FreezeReason.OTHER_CLUSTER)
    if seen.revision < remembered.revision or seen.mark_kept is False:
        return Freeze(FreezeReason.ROLLED_BACK)
    if remembered.frozen and not seen.mark_kept:
        return Freeze(remembered.frozen)
    return Obey(continues=seen.cluster_id == remembered.cluster_id)


def make_mark(key: bytes, value: bytes | None, mod_revision: int) -> Mark:
    """The mark that a put leaves, or a deletion, which has no value."""
    return Mark(key, mod_revision, b"" if value is None else blake2b(value, digest_size=8).digest())


class _Spec(msgspec.Struct, rename="camel"):
    cluster_guid: str = msgspec.field(default="", name="clusterGUID")
    datastore_ready: bool | None = None


class _ClusterInformation(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


def parse_cluster_information(value: bytes | None) -> tuple[str, bool]:
    """GUID and readiness in a ClusterInformation; ("", False) where there is none, or none that can be read.

    Calico writes datastoreReady always; where it is missing, the datastore is not ready.
    """
    found = decode_or_none(value, _ClusterInformation)
    return (found.spec.cluster_guid, bool(found.spec.datastore_ready)) if found is not None else ("", False)
