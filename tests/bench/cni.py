"""What a pod costs end to end: plugin, agent, etcd and kernel, one after another and many at once.

    python -m tests.bench.cni [PODS]

Whether the cost grows with the pods that are there, a row for each hundred says, and more sharply (whatever else the
machine does meanwhile) two nodes whose calls take turns, of which one has few pods and the other many. The stages are
the agent's own times, which it logs, and what is beyond them is the shim's and the socket's.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.agent.node import Node, resource
from tests.agent.sandbox import Sandbox, call_plugin
from tests.bench.cni_shim import show, timed
from tests.support.netns import Namespace
from tests.support.wait import eventually

PODS = 500
AT_ONCE = (20, 100)
ROW = 100
FEW, SPARE, TURNS = 20, 50, 4
"""Pods of the node that has few; pods that come and go on either node, and how often."""


def at_once(sandboxes: list[Sandbox], call: Callable[[Sandbox], object], what: str) -> None:
    """The time until the last of many calls is answered."""
    with ThreadPoolExecutor(len(sandboxes)) as pool:
        began = time.perf_counter()
        list(pool.map(call, sandboxes))
        print(f"{len(sandboxes)} {what} at once {(time.perf_counter() - began) * 1e3:10.0f} ms in all")


def processor_ms(pid: int) -> float:
    """Processor time of a process so far, which other work on the machine does not change much."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def show_stages(log: str, verb: str, whole_ms: list[float]) -> None:
    """Medians of what the agent says of its last calls."""
    said = re.findall(rf"{verb} .* in ([0-9.]+) ms \((.*)\)", log)[-len(whole_ms) :]
    stages: dict[str, list[float]] = {}
    for _, parts in said:
        for name, number in re.findall(r"([a-z]+) ([0-9.]+)", parts):
            stages.setdefault(name, []).append(float(number))
    agent = statistics.median(float(whole) for whole, _ in said)
    words = ", ".join(f"{name} {statistics.median(times):.1f}" for name, times in stages.items())
    print(f"{verb:4} median {statistics.median(whole_ms):.1f} ms, of it the agent {agent:.1f} ms: {words}")


def begin(stack: ExitStack) -> Node:
    """A node whose agent takes calls."""
    node = stack.enter_context(Node())
    node.put("ippools", resource("IPPool", "pool", {"cidr": "10.64.0.0/16"}))
    node.agent.start()
    eventually(lambda: call_plugin(node, "STATUS", "", None, "", {}).exit_status == 0)
    return node


def sandboxes(stack: ExitStack, node: Node, name: str, count: int) -> list[Sandbox]:
    """Empty ones."""
    return [Sandbox(node, f"{name}{number}", stack.enter_context(Namespace.create("b"))) for number in range(count)]


def take_turns(count: int) -> None:
    """The same calls on a node with few pods and on one with many, by turns."""
    with ExitStack() as stack:
        here = {some: begin(stack) for some in (FEW, count)}
        for some, node in here.items():
            for sandbox in sandboxes(stack, node, "p", some):
                sandbox.add()
        spare = {some: sandboxes(stack, node, "s", SPARE) for some, node in here.items()}
        seen: dict[tuple[str, int], list[float]] = {}
        for verb, call in (("ADD", Sandbox.add), ("DEL", Sandbox.delete)) * TURNS:
            for number in range(SPARE):
                for some in sorted(here, reverse=bool(number % 2)):
                    times = seen.setdefault((verb, some), [])
                    times.append(timed(lambda: call(spare[some][number])))  # noqa: B023
        for (verb, some), times in sorted(seen.items()):
            show(f"{verb} beside {some} pods, by turns", times)


def main() -> None:
    asked = sys.argv[-1]
    count = int(asked) if asked.isdigit() else PODS
    with ExitStack() as stack:
        node = begin(stack)
        made = sandboxes(stack, node, "p", count)
        for verb, call in (("ADD", Sandbox.add), ("DEL", Sandbox.delete)):
            times: list[float] = []
            for start in range(0, count, ROW):
                some, before = made[start : start + ROW], processor_ms(node.agent.pid)
                times += [timed(lambda: call(sandbox)) for sandbox in some]  # noqa: B023
                show(f"{verb}, pods {start + 1} to {start + len(some)}", times[start:])
                print(
                    f"{'':36} the agent's processor {(processor_ms(node.agent.pid) - before) / len(some):.2f} ms each"
                )
            show_stages(node.agent.tail(3 * count), verb, times)
        for number in AT_ONCE:
            at_once(made[:number], Sandbox.add, "ADDs")
            at_once(made[:number], Sandbox.delete, "DELs")
    take_turns(count)


if __name__ == "__main__":
    main()
