"""Rules as the expressions of the kernel's nftables machine.

In → out: Rule → expression list, user data, and the anonymous sets that its lookups need. The twin in text is
dataplane/nftables.py; both compile as nft itself does, so that `nft list` shows the one as the other.
Source: `nft --debug=netlink`, which shows nft's own code; linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import assert_never

from felixpy.addresses import Prefix
from felixpy.dataplane.aging import OWNER_BYTES
from felixpy.dataplane.nftables import (
    COMMENT_BYTES,
    distinct_nets,
    distinct_ranges,
    printable,
    rule_digest,
)
from felixpy.dataplane.rules import (
    Action,
    Balance,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    Dispatch,
    FamilyIs,
    Hairpin,
    IcmpIs,
    InterfaceIs,
    MapDestination,
    MapSource,
    MarkIs,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    Reject,
    Remember,
    ReversePathFails,
    Rule,
    ServiceKnown,
    SetHas,
    SourceSlotIn,
)
from felixpy.drivers.netlink.nft.actions import encode_action, hash_source, load_member
from felixpy.drivers.netlink.nft.expressions import (
    ADDRESS_AT,
    ADDRESS_BYTES,
    AT_LEAST,
    AT_MOST,
    COUNTER,
    EQUAL,
    FIRST,
    META_IIFNAME,
    META_L4PROTO,
    META_MARK,
    META_NFPROTO,
    META_OIFNAME,
    NETWORK,
    NFPROTO,
    PORT_AT,
    TRANSPORT,
    UNEQUAL,
    any_bit,
    bitwise,
    compare,
    ct,
    fib,
    load_address,
    load_endpoint,
    load_owner,
    lookup,
    meta,
    meta_is,
    outside,
    payload,
    register,
)
from felixpy.drivers.netlink.nft.sets import ANONYMOUS_NAME, INTERFACE_NAME_BYTES, AnonymousSet, KeyType, last_address

COMMENT_TYPE = 0
"""nft's own kind of rule user data (libnftnl, NFTNL_UDATA_RULE_COMMENT)."""
DIGEST_TYPE = 0xFD
"""Ours; nft skips kinds that it does not know."""

_CT_STATE, _CT_STATUS = 0, 2
_CT_STATUS_DNAT = 32
_CT_BITS = {
    CtState.INVALID: 1,
    CtState.ESTABLISHED: 2,
    CtState.RELATED: 4,
    CtState.NEW: 8,
    CtState.UNTRACKED: 64,
}
_FIB_OIF, _FIB_ADDRTYPE = 1, 3
_FIB_F_SADDR, _FIB_F_DADDR, _FIB_F_IIF, _FIB_F_PRESENT = 1, 2, 8, 32
_RTN_LOCAL = 2
_TCP, _UDP, _SCTP = 6, 17, 132

_U32 = Struct("=I")
_BE16 = Struct(">H")


@dataclass(frozen=True, slots=True)
class EncodedRule:
    """Attribute payloads of one NFT_MSG_NEWRULE, and the sets that must be there before it."""

    expressions: bytes
    user_data: bytes
    sets: tuple[AnonymousSet, ...]


def encode_rule(rule: Rule, next_set_id: Callable[[], int]) -> EncodedRule:
    """The rule's bytecode; what a match implies of family and protocol is tested once, before it."""
    if not any(map(_needs_anonymous_set, rule.matches)) and not isinstance(rule.action, Balance):
        return _encode_fixed(rule)
    return _compile(rule, next_set_id)


@lru_cache(maxsize=16384)
def has_ranges(rule: Rule) -> bool:
    """Whether the rule looks into an anonymous set of intervals."""
    return any(it.interval for it in encode_rule(rule, lambda: 0).sets)


@lru_cache(maxsize=16384)
def _encode_fixed(rule: Rule) -> EncodedRule:
    return _compile(rule, lambda: 0)


def _needs_anonymous_set(match: Match) -> bool:
    match match:
        case NetIn():
            return len(match.nets) > 1
        case PortIn():
            return len(match.ranges) > 1
        case _:
            return False


def _compile(rule: Rule, next_set_id: Callable[[], int]) -> EncodedRule:
    code = _Code(next_set_id)
    for match in rule.matches:
        code.add_match(match)
    code.add_action(rule.action, rule.counter)
    return EncodedRule(b"".join(code.parts), _user_data(rule), tuple(code.sets))


