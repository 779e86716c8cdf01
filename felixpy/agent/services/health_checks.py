"""The health checks of Services (spec.healthCheckNodePort): whether this node has ready endpoints, over HTTP.

In: health checks as they change; out: 200 where there are some and the data plane stands, else 503, with the JSON and
the header that kube-proxy gives. Listens where the node has node ports: at every address, or at those in given ranges;
of two Services that name one port the first by name has it. Never decides what an endpoint is:
calc/services/frontends.py counts them.
Source: kubernetes pkg/proxy/healthcheck/service_health.go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus

import msgspec

from felixpy.addresses import Address, Prefix, format_address
from felixpy.agent.doors.http import HttpServer, Page
from felixpy.agent.listener import Listener
from felixpy.calc.services.frontends import HealthCheck
from felixpy.resources.kinds import Name

_log = logging.getLogger(__name__)

WEIGHT_HEADER = "X-Load-Balancing-Endpoint-Weight"
"""Tells a balancer how much of the traffic a node can take: the number of its endpoints."""


EVERYWHERE = ""
_LINK_LOCAL = b"\xfe\x80"

Interfaces = Mapping[str, frozenset[Address]]


class HealthChecks:
    """Listens through `server` as the health checks say; `healthy` tells whether the data plane stands.

    `ranges` are those of the addresses to listen at, which `read_interfaces` reads; None is all addresses.
    """

    def __init__(
        self,
        server: HttpServer,
        healthy: Callable[[], bool],
        ranges: tuple[Prefix, ...] | None = None,
        read_interfaces: Callable[[], Interfaces] = dict,
    ) -> None:
        self._server = server
        self._healthy = healthy
        self._ranges = ranges
        self._read_interfaces = read_interfaces
        self._hosts: frozenset[str] = frozenset({EVERYWHERE}) if ranges is None else frozenset()
        self._checks: dict[Name, HealthCheck] = {}
        self._claims: dict[int, set[Name]] = {}

    def update(self, changed: Mapping[Name, HealthCheck | None]) -> None:
        """Takes the health checks that changed."""
        if changed and self._ranges is not None and not self._checks:
            self._hosts = self._read_hosts()
        touched: set[int] = set()
        for name, check in changed.items():
            old = self._checks.pop(name, None)
            if old is not None:
                self._claims[old.port].discard(name)
                touched.add(old.port)
            if check is not None:
                self._checks[name] = check
                self._claims.setdefault(check.port, set()).add(name)
                touched.add(check.port)
        for port in touched:
            self._settle(port)

    def put_ranges(self, ranges: tuple[Prefix, ...]) -> None:
        """The addresses to listen at are in these now."""
        if ranges == self._ranges:
            return
        self._ranges = ranges
        self.look()

    def look(self) -> None:
        """The addresses of the node may be others."""
        if self._ranges is None or not self._checks:
            return
        before, self._hosts = self._hosts, self._read_hosts()
        for host in before - self._hosts:
            for port in self._claims:
                self._server.drop(Listener(host, port))
        if self._hosts - before:
            for port in tuple(self._claims):
                self._settle(port)

    def _settle(self, port: int) -> None:
        names = self._claims[port]
        if not names:
            del self._claims[port]
        for host in self._hosts:
            if names:
                self._server.put(Listener(host, port), partial(self._answer, min(names)))
            else:
                self._server.drop(Listener(host, port))

    def _read_hosts(self) -> frozenset[str]:
        """Those in the ranges; link-local ones are no node ports' addresses, as they need a device beside them."""
        try:
            found = frozenset().union(*self._read_interfaces().values())
        except OSError as error:
            _log.warning("the addresses of the host cannot be read: %s", error)
            return self._hosts
        return frozenset(
            format_address(one)
            for one in found
            if not one.startswith(_LINK_LOCAL) and any(within.contains(one) for within in self._ranges or ())
        )

    async def _answer(self, name: Name, path: str) -> Page:
        check = self._checks.get(name)
        endpoints = check.endpoints if check is not None else 0
        healthy = self._healthy()
        body = {
            "service": {"namespace": name.namespace, "name": name.name},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        }
        status = HTTPStatus.OK if endpoints and healthy else HTTPStatus.SERVICE_UNAVAILABLE
        headers = (("X-Content-Type-Options", "nosniff"), (WEIGHT_HEADER, str(endpoints)))
        return Page(msgspec.json.encode(body), status, "application/json", headers)
