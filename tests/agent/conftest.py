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


def make_scene(node: Node) -> Scene:
    """Two pods on the node; its agent does not run yet."""
    return Scene(node, node.pod("a", "10.65.0.2", "fd65::2"), node.pod("b", "10.65.0.3", "fd65::3"))


def start_scene(scene: Scene) -> Scene:
    """The agent runs, and the pods reach each other."""
    scene.a.write()
    scene.b.write()
    scene.node.agent.start()
    eventually(lambda: scene.a.reaches(scene.b) and scene.a.reaches(scene.b, 1), within_s=30, what="a reaches b")
    return scene


@pytest.fixture
def scene(node: Node) -> Scene:
    """Two pods that reach each other; the agent runs."""
    return start_scene(make_scene(node))


class Scenes:
    """Scenes that the tests of a module have one after the other, one for each back end of the agent."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._made: dict[str, Scene] = {}

    def renewed(self, backend: str = "nftables") -> Scene:
        """As a new one: another agent, another log, a datastore with nothing in it of a test before."""
        if backend not in self._made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FELIXPY_BACKEND", backend)
                self._made[backend] = make_scene(self._stack.enter_context(Node()))
            return start_scene(self._made[backend])
        scene = self._made[backend]
        node = scene.node
        node.agent.stop()
        node.agent.log.unlink()
        for pod in node.pods[2:]:
            pod.close()
        del node.pods[2:]
        node.namespace.ip("address", "flush", "dev", "lo", "scope", "global")
        node.etcd.delete_prefix("/")
        node.initialise()
        return start_scene(scene)


@pytest.fixture(scope="module")
def scenes() -> Iterator[Scenes]:
    """For tests that leave the node's own namespace as it was, but for addresses of its loopback."""
    with ExitStack() as stack:
        yield Scenes(stack)


@pytest.fixture
def sandbox(node: Node) -> Iterator[MakeSandbox]:
    """Makes sandboxes, which are deleted as a runtime does it."""
    with ExitStack() as stack:

        def make(name: str, namespace: str = "") -> Sandbox:
            made = Sandbox(node, name, stack.enter_context(Namespace.create("s")), namespace)
            stack.callback(made.call, "DEL")
            return made

        yield make
