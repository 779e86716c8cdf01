"""Where etcd is and who we are to it: the URLs, the certificates, the user.

In: what people type (`http://10.0.0.1:2379,https://etcd-2:2379`, `unix:/run/felixpy/etcd/client.sock:0`); out:
endpoints and settings. No file is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_PORT = 2379
DEFAULT_DEADLINE_S = 10.0
SOCKET_PATH_MOST_BYTES = 107
"""unix(7): 108 with the byte that ends it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of the cluster. `host` is without brackets; a UNIX socket has `path` instead of host and port."""

    tls: bool
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{'https' if self.tls else 'http'}://{self._address}"

    @property
    def _address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The same in gRPC's words."""
        return f"unix:{self.path}" if self.path else f"dns:///{self._address}"


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How to reach etcd. `ca` without `cert` and `key` is TLS without a client certificate; all three are PEM files.

    Units   deadline_s bounds one call with all its attempts.
    """

    endpoints: tuple[Endpoint, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str = ""
    password: str = ""
    deadline_s: float = DEFAULT_DEADLINE_S


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Endpoints from a comma-separated list; a bare `host:port` is http.

    Raises  ValueError, with the part that is wrong.
    """
    endpoints = tuple(parse_endpoint(part.strip()) for part in text.split(",") if part.strip())
    if not endpoints:
        raise ValueError("no etcd endpoint is given")
    return endpoints


def parse_endpoint(text: str) -> Endpoint:
    """One endpoint.

    Raises  ValueError when it is not http, https or unix, or its port is no port.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError(f"{text!r} names no socket")
        if (size := len(path.encode())) > SOCKET_PATH_MOST_BYTES:
            raise ValueError(
                f"{text!r} has a path of {size} bytes; a socket's has {SOCKET_PATH_MOST_BYTES} at the most"
            )
        return Endpoint(False, "", 0, path)
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/"):
        raise ValueError(f"{text!r} is not an etcd endpoint (http://host:port, https://host:port or unix:/path)")
    try:
        port = DEFAULT_PORT if url.port is None else url.port
    except ValueError:
        raise ValueError(f"{text!r} has no valid port") from None
    return Endpoint(url.scheme == "https", url.hostname, port)
