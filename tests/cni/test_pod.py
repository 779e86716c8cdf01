"""The kernel's part: wiring is made, adopted, put right, read back and taken away."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from felixpy.addresses import parse_address
from felixpy.cni.plan import derive_wiring
from felixpy.dataplane.objects import Sysctl
from felixpy.dataplane.pod import GATEWAY_V6, PodLink, PodWiring
from felixpy.drivers.netlink.pods.check import check_pod
from felixpy.drivers.netlink.pods.link import (
    PodError,
    create_pod_link,
    delete_retired_links,
    list_pod_links,
    retire_pod_link,
)
from felixpy.drivers.netlink.pods.wiring import add_pod_addresses, configure_pod, make_pod
from tests.support.netns import Namespace
from tests.support.packets import ping_ok

MAC = bytes([2, 0, 0, 0, 0, 9])
LINK = PodLink("calitest", "eth0", "net/c1/eth0", MAC, 1440)
WIRING = derive_wiring(LINK, (parse_address("10.65.0.3"), parse_address("fd00:65::3")))


@pytest.fixture
def node(make_namespace: Callable[..., Namespace]) -> Iterator[Namespace]:
    """The namespace that this thread is in during the test."""
    namespace = make_namespace("n")
    namespace.add_address("lo", "10.9.0.1/32", "fd00:9::1/128")
    with namespace.entered():
        yield namespace


@pytest.fixture
def pod(make_namespace: Callable[..., Namespace]) -> Namespace:
    return make_namespace("p")


def wire(pod: Namespace, wiring: PodWiring = WIRING) -> bool:
    made = create_pod_link(wiring.link, str(pod.path))
    configure_pod(wiring, str(pod.path))
    return made


def index_of(namespace: Namespace, device: str) -> int:
    return int(json.loads(namespace.ip("-json", "link", "show", device))[0]["ifindex"])


def test_first_packets_pass_at_once(node: Namespace, pod: Namespace) -> None:
    assert wire(pod)
    node.ip("route", "add", "10.65.0.3", "dev", "calitest")
    node.ip("-6", "route", "add", "fd00:65::3", "dev", "calitest")
    assert ping_ok(pod, "10.9.0.1")
    assert ping_ok(pod, "fd00:9::1")
    assert ping_ok(node, "10.65.0.3")
    assert ping_ok(node, "fd00:65::3")


def test_the_gateway_waits_for_no_duplicate_detection(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    assert "tentative" not in node.ip("-6", "address", "show", "calitest")


def test_a_node_end_without_ipv6_has_no_ipv6_address(node: Namespace, pod: Namespace) -> None:
    wire(pod, derive_wiring(LINK, WIRING.addresses[:1]))
    assert node.ip("-6", "address", "show", "calitest") == ""


def test_what_is_made_is_what_was_asked_for(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    assert check_pod(WIRING, str(pod.path)) == ()
    assert list_pod_links("cali") == {"calitest": LINK.owner}
    for namespace, device, mac in ((node, "calitest", "ee:ee:ee:ee:ee:ee"), (pod, "eth0", MAC.hex(":"))):
        (link,) = json.loads(namespace.ip("-json", "link", "show", device))
        assert (link["mtu"], link["address"], link["operstate"]) == (1440, mac, "UP")
    held = [a["local"] for a in json.loads(node.ip("-json", "-6", "address", "show", "calitest"))[0]["addr_info"]]
    assert held == ["fe80::ecee:eeff:feee:eeee"]
    assert parse_address(held[0]) == GATEWAY_V6


def test_a_pod_is_made_before_its_addresses_are_known(node: Namespace, pod: Namespace) -> None:
    bare = derive_wiring(LINK, (), versions=(4, 6))
    assert make_pod(bare, str(pod.path))
    assert [problem for problem in check_pod(WIRING, str(pod.path)) if "address" not in problem] == []
    add_pod_addresses(WIRING, str(pod.path))
    assert check_pod(WIRING, str(pod.path)) == ()
    assert not make_pod(bare, str(pod.path)), "it is there"
    assert check_pod(WIRING, str(pod.path)) == (), "with its addresses"


def test_a_pod_that_cannot_be_made_is_not_left(node: Namespace, pod: Namespace) -> None:
    bad = replace(WIRING, host_sysctls=(Sysctl("net/ipv4/conf/calitest/no_such", "1"),))
    with pytest.raises(PodError):
        make_pod(bad, str(pod.path))
    assert list_pod_links("cali") == {}


def test_wiring_again_adopts_what_is_there(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    before = index_of(node, "calitest"), index_of(pod, "eth0")
    assert not wire(pod)
    assert (index_of(node, "calitest"), index_of(pod, "eth0")) == before
    assert check_pod(WIRING, str(pod.path)) == ()


@pytest.mark.parametrize(
    "damage",
    [
        ("address", "flush", "dev", "eth0"),
        ("address", "add", "10.1.1.1/24", "dev", "eth0"),
        ("route", "replace", "default", "dev", "eth0"),
        ("link", "set", "eth0", "down"),
        ("link", "set", "eth0", "address", "02:00:00:00:00:01"),
        ("link", "set", "eth0", "mtu", "1300"),
        ("neigh", "replace", "169.254.1.1", "lladdr", "02:00:00:00:00:02", "dev", "eth0"),
    ],
)
def test_wiring_again_puts_right_what_is_wrong(node: Namespace, pod: Namespace, damage: tuple[str, ...]) -> None:
    wire(pod)
    pod.ip(*damage)
    assert not wire(pod)
    assert check_pod(WIRING, str(pod.path)) == ()
    (link,) = json.loads(pod.ip("-json", "address", "show", "eth0"))
    assert link["mtu"] == 1440
    assert sorted(a["local"] for a in link["addr_info"] if a["scope"] == "global") == ["10.65.0.3", "fd00:65::3"]
    assert "via 169.254.1.1" in pod.ip("route", "show", "default")


def test_another_containers_pair_gives_way(node: Namespace, make_namespace: Callable[..., Namespace]) -> None:
    old, new = make_namespace("o"), make_namespace("q")
    wire(old)
    successor = derive_wiring(replace(LINK, owner="net/c2/eth0"), WIRING.addresses)
    assert wire(new, successor)
    assert check_pod(successor, str(new.path)) == ()
    assert check_pod(WIRING, str(old.path)) != ()
    assert not retire_pod_link("calitest", LINK.owner)
    assert retire_pod_link("calitest", "net/c2/eth0")


def test_a_pair_that_was_left_half_made_is_made_anew(node: Namespace, pod: Namespace) -> None:
    node.ip("link", "add", "calitest", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    assert wire(pod)
    assert check_pod(WIRING, str(pod.path)) == ()


def test_the_same_pod_in_another_namespace_moves(node: Namespace, make_namespace: Callable[..., Namespace]) -> None:
    first, second = make_namespace("o"), make_namespace("q")
    wire(first)
    assert wire(second)
    assert check_pod(WIRING, str(second.path)) == ()


def test_a_pair_that_cannot_be_finished_is_not_left(node: Namespace, pod: Namespace) -> None:
    with pytest.raises(PodError) as raised:
        create_pod_link(replace(LINK, owner="o" * 256), str(pod.path))
    assert "setting calitest up" in str(raised.value)
    assert "calitest" not in node.ip("link", "show")


def test_a_device_that_is_not_ours_keeps_its_name(node: Namespace, pod: Namespace) -> None:
    pod.ip("link", "add", "eth0", "type", "bridge")
    with pytest.raises(PodError) as raised:
        wire(pod)
    assert raised.value.errno == errno.EEXIST
    assert list_pod_links("cali") == {}


def test_a_retired_pair_carries_nothing_and_counts_as_gone(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    node.ip("route", "add", "10.65.0.3", "dev", "calitest")
    assert ping_ok(node, "10.65.0.3")
    assert retire_pod_link("calitest", LINK.owner)
    assert not ping_ok(pod, "10.9.0.1", wait_s=0.3)
    assert "10.65.0.3" not in node.ip("route")
    assert (list_pod_links("cali"), check_pod(WIRING, str(pod.path))) == ({}, ("calitest is not there",))
    assert not retire_pod_link("calitest", LINK.owner), "it is already"


def test_retired_pairs_are_deleted_and_no_others(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    for number in range(3):
        create_pod_link(PodLink(f"cali{number}", f"net{number}", f"net/c1/net{number}", MAC), str(pod.path))
    node.ip("link", "add", "calibystander", "type", "bridge")
    assert not delete_retired_links()
    assert all(retire_pod_link(f"cali{number}", f"net/c1/net{number}") for number in range(3))
    assert delete_retired_links()
    left = {link["ifname"] for link in json.loads(node.ip("-json", "link", "show"))}
    assert left == {"lo", "calitest", "calibystander"}


def test_a_pair_comes_again_while_it_is_retired(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    before = index_of(node, "calitest")
    retire_pod_link("calitest", LINK.owner)
    assert wire(pod)
    assert not delete_retired_links(), "the new one is in service"
    assert check_pod(WIRING, str(pod.path)) == ()
    assert index_of(node, "calitest") != before


def test_another_container_has_the_namespace_of_one_that_is_retired(node: Namespace, pod: Namespace) -> None:
    wire(pod)
    retire_pod_link("calitest", LINK.owner)
    after = derive_wiring(replace(LINK, host_device="caliafter", owner="net/c2/eth0"), WIRING.addresses)
    assert wire(pod, after)
    assert check_pod(after, str(pod.path)) == ()


def test_a_pair_comes_again_while_the_retired_one_is_being_deleted(node: Namespace, pod: Namespace) -> None:
    with ThreadPoolExecutor(1) as other:
        for _ in range(40):
            create_pod_link(LINK, str(pod.path))
            retire_pod_link("calitest", LINK.owner)
            deleting = other.submit(delete_retired_links)
            assert create_pod_link(LINK, str(pod.path))
            deleting.result()


def test_retiring_what_is_not_there(node: Namespace, pod: Namespace) -> None:
    assert not retire_pod_link("calitest", LINK.owner)
    wire(pod)
    pod.ip("link", "del", "eth0")
    assert not retire_pod_link("calitest", LINK.owner)


def test_a_pod_that_comes_without_ipv6(node: Namespace, pod: Namespace) -> None:
    pod.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    wire(pod)
    assert check_pod(WIRING, str(pod.path)) == ()


def test_forwarding_in_the_pod_on_request(node: Namespace, pod: Namespace) -> None:
    wire(pod, derive_wiring(LINK, WIRING.addresses, forwarding=True))
    assert pod.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert node.run("cat", "/proc/sys/net/ipv4/conf/calitest/proxy_arp").strip() == "1"


@pytest.mark.parametrize(
    "wiring",
    [
        replace(WIRING, host_sysctls=(Sysctl("net/ipv4/conf/calitest/no_such", "1"),)),
        replace(WIRING, link=replace(LINK, mtu=20)),
        replace(WIRING, link=replace(LINK, pod_device="eth9")),
    ],
)
def test_what_the_kernel_refuses_is_told(node: Namespace, pod: Namespace, wiring: PodWiring) -> None:
    wire(pod)
    with pytest.raises(PodError) as raised:
        configure_pod(wiring, str(pod.path))
    assert raised.value.errno


@pytest.mark.parametrize("path", ["/run/netns/felixpy-no-such-namespace", "/etc/hostname"])
def test_a_namespace_that_is_none(node: Namespace, path: str) -> None:
    with pytest.raises(OSError):
        create_pod_link(LINK, path)
    assert list_pod_links("cali") == {}
