"""ipset by netlink, in a real kernel: what is put reads back, and ipset(8) shows the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felixpy.addresses import parse_address
from felixpy.dataplane.objects import SetType
from felixpy.dataplane.sets import encode_port_key
from felixpy.drivers.netlink.ipset import ERROR_REFERENCED, IpsetClient, KernelSet
from felixpy.drivers.netlink.socket import NetlinkError, in_namespace
from tests.support.netns import Namespace

HOSTS = KernelSet("fpx-hosts", SetType.IPV4)


@pytest.fixture
def sets(namespace: Namespace) -> Iterator[IpsetClient]:
    with in_namespace(namespace.path, IpsetClient) as client:
        yield client


def prefix(text: str) -> bytes:
    address, _, length = text.partition("/")
    return parse_address(address) + bytes([int(length)])


def ports(address: str) -> list[bytes]:
    return [encode_port_key(parse_address(address), protocol, 8080) for protocol in (6, 17, 132)]


@pytest.mark.parametrize(
    ("it", "members", "shown"),
    [
        (HOSTS, [parse_address("10.0.0.1")], ["10.0.0.1"]),
        (KernelSet("fpx-6", SetType.IPV6), [parse_address("fd00::1")], ["fd00::1"]),
        (
            KernelSet("fpx-n4", SetType.IPV4, True),
            [prefix("10.0.0.0/8"), prefix("10.1.0.0/16"), prefix("192.0.2.1/32")],
            ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1"],
        ),
        (KernelSet("fpx-n6", SetType.IPV6, True), [prefix("fd00::/8"), prefix("::1/128")], ["::1", "fd00::/8"]),
        (
            KernelSet("fpx-p4", SetType.IPV4_PORT),
            ports("10.0.0.1"),
            [f"10.0.0.1,{protocol}:8080" for protocol in ("sctp", "tcp", "udp")],
        ),
        (
            KernelSet("fpx-p6", SetType.IPV6_PORT),
            ports("fd00::1"),
            [f"fd00::1,{protocol}:8080" for protocol in ("sctp", "tcp", "udp")],
        ),
    ],
)
def test_members_read_back(
    namespace: Namespace, sets: IpsetClient, it: KernelSet, members: list[bytes], shown: list[str]
) -> None:
    sets.create(it)
    sets.create(it)
    sets.add(it, members)
    sets.add(it, members)
    assert sets.read("fpx-") == {it: frozenset(members)}
    listed = namespace.run("ipset", "list", it.name).partition("Members:\n")[2].split()
    assert sorted(listed) == shown
    sets.remove(it, members)
    sets.remove(it, members)
    assert sets.read("fpx-") == {it: frozenset()}
    sets.destroy(it.name)
    assert sets.read("fpx-") == {}


def test_many_members_take_several_messages(sets: IpsetClient) -> None:
    members = {bytes([10, 0, number >> 8, number & 255]) for number in range(70_000 // 2)}
    members |= {bytes([11, 0, number >> 8, number & 255]) for number in range(70_000 // 2)}
    sets.create(HOSTS)
    sets.add(HOSTS, members)
    assert sets.read("fpx-") == {HOSTS: members}


def test_sets_of_others_are_not_read(namespace: Namespace, sets: IpsetClient) -> None:
    namespace.run("ipset", "create", "theirs", "hash:ip")
    namespace.run("ipset", "create", "fpx-ranges", "hash:net,port")
    assert sets.read("fpx-") == {}


def test_refusals_have_words(namespace: Namespace, sets: IpsetClient) -> None:
    with pytest.raises(NetlinkError, match="No such file"):
        sets.add(HOSTS, [parse_address("10.0.0.1")])
    sets.create(HOSTS)
    with pytest.raises(NetlinkError, match="exists"):
        sets.create(KernelSet(HOSTS.name, SetType.IPV4, True))
    namespace.run("iptables-legacy", "-A", "INPUT", "-m", "set", "--match-set", HOSTS.name, "src", "-j", "DROP")
    with pytest.raises(NetlinkError, match="in use") as refused:
        sets.destroy(HOSTS.name)
    assert refused.value.errno == ERROR_REFERENCED
