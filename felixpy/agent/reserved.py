"""The servers that this node cannot do without: etcd as it was told, and the Kubernetes API where it runs in a pod.

In: settings and environment; out: addresses and ports that policies of host endpoints never close. Names are looked up
once, at start; one that does not resolve is left out, and said.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping

from felixpy.addresses import parse_address
from felixpy.dataplane.chains.host import Reserved
from felixpy.datastore.settings import EtcdSettings

_log = logging.getLogger(__name__)


def find_reserved(etcd: EtcdSettings | None, environment: Mapping[str, str]) -> tuple[Reserved, ...]:
    """Sorted, each once. An etcd of our own and one behind a UNIX socket need none."""
    servers = {(one.host, one.port) for one in (etcd.endpoints if etcd is not None else ()) if not one.path}
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if host and port.isdecimal():
        servers.add((host, int(port)))
    return tuple(sorted({found for host, port in servers for found in _resolve(host, port)}))


def _resolve(host: str, port: int) -> Iterable[Reserved]:
    try:
        return [Reserved(parse_address(host), port)]
    except ValueError:
        pass
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        _log.warning("%s does not resolve, so host endpoints may close it: %s", host, error)
        return []
    return [Reserved(parse_address(str(answer[4][0]).partition("%")[0]), port) for answer in answers]
