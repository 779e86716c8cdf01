"""Profiles as they count: stored ones, and those that Namespaces and ServiceAccounts stand for. Pure.

Where both are there under one name, the stored profile's rules count, and the labels of both; its own win.
Source: libcalico-go/lib/backend/k8s/conversion (namespace and service account profiles, their labels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from felixpy.resources.kinds import Name
from felixpy.resources.policies import NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX
from felixpy.resources.policy_types import PolicyRule, Profile, RuleAction
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import LabelPairs, Namespace, ServiceAccount

NAMESPACE_PROFILE = "kns."
SERVICE_ACCOUNT_PROFILE = "ksa."
ALLOW_ALL_PROFILE = "projectcalico-default-allow"
"""A profile that Calico makes up on reading and never stores."""
NAME_LABEL = "projectcalico.org/name"
"""Under the prefix, the label with the name of the namespace or service account itself."""
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""The label with its name that a Kubernetes API server gives every namespace."""
PROFILE_TABLES = (Table.PROFILE, Table.NAMESPACE, Table.SERVICE_ACCOUNT)

_ALLOW_ALL = Profile((PolicyRule(RuleAction.ALLOW),), (PolicyRule(RuleAction.ALLOW),))


def namespace_profile(name: str, namespace: Namespace) -> Profile:
    """The profile that a namespace stands for: allows all, and gives its labels under `pcns.`."""
    labels = (*namespace.labels, (NAMESPACE_NAME_LABEL, name))
    return Profile(_ALLOW_ALL.ingress, _ALLOW_ALL.egress, _inherited(NAMESPACE_PREFIX, name, labels))


def service_account_profile(name: str, account: ServiceAccount) -> Profile:
    """The profile that a service account stands for: no rules, and its labels under `pcsa.`."""
    return Profile(labels_to_apply=_inherited(SERVICE_ACCOUNT_PREFIX, name, account.labels))


def _inherited(prefix: str, name: str, labels: LabelPairs) -> LabelPairs:
    return tuple((prefix + label, value) for label, value in sorted({**dict(labels), NAME_LABEL: name}.items()))


def profile_name(ref: Ref) -> str:
    """The name of the profile that a resource of PROFILE_TABLES is or stands for."""
    if ref.table is Table.NAMESPACE:
        return NAMESPACE_PROFILE + ref.name.name
    if ref.table is Table.SERVICE_ACCOUNT:
        return f"{SERVICE_ACCOUNT_PROFILE}{ref.name.namespace}.{ref.name.name}"
    return ref.name.name


def as_profile(ref: Ref, value: Resource | None) -> Profile | None:
    """What a resource of PROFILE_TABLES is as a profile; None when it is gone."""
    match value:
        case Profile():
            return value
        case Namespace():
            return namespace_profile(ref.name.name, value)
        case ServiceAccount():
            return service_account_profile(ref.name.name, value)
        case _:
            return None


def merge_profiles(stored: Profile | None, implied: Profile | None) -> Profile | None:
    """A profile as it counts: the stored one, which also gives the labels of what the implied one stands for."""
    if stored is None or implied is None:
        return stored or implied
    labels = {**dict(implied.labels_to_apply), **dict(stored.labels_to_apply)}
    return replace(stored, labels_to_apply=tuple(sorted(labels.items())))


class Profiles:
    """Every profile by name, whether stored or stood for by a namespace or service account."""

    def __init__(self) -> None:
        self._stored: dict[str, Profile] = {}
        self._implied: dict[str, Profile] = {}

    def put(self, ref: Ref, value: Resource | None) -> str:
        """Takes a change of one resource of PROFILE_TABLES; the name of the profile that it concerns."""
        name, profile = profile_name(ref), as_profile(ref, value)
        table = self._stored if ref.table is Table.PROFILE else self._implied
        if profile is None:
            table.pop(name, None)
        else:
            table[name] = profile
        return name

    def get(self, name: str) -> Profile | None:
        """A profile as it counts; None where there is none of that name."""
        found = merge_profiles(self._stored.get(name), self._implied.get(name))
        return _ALLOW_ALL if found is None and name == ALLOW_ALL_PROFILE else found


def derive_profiles(tables: Mapping[Table, Mapping[Name, Resource]]) -> dict[str, Profile]:
    """Every profile that counts, from scratch."""
    stored, implied = (
        {
            profile_name(ref): profile
            for table in several
            for ref in (Ref(table, name) for name in tables[table])
            if (profile := as_profile(ref, tables[table][ref.name])) is not None
        }
        for several in ((Table.PROFILE,), (Table.NAMESPACE, Table.SERVICE_ACCOUNT))
    )
    merged = {name: merge_profiles(stored.get(name), implied.get(name)) for name in {**implied, **stored}}
    return {ALLOW_ALL_PROFILE: _ALLOW_ALL, **{name: one for name, one in merged.items() if one is not None}}
