"""IP sets in the kernel's form: names, encoded members, and prefixes merged so that none overlap.

A SetSpec becomes, per family, a hash set of addresses (`s4-…`) and, while it holds prefixes, an interval set of these
(`n4-…`), which goes alone where there is nothing else; a named port's is `p4-…`. Apart, since the kernel goes through
all of an interval set for each change of it, and addresses of pods change often. Which there are is a function of the
members alone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.calc.intent import SetSpec
from felixpy.calc.policy.ipsets import Member
from felixpy.dataplane.objects import Set, SetType

Version = Literal[4, 6]
PORT_KEY_BYTES = 8
"""Of a concatenated key, protocol and port."""
VERSIONS: tuple[Version, Version] = (4, 6)


def describe_set(spec: SetSpec, version: Version, interval: bool) -> Set:
    """The kernel set of one family."""
    if spec.has_ports:
        return Set(f"p{version}-{spec.id}", SetType.IPV4_PORT if version == 4 else SetType.IPV6_PORT)
    kind = SetType.IPV4 if version == 4 else SetType.IPV6
    return Set(f"{'n' if interval else 's'}{version}-{spec.id}", kind, interval=interval)


def describe_sets(spec: SetSpec, version: Version, addresses: bool, prefixes: bool) -> tuple[Set, ...]:
    """The kernel sets of one family that together hold `addresses` and `prefixes`, where there are any.

    What has ports is one set in any case.
    """
    if spec.has_ports:
        return (describe_set(spec, version, interval=False),)
    sets = (describe_set(spec, version, interval=False),) if addresses or not prefixes else ()
    return (*sets, describe_set(spec, version, interval=True)) if prefixes else sets


def member_version(member: Member) -> Version:
    """The family of a member."""
    return 4 if len(member if isinstance(member, bytes) else member[0]) == 4 else 6


def encode_member(member: Member) -> bytes:
    """The key bytes in a hash set; a prefix has none there."""
    if isinstance(member, bytes):
        return member
    if isinstance(member, Prefix):
        raise TypeError(f"{member} is no address")
    address, protocol, port = member
    return encode_port_key(address, protocol, port)


def encode_port_key(address: bytes, protocol: int, port: int) -> bytes:
    """address . protocol . port as nft concatenates them: each padded to a multiple of four bytes."""
    return address + protocol.to_bytes(1, "big") + b"\0\0\0" + port.to_bytes(2, "big") + b"\0\0"


def encode_prefix(prefix: Prefix) -> bytes:
    """The key bytes in an interval set: the address, then the length."""
    return prefix.address + prefix.length.to_bytes(1, "big")


def merge_prefixes(members: Iterable[Address | Prefix]) -> frozenset[Prefix]:
    """The same addresses as prefixes of which none lies in another."""
    prefixes = sorted(
        {member if isinstance(member, Prefix) else host_prefix(member) for member in members},
        key=lambda prefix: (len(prefix.address), prefix.address, prefix.length),
    )
    kept: list[Prefix] = []
    for prefix in prefixes:
        if not (kept and kept[-1].contains(prefix.address)):
            kept.append(prefix)
    return frozenset(kept)
