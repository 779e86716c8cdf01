"""A node for CNI tests: a network namespace in which a server runs over a backend that keeps all in dictionaries."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from felixpy.addresses import Address, format_address, parse_address
from felixpy.cni.backend import Admitted, MakeEndpoint
from felixpy.cni.endpoint import parse_recorded
from felixpy.cni.errors import CniError, Code
from felixpy.cni.leaks import Recorded
from felixpy.cni.plan import Attachment, Claim, PodFacts
from felixpy.cni.server import CniServer
from felixpy.cni.verbs import Limits
from felixpy.resources.kinds import Name
from tests.support.netns import Namespace
from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]
NETWORK = "net"


@dataclass
class DictBackend:
    """Addresses one after another; "programmed" means that the node has its routes to the pod."""

    namespace: Namespace
    endpoints: dict[Name, bytes] = field(default_factory=dict)
    profiles: set[str] = field(default_factory=set)
    held: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    facts: PodFacts = field(default_factory=PodFacts)
    unready: CniError | None = None
    programs: bool = True
    reachable: bool = True
    admits: bool = True
    remembers: bool = True
    admit_s: float = 0.005
    most_at_once: int = 0
    at_once: int = 0
    waiting: int = 0
    revision: int = 1
    next_number: int = 2
    busy: set[str] = field(default_factory=set)

    @contextmanager
    def alone(self, attachment: Attachment) -> Iterator[None]:
        """Fails where two calls for one interface overlap."""
        assert attachment.handle not in self.busy, "two calls for one interface at once"
        self.busy.add(attachment.handle)
        try:
            yield
        finally:
            self.busy.remove(attachment.handle)

    async def find_unready(self) -> CniError | None:
        return self.unready

    def find_limited(self) -> CniError | None:
        return None

    async def describe(self, attachment: Attachment, uid: str = "") -> PodFacts:
        return self.facts

    async def admit(self, claim: Claim, make_endpoint: MakeEndpoint) -> Admitted:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        with self.alone(claim.attachment):
            await asyncio.sleep(self.admit_s)
        self.at_once -= 1
        if not self.admits:
            raise CniError(Code.NO_ADDRESS, "no address is free")
        created = claim.attachment.handle not in self.held
        if created:
            self.held[claim.attachment.handle] = claim.addresses or self._choose(claim)
        addresses = self.held[claim.attachment.handle]
        write = make_endpoint(addresses)
        self.endpoints[write.name] = write.value
        if write.profile:
            self.profiles.add(write.profile)
        self.revision += 1
        return Admitted(addresses, self.revision, created)

    async def find(self, attachment: Attachment) -> tuple[Address, ...] | None:
        value = self.endpoints.get(attachment.endpoint)
        recorded = parse_recorded(value) if value else None
        if recorded is None or recorded.attachment != attachment:
            return None
        return self.held.get(attachment.handle)

    def recall(self, attachment: Attachment) -> Attachment:
        every = (one.attachment for one in self.list_recorded() if self.remembers)
        return next((one for one in every if one.owner == attachment.owner), attachment)

    async def withdraw(self, attachment: Attachment) -> None:
        if not self.reachable:
            raise CniError(Code.TRY_AGAIN, "the datastore does not answer")
        with self.alone(attachment):
            await asyncio.sleep(self.admit_s)
        if await self.find(attachment) is not None:
            del self.endpoints[attachment.endpoint]
        self.held.pop(attachment.handle, None)
        self.revision += 1

    async def wait_programmed(self, endpoint: Name, revision: int) -> None:
        if not self.programs:
            self.waiting += 1
            await asyncio.Event().wait()
        spec = json.loads(self.endpoints[endpoint])["spec"]
        for network in spec["ipNetworks"]:
            family = "-6" if ":" in network else "-4"
            arguments = ("ip", "-n", self.namespace.name, family, "route", "replace", network)
            process = await asyncio.create_subprocess_exec(*arguments, "dev", spec["interfaceName"], "scope", "link")
            assert await process.wait() == 0

    def list_recorded(self) -> Sequence[Recorded]:
        return [item for value in self.endpoints.values() if (item := parse_recorded(value))]

    def _choose(self, claim: Claim) -> tuple[Address, ...]:
        self.next_number += 1
        texts = {4: f"10.65.0.{self.next_number}", 6: f"fd00:65::{self.next_number:x}"}
        return tuple(parse_address(texts[version]) for version in sorted(claim.versions))


@dataclass(frozen=True)
class Shown:
    """How the shim ended, and what it printed."""

    exit_status: int
    output: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.output)) if self.output else {}

    @property
    def code(self) -> int:
        """The CNI error's; 0 when there was none."""
        return int(self.json.get("code", 0)) if self.exit_status else 0

    @property
    def addresses(self) -> list[str]:
        return [ip["address"].partition("/")[0] for ip in self.json["ips"]]


