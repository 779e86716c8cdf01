"""Which of a host's addresses is the node's: as told, else the one it uses towards the outside. Pure.

In: the addresses of the host's devices, and which source address the kernel takes towards some destination; out: a
choice with its reason, or why there is none. Bridges, tunnels, pods' devices and Service devices never count.
Source: node/pkg/lifecycle/startup/autodetection of Calico (methods and excluded devices).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from felixpy.addresses import Address, Prefix, parse_address, parse_prefix

EXCLUDED_DEVICES = re.compile(
    r"docker.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|lo|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|nodelocaldns.*"
    r"|vxlan.*|wireguard.*|wg-v6.*|br-.*|podman.*"
)


class Method(StrEnum):
    """How the address is found; the words before `=` in the setting."""

    DEFAULT = "default"
    ADDRESS = "address"
    INTERFACE = "interface"
    CIDR = "cidr"
    CAN_REACH = "can-reach"


@dataclass(frozen=True, slots=True)
class AddressRule:
    """One method with its argument: an address, a pattern of device names, a prefix, or a destination."""

    method: Method = Method.DEFAULT
    argument: str = ""


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of a device, with its subnet's length."""

    device: str
    address: Address
    length: int

    def __str__(self) -> str:
        return str(Prefix(self.address, self.length))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The node's address of one family, and why it is that one."""

    host: HostAddress
    why: str


def parse_rule(text: str) -> AddressRule:
    """`default`, an address, `interface=PATTERN`, `cidr=CIDR` or `can-reach=ADDRESS`.

    Raises  ValueError, with what is wrong.
    """
    word, equals, argument = text.strip().partition("=")
    if not equals:
        if word == Method.DEFAULT:
            return AddressRule()
        parse_address(word)
        return AddressRule(Method.ADDRESS, word)
    try:
        method = Method(word)
    except ValueError:
        raise ValueError(f"{word!r} is no way to find an address: {', '.join(Method)}") from None
    match method:
        case Method.CIDR:
            parse_prefix(argument)
        case Method.CAN_REACH | Method.ADDRESS:
            parse_address(argument)
        case Method.INTERFACE:
            try:
                re.compile(argument)
            except re.error as error:
                raise ValueError(f"{argument!r} is no pattern: {error}") from None
        case Method.DEFAULT:
            raise ValueError("default takes no argument")
    return AddressRule(method, argument)


def choose_address(
    version: int, addresses: Iterable[HostAddress], rules: Iterable[AddressRule], outgoing: Address | None
) -> Chosen | str:
    """The node's address of one family, or why there is none.

    `outgoing` is the source address that the kernel takes towards the outside (or the `can-reach` destination).
    """
    usable = [
        one
        for one in addresses
        if len(one.address) == (4 if version == 4 else 16) and not is_link_local(one.address) and one.address[0] != 127
    ]
    candidates = [one for one in usable if not EXCLUDED_DEVICES.fullmatch(one.device)]
    asked = [rule for rule in rules if rule.method is not Method.ADDRESS or _version(rule.argument) == version]
    for rule in asked or [AddressRule()]:
        match rule.method:
            case Method.ADDRESS:
                found = [one for one in usable if one.address == parse_address(rule.argument)]
                why = "it is given"
            case Method.INTERFACE:
                found = [one for one in usable if re.fullmatch(rule.argument, one.device)]
                why = f"its device matches {rule.argument}"
            case Method.CIDR:
                net = parse_prefix(rule.argument)
                found = [one for one in candidates if net.contains(one.address)]
                why = f"it lies in {rule.argument}"
            case Method.CAN_REACH:
                found = [one for one in candidates if one.address == outgoing]
                why = f"it is used to reach {rule.argument}"
            case Method.DEFAULT:
                found = [one for one in candidates if one.address == outgoing]
                why = "it is used towards the default route"
        if found:
            return Chosen(found[0], why)
    if not candidates:
        return f"no device that counts has an IPv{version} address"
    return f"no IPv{version} address of this host fits: {', '.join(f'{one.device} {one}' for one in candidates)}"


def still_fits(held: str, version: int, addresses: Iterable[HostAddress], rules: Iterable[AddressRule]) -> bool:
    """Whether the host still has an address that was chosen once, where one of the rules may find it.

    One found by a route stays when another route comes: only what is gone, or no longer asked for, is looked for anew.
    """
    here = [one for one in addresses if str(one) == held]
    counted = [one for one in here if not EXCLUDED_DEVICES.fullmatch(one.device)]
    asked = [rule for rule in rules if rule.method is not Method.ADDRESS or _version(rule.argument) == version]
    for rule in asked or [AddressRule()]:
        match rule.method:
            case Method.ADDRESS:
                fits = any(one.address == parse_address(rule.argument) for one in here)
            case Method.INTERFACE:
                fits = any(re.fullmatch(rule.argument, one.device) for one in here)
            case Method.CIDR:
                fits = any(parse_prefix(rule.argument).contains(one.address) for one in counted)
            case Method.CAN_REACH | Method.DEFAULT:
                fits = bool(counted)
        if fits:
            return True
    return False


def is_link_local(address: bytes) -> bool:
    """169.254.0.0/16 or fe80::/10."""
    return address[:2] == b"\xa9\xfe" if len(address) == 4 else address[0] == 0xFE and address[1] & 0xC0 == 0x80


def _version(address: str) -> int:
    return 6 if ":" in address else 4