class _Code:
    """The expressions of one rule so far, and what is known of the packet where they end."""

    def __init__(self, next_set_id: Callable[[], int]) -> None:
        self.parts: list[bytes] = []
        self.sets: list[AnonymousSet] = []
        self._next_set_id = next_set_id
        self._version: int | None = None
        self._protocol: int | None = None

    def add_match(self, match: Match) -> None:
        match match:
            case FamilyIs():
                self._test_family(match.version)
            case ProtocolIs(negate=False):
                self._test_protocol(match.number)
            case NetIn():
                self._add_nets(match)
            case PortIn():
                self._add_ports(match)
            case IcmpIs():
                protocol = 1 if match.version == 4 else 58
                if match.negate and match.code is not None:
                    self._test_family(match.version)
                    self._test_protocol(protocol)
                elif self._protocol != protocol:
                    self._require_family(match.version)
                    self._test_protocol(protocol)
                self.parts.append(_icmp(match))
            case SetHas() | ServiceKnown() | Hairpin() | SourceSlotIn():
                self._require_family(match.version)
                self.parts.append(_named_lookup(match))
            case _:
                self.parts.append(_plain_match(match))

    def add_action(self, action: Action, counter: bool) -> None:
        if counter:
            self.parts.append(COUNTER)
        match action:
            case Reject(tcp_reset=True):
                self._require_protocol(_TCP)
            case Dispatch(key="service4" | "service6"):
                self._require_family(4 if action.key == "service4" else 6)
            case Dispatch(key="node_port4" | "node_port6"):
                self._test_family(4 if action.key == "node_port4" else 6)
            case MapDestination() | MapSource() | Remember():
                self._require_family(action.version)
            case Balance():
                protocols = tuple((bytes([it]), bytes([it])) for it in (_TCP, _UDP, _SCTP))
                self.parts.append(meta(META_L4PROTO))
                self._add_lookup(AnonymousSet(self._next_set_id(), KeyType.PROTOCOL, 1, protocols), False)
                if not action.any_address:
                    self._require_family(action.version)
            case _:
                pass
        self.parts.append(encode_action(action))

    def _require_family(self, version: int) -> None:
        if self._version != version:
            self._test_family(version)

    def _require_protocol(self, number: int) -> None:
        if self._protocol != number:
            self._test_protocol(number)

    def _test_family(self, version: int) -> None:
        self.parts.append(meta_is(META_NFPROTO, bytes([NFPROTO[version]])))
        self._version = version

    def _test_protocol(self, number: int) -> None:
        self.parts.append(meta_is(META_L4PROTO, bytes([number])))
        self._protocol = number

    def _add_nets(self, match: NetIn) -> None:
        nets = distinct_nets(match)
        if nets[0].length == 0 and not match.negate:
            self._test_family(nets[0].version)
            return
        self._require_family(nets[0].version)
        size = len(nets[0].address)
        offset = ADDRESS_AT[nets[0].version, match.side]
        if len(nets) == 1:
            self.parts.append(_prefix(offset, nets[0].address, nets[0].length, match.negate))
            return
        kind = KeyType.IPV4 if size == 4 else KeyType.IPV6
        self.parts.append(payload(NETWORK, offset, size))
        self._add_lookup(AnonymousSet(self._next_set_id(), kind, size, _ranges(nets)), match.negate)

    def _add_ports(self, match: PortIn) -> None:
        ranges = [(_BE16.pack(low), _BE16.pack(high)) for low, high in distinct_ranges(match)]
        self.parts.append(payload(TRANSPORT, PORT_AT[match.side], 2))
        if len(ranges) > 1:
            self._add_lookup(AnonymousSet(self._next_set_id(), KeyType.PORT, 2, tuple(ranges)), match.negate)
            return
        low, high = ranges[0]
        if low == high:
            self.parts.append(compare(UNEQUAL if match.negate else EQUAL, low))
        elif match.negate:
            self.parts.append(outside(low, high))
        else:
            self.parts += (compare(AT_LEAST, low), compare(AT_MOST, high))

    def _add_lookup(self, anonymous: AnonymousSet, negate: bool) -> None:
        self.sets.append(anonymous)
        self.parts.append(lookup(ANONYMOUS_NAME, set_id=anonymous.id, negate=negate))


