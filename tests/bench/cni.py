"""What a pod costs end to end: plugin, agent, etcd and kernel, one after another and many at once.

    python -m tests.bench.cni [PODS]

The rows of the first hundred and the last hundred pods say whether the cost grows with the pods that are there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.agent.node import Node, resource
from tests.agent.sandbox import Sandbox, call_plugin
from tests.bench.cni_shim import show, timed
from tests.support.netns import Namespace
from tests.support.wait import eventually

PODS = 300
AT_ONCE = (20, 100)
ROW = 100


def at_once(sandboxes: list[Sandbox], call: Callable[[Sandbox], object], what: str) -> None:
    """The time until the last of many calls is answered."""
    with ThreadPoolExecutor(len(sandboxes)) as pool:
        began = time.perf_counter()
        list(pool.map(call, sandboxes))
        print(f"{len(sandboxes)} {what} at once {(time.perf_counter() - began) * 1e3:10.0f} ms in all")


def main() -> None:
    asked = sys.argv[-1]
    count = int(asked) if asked.isdigit() else PODS
    with ExitStack() as stack:
        node = stack.enter_context(Node())
        node.namespace.sysctl(ipv4__ip_forward=1)
        node.put("ippools", resource("IPPool", "pool", {"cidr": "10.64.0.0/16"}))
        node.agent.start()
        eventually(lambda: call_plugin(node, "STATUS", "", None, "", {}).exit_status == 0)
        made = [Sandbox(node, f"p{number}", stack.enter_context(Namespace.create("b"))) for number in range(count)]
        for verb, call in (("ADD", Sandbox.add), ("DEL", Sandbox.delete)):
            times = [timed(lambda: call(sandbox)) for sandbox in made]  # noqa: B023
            show(f"{verb}, the first {ROW} of {count}", times[:ROW])
            show(f"{verb}, the last {ROW} of {count}", times[-ROW:])
        for number in AT_ONCE:
            at_once(made[:number], Sandbox.add, "ADDs")
            at_once(made[:number], Sandbox.delete, "DELs")


if __name__ == "__main__":
    main()
