"""What a node serves over HTTP, asked for as Prometheus and a kubelet do."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.agent.node import Node


@dataclass(frozen=True)
class Page:
    status: int
    body: str

    def figures(self) -> dict[str, float]:
        """Each sample without labels, by name, as Prometheus's own parser reads it."""
        families = text_string_to_metric_families(self.body)
        return {one.name: one.value for family in families for one in family.samples if not one.labels}


def fetch(node: Node, path: str, *flags: str, at: str = "127.0.0.1:9091") -> Page | None:
    """The page; None where nobody answers."""
    argv = node.namespace.enter_argv(["curl", "-s", "-m", "5", "-w", "\n%{http_code}", *flags, f"http://{at}{path}"])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    body, _, status = done.stdout.rpartition("\n")
    return None if done.returncode else Page(int(status), body)
