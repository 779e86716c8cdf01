"""A containerlab topology file as values: nodes, what runs in them, and the links between them.

In: a `*.clab.yml` as containerlab 0.78 takes it; out: a Topology. Of containerlab's fields it takes those that the lab
can honour and refuses every other one by name, so a file that builds here means the same there.
Source: containerlab's manual, "Topology definition" and "Nodes" (precedence: node, group, kind, defaults).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_MERGED = ("env", "labels", "sysctls")
_SCALARS = ("kind", "image", "cmd", "network-mode", "privileged", "cap-add", "security-opts")
_SHARED_FIELDS = frozenset((*_MERGED, *_SCALARS))
_NODE_FIELDS = _SHARED_FIELDS | {"group", "exec", "binds"}


class TopologyError(ValueError):
    """The file is not one that both containerlab and this lab can build; the text names the place."""


@dataclass(frozen=True, slots=True)
class Bind:
    """`source`, a file or directory of this machine, is to be found at `target` in the node."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `command` runs as long as it lives, after each of `steps` has run to its end."""

    name: str
    group: str
    command: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    environment: tuple[tuple[str, str], ...]
    sysctls: tuple[tuple[str, str], ...]
    binds: tuple[Bind, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a link: a device of a node."""

    node: str
    device: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole file. Nodes and links are in the file's order."""

    name: str
    path: Path
    nodes: tuple[Node, ...]
    links: tuple[tuple[Endpoint, Endpoint], ...]

    def node(self, name: str) -> Node:
        """Raises KeyError when there is no such node."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def in_group(self, group: str) -> tuple[Node, ...]:
        """The nodes of one group."""
        return tuple(node for node in self.nodes if node.group == group)


def load_topology(path: Path) -> Topology:
    """Reads a file.

    Raises  OSError; TopologyError.
    """
    return parse_topology(path.read_text(), path)


def parse_topology(text: str, path: Path) -> Topology:
    """A file's text; relative binds start at the directory of `path`, as in containerlab.

    Raises  TopologyError with every field's place.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TopologyError(f"{path}: {error}") from None
    root = _fields(document, "", {"name", "topology"})
    body = _fields(root.get("topology"), "topology", {"defaults", "kinds", "groups", "nodes", "links"})
    defaults = _fields(body.get("defaults") or {}, "topology.defaults", _SHARED_FIELDS)
    layers = {
        layer: {
            name: _fields(value, f"topology.{layer}.{name}", _SHARED_FIELDS)
            for name, value in (body.get(layer) or {}).items()
        }
        for layer in ("kinds", "groups")
    }
    nodes = tuple(
        _parse_node(name, _fields(value or {}, f"topology.nodes.{name}", _NODE_FIELDS), defaults, layers, path.parent)
        for name, value in (body.get("nodes") or {}).items()
    )
    links = tuple(_parse_link(value, f"topology.links[{n}]") for n, value in enumerate(body.get("links") or []))
    _check_links(nodes, links)
    return Topology(str(root["name"]), path, nodes, links)


def _fields(value: object, place: str, allowed: frozenset[str] | set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TopologyError(f"{place or 'file'}: not a mapping")
    unknown = sorted(set(value) - allowed)
    if unknown:
        raise TopologyError(f"{place or 'file'}: {', '.join(unknown)} cannot be honoured here")
    return value


def _parse_node(
    name: str,
    own: Mapping[str, Any],
    defaults: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    directory: Path,
) -> Node:
    place = f"topology.nodes.{name}"
    group = layers["groups"].get(own.get("group", ""), {})
    kind_name = own.get("kind") or group.get("kind") or defaults.get("kind")
    if kind_name != "linux":
        raise TopologyError(f"{place}.kind: {kind_name!r}, and only linux can be built from a namespace")
    order = [defaults, layers["kinds"].get("linux", {}), group, own]
    fields: dict[str, Any] = {}
    for layer in order:
        fields |= {key: value for key, value in layer.items() if key not in _MERGED}
    merged = {key: {k: v for layer in order for k, v in layer.get(key, {}).items()} for key in _MERGED}
    if fields.get("network-mode") != "none":
        raise TopologyError(f"{place}.network-mode: must be none (a namespace has no management network)")
    return Node(
        name=name,
        group=str(own.get("group", "")),
        command=tuple(shlex.split(fields.get("cmd", ""))),
        steps=tuple(tuple(shlex.split(step)) for step in fields.get("exec", ())),
        environment=tuple((key, str(value)) for key, value in merged["env"].items()),
        sysctls=tuple((key, str(value)) for key, value in merged["sysctls"].items()),
        binds=tuple(_parse_bind(text, f"{place}.binds", directory) for text in fields.get("binds", ())),
    )


def _parse_bind(text: str, place: str, directory: Path) -> Bind:
    source, _, rest = text.partition(":")
    target = rest.partition(":")[0]
    if not target.startswith("/"):
        raise TopologyError(f"{place}: {text!r} has no absolute target")
    found = (directory / source).resolve()
    if not found.exists():
        raise TopologyError(f"{place}: {found} does not exist")
    return Bind(found, target)


def _parse_link(value: object, place: str) -> tuple[Endpoint, Endpoint]:
    ends = _fields(value, place, {"endpoints"}).get("endpoints")
    if not isinstance(ends, list) or len(ends) != 2:
        raise TopologyError(f"{place}.endpoints: not two")
    left, right = (Endpoint(*str(end).split(":", 1)) for end in ends if ":" in str(end))
    return left, right


def _check_links(nodes: tuple[Node, ...], links: tuple[tuple[Endpoint, Endpoint], ...]) -> None:
    names = {node.name for node in nodes}
    seen: set[Endpoint] = set()
    for end in (end for link in links for end in link):
        if end.node not in names:
            raise TopologyError(f"topology.links: no node {end.node!r}")
        if end in seen or len(end.device) > 15:
            raise TopologyError(f"topology.links: {end.node}:{end.device} is twice there, or too long")
        seen.add(end)
