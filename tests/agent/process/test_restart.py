"""Restart is nothing, repair comes by event, and a datastore that is not to be obeyed changes nothing."""

from __future__ import annotations

import json

from tests.agent.conftest import Scene
from tests.agent.node import CALICO, PROGRAM, resource
from tests.support.packets import FlowMeter
from tests.support.wait import eventually

CLUSTER = f"{CALICO}/clusterinformations/default"
NEGATIVE = [{"action": "Deny", "source": {"selector": "name == 'c'"}}, {"action": "Allow"}]


def test_a_killed_agent_loses_no_packet_and_touches_nothing_that_is_right(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("some", "name == 'b'", ingress=NEGATIVE)
    eventually(lambda: "default.some" in node.nft("list", "ruleset"))
    with FlowMeter(a.namespace, b.namespace, b.addresses[0]) as flow:
        node.agent.kill()
        node.agent.start()
        eventually(lambda: node.log().count("in sync") == 2)
        b.write({"again": "yes"})
        node.policy("last", "name == 'a'", ingress=[])
        eventually(lambda: not b.reaches(a), what="the agent is at work again")
        report = flow.stop()
    assert report.sent > 500
    assert report.lost == 0
    assert "kernel, start" not in node.log().rpartition("in sync")[2], "there was nothing to do"


def test_what_changed_while_the_agent_was_away_is_caught_up(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("gone", "name == 'b'", ingress=[{"action": "Allow"}])
    eventually(lambda: "default.gone" in node.nft("list", "ruleset"))
    node.agent.kill()
    node.drop("globalnetworkpolicies", "default.gone")
    node.policy("new", "name == 'b'", ingress=[{"action": "Deny", "source": {"selector": "name == 'a'"}}])
    node.etcd.delete(b.key)
    node.namespace.ip("route", "add", "10.77.0.1/32", "dev", a.device, "proto", "176")
    node.namespace.ip("route", "add", "10.77.0.2/32", "dev", a.device, "proto", "static")
    node.agent.start()
    eventually(lambda: "10.77.0.1" not in node.namespace.ip("route"), what="our own leftover goes")
    routes = node.namespace.ip("route")
    assert "10.77.0.2" in routes, "others' routes stay"
    assert b.addresses[0] not in routes
    assert "default.gone" not in node.nft("list", "ruleset")
    assert not a.reaches(b)


def test_a_flushed_table_is_back_within_a_second(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("flip", "name == 'b'", ingress=[{"action": "Deny", "source": {"selector": "name == 'a'"}}])
    eventually(lambda: not a.reaches(b))
    for damage in (
        ("delete", "table", "inet", "felixpy"),
        ("flush", "table", "inet", "felixpy"),
        ("flush", "chain", "inet", "felixpy", "in-gnp/default.flip"),
        ("flush", "map", "inet", "felixpy", "to-endpoint"),
        ("add", "rule", "inet", "felixpy", "filter-forward", "accept"),
    ):
        before = sorted(node.nft("--stateless", "list", "ruleset").splitlines())
        node.nft(*damage)
        eventually(
            lambda: sorted(node.nft("--stateless", "list", "ruleset").splitlines()) == before,  # noqa: B023
            within_s=10,
            what=f"repair after {damage}",
        )
    assert not a.reaches(b)


def test_who_keeps_flushing_the_table_is_named_and_gets_an_answer_ever_later(scene: Scene) -> None:
    node = scene.node
    before = sorted(node.nft("--stateless", "list", "ruleset").splitlines())
    status = [PROGRAM.with_name("felixctl"), "status", "--local", "--run-dir", str(node.run_dir)]
    undo = "while :; do nft delete table inet felixpy 2>/dev/null; sleep 0.05; done"
    other = node.namespace.popen("sh", "-c", undo)
    try:
        eventually(
            lambda: "packet rules: somebody keeps undoing it" in node.namespace.run(*status, check=False),
            within_s=60,
            every_s=0.5,
            what="status says so",
        )
    finally:
        other.kill()
        other.wait()
    eventually(
        lambda: sorted(node.nft("--stateless", "list", "ruleset").splitlines()) == before,
        within_s=30,
        what="the last repair",
    )


def test_a_deleted_route_is_back_within_a_second(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.namespace.ip("route", "del", f"{b.addresses[0]}/32")
    node.namespace.ip("-6", "route", "del", f"{b.addresses[1]}/128")
    eventually(lambda: a.reaches(b) and a.reaches(b, 1))


def test_the_agent_freezes_when_the_cluster_is_not_to_be_obeyed(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    kept = node.etcd.get(CLUSTER)
    assert kept is not None
    node.etcd.delete(CLUSTER)
    eventually(lambda: "frozen" in node.log())
    node.etcd.delete_prefix(CALICO)
    node.policy("flip", "name == 'b'", ingress=[{"action": "Deny"}])
    assert a.reaches(b), "nothing of it is done"
    other = json.loads(kept)
    other["spec"]["clusterGUID"] = "0" * 32
    node.etcd.put(CLUSTER, other)
    eventually(lambda: "another cluster" in node.log())
    assert a.reaches(b)
    a.write()
    b.write()
    node.put("profiles", resource("Profile", "open", {"ingress": [{"action": "Allow"}]}))
    node.etcd.put(CLUSTER, kept)
    eventually(lambda: not a.reaches(b), what="the known cluster is back, and its policy counts")


def test_a_second_agent_in_the_same_directory_is_refused(scene: Scene) -> None:
    second = scene.node.make_agent().start()
    eventually(lambda: not second.running)
    assert second.stop() == 1
    assert "another process runs this role" in scene.node.log()