class Node:
    """One node: its namespace, its run directory, its backend, and its server while that runs."""

    def __init__(self, namespace: Namespace, run_dir: Path, shim: Path) -> None:
        self.namespace, self.run_dir, self.shim = namespace, run_dir, shim
        self.backend = DictBackend(namespace)
        self.limits = Limits(ready_s=0.1, programmed_s=5.0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        return self.run_dir / "cni.sock"

    def start(self) -> Node:
        """Starts the server in a thread that is in the node's namespace, as all threads are that it starts."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        eventually(self.socket.exists)
        return self

    def stop(self) -> None:
        if self._loop and self._task and self._thread:
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(10)
            assert not self._thread.is_alive()
        self._loop = self._thread = self._task = None

    def _serve(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(CniServer(self.run_dir, "n1", self.backend, self.limits).serve())
            with suppress(asyncio.CancelledError):
                await self._task

        with self.namespace.entered():
            asyncio.run(serve())

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Runs a coroutine of the backend in the server's loop."""
        assert self._loop
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(10)

    def conf(self, **fields: object) -> dict[str, object]:
        return {
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "felixpy-cni",
            "runDir": str(self.run_dir),
            **fields,
        }

    def popen(self, command: str, pod: Namespace | None, container: str, args: str, conf: object) -> Popen:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_NETNS": str(pod.path) if pod else "",
            "CNI_ARGS": args,
        }
        process = subprocess.Popen(
            [self.shim],
            env={name: value for name, value in environment.items() if value},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin
        process.stdin.write(conf if isinstance(conf, str) else json.dumps(conf))
        process.stdin.close()
        process.stdin = None
        return process

    def call(
        self, command: str, pod: Namespace | None = None, container: str = "c1", args: str = "", **fields: object
    ) -> Shown:
        """Starts the shim as a runtime does, and waits for its end; `fields` go over the usual configuration's."""
        process = self.popen(command, pod, container, args, self.conf(**fields))
        output, _ = process.communicate(timeout=90)
        return Shown(process.returncode, output)

    def add(self, pod: Namespace, container: str = "c1", args: str = "", **fields: object) -> Shown:
        """An ADD that must succeed."""
        shown = self.call("ADD", pod, container, args, **fields)
        assert shown.exit_status == 0, shown.output
        return shown

    def links(self) -> list[str]:
        """Pods' devices that are in service."""
        return [name for name, up in self.devices().items() if up]

    def devices(self) -> dict[str, bool]:
        """Devices whose names begin as pods' do, and whether they are up."""
        links = json.loads(self.namespace.ip("-json", "link", "show"))
        ups = {link["ifname"]: "UP" in link["flags"] for link in links}
        return {name: ups[name] for name in sorted(ups) if name.startswith("cali")}


Popen = subprocess.Popen[str]


def k8s_args(pod: str, namespace: str = "default") -> str:
    """CNI_ARGS as kubelet's runtimes give them."""
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID=x"


def texts(addresses: Sequence[bytes]) -> list[str]:
    return [format_address(address) for address in addresses]


@pytest.fixture(scope="session")
def shim() -> Path:
    subprocess.run(["make", "--silent", "cni"], cwd=ROOT, check=True)
    return ROOT / "build" / "felixpy-cni"


@pytest.fixture
def stopped_node(make_namespace: Callable[..., Namespace], shim: Path) -> Iterator[Node]:
    """A node whose agent is away."""
    with tempfile.TemporaryDirectory(prefix=f"cni{os.getpid()}-") as directory:
        namespace = make_namespace("n")
        namespace.add_address("lo", "10.9.0.1/32", "fd00:9::1/128")
        namespace.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        node = Node(namespace, Path(directory), shim)
        try:
            yield node
        finally:
            node.stop()


@pytest.fixture
def node(stopped_node: Node) -> Node:
    """A node whose agent runs."""
    return stopped_node.start()


@pytest.fixture
def pod(make_namespace: Callable[..., Namespace]) -> Namespace:
    return make_namespace("p")
