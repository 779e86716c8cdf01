"""What a pod costs: the shim, the kernel's part, and a whole ADD and DEL over a backend that costs nothing.

    python -m tests.bench.cni_shim [PODS]

Prints one line a measurement, in milliseconds. Works in namespaces of its own, and leaves none.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from felixpy.addresses import parse_address
from felixpy.cni.plan import Attachment, PodFacts, derive_link, derive_wiring, parse_call
from felixpy.cni.wire import Request
from felixpy.drivers.netlink.pods.check import check_pod
from felixpy.drivers.netlink.pods.link import create_pod_link, delete_retired_links, retire_pod_link
from felixpy.drivers.netlink.pods.wiring import configure_pod
from felixpy.resources.kinds import Name
from tests.cni.conftest import ROOT, DictBackend, Node
from tests.support.netns import Namespace

PODS = 30


class FreeBackend(DictBackend):
    """One whose own work takes no time."""

    async def wait_programmed(self, endpoint: Name, revision: int) -> None:
        return


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1e3


def show(what: str, times_ms: Sequence[float]) -> None:
    ordered = sorted(times_ms)
    p90 = ordered[int(len(ordered) * 0.9)]
    print(f"{what:36} min {ordered[0]:7.2f}  median {statistics.median(ordered):7.2f}  p90 {p90:7.2f} ms")


def bench_shim(shim: Path) -> None:
    """Process start and end, without and with an agent to ask."""
    with tempfile.TemporaryDirectory() as directory:
        conf = json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "felixpy-cni", "runDir": directory})

        def start(**variables: str) -> None:
            subprocess.run([shim], env=variables, input=conf, text=True, stdout=subprocess.DEVNULL)

        show("shim VERSION", [timed(lambda: start(CNI_COMMAND="VERSION")) for _ in range(100)])
        show("shim ADD, no agent", [timed(lambda: start(CNI_COMMAND="ADD")) for _ in range(100)])
        names = {"CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0"}
        show("shim DEL, kept on disk", [timed(lambda: start(CNI_COMMAND="DEL", **names)) for _ in range(100)])


def bench_kernel(pods: Sequence[Namespace]) -> None:
    """The wiring alone, in this thread."""
    config = b'{"cniVersion": "1.1.0", "name": "net"}'
    for label, texts in (("v4", ("10.65.0.3",)), ("v4+v6", ("10.65.0.3", "fd00:65::3"))):
        addresses = tuple(parse_address(text) for text in texts)
        create, configure, check, retire = [], [], [], []
        for number, pod in enumerate(pods):
            path = str(pod.path)
            attachment = Attachment("n1", "net", f"c{number}", "eth0")
            call = parse_call(Request("ADD", f"c{number}", path, "eth0", config=config), "n1")
            link = derive_link(call, attachment, PodFacts(mtu=1440))
            wiring = derive_wiring(link, addresses)
            create.append(timed(lambda: create_pod_link(link, path)))  # noqa: B023
            configure.append(timed(lambda: configure_pod(wiring, path)))  # noqa: B023
            check.append(timed(lambda: check_pod(wiring, path)))  # noqa: B023
            retire.append(timed(lambda: retire_pod_link(link.host_device, link.owner)))  # noqa: B023
        delete = timed(delete_retired_links)
        show(f"{label} create pair", create)
        show(f"{label} configure", configure)
        show(f"{label} wire_pod (both)", [a + b for a, b in zip(create, configure, strict=True)])
        show(f"{label} check", check)
        show(f"{label} retire", retire)
        show(f"{label} delete {len(pods)} retired", [delete])


def bench_verbs(node: Node, pods: Sequence[Namespace]) -> None:
    """From the start of the shim to its end; the backend answers at once, and gives the node no routes."""
    containers = [f"c{number}" for number in range(len(pods))]
    show("shim ADD", [timed(lambda: node.add(pod, c)) for pod, c in zip(pods, containers, strict=True)])  # noqa: B023
    show("shim STATUS", [timed(lambda: node.call("STATUS", container="", cniVersion="1.1.0")) for _ in range(50)])
    show("shim DEL", [timed(lambda: node.call("DEL", pod, c)) for pod, c in zip(pods, containers, strict=True)])  # noqa: B023
    for command in ("ADD", "DEL"):
        began = time.perf_counter()
        processes = [node.popen(command, pod, c, "", node.conf()) for pod, c in zip(pods, containers, strict=True)]
        for process in processes:
            process.communicate(timeout=60)
        print(f"{len(pods)} x shim {command} at once {(time.perf_counter() - began) * 1e3:21.0f} ms in all")


def main() -> None:
    count = int(sys.argv[-1]) if sys.argv[-1].isdigit() else PODS
    subprocess.run(["make", "--silent", "cni"], cwd=ROOT, check=True)
    shim = ROOT / "build" / "felixpy-cni"
    bench_shim(shim)
    with ExitStack() as stack:
        namespace = stack.enter_context(Namespace.create("b"))
        pods = [stack.enter_context(Namespace.create("b")) for _ in range(count)]
        with namespace.entered():
            bench_kernel(pods)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench{os.getpid()}-"))
        node = Node(namespace, Path(directory), shim)
        node.backend = FreeBackend(namespace, admit_s=0)
        node.start()
        stack.callback(node.stop)
        bench_verbs(node, pods)


if __name__ == "__main__":
    main()
