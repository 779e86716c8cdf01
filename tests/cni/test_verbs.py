"""The verbs, from the shim to the kernel: what a runtime sees, and what is left when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from felixpy.cni.errors import CniError, Code
from felixpy.cni.plan import PodFacts
from felixpy.cni.repeats import MOST, PAUSE_S, Repeats
from felixpy.cni.verbs import Limits
from felixpy.drivers.netlink.pods.link import RETIRED_GROUP
from tests.cni.conftest import NETWORK, Node, k8s_args, texts
from tests.support.netns import Namespace
from tests.support.packets import ping_ok
from tests.support.wait import eventually

MakeNamespace = Callable[..., Namespace]


def test_two_pods_and_their_node_reach_each_other(node: Node, make_namespace: MakeNamespace) -> None:
    a, b = make_namespace("a"), make_namespace("b")
    ipam = {"assign_ipv4": True, "assign_ipv6": True}
    first, second = node.add(a, "c1", ipam=ipam), node.add(b, "c2", ipam=ipam)
    for address in second.addresses:
        assert ping_ok(a, address), address
    for address in first.addresses:
        assert ping_ok(b, address), address
        assert ping_ok(node.namespace, address), address


def test_add_leaves_the_endpoint_that_its_result_tells_of(node: Node, pod: Namespace) -> None:
    node.backend.facts = PodFacts(labels={"app": "web"}, service_account="default")
    shown = node.add(pod, args=k8s_args("web-0"))
    (endpoint,) = (json.loads(value) for value in node.backend.endpoints.values())
    assert endpoint["metadata"]["name"] == "n1-k8s-web--0-eth0"
    assert endpoint["metadata"]["labels"]["app"] == "web"
    assert endpoint["spec"]["ipNetworks"] == [ip["address"] for ip in shown.json["ips"]]
    assert [endpoint["spec"]["interfaceName"]] == node.links() == [shown.json["interfaces"][0]["name"]]
    assert endpoint["spec"]["mac"] == shown.json["interfaces"][1]["mac"]


def test_a_plain_container_gets_its_networks_profile(node: Node, pod: Namespace) -> None:
    node.add(pod)
    assert node.backend.profiles == {NETWORK}
    assert node.links() == ["calic1"]


def test_add_again_gives_the_same(node: Node, pod: Namespace) -> None:
    first = node.add(pod)
    mac = pod.ip("link", "show", "eth0")
    assert node.add(pod).output == first.output
    assert pod.ip("link", "show", "eth0") == mac


def test_add_again_puts_right_what_is_wrong(node: Node, pod: Namespace) -> None:
    (address,) = node.add(pod).addresses
    pod.ip("route", "del", "default")
    assert not ping_ok(pod, "10.9.0.1", wait_s=0.3)
    assert node.add(pod).addresses == [address]
    assert ping_ok(pod, "10.9.0.1")


def test_a_failed_add_again_leaves_the_running_pod(node: Node, pod: Namespace) -> None:
    (address,) = node.add(pod).addresses
    node.backend.programs = False
    node.stop()
    node.limits = Limits(programmed_s=0.2)
    assert node.start().call("ADD", pod).code == Code.TRY_AGAIN
    assert ping_ok(node.namespace, address)
    assert {handle: texts(held) for handle, held in node.backend.held.items()} == {f"{NETWORK}.c1": [address]}
    assert len(node.backend.endpoints) == 1


def test_del_takes_everything_and_may_come_again(node: Node, pod: Namespace) -> None:
    node.add(pod)
    for _ in range(2):
        assert node.call("DEL", pod).exit_status == 0
        assert (node.links(), node.backend.endpoints, node.backend.held) == ([], {}, {})


def test_the_devices_of_deleted_pods_go_later(node: Node, make_namespace: MakeNamespace) -> None:
    pods = [make_namespace("d") for _ in range(3)]
    for number, namespace in enumerate(pods):
        node.add(namespace, f"c{number}")
        assert node.call("DEL", namespace, f"c{number}").exit_status == 0
    assert not any(node.devices().values())
    eventually(lambda: node.devices() == {})


def test_a_device_that_an_agent_before_left_retired_goes(stopped_node: Node, pod: Namespace) -> None:
    stopped_node.start().add(pod)
    stopped_node.stop()
    stopped_node.namespace.ip("link", "set", "calic1", "down", "group", str(RETIRED_GROUP))
    stopped_node.start()
    eventually(lambda: stopped_node.devices() == {})


def test_add_right_after_del_of_the_same_container(node: Node, pod: Namespace) -> None:
    for _ in range(3):
        (address,) = node.add(pod).addresses
        assert ping_ok(node.namespace, address)
        assert node.call("DEL", pod).exit_status == 0


def test_del_without_datastore_ends_the_traffic_and_is_finished_later(node: Node, pod: Namespace) -> None:
    (address,) = node.add(pod).addresses
    node.backend.reachable = False
    assert node.call("DEL", pod).exit_status == 0
    assert (node.links(), len(node.backend.held)) == ([], 1)
    assert not ping_ok(node.namespace, address)
    node.backend.reachable = True
    eventually(lambda: node.backend.held == {} and node.backend.endpoints == {})
    eventually(lambda: list((node.run_dir / "cni-pending").iterdir()) == [])


def test_del_that_cannot_be_kept_is_to_be_tried_again(node: Node, pod: Namespace) -> None:
    node.add(pod)
    node.backend.reachable = False
    kept = node.run_dir / "cni-pending"
    kept.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", kept], check=True)
    try:
        (kept / ".full").write_bytes(bytes(4096))
        shown = node.call("DEL", pod)
        assert shown.code == Code.TRY_AGAIN
        assert shown.json["msg"].endswith("and the DEL cannot be kept for later")
        assert "No space left on device" in shown.json["details"]
        assert [one.name for one in kept.iterdir()] == [".full"]
    finally:
        subprocess.run(["umount", kept], check=True)
    node.backend.reachable = True
    assert node.call("DEL", pod).exit_status == 0
    assert node.backend.held == {}


def test_del_while_the_datastore_is_not_obeyed_writes_nothing_to_it(node: Node, pod: Namespace) -> None:
    node.add(pod)
    node.backend.unready = CniError(Code.NOT_AVAILABLE, "the agent does not obey the datastore")
    assert node.call("DEL", pod).exit_status == 0
    assert (node.links(), len(node.backend.endpoints)) == ([], 1)
    node.backend.unready = None
    eventually(lambda: node.backend.held == {} and node.backend.endpoints == {})


def test_del_of_the_pods_old_container_leaves_the_new_one(node: Node, make_namespace: MakeNamespace) -> None:
    old, new = make_namespace("o"), make_namespace("n")
    node.add(old, "old", k8s_args("web"))
    (address,) = node.add(new, "new", k8s_args("web")).addresses
    assert node.call("DEL", old, "old", k8s_args("web")).exit_status == 0
    assert ping_ok(node.namespace, address)
    assert {handle: texts(held) for handle, held in node.backend.held.items()} == {f"{NETWORK}.new": [address]}
    assert len(node.backend.endpoints) == 1


def test_del_of_a_pod_that_nobody_remembers_ends_its_traffic(node: Node, pod: Namespace) -> None:
    (address,) = node.add(pod, args=k8s_args("web")).addresses
    node.backend.remembers = False
    assert node.call("DEL", pod).exit_status == 0
    assert (node.links(), node.backend.held) == ([], {})
    assert not ping_ok(node.namespace, address, wait_s=0.3)


def test_check_is_content_after_add(node: Node, pod: Namespace) -> None:
    result = node.add(pod).json
    assert node.call("CHECK", pod, prevResult=result).exit_status == 0


def test_check_says_what_is_missing(node: Node, pod: Namespace) -> None:
    result = node.add(pod).json
    for broken, told in (
        (("route", "del", "default"), "route to 0.0.0.0/0"),
        (("neigh", "del", "169.254.1.1", "dev", "eth0"), "neighbour 169.254.1.1"),
        (("address", "flush", "dev", "eth0", "scope", "global"), "address 10.65.0.3/32"),
        (("link", "set", "eth0", "down"), "eth0 is down"),
        (("link", "del", "eth0"), "calic1 is not there"),
    ):
        pod.ip(*broken)
        shown = node.call("CHECK", pod, prevResult=result)
        assert (shown.code, told in shown.json["details"]) == (Code.NOT_AS_WIRED, True), (broken, shown.output)


def test_check_wants_route_and_policy(stopped_node: Node, pod: Namespace) -> None:
    stopped_node.limits = Limits(programmed_s=0.3)
    node = stopped_node.start()
    result = node.add(pod).json
    node.backend.programs = False
    shown = node.call("CHECK", pod, prevResult=result)
    assert (shown.code, "not in the kernel" in shown.json["msg"]) == (Code.TRY_AGAIN, True)


def test_check_compares_with_what_the_runtime_was_told(node: Node, pod: Namespace) -> None:
    result = node.add(pod).json
    result["ips"][0]["address"] = "10.65.0.99/32"
    assert node.call("CHECK", pod, prevResult=result).code == Code.NOT_AS_WIRED


def test_check_without_endpoint(node: Node, pod: Namespace) -> None:
    result = node.add(pod).json
    node.backend.endpoints.clear()
    assert node.call("CHECK", pod, prevResult=result).code == Code.NOT_AS_WIRED


def test_gc_deletes_what_the_runtime_does_not_know(node: Node, make_namespace: MakeNamespace) -> None:
    pods = [make_namespace("g") for _ in range(4)]
    for number, namespace in enumerate(pods[:3]):
        node.add(namespace, f"c{number}", k8s_args(f"p{number}"))
    node.add(pods[3], "other", name="other-net")
    node.backend.endpoints.pop(next(name for name in node.backend.endpoints if "p2" in name.name))
    valid = [{"containerID": "c0", "ifname": "eth0"}]
    assert node.call("GC", container="", cniVersion="1.1.0", **{"cni.dev/valid-attachments": valid}).exit_status == 0
    assert ("caliother" in node.links(), len(node.links())) == (True, 2)
    assert set(node.backend.held) == {f"{NETWORK}.c0", "other-net.other"}


def test_gc_without_a_list_deletes_nothing(node: Node, pod: Namespace) -> None:
    node.add(pod)
    assert node.call("GC", container="", cniVersion="1.1.0").code == Code.INVALID_CONFIG
    assert node.links() == ["calic1"]


def test_status_tells_why_not(node: Node) -> None:
    assert node.call("STATUS", container="", cniVersion="1.1.0").exit_status == 0
    node.backend.unready = CniError(Code.NOT_AVAILABLE, "the datastore is not in sync")
    shown = node.call("STATUS", container="", cniVersion="1.1.0")
    assert (shown.code, shown.json["msg"]) == (Code.NOT_AVAILABLE, "the datastore is not in sync")


def test_a_runtime_that_asks_again_and_again_fills_no_log(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.backend.unready = CniError(Code.NOT_AVAILABLE, "the datastore is not in sync")
    asked = [node.call("STATUS", container="", cniVersion="1.1.0").code for _ in range(4)]
    node.backend.unready = CniError(Code.NOT_AVAILABLE, "the agent does not obey the datastore")
    asked += [node.call("STATUS", container="", cniVersion="1.1.0").code for _ in range(2)]
    assert asked == [Code.NOT_AVAILABLE] * 6
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.rpartition(": ")[2] for line in told] == [
        "the datastore is not in sync",
        "the agent does not obey the datastore",
    ]


def test_what_failed_is_told_again_after_a_pause() -> None:
    repeats = Repeats()
    told = [repeats.is_news("STATUS", "no", now) for now in (0, 1, PAUSE_S - 1, PAUSE_S, PAUSE_S + 1)]
    assert told == [True, False, False, True, False]
    assert all(repeats.is_news(f"ADD {number}", "no", PAUSE_S) for number in range(MOST))
    assert repeats.is_news("STATUS", "no", PAUSE_S + 1), "the oldest is forgotten"


def test_add_is_refused_while_the_agent_is_not_ready(node: Node, pod: Namespace) -> None:
    node.backend.unready = CniError(Code.NOT_AVAILABLE, "the datastore is not in sync")
    assert node.call("ADD", pod).code == Code.TRY_AGAIN
    assert node.links() == []


def test_an_add_that_is_never_programmed_leaves_nothing(stopped_node: Node, pod: Namespace) -> None:
    stopped_node.limits = Limits(programmed_s=0.3)
    stopped_node.backend.programs = False
    shown = stopped_node.start().call("ADD", pod)
    assert (shown.code, "not in the kernel" in shown.json["msg"]) == (Code.TRY_AGAIN, True)
    assert (stopped_node.links(), stopped_node.backend.endpoints, stopped_node.backend.held) == ([], {}, {})


def test_an_add_without_address_leaves_no_link(node: Node, pod: Namespace) -> None:
    node.backend.admits = False
    assert node.call("ADD", pod).code == Code.NO_ADDRESS
    assert node.links() == []


def test_a_device_of_that_name_in_the_pod_is_not_touched(node: Node, pod: Namespace) -> None:
    pod.ip("link", "add", "eth0", "type", "bridge")
    shown = node.call("ADD", pod)
    assert (shown.code, "has a device eth0 already" in shown.json["details"]) == (Code.IO, True)
    assert (node.links(), node.backend.endpoints) == ([], {})
    assert "eth0" in pod.ip("link", "show", "type", "bridge")


def test_a_namespace_that_is_not_there(node: Node) -> None:
    assert node.call("ADD", Namespace("felixpy-no-such-namespace")).code == Code.UNKNOWN_CONTAINER


def test_a_file_that_is_no_namespace(node: Node) -> None:
    shown = node.call("ADD", Namespace("../../etc/hostname"))
    assert (shown.code, shown.json["msg"]) == (Code.INVALID_ENVIRONMENT, "CNI_NETNS is no network namespace")
    assert (node.links(), node.backend.held) == ([], {})


def test_an_asked_address_and_mac(node: Node, pod: Namespace) -> None:
    asked = {"ips": ["10.65.7.7/32"], "mac": "02:11:22:33:44:55"}
    shown = node.add(pod, runtimeConfig=asked)
    assert shown.addresses == ["10.65.7.7"]
    assert shown.json["interfaces"][1]["mac"] == "02:11:22:33:44:55"
    assert "02:11:22:33:44:55" in pod.ip("link", "show", "eth0")


def test_fifty_pods_at_once(node: Node, make_namespace: MakeNamespace) -> None:
    pods = [make_namespace("m") for _ in range(50)]
    processes = [node.popen("ADD", namespace, f"c{number}", "", node.conf()) for number, namespace in enumerate(pods)]
    results = [json.loads(process.communicate(timeout=90)[0]) for process in processes]
    addresses = {result["ips"][0]["address"] for result in results}
    assert (len(addresses), len(node.links())) == (50, 50)
    assert node.backend.most_at_once > 1
    assert all(ping_ok(node.namespace, address.partition("/")[0]) for address in sorted(addresses)[:3])


def test_calls_for_one_pod_follow_each_other(node: Node, pod: Namespace) -> None:
    processes = [node.popen(command, pod, "c1", "", node.conf()) for command in ("ADD", "DEL") * 5]
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [output for output in outputs if '"code"' in output] == []
    assert node.call("DEL", pod).exit_status == 0
    assert (node.links(), node.backend.endpoints, node.backend.held) == ([], {}, {})


def test_a_runtime_that_is_killed_in_the_middle(stopped_node: Node, pod: Namespace) -> None:
    stopped_node.limits = Limits(programmed_s=0.3)
    node = stopped_node.start()
    node.backend.programs = False
    process = node.popen("ADD", pod, "c1", "", node.conf())
    eventually(lambda: node.backend.waiting)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=40)
    node.backend.programs = True
    assert node.call("DEL", pod).exit_status == 0
    assert (node.links(), node.backend.endpoints, node.backend.held) == ([], {}, {})
