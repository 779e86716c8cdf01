"""A node with two pods that the agent knows, for tests that change something about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.agent.node import Node, Pod
from tests.agent.sandbox import MakeSandbox, Sandbox
from tests.support.netns import Namespace
from tests.support.wait import eventually


@dataclass(frozen=True)
class Scene:
    """Pods a (10.65.0.2, fd65::2) and b (10.65.0.3, fd65::3) on one node."""

    node: Node
    a: Pod
    b: Pod


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose agent is not started."""
    with Node() as made:
        yield made


@pytest.fixture
def scene(node: Node) -> Scene:
    """Two pods that reach each other; the agent runs."""
    a, b = node.pod("a", "10.65.0.2", "fd65::2"), node.pod("b", "10.65.0.3", "fd65::3")
    a.write()
    b.write()
    node.agent.start()
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), within_s=30, what="a reaches b")
    return Scene(node, a, b)


@pytest.fixture
def sandbox(node: Node) -> Iterator[MakeSandbox]:
    """Makes sandboxes, which are deleted as a runtime does it."""
    with ExitStack() as stack:

        def make(name: str, namespace: str = "") -> Sandbox:
            made = Sandbox(node, name, stack.enter_context(Namespace.create("s")), namespace)
            stack.callback(made.call, "DEL")
            return made

        yield make
