"""Packet rules as values: what goes to the kernel, what `verdict` walks and what people read.

A Rule is a conjunction of matches and one action; a Chain (objects.py) is a list of rules. Both back ends (nftables,
iptables) and the text renderers work from these values alone, so the kernel and `explain` cannot disagree.
Source: nftables' own vocabulary (nft(8)); mark bits as in Calico (felix/rules, 0xffff0000 carved up).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from felixpy.addresses import Address, Prefix

MARK_ACCEPT = 0x10000
"""Mark bit: a policy or profile allowed the packet."""
MARK_PASS = 0x20000
"""Mark bit: a policy passed the packet to the next tier."""
MARK_FROM_WORKLOAD = 0x40000
"""Mark bit: the packet came in from a local workload."""
MARK_MASQUERADE = 0x80000
"""Mark bit: the packet's source is to be rewritten on its way out."""
MARK_SENT_TRANSLATED = 0x100000
"""Mark bit: the host itself sends the packet, to a translated destination; its device is known after routing anew."""
MARK_DROP = 0x200000
"""Mark bit (iptables only): a nat chain, which cannot drop, wants the packet dropped."""
MARK_SCRATCH = 0x400000
"""Mark bit (iptables only): all that a rule asks for was found so far."""
MARK_SCRATCH_PART = 0x800000
"""Mark bit (iptables only): one of several alternatives was found."""
MARK_REFUSED = 0x1000000
"""Mark bit, with MARK_ACCEPT, so that nothing else is asked: a policy denied the packet, which is to be refused."""

REPORT_GROUP = 176
"""The NFLOG group of reports: the number that also marks our routes."""
REPORTS_PER_S, REPORTS_AT_ONCE = 50, 100
"""Of one rule, so of one cause: a flood costs the node what the limit's own look at the clock costs."""

Side = Literal["source", "destination"]


class CtState(StrEnum):
    """Conntrack states (nft `ct state`)."""

    INVALID = "invalid"
    ESTABLISHED = "established"
    RELATED = "related"
    NEW = "new"
    UNTRACKED = "untracked"


@dataclass(frozen=True, slots=True)
class InterfaceIs:
    """The packet's interface; a name that ends in `*` is a prefix."""

    direction: Literal["in", "out"]
    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class FamilyIs:
    """IPv4 or IPv6 (nft `meta nfproto`)."""

    version: Literal[4, 6]


