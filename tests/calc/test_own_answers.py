"""When a kernel answers for Service addresses that it should not."""

from __future__ import annotations

import pytest

from felixpy.addresses import Address, parse_address
from felixpy.calc.announcing.own_answers import find_own_answers

VIP, VIP6, OWN = map(parse_address, ("10.9.0.100", "fd09::100", "10.9.0.1"))


@pytest.mark.parametrize(
    ("device", "addresses", "arp_ignore", "words"),
    [
        ("kube-ipvs0", {VIP}, 0, "strictARP: true"),
        ("kube-ipvs0", {VIP}, 1, ""),
        ("kube-ipvs0", {VIP6}, 0, ""),
        ("kube-ipvs0", {OWN}, 0, ""),
        ("eth0", {OWN}, 0, ""),
        ("eth0", {OWN, VIP}, 1, "eth0 has 10.9.0.100, so this kernel answers for it, whichever node should"),
        ("lo", {VIP, VIP6}, 1, "lo has 10.9.0.100 and 1 more"),
    ],
)
def test_what_is_said(device: str, addresses: set[Address], arp_ignore: int, words: str) -> None:
    found = list(find_own_answers({VIP, VIP6}, {device: frozenset(addresses), "eth1": frozenset()}, arp_ignore))
    assert [words in one for one in found] == [True] * bool(words)
