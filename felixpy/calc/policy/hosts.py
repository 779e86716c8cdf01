"""Which host endpoint governs which interface of this host.

In: this node's host endpoints and the host's own interfaces with their addresses; out: the endpoint of each interface,
by name. An endpoint that names its interface governs it whether it is there or not, so that one that appears is
guarded from its first packet; one that gives addresses governs the interfaces that have one of them. Of several the
lowest name governs. Pure. Source: felix/dataplane/linux/endpoint_mgr.go (resolveHostEndpoints).
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.addresses import Address
from felixpy.resources.kinds import Name
from felixpy.resources.types import HostEndpoint

EVERY_INTERFACE = "*"
"""As an interface's name: all that no other host endpoint governs."""

Interfaces = Mapping[str, frozenset[Address]]
"""The host's interfaces by name, with their addresses; those of workloads are left out."""


def derive_claims(hosts: Mapping[Name, HostEndpoint], interfaces: Interfaces) -> dict[str, Name]:
    """The governing host endpoint by interface, EVERY_INTERFACE among them."""
    claims: dict[str, Name] = {}
    for name in sorted(hosts, reverse=True):
        host = hosts[name]
        if host.interface:
            claims[host.interface] = name
            continue
        wanted = frozenset(host.expected_addresses)
        for interface, addresses in interfaces.items():
            if addresses & wanted:
                claims[interface] = name
    return claims


class HostClaims:
    """The claims, kept up to date: `put_host` and `put_interfaces`, then `flush`."""

    def __init__(self) -> None:
        self._hosts: dict[Name, HostEndpoint] = {}
        self._interfaces: Interfaces = {}
        self._claims: dict[str, Name] = {}
        self._dirty = False

    @property
    def needs_addresses(self) -> bool:
        """Whether some host endpoint is found by its addresses."""
        return any(not host.interface for host in self._hosts.values())

    def governing(self, interface: str) -> Name | None:
        """The host endpoint that governs an interface, as of the last flush."""
        return self._claims.get(interface) or self._claims.get(EVERY_INTERFACE)

    def put_host(self, name: Name, host: HostEndpoint | None) -> None:
        """Sets or (None) removes one of this node's host endpoints."""
        if host is None:
            self._hosts.pop(name, None)
        else:
            self._hosts[name] = host
        self._dirty = True

    def put_interfaces(self, interfaces: Interfaces) -> None:
        """Sets what interfaces there are."""
        if interfaces != self._interfaces:
            self._interfaces = interfaces
            self._dirty = True

    def flush(self) -> Mapping[str, Name | None]:
        """Interfaces whose governing endpoint changed since the last flush; None: nothing governs it any more."""
        if not self._dirty:
            return {}
        self._dirty = False
        before, self._claims = self._claims, derive_claims(self._hosts, self._interfaces)
        return {
            interface: self._claims.get(interface)
            for interface in before.keys() | self._claims.keys()
            if before.get(interface) != self._claims.get(interface)
        }