@dataclass(frozen=True, slots=True)
class ProtocolIs:
    """Layer 4 protocol by number (nft `meta l4proto`)."""

    number: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class NetIn:
    """Address in any of `nets`; all of one family, which is then also required. Not empty."""

    side: Side
    nets: tuple[Prefix, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class SetHas:
    """Address of family `version` in the named set; with `ports`, the set holds address . protocol . port.

    Negated, a packet of the other family does not match: rules are made per family.
    """

    side: Side
    set_name: str
    version: Literal[4, 6]
    negate: bool = False
    ports: bool = False


@dataclass(frozen=True, slots=True)
class PortIn:
    """Transport port in any of the inclusive `ranges`. Goes with a ProtocolIs in the same rule. Not empty."""

    side: Side
    ranges: tuple[tuple[int, int], ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class IcmpIs:
    """ICMP (version 4) or ICMPv6 (version 6) type, and code when not None; implies the protocol."""

    version: Literal[4, 6]
    type: int
    code: int | None = None
    negate: bool = False


@dataclass(frozen=True, slots=True)
class CtStateIn:
    """Conntrack state is one of `states`."""

    states: frozenset[CtState]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class CtDestinationTranslated:
    """The connection's destination was rewritten (nft `ct status dnat`)."""

    negate: bool = False


@dataclass(frozen=True, slots=True)
class MarkIs:
    """`meta mark & mask == value`."""

    value: int
    mask: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class ReversePathFails:
    """The route back to the source does not leave by the interface the packet came in on (nft `fib saddr . iif`)."""


@dataclass(frozen=True, slots=True)
class DestinationIsLocal:
    """The destination is one of this host's own addresses (nft `fib daddr type local`)."""

    negate: bool = False


@dataclass(frozen=True, slots=True)
class ServiceKnown:
    """destination address . protocol . destination port is in the named set or map of that key type."""

    set_name: str
    version: Literal[4, 6]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class SourceSlotIn:
    """The hash of the source address, modulo `count`, is one of `slots` (ordered, not empty): the same on every node.

    The named set holds `owner` (8 bytes) with each of them. nft `jhash` with seed 0; iptables has a hash of its own,
    and no use for the set.
    """

    version: Literal[4, 6]
    count: int
    slots: tuple[int, ...]
    set_name: str
    owner: bytes


@dataclass(frozen=True, slots=True)
class Hairpin:
    """source address . destination address is in the named set (an endpoint that reaches itself through a Service)."""

    set_name: str
    version: Literal[4, 6]


Match = (
    InterfaceIs
    | FamilyIs
    | ProtocolIs
    | NetIn
    | SetHas
    | PortIn
    | IcmpIs
    | CtStateIn
    | CtDestinationTranslated
    | MarkIs
    | ReversePathFails
    | DestinationIsLocal
    | ServiceKnown
    | SourceSlotIn
    | Hairpin
)


@dataclass(frozen=True, slots=True)
class Accept:
    """Ends this base chain; the packet goes on to the next hook."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The packet is gone."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Dropped with an answer: TCP reset where `tcp_reset` (the rule must match TCP), else port unreachable."""

    tcp_reset: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the calling chain."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Through `chain`, and on here when it returns."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """To `chain`, which returns to our caller."""

    chain: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Look a key up in a verdict map and do what it says; no entry means on to the next rule."""

    key: Literal["in_interface", "out_interface", "service4", "service6", "node_port4", "node_port6"]
    map_name: str


@dataclass(frozen=True, slots=True)
class SetMark:
    """mark = mark & ~mask | value; the packet goes on."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Log:
    """A line in the kernel's log, level notice, that begins with `prefix` (at most 127 bytes); the packet goes on."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Report:
    """The packet's head goes to NFLOG group REPORT_GROUP under `text`, at most REPORTS_PER_S a second; it goes on."""

    text: str


@dataclass(frozen=True, slots=True)
class NoTrack:
    """Leave conntrack out of it (raw hook only)."""


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Source becomes the outgoing interface's address (postrouting nat chain), and a port between `ports`, inclusive.

    With `ports` it goes with a ProtocolIs in the same rule.
    """

    random: bool = True
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SourceNat:
    """Source becomes `address` (postrouting nat chain); `ports` as of Masquerade."""

    address: Address
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DestinationNat:
    """Destination becomes `address` and `port` (prerouting and output nat chains).

    Goes with a ProtocolIs in the same rule.
    """

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Remember:
    """The source address is in the named set (one that ages) for `timeout_s` from now on; the packet goes on."""

    set_name: str
    version: Literal[4, 6]
    timeout_s: int


@dataclass(frozen=True, slots=True)
class MapDestination:
    """Destination becomes the entry of `map_name` at the destination (prerouting and output nat chains).

    Nothing happens where the map has no such entry.
    """

    map_name: str
    version: Literal[4, 6]


@dataclass(frozen=True, slots=True)
class MapSource:
    """Source becomes the entry of `map_name` at source . destination (postrouting nat chain).

    Nothing happens where the map has no such entry.
    """

    map_name: str
    version: Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Balance:
    """Destination becomes the entry of `map_name` at daddr . protocol . dport . (slot modulo `count`).

    With `any_address` the key has no daddr. The slot is random. Nothing happens where the map has no such entry. For
    TCP, UDP and SCTP; for prerouting and output nat chains.
    """

    map_name: str
    version: Literal[4, 6]
    count: int
    any_address: bool = False


Done = (
    Accept
    | Drop
    | Reject
    | Return
    | Jump
    | Goto
    | SetMark
    | Log
    | Report
    | NoTrack
    | Masquerade
    | SourceNat
    | DestinationNat
    | Remember
    | MapDestination
    | MapSource
    | Balance
)
"""What can be done to a packet: every action but the lookup of one."""
Action = Done | Dispatch


@dataclass(frozen=True, slots=True)
class Rule:
    """A packet that satisfies every match gets the action. `comment` (at most 120 bytes) is for people.

    `counter` asks the kernel to count packets and bytes that reach the action.
    """

    action: Action
    matches: tuple[Match, ...] = ()
    comment: str = ""
    counter: bool = False
