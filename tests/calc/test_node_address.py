"""Which address of a host is the node's."""

from __future__ import annotations

import pytest

from felixpy.addresses import parse_address
from felixpy.calc.node_address import Chosen, HostAddress, choose_address, parse_rule, still_fits

HOST = tuple(
    HostAddress(device, parse_address(address), length)
    for device, address, length in (
        ("lo", "127.0.0.1", 8),
        ("docker0", "172.17.0.1", 16),
        ("eth0", "10.9.0.5", 24),
        ("eth0", "fe80::5", 64),
        ("eth0", "2001:db8:9::5", 64),
        ("eth1", "192.168.7.5", 24),
        ("lo", "10.77.0.5", 32),
    )
)


@pytest.mark.parametrize(
    ("rule", "outgoing", "address"),
    [
        ("default", "10.9.0.5", "10.9.0.5/24"),
        ("default", "172.17.0.1", None),
        ("default", None, None),
        ("10.77.0.5", "10.9.0.5", "10.77.0.5/32"),
        ("10.77.0.6", "10.9.0.5", None),
        ("interface=eth1", "10.9.0.5", "192.168.7.5/24"),
        ("interface=eth[2-9]", "10.9.0.5", None),
        ("cidr=192.168.0.0/16", "10.9.0.5", "192.168.7.5/24"),
        ("cidr=172.16.0.0/12", "10.9.0.5", None),
        ("can-reach=192.168.7.1", "192.168.7.5", "192.168.7.5/24"),
    ],
)
def test_each_method(rule: str, outgoing: str | None, address: str | None) -> None:
    towards = parse_address(outgoing) if outgoing else None
    found = choose_address(4, HOST, [parse_rule(rule)], towards)
    assert (str(found.host) if isinstance(found, Chosen) else None) == address


def test_the_families_are_chosen_apart() -> None:
    rules = [parse_rule("10.9.0.5")]
    found = choose_address(6, HOST, rules, parse_address("2001:db8:9::5"))
    assert isinstance(found, Chosen)
    assert str(found.host) == "2001:db8:9::5/64"
    assert choose_address(6, HOST, rules, parse_address("fe80::5")) != found, "a link-local address is none"


def test_a_refusal_says_what_there_was() -> None:
    assert "eth1 192.168.7.5/24" in str(choose_address(4, HOST, [], parse_address("172.17.0.1")))
    assert choose_address(6, HOST[:2], [], None) == "no device that counts has an IPv6 address"


@pytest.mark.parametrize("text", ["", "eth0", "interface=[", "cidr=10.0.0.0/33", "can-reach=x", "nic=eth0"])
def test_a_wrong_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(text)


@pytest.mark.parametrize(
    ("held", "rules", "fits"),
    [
        ("10.9.0.5/24", [], True),
        ("192.168.7.5/24", ["default"], True),
        ("10.9.0.5/16", ["default"], False),
        ("10.9.0.6/24", ["default"], False),
        ("172.17.0.1/16", ["default"], False),
        ("10.9.0.5/24", ["interface=eth1"], False),
        ("10.9.0.5/24", ["interface=eth1", "default"], True),
        ("10.9.0.5/24", ["cidr=192.168.0.0/16"], False),
        ("192.168.7.5/24", ["cidr=192.168.0.0/16"], True),
        ("10.9.0.5/24", ["10.77.0.5"], False),
        ("10.77.0.5/32", ["10.77.0.5"], True),
        ("10.9.0.5/24", ["2001:db8:9::5"], True),
    ],
)
def test_an_address_stays_while_the_host_has_it_and_a_rule_may_find_it(held: str, rules: list[str], fits: bool) -> None:
    assert still_fits(held, 4, HOST, [parse_rule(rule) for rule in rules]) is fits
