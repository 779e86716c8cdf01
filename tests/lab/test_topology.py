"""The containerlab files are read as containerlab reads them, and what cannot be honoured is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.ground import REPOSITORY
from tests.lab.topology import Endpoint, TopologyError, load_topology, parse_topology

FILES = sorted((REPOSITORY / "containerlab").glob("*.clab.yml"))

BASE = """
name: t
topology:
  defaults: {kind: linux, image: i, network-mode: none, env: {A: default, B: default}}
  kinds: {linux: {env: {B: kind, C: kind}, cmd: from kind}}
  groups: {g: {env: {C: group, D: group}, cmd: from group}}
  nodes:
    plain: {}
    grouped: {group: g, env: {D: 4}, exec: ["sh -c 'echo a b'"]}
  links: [{endpoints: ["plain:eth1", "grouped:eth2"]}]
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_the_project_can_be_built(path: Path) -> None:
    topology = load_topology(path)
    assert topology.name == path.name.removesuffix(".clab.yml")
    assert {node.group for node in topology.nodes} >= {"node", "router", "client", "store"}


def test_the_nearest_layer_wins_and_maps_are_merged() -> None:
    topology = parse_topology(BASE, Path("t.clab.yml"))
    plain, grouped = topology.nodes
    assert dict(plain.environment) == {"A": "default", "B": "kind", "C": "kind"}
    assert dict(grouped.environment) == {"A": "default", "B": "kind", "C": "group", "D": "4"}
    assert (plain.command, grouped.command) == (("from", "kind"), ("from", "group"))
    assert grouped.steps == (("sh", "-c", "echo a b"),)
    assert topology.links == ((Endpoint("plain", "eth1"), Endpoint("grouped", "eth2")),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain: {}", "plain: {ports: ['1:1']}", r"topology.nodes.plain: ports cannot be honoured"),
        ("plain: {}", "plain: {kind: nokia_srlinux}", r"topology.nodes.plain.kind: 'nokia_srlinux'"),
        ("network-mode: none, ", "", r"topology.nodes.plain.network-mode"),
        ("plain: {}", "plain: {binds: ['none.conf:/etc/x']}", r"topology.nodes.plain.binds: .*none.conf does not"),
        ("plain: {}", "plain: {binds: ['none.conf']}", r"topology.nodes.plain.binds: 'none.conf' has no"),
        ("plain:eth1", "absent:eth1", r"topology.links: no node 'absent'"),
        ("grouped:eth2", "plain:eth1", r"topology.links: plain:eth1 is twice"),
        ("plain:eth1", "plain:a-name-too-long1", r"or too long"),
        ("name: t", "name: [", r"line 2, column 7"),
    ],
)
def test_what_cannot_be_honoured_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        parse_topology(BASE.replace(old, new), Path("t.clab.yml"))
