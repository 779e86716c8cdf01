"""Host endpoints' part of the translation: their chains, the entries of the dispatch maps, and the Guards.

In: deltas of host endpoints, of which interface each governs, and of options; out: Changes through the ledger. Host
endpoints are few: a change of one renders its own chains, and the dispatch is compared as a whole. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felixpy.calc.graph import IntentDelta
from felixpy.calc.intent import HostEndpointIntent
from felixpy.calc.options import DEFAULTS
from felixpy.calc.policy.hosts import EVERY_INTERFACE
from felixpy.calc.policy.peers import BGP_PORT
from felixpy.dataplane.chains.host import Guards, Place, Reserved, host_chain, host_tier_ends, places_of, render_host
from felixpy.dataplane.chains.known_causes import KnownCauses
from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.objects import Members, Set
from felixpy.resources.kinds import Name


class HostTranslator:
    """Keeps the host endpoints and what each governs; `guards` is as of the last translation."""

    def __init__(self, ledger: Ledger, causes: KnownCauses, reserved: tuple[Reserved, ...] = ()) -> None:
        self.guards = Guards(reserved=reserved)
        self._ledger = ledger
        self._causes = causes
        self._hosts: dict[Name, HostEndpointIntent] = {}
        self._claims: dict[str, Name] = {}
        self._entries: dict[Place, dict[bytes, bytes]] = {}
        self._options = DEFAULTS
        self._bgp_ports: tuple[int, ...] = (BGP_PORT,)

    def translate(self, delta: IntentDelta, changes: Changes) -> None:
        """Adds to `changes` what the delta asks for."""
        if delta.peers is not None:
            self._bgp_ports = delta.peers.bgp_ports
        touched = set(delta.policy.hosts)
        if delta.options is not None and delta.options != self._options:
            self._options = delta.options
            touched |= self._hosts.keys()
        for name, host in delta.policy.hosts.items():
            if host is None:
                self._hosts.pop(name, None)
            else:
                self._hosts[name] = host
        for interface, governing in delta.claims.items():
            touched.update(name for name in (self._claims.pop(interface, None), governing) if name is not None)
            if governing is not None:
                self._claims[interface] = governing
        if touched:
            self._render(touched, changes)
            self._settle(changes)
        self.guards = Guards(
            self._options, self._bgp_ports, frozenset(self._entries), self._others(), self.guards.reserved
        )

    def members(self, target: Set) -> Members | None:
        """All that a dispatch map should hold; None for another set."""
        return next((entries for place, entries in self._entries.items() if place.map == target), None)

    def _render(self, names: Iterable[Name], changes: Changes) -> None:
        """Renders host endpoints anew; one that governs no interface has no chains."""
        governing = {name for interface, name in self._claims.items() if not self._options.is_workload(interface)}
        for name in names:
            host = self._hosts.get(name) if name in governing else None
            chains = render_host(name, host, self._options) if host is not None else ()
            self._ledger.put(f"host endpoint {name}", chains, changes)
            self._causes.share(f"host endpoint {name}", host_tier_ends(host) if host else frozenset(), changes)

    def _settle(self, changes: Changes) -> None:
        """Brings the dispatch maps from the entries of before to those of now."""
        before, self._entries = self._entries, self._derive_entries()
        for place in before.keys() | self._entries.keys():
            was, now = before.get(place, {}), self._entries.get(place, {})
            gone = {key: data for key, data in was.items() if key not in now}
            fresh = {key: data for key, data in now.items() if was.get(key) != data}
            if not now:
                changes.members.pop(place.map, None)
                continue
            if gone:
                changes.drop_members(place.map, gone)
            if fresh:
                changes.add_members(place.map, fresh)

    def _derive_entries(self) -> dict[Place, dict[bytes, bytes]]:
        entries: dict[Place, dict[bytes, bytes]] = {}
        for interface, name in self._claims.items():
            host = self._hosts.get(name)
            if host is None or interface == EVERY_INTERFACE or self._options.is_workload(interface):
                continue
            for place in places_of(host):
                entries.setdefault(place, {})[interface.encode()] = f"goto {host_chain(place, name)}".encode()
        return entries

    def _others(self) -> Mapping[Place, str]:
        name = self._claims.get(EVERY_INTERFACE)
        host = self._hosts.get(name) if name is not None else None
        if name is None or host is None:
            return {}
        return {place: host_chain(place, name) for place in places_of(host)}