def _ranges(nets: Sequence[Prefix]) -> tuple[tuple[bytes, bytes], ...]:
    """The addresses of ordered prefixes, neighbours joined, as nft joins them."""
    ranges: list[tuple[bytes, bytes]] = []
    for net in nets:
        if ranges and int.from_bytes(ranges[-1][1], "big") + 1 == int.from_bytes(net.address, "big"):
            ranges[-1] = (ranges[-1][0], last_address(net))
        else:
            ranges.append((net.address, last_address(net)))
    return tuple(ranges)


def _user_data(rule: Rule) -> bytes:
    digest = bytes([DIGEST_TYPE, len(d := rule_digest(rule))]) + d
    comment = printable(rule.comment, COMMENT_BYTES).encode()
    return bytes([COMMENT_TYPE, len(comment) + 1]) + comment + b"\0" + digest if comment else digest


@lru_cache(maxsize=8192)
def _plain_match(match: Match) -> bytes:
    match match:
        case InterfaceIs():
            key = META_IIFNAME if match.direction == "in" else META_OIFNAME
            name = match.name.encode()
            value = name[:-1] if name.endswith(b"*") else name.ljust(INTERFACE_NAME_BYTES, b"\0")
            return meta(key) + compare(UNEQUAL if match.negate else EQUAL, value)
        case ProtocolIs():
            return meta(META_L4PROTO) + compare(UNEQUAL if match.negate else EQUAL, bytes([match.number]))
        case CtStateIn():
            bits = sum(_CT_BITS[state] for state in match.states)
            return ct(_CT_STATE) + any_bit(bits, match.negate)
        case CtDestinationTranslated():
            return ct(_CT_STATUS) + any_bit(_CT_STATUS_DNAT, match.negate)
        case MarkIs():
            masked = bitwise(_U32.pack(match.mask), bytes(4))
            return meta(META_MARK) + masked + compare(UNEQUAL if match.negate else EQUAL, _U32.pack(match.value))
        case ReversePathFails():
            return fib(_FIB_OIF, _FIB_F_SADDR | _FIB_F_IIF | _FIB_F_PRESENT) + compare(EQUAL, bytes(4))
        case DestinationIsLocal():
            local = _U32.pack(_RTN_LOCAL)
            return fib(_FIB_ADDRTYPE, _FIB_F_DADDR) + compare(UNEQUAL if match.negate else EQUAL, local)
        case _:
            raise TypeError(f"{match} needs more than its own expressions")


@lru_cache(maxsize=8192)
def _named_lookup(match: SetHas | ServiceKnown | Hairpin | SourceSlotIn) -> bytes:
    name = match.set_name
    match match:
        case SetHas(ports=False):
            load, name = load_member(match.version, match.side, name)
        case SourceSlotIn():
            load = load_owner(match.owner, 0) + hash_source(match.version, match.count, OWNER_BYTES // 4)
        case SetHas():
            load = load_endpoint(match.version, match.side)
        case ServiceKnown():
            load = load_endpoint(match.version, "destination")
        case Hairpin():
            second = register(ADDRESS_BYTES[match.version] // 4)
            load = load_address(match.version, "source", FIRST) + load_address(match.version, "destination", second)
        case _:
            assert_never(match)
    return load + lookup(name, negate=isinstance(match, SetHas | ServiceKnown) and match.negate)


def _icmp(match: IcmpIs) -> bytes:
    value = bytes([match.type]) if match.code is None else bytes([match.type, match.code])
    return payload(TRANSPORT, 0, len(value)) + compare(UNEQUAL if match.negate else EQUAL, value)


@lru_cache(maxsize=8192)
def _prefix(offset: int, address: bytes, length: int, negate: bool) -> bytes:
    operator = UNEQUAL if negate else EQUAL
    if length and length % 8 == 0:
        return payload(NETWORK, offset, length // 8) + compare(operator, address[: length // 8])
    size = len(address)
    mask = ((1 << length) - 1 << (size * 8 - length)).to_bytes(size, "big")
    return payload(NETWORK, offset, size) + bitwise(mask, bytes(size)) + compare(operator, address)
