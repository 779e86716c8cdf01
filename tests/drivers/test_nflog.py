"""What rules tell of, read from the kernel: both families, in order, with what was lost counted."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from felixpy.addresses import parse_address
from felixpy.drivers.netlink.nflog import Nflog
from felixpy.flows.sighting import Sighting, Traffic, parse_head
from tests.support.netns import Namespace
from tests.support.wait import eventually

RULES = """
table inet told { chain out { type filter hook output priority 0
  udp dport 9 log prefix "deny|out|gnp/a|1" group 176
  udp dport 10 log prefix "other" group 177
}
}
"""
FLOOD = 20_000


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("t") as made:
        made.run("nft", "-f", "-", stdin=RULES)
        yield made


def send(namespace: Namespace, address: str, port: int, count: int = 1) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.entered(), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.bind((address, 4000))
        for _ in range(count):
            sender.sendto(b"?", (address, port))


def open_group(namespace: Namespace) -> Nflog:
    with namespace.entered():
        return Nflog()


def read(source: Nflog) -> list[Sighting]:
    found: list[Sighting] = []
    while (told := source.read()) is not None:
        found += told
    return found


def test_both_families_are_told_and_no_other_group(namespace: Namespace) -> None:
    with open_group(namespace) as source:
        for address in ("127.0.0.1", "::1"):
            send(namespace, address, 9)
            send(namespace, address, 10)
        found: list[Sighting] = []
        eventually(lambda: found.extend(read(source)) or len(found) == 2)
        four, six = parse_address("127.0.0.1"), parse_address("::1")
        assert [(one.text, one.in_index, one.out_index, parse_head(one.head)) for one in found] == [
            ("deny|out|gnp/a|1", 0, 1, Traffic(four, four, 17, 4000, 9)),
            ("deny|out|gnp/a|1", 0, 1, Traffic(six, six, 17, 4000, 9)),
        ]
        assert source.lost == 0


def test_what_there_is_no_room_for_is_counted_and_reading_goes_on(namespace: Namespace) -> None:
    with open_group(namespace) as source:
        send(namespace, "127.0.0.1", 9, FLOOD)
        told = len(read(source))
        assert 100 < told < FLOOD
        more: list[object] = []
        eventually(lambda: send(namespace, "127.0.0.1", 9) or more.extend(read(source)) or more)
        assert FLOOD - told <= source.lost + len(more)
        assert source.lost < FLOOD


def test_a_group_has_one_holder_at_a_time(namespace: Namespace) -> None:
    first = open_group(namespace)
    with pytest.raises(OSError) as refused:
        open_group(namespace)
    assert refused.value.errno == errno.EBUSY
    first.close()
    open_group(namespace).close()
