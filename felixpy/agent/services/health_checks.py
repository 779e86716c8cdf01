"""The health checks of Services (spec.healthCheckNodePort): whether this node has ready endpoints, over HTTP.

In: health checks as they change; out: 200 where there are some and the data plane stands, else 503, with the JSON and
the header that kube-proxy gives. Listens at every address of the node; of two Services that name one port the first by
name has it. Never decides what an endpoint is: calc/services/frontends.py counts them.
Source: kubernetes pkg/proxy/healthcheck/service_health.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus

import msgspec

from felixpy.agent.doors.http import HttpServer, Page
from felixpy.agent.listener import Listener
from felixpy.calc.services.frontends import HealthCheck
from felixpy.resources.kinds import Name

WEIGHT_HEADER = "X-Load-Balancing-Endpoint-Weight"
"""Tells a balancer how much of the traffic a node can take: the number of its endpoints."""


class HealthChecks:
    """Listens through `server` as the health checks say; `healthy` tells whether the data plane stands."""

    def __init__(self, server: HttpServer, healthy: Callable[[], bool]) -> None:
        self._server = server
        self._healthy = healthy
        self._checks: dict[Name, HealthCheck] = {}

    def update(self, changed: Mapping[Name, HealthCheck | None]) -> None:
        """Takes the health checks that changed."""
        if not changed:
            return
        for name, check in changed.items():
            if check is None:
                self._checks.pop(name, None)
            else:
                self._checks[name] = check
        holders = {check.port: name for name, check in sorted(self._checks.items(), reverse=True)}
        self._server.want({Listener("", port): partial(self._answer, name) for port, name in holders.items()})

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
