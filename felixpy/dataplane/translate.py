"""Intent → desired objects and set members: from what a node should be, in names, to what its kernel should hold.

In: deltas of endpoints, policies, profiles, sets and options; out: Changes, and the Guards for the base chains.
A set that gains its first prefix (or loses its last) gains or loses a kernel set, so the policies that refer to it are
rendered anew, in the same Changes. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from felixpy.addresses import Prefix
from felixpy.calc.graph import IntentDelta
from felixpy.calc.intent import EndpointIntent, PolicyId, RulesIntent, SetSpec
from felixpy.calc.policy.ipsets import Member, SetChange
from felixpy.calc.policy.peers import PeersIntent
from felixpy.calc.policy.rule_terms import sets_of
from felixpy.dataplane.chains.base import pool_sets
from felixpy.dataplane.chains.causes import Cause
from felixpy.dataplane.chains.endpoint import render_endpoint, tier_ends
from felixpy.dataplane.chains.host import Guards, Reserved, peer_members
from felixpy.dataplane.chains.known_causes import KnownCauses
from felixpy.dataplane.chains.policy import causes_of, render_policy, render_profile
from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.cover import Cover
from felixpy.dataplane.forwarding import render_forwarding
from felixpy.dataplane.hosts import HostTranslator
from felixpy.dataplane.objects import Members, Set
from felixpy.dataplane.sets import (
    VERSIONS,
    Version,
    describe_sets,
    encode_member,
    encode_prefix,
    member_version,
)
from felixpy.dataplane.tunnel_objects import TunnelTables
from felixpy.resources.kinds import Name

Rendered = PolicyId | str
"""Whose rules: a policy's, or (by name) a profile's."""


class Translator:
    """Keeps what is needed to render each piece again on its own."""

    def __init__(self, members: Callable[[SetSpec], Iterable[Member]], reserved: tuple[Reserved, ...] = ()) -> None:
        self.ledger = Ledger()
        self.causes = KnownCauses(self.ledger)
        self._hosts = HostTranslator(self.ledger, self.causes, reserved)
        self._tunnels = TunnelTables(self.ledger)
        self._endpoints: dict[Name, EndpointIntent] = {}
        self._members = members
        self._rules: dict[Rendered, RulesIntent] = {}
        self._set_users: dict[SetSpec, set[Rendered]] = {}
        self._counts: dict[tuple[SetSpec, Version], Counter[bool]] = {}
        self._sets: dict[tuple[SetSpec, Version], tuple[Set, ...]] = {}
        self._prefixes: dict[Set, frozenset[Prefix]] = {}
        self._covers: dict[Set, Cover] = {}
        self._spec_of: dict[str, tuple[SetSpec, Version]] = {}
        self._peers = PeersIntent()
        self._claims: dict[Set, dict[bytes, dict[Name, bytes]]] = {}
        self._entries: dict[Name, tuple[tuple[Set, bytes], ...]] = {}

    @property
    def guards(self) -> Guards:
        """What the base chains are to be made of, as of the last translation."""
        return self._hosts.guards

    def translate(self, delta: IntentDelta, changes: Changes) -> None:
        """Adds to `changes` what the delta asks for."""
        policy, sets = delta.policy, delta.sets
        before = self.guards.options
        if delta.options is not None and delta.options != before:
            self.causes.configure(delta.options, changes)
        self._hosts.translate(delta, changes)
        self._tunnels.translate(delta.tunnels, changes)
        if delta.pools is not None:
            self.ledger.put("forwarding", render_forwarding(delta.pools), changes)
            for target, prefixes in pool_sets(delta.pools).items():
                self._put_prefixes(target, prefixes, changes)
        self._peers = delta.peers or self._peers
        if delta.peers is not None or self.guards.options.external_nodes != before.external_nodes:
            for target, prefixes in peer_members(self._peers, self.guards.options).items():
                self._put_prefixes(target, prefixes, changes)
        again: set[Rendered] = set()
        for spec in sets.dropped:
            self._drop_set(spec, changes)
        for spec, change in sets.changed.items():
            if self._change_set(spec, change, changes):
                again |= self._set_users.get(spec, set())
        for identity, rules in policy.policies.items():
            self._note_rules(identity, rules)
        for profile, rules in policy.profiles.items():
            self._note_rules(profile, rules)
        again.update(policy.policies, policy.profiles)
        endpoints = dict(policy.endpoints)
        if self.guards.options != before:
            again.update(self._rules)
            endpoints = {**self._endpoints, **endpoints}
        for rendered in again:
            self._render_rules(rendered, changes)
        for name, endpoint in endpoints.items():
            self._render_endpoint(name, endpoint, changes)

    def entries_of(self, name: Name) -> tuple[tuple[Set, bytes], ...]:
        """An endpoint's entries in maps: the map and the key of each."""
        return self._entries.get(name, ())

    def comes_to(self, name: Name, cause: Cause) -> bool:
        """Whether the rules of a workload endpoint may lead to a cause; those that all have do."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            return False
        if cause.policy is not None:
            return any(cause.policy in (*tier.ingress, *tier.egress) for tier in endpoint.tiers)
        return not cause.tier or any(cause.tier == tier.name for tier in endpoint.tiers)

    def set_members(self, target: Set) -> Members | None:
        """All that a set should hold now; None for a set that is not an IP set of ours."""
        if target in self._prefixes:
            return _encoded(self._prefixes[target])
        if target in self._covers:
            return _encoded(self._covers[target].outer)
        if target in self._claims:
            return {key: data[min(data)] for key, data in self._claims[target].items()}
        dispatched = self._hosts.members(target)
        if dispatched is not None:
            return dispatched
        found = self._spec_of.get(target.name)
        if found is None:
            return None
        spec, version = found
        return {encode_member(member): b"" for member in _sort_out(self._members(spec), version)[False]}

    def _names(self, spec: SetSpec, version: Version) -> tuple[str, ...]:
        return tuple(one.name for one in self._sets[spec, version])

    def _change_set(self, spec: SetSpec, change: SetChange, changes: Changes) -> bool:
        """Brings both families' kernel sets up to date; whether there are others of them now."""
        others = False
        for version in VERSIONS:
            added, removed = _sort_out(change.added, version), _sort_out(change.removed, version)
            counts = self._counts.setdefault((spec, version), Counter())
            for interval in (False, True):
                counts[interval] += len(added[interval]) - len(removed[interval])
            old = self._sets.get((spec, version))
            new = describe_sets(spec, version, addresses=counts[False] > 0, prefixes=counts[True] > 0)
            self._sets[spec, version] = new
            others = others or (old is not None and new != old)
            for target in old or ():
                if target not in new:
                    self._forget(target, changes)
            for target in new:
                if target not in (old or ()):
                    self._spec_of[target.name] = (spec, version)
                    self.ledger.put(f"set {target.name}", (target,), changes)
                if target.interval:
                    self._change_interval(target, added[True], removed[True], changes)
                    continue
                if removed[False]:
                    changes.drop_members(target, {encode_member(member): b"" for member in removed[False]})
                if added[False]:
                    changes.add_members(target, {encode_member(member): b"" for member in added[False]})
        return others

    def _change_interval(
        self, target: Set, added: Iterable[Member], removed: Iterable[Member], changes: Changes
    ) -> None:
        put, dropped = _prefixes(added), _prefixes(removed)
        cover = self._covers.get(target)
        if cover is None:
            cover = self._covers[target] = Cover(put)
            changes.add_members(target, _encoded(cover.outer))
            return
        new, gone = cover.change(put, dropped)
        if gone:
            changes.drop_members(target, _encoded(gone))
        if new:
            changes.add_members(target, _encoded(new))

    def _put_prefixes(self, target: Set, after: frozenset[Prefix], changes: Changes) -> None:
        before = self._prefixes.get(target, frozenset())
        self._prefixes[target] = after
        changes.drop_members(target, _encoded(before - after))
        changes.add_members(target, _encoded(after - before))

    def _drop_set(self, spec: SetSpec, changes: Changes) -> None:
        for version in VERSIONS:
            self._counts.pop((spec, version), None)
            for old in self._sets.pop((spec, version), ()):
                self._forget(old, changes)

    def _forget(self, old: Set, changes: Changes) -> None:
        self.ledger.put(f"set {old.name}", (), changes)
        self._covers.pop(old, None)
        del self._spec_of[old.name]
        changes.members.pop(old, None)

    def _note_rules(self, identity: Rendered, rules: RulesIntent | None) -> None:
        old = self._rules.pop(identity, None)
        before = sets_of(old) if old is not None else frozenset[SetSpec]()
        after = sets_of(rules) if rules is not None else frozenset[SetSpec]()
        for spec in before - after:
            self._set_users[spec].discard(identity)
            if not self._set_users[spec]:
                del self._set_users[spec]
        for spec in after - before:
            self._set_users.setdefault(spec, set()).add(identity)
        if rules is not None:
            self._rules[identity] = rules

    def _render_rules(self, identity: Rendered, changes: Changes) -> None:
        rules, options = self._rules.get(identity), self.guards.options
        owner = f"profile {identity}" if isinstance(identity, str) else f"policy {identity}"
        self.causes.note(owner, () if rules is None else causes_of(identity, rules, options))
        if isinstance(identity, str):
            chains = () if rules is None else render_profile(identity, rules, self._names, options)
            self.ledger.put(owner, chains, changes)
        else:
            chains = () if rules is None else render_policy(identity, rules, self._names, options)
            self.ledger.put(owner, chains, changes)

    def _render_endpoint(self, name: Name, endpoint: EndpointIntent | None, changes: Changes) -> None:
        owner = endpoint_owner(name)
        rendered = None
        if endpoint is None:
            self._endpoints.pop(name, None)
        else:
            self._endpoints[name] = endpoint
            rendered = render_endpoint(endpoint, self.guards.options)
        self.ledger.put(owner, rendered.objects if rendered is not None else (), changes)
        tiers = endpoint.tiers if endpoint is not None and rendered is not None else ()
        self.causes.share(owner, frozenset((*tier_ends("in", tiers), *tier_ends("out", tiers))), changes)
        entries: dict[tuple[Set, bytes], bytes] = {}
        if rendered is not None:
            entries = {
                (target, key): data for target, members in rendered.members.items() for key, data in members.items()
            }
        for target, key in self._entries.pop(name, ()):
            if (target, key) not in entries:
                claims = self._claims[target][key]
                before = claims[min(claims)]
                del claims[name]
                self._settle(target, key, before, changes)
        for (target, key), data in entries.items():
            claims = self._claims.setdefault(target, {}).setdefault(key, {})
            had = claims[min(claims)] if claims else None
            claims[name] = data
            self._settle(target, key, had, changes)
        if entries:
            self._entries[name] = tuple(entries)

    def _settle(self, target: Set, key: bytes, before: bytes | None, changes: Changes) -> None:
        claims = self._claims[target][key]
        if not claims:
            del self._claims[target][key]
            changes.drop_members(target, {key: before or b""})
        elif (now := claims[min(claims)]) != before:
            changes.add_members(target, {key: now})


def _sort_out(members: Iterable[Member], version: Version) -> dict[bool, list[Member]]:
    """Those of a family, by whether they are in its interval set."""
    found: dict[bool, list[Member]] = {False: [], True: []}
    for member in members:
        if member_version(member) == version:
            found[isinstance(member, Prefix)].append(member)
    return found


def _prefixes(members: Iterable[Member]) -> list[Prefix]:
    return [member for member in members if isinstance(member, Prefix)]


def _encoded(prefixes: Iterable[Prefix]) -> dict[bytes, bytes]:
    """Prefixes as members of an interval set."""
    return {encode_prefix(prefix): b"" for prefix in prefixes}


def endpoint_owner(name: Name) -> str:
    """The ledger's name for an endpoint."""
    return f"endpoint {name}"
