"""Builds a topology from network namespaces: one a node, veths named as in the file, its steps, then its command.

No mount namespace is used: where the file says a path that a container would have for itself (a bind's target, /run/,
/var/lib/), the node gets a path of its own under the lab's directory instead.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.lab.ground import REPOSITORY, Ground, Process, Record, process_of
from tests.lab.say import Teller
from tests.lab.topology import Node, Topology
from tests.support.netns import Namespace
from tests.support.process import Daemon

_OWN_PATH = re.compile(r"(?<![\w/])/(?:run|var/lib)/(?=([\w./-]+))")
_PROGRAMS = (REPOSITORY / "build", REPOSITORY / ".venv/bin", Path("/usr/sbin"), Path("/usr/lib/frr"))


class Lab:
    """A topology that is, or is about to be, on this machine. Nothing is made before `build`."""

    def __init__(self, topology: Topology, ground: Ground) -> None:
        self.topology, self.ground = topology, ground
        self.record = ground.read_record() or Record(str(topology.path.resolve()))
        self.daemons: dict[str, Daemon] = {}

    def namespace(self, *parts: str) -> Namespace:
        """The namespace of a node, or of a pod on it."""
        return Namespace(self.ground.namespace_name(*parts))

    def localise(self, node: Node, text: str) -> str:
        """`text` with the paths that a container would have for itself replaced by the node's own here."""
        for bind in node.binds:
            text = text.replace(bind.target, str(bind.source))
        return _OWN_PATH.sub(f"{self.ground.node_directory(node.name)}/", text)

    def environment(self, node: Node) -> dict[str, str]:
        """What the node's processes find in their environment, over ours."""
        bound = [bind.source.parent for bind in node.binds if bind.target.startswith("/usr/local/bin/")]
        own = {
            "PATH": os.pathsep.join([*map(str, (*bound, *_PROGRAMS)), os.environ.get("PATH", "")]),
            "POD_NETNS_PREFIX": self.ground.namespace_name(node.name, ""),
        }
        return own | {key: self.localise(node, value) for key, value in node.environment}

    def log(self, node: str) -> Path:
        """Where the node's command writes."""
        return self.ground.directory / f"{node}.log"

    def build(self, say: Teller) -> None:
        """Makes namespaces and links, runs every node's steps, and starts its command.

        Raises  CommandFailed when a step fails; FileExistsError when the lab is up already.
        """
        if not self.ground.is_clean:
            raise FileExistsError(f"{self.ground.directory} or its namespaces are there already")
        self.record = Record(str(self.topology.path.resolve()))
        self.ground.write_record(self.record)
        with say.step(f"namespaces: {', '.join(node.name for node in self.topology.nodes)}"):
            for node in self.topology.nodes:
                self._make_node(node)
        with say.step(f"links: {', '.join(f'{a.node}–{b.node}' for a, b in self.topology.links)}"):
            for left, right in self.topology.links:
                self.namespace(left.node).ip(
                    "link", "add", left.device, "type", "veth",
                    "peer", "name", right.device, "netns", self.ground.namespace_name(right.node),
                )  # fmt: skip
        with say.step("addresses, bridges and routes: each node's exec lines"):
            for node in self.topology.nodes:
                for step in node.steps:
                    self.run(node, *step)
        for node in self.topology.nodes:
            if node.command[:1] != ("sleep",):
                with say.step(f"{node.name}: {' '.join(node.command)[:70]}"):
                    self.start(node)
        self.record.complete = True
        self.ground.write_record(self.record)

    def run(self, node: Node, *argv: str) -> str:
        """A command in a node to its end; its output.

        Raises  CommandFailed when its code is not 0.
        """
        words = [self.localise(node, word) for word in argv]
        return self.namespace(node.name).run(*words, env=self.environment(node))

    def start_beside(self, node: Node, name: str, argv: Sequence[str]) -> Daemon:
        """Starts another command of the node in the background, with a log of its own."""
        return Daemon(
            [self.localise(node, word) for word in argv],
            self.log(name),
            netns=self.ground.namespace_name(node.name),
            env=self.environment(node),
        ).start()

    def start(self, node: Node) -> Daemon:
        """Starts the node's command in the background."""
        daemon = self.start_beside(node, node.name, node.command)
        self.daemons[node.name] = daemon
        self.record.processes = [process for process in self.record.processes if process.role != node.name]
        self.record.processes.append(process_of(node.name, daemon.pid))
        self.ground.write_record(self.record)
        return daemon

    def process(self, role: str) -> Process:
        """What the record has under `role`.

        Raises  KeyError when nothing of that role was started.
        """
        for process in self.record.processes:
            if process.role == role:
                return process
        raise KeyError(role)

    def crash(self, node: Node) -> None:
        """Ends the node's command at once, whoever started it; what it started itself lives on."""
        os.kill(self.process(node.name).pid, signal.SIGKILL)
        if node.name in self.daemons:
            self.daemons.pop(node.name).kill()

    def stop(self) -> None:
        """Ends the commands that this object started; what they made stays."""
        for daemon in self.daemons.values():
            daemon.stop()
        self.daemons.clear()

    def _make_node(self, node: Node) -> None:
        own = self.ground.node_directory(node.name)
        for path in _OWN_PATH.findall(" ".join((*node.command, *(value for _, value in node.environment)))):
            (own / path).parent.mkdir(parents=True, exist_ok=True)
        namespace = Namespace.create(name=self.ground.namespace_name(node.name))
        namespace.sysctl(**{key.removeprefix("net.").replace(".", "__"): value for key, value in node.sysctls})
