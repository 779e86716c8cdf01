"""A private etcd: its own directory, on loopback or in a namespace, with the few calls that tests make.

The calls go through etcd's JSON gateway (etcd v3.4 documentation, "Why gRPC gateway"); keys and values are text.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.netns import Namespace
from tests.support.process import Daemon

MEMORY = Path("/dev/shm")
"""Where there is one, a test's etcd keeps its files there: at every write it waits for the disk."""

TXN_MOST = 128
"""Operations that etcd takes in one transaction (its --max-txn-ops)."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def etcd_argv(data: Path, listen: str, port: int, peer_port: int) -> list[str]:
    """The command line of a one-member etcd that clients reach at `listen`:`port`."""
    client, peer = f"http://{listen}:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        "etcd",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
        "--logger=zap",
    ]


class EtcdGateway:
    """Text keys in an etcd that runs at `host`:`port`, seen from `namespace`."""

    def __init__(self, host: str, port: int, namespace: Namespace | None = None) -> None:
        self.host, self.port, self.namespace = host, port, namespace

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """One call of the JSON gateway.

        Raises  OSError when etcd does not answer; AssertionError when it refuses.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            with self.namespace.entered() if self.namespace else nullcontext():
                connection.connect()
            connection.request("POST", f"/v3/{path}", json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise AssertionError(f"etcd {path}: {answer}")
            return dict(answer)
        finally:
            connection.close()

    def put(self, key: str, value: str | Mapping[str, object]) -> int:
        """Writes text, or a mapping as JSON; the new revision."""
        text = value if isinstance(value, str) else json.dumps(value)
        return int(self.call("kv/put", {"key": encode(key), "value": encode(text)})["header"]["revision"])

    def put_all(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Writes many keys, as many in a transaction as etcd takes."""
        rest = iter(pairs)
        while some := tuple(islice(rest, TXN_MOST)):
            puts = [{"key": encode(key), "value": encode(value)} for key, value in some]
            self.call("kv/txn", {"success": [{"requestPut": put} for put in puts]})

    def get(self, key: str) -> str | None:
        """The value of a key, or None."""
        found = self.call("kv/range", {"key": encode(key)}).get("kvs", [])
        return decode(found[0].get("value", "")) if found else None

    def get_prefix(self, prefix: str) -> dict[str, str]:
        """Every key that begins with `prefix`, and its value."""
        body = {"key": encode(prefix), "range_end": encode(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
        return {decode(kv["key"]): decode(kv.get("value", "")) for kv in self.call("kv/range", body).get("kvs", [])}

    def delete(self, key: str) -> bool:
        """Whether there was something to delete."""
        return int(self.call("kv/deleterange", {"key": encode(key)}).get("deleted", 0)) > 0

    def delete_prefix(self, prefix: str) -> int:
        """How many keys were deleted."""
        body = {"key": encode(prefix), "range_end": encode(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
        return int(self.call("kv/deleterange", body).get("deleted", 0))

    @property
    def revision(self) -> int:
        """The current revision."""
        return int(self.call("kv/range", {"key": encode("/")})["header"]["revision"])

    def compact(self, revision: int) -> None:
        """Forgets what was before `revision`."""
        self.call("kv/compaction", {"revision": str(revision), "physical": True})

    @property
    def healthy(self) -> bool:
        try:
            return self.revision >= 0
        except (OSError, http.client.HTTPException, AssertionError, ValueError):
            return False


class Etcd(EtcdGateway):
    """An etcd process of the test's own. `stop` and `start` keep the data; `close` removes it."""

    def __init__(self, namespace: Namespace | None = None, listen: str = "127.0.0.1") -> None:
        super().__init__(listen, 2379 if namespace else free_port(), namespace)
        self.directory = Path(tempfile.mkdtemp(prefix="etcd-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.daemon = Daemon(
            etcd_argv(self.directory / "data", listen, self.port, 2380 if namespace else free_port()),
            self.directory / "log",
            netns=namespace.name if namespace else None,
        )

    def start(self) -> Etcd:
        """Starts it and waits until it answers."""
        self.daemon.start().wait_ready(lambda: self.healthy)
        return self

    def stop(self) -> None:
        """Ends the process; the data stays."""
        self.daemon.stop()

    def kill(self) -> None:
        """Ends the process as a crash would; the data stays."""
        self.daemon.kill()

    def close(self) -> None:
        """Ends the process and removes its data."""
        self.daemon.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Etcd:
        return self if self.daemon.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def encode(text: str | bytes) -> str:
    """A key or a value as the gateway has it."""
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def decode(text: str) -> str:
    """A key or a value that the gateway gave."""
    return base64.b64decode(text).decode()
