"""Rules, chains and sets in nft's own language, for people, goldens and `nft -f`; and the digests of rules.

In → out: Rule, Chain, Set, members → text that `nft -c -f` accepts and that means what the netlink encoder sends
(drivers/netlink/nft/encode.py is its twin; a test compares the two in the kernel). Total: never raises.
Source: nft(8), libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import assert_never

from felixpy.addresses import Prefix, format_address, version_of
from felixpy.dataplane.aging import WHOLES, owner_numbers, parse_part
from felixpy.dataplane.chains.causes import TEXT_BYTES
from felixpy.dataplane.nftables_sets import PROTOCOL_NAMES, render_set, whole_of
from felixpy.dataplane.objects import BaseHook, Chain, Members, Set
from felixpy.dataplane.rules import (
    REPORT_GROUP,
    REPORTS_AT_ONCE,
    REPORTS_PER_S,
    Accept,
    Action,
    Balance,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    DestinationNat,
    Dispatch,
    Drop,
    FamilyIs,
    Goto,
    Hairpin,
    IcmpIs,
    InterfaceIs,
    Jump,
    Log,
    MapDestination,
    MapSource,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NoTrack,
    PortIn,
    ProtocolIs,
    Reject,
    Remember,
    Report,
    Return,
    ReversePathFails,
    Rule,
    ServiceKnown,
    SetHas,
    SetMark,
    Side,
    SourceNat,
    SourceSlotIn,
)
from felixpy.dataplane.sets import merge_prefixes

TABLE = "felixpy"
DIGEST_BYTES = 8
ENCODING = 1
"""Part of every digest: a new number has the rules of an older encoder written anew."""
COMMENT_BYTES = 120
LOG_PREFIX_BYTES = 127
"""NF_LOG_PREFIXLEN less its NUL (linux/netfilter/nf_log.h)."""

_FAMILY = {4: "ip", 6: "ip6"}


def render_rule(rule: Rule) -> str:
    """One rule on one line; the same rule is always the same text."""
    words = [_render_match(match) for match in rule.matches]
    if rule.counter:
        words.append("counter")
    words.append(_render_action(rule.action))
    if comment := printable(rule.comment, COMMENT_BYTES):
        words.append(f'comment "{comment}"')
    return " ".join(words)


def chain_digests(chain: Chain) -> tuple[bytes, ...]:
    """What a driver leaves beside each rule in the kernel, to know it again: 8 bytes a rule."""
    return tuple(map(rule_digest, chain.rules))


def rule_digest(rule: Rule) -> bytes:
    """8 bytes that say what the rule is."""
    return blake2b(f"{ENCODING}\n{render_rule(rule)}".encode(), digest_size=DIGEST_BYTES).digest()


def render_table(
    chains: Iterable[Chain], sets: Iterable[Set], members: Mapping[str, Members], table: str = TABLE
) -> str:
    """The whole table, sorted by name: sets with their members, then chains."""
    whole = {it.name: it for it in map(whole_of, sets)}
    blocks = [render_set(whole[name], members.get(name, {})) for name in sorted(whole)]
    blocks += [_render_chain(it) for it in sorted(chains, key=lambda it: it.name)]
    return f"table inet {table} {{\n" + "\n".join(blocks) + "}\n"


def printable(text: str, limit_bytes: int) -> str:
    """`text` as nft can quote it: no double quotes or control characters, at most `limit_bytes` of UTF-8."""
    if text.isprintable():
        plain = text.replace('"', "'")
    else:
        plain = "".join("'" if char == '"' else char if char.isprintable() else " " for char in text)
    return plain.encode()[:limit_bytes].decode(errors="ignore")


def log_prefix(action: Log) -> str:
    """Its prefix as nft can quote it, where a dollar would begin a variable."""
    return printable(action.prefix.replace("$", "_"), LOG_PREFIX_BYTES)


def report_text(action: Report) -> str:
    """Its text as nft and iptables can quote it."""
    return printable(action.text.replace("$", "_"), TEXT_BYTES)


def distinct_nets(match: NetIn) -> tuple[Prefix, ...]:
    """Its prefixes in order, none inside another."""
    return tuple(sorted(merge_prefixes(match.nets)))


def distinct_ranges(match: PortIn) -> tuple[tuple[int, int], ...]:
    """Its port ranges in order, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(match.ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _render_match(match: Match) -> str:
    match match:
        case InterfaceIs():
            return f'{"iifname" if match.direction == "in" else "oifname"} {_not(match.negate)}"{match.name}"'
        case FamilyIs():
            return f"meta nfproto ipv{match.version}"
        case ProtocolIs():
            return f"meta l4proto {_not(match.negate)}{PROTOCOL_NAMES.get(match.number, match.number)}"
        case NetIn():
            return _render_nets(match)
        case SetHas(ports=True):
            return f"{_endpoint(match.version, match.side)} {_not(match.negate)}@{match.set_name}"
        case SetHas():
            return _in_set(match.version, match.side, match.set_name, _not(match.negate))
        case PortIn():
            texts = [f"{low}-{high}" if high > low else f"{low}" for low, high in distinct_ranges(match)]
            return f"th {_port(match.side)} {_not(match.negate)}{_one_or_set(texts)}"
        case IcmpIs():
            return _render_icmp(match)
        case CtStateIn():
            states = ",".join(state for state in CtState if state in match.states)
            return f"ct state {'! ' if match.negate else ''}{states}"
        case CtDestinationTranslated():
            return f"ct status {'! ' if match.negate else ''}dnat"
        case MarkIs():
            return f"meta mark & {match.mask:#x} {'!=' if match.negate else '=='} {match.value:#x}"
        case ReversePathFails():
            return "fib saddr . iif oif missing"
        case DestinationIsLocal():
            return f"fib daddr type {_not(match.negate)}local"
        case ServiceKnown():
            return f"{_endpoint(match.version, 'destination')} {_not(match.negate)}@{match.set_name}"
        case SourceSlotIn():
            slot = f"jhash {_address(match.version, 'source')} mod {match.count} seed 0x0"
            return f"{_owner(match.owner)} . {slot} @{match.set_name}"
        case Hairpin():
            family = _FAMILY[match.version]
            return f"{family} saddr . {family} daddr @{match.set_name}"
        case _:
            assert_never(match)


def _render_action(action: Action) -> str:
    match action:
        case Accept():
            return "accept"
        case Drop():
            return "drop"
        case Reject():
            return "reject with tcp reset" if action.tcp_reset else "reject with icmpx port-unreachable"
        case Return():
            return "return"
        case Jump():
            return f"jump {action.chain}"
        case Goto():
            return f"goto {action.chain}"
        case Dispatch():
            return f"{_DISPATCH_KEYS[action.key]} vmap @{action.map_name}"
        case SetMark():
            return _render_set_mark(action)
        case Log():
            prefix = log_prefix(action)
            return f'log prefix "{prefix}" level notice' if prefix else "log level notice"
        case Report():
            limit = f"limit rate {REPORTS_PER_S}/second burst {REPORTS_AT_ONCE} packets"
            return f'{limit} log prefix "{report_text(action)}" group {REPORT_GROUP}'
        case NoTrack():
            return "notrack"
        case Masquerade():
            to = f" to :{_span(action.ports)}" if action.ports is not None else ""
            return f"masquerade{to} fully-random" if action.random else f"masquerade{to}"
        case SourceNat():
            version = version_of(action.address)
            to = format_address(action.address)
            if action.ports is not None:
                to = f"{f'[{to}]' if version == 6 else to}:{_span(action.ports)}"
            return f"snat {_FAMILY[version]} to {to}"
        case DestinationNat():
            address = format_address(action.address)
            where = address if version_of(action.address) == 4 else f"[{address}]"
            return f"dnat {_FAMILY[version_of(action.address)]} to {where}:{action.port}"
        case Remember():
            key, at = _member_of(action.version, "source", action.set_name)
            return f"update @{at} {{ {key} timeout {action.timeout_s}s }}"
        case MapDestination():
            family = _FAMILY[action.version]
            return f"dnat {family} to {family} daddr map @{action.map_name}"
        case MapSource():
            family = _FAMILY[action.version]
            return f"snat {family} to {family} saddr . {family} daddr map @{action.map_name}"
        case Balance():
            slot = f"numgen random mod {action.count}"
            key = f"{_NODE_PORT if action.any_address else _endpoint(action.version, 'destination')} . {slot}"
            return f"meta l4proto {{ tcp, udp, sctp }} dnat {_FAMILY[action.version]} to {key} map @{action.map_name}"
        case _:
            assert_never(action)


def _in_set(version: int, side: Side, name: str, negation: str) -> str:
    key, at = _member_of(version, side, name)
    return f"{key} {negation}@{at}"


def _member_of(version: int, side: Side, name: str) -> tuple[str, str]:
    """The key of a packet's address in a set of addresses, and the set that has it."""
    part = parse_part(name)
    if part is None:
        return _address(version, side), name
    return f"{_address(version, side)} . {_owner(part.owner)}", WHOLES[part.version].name


def _owner(owner: bytes) -> str:
    return " . ".join(f"numgen random mod 1 offset {number}" for number in owner_numbers(owner))


def _render_nets(match: NetIn) -> str:
    nets = distinct_nets(match)
    version = nets[0].version
    if nets[0].length == 0 and not match.negate:
        return f"meta nfproto ipv{version}"
    texts = [format_address(net.address) if net.is_host else str(net) for net in nets]
    return f"{_address(version, match.side)} {_not(match.negate)}{_one_or_set(texts)}"


def _render_icmp(match: IcmpIs) -> str:
    name = "icmp" if match.version == 4 else "icmpv6"
    if match.code is None:
        return f"{name} type {_not(match.negate)}{match.type}"
    if not match.negate:
        return f"{name} type {match.type} {name} code {match.code}"
    protocol = PROTOCOL_NAMES[1 if match.version == 4 else 58]
    both = match.type << 8 | match.code
    return f"meta nfproto ipv{match.version} meta l4proto {protocol} @th,0,16 != {both:#06x}"


def _span(ports: tuple[int, int]) -> str:
    return f"{ports[0]}-{ports[1]}"


def _render_set_mark(action: SetMark) -> str:
    kept = ~(action.mask | action.value) & 0xFFFFFFFF
    if kept == 0:
        return f"meta mark set {action.value:#x}"
    if kept | action.value == 0xFFFFFFFF:
        return f"meta mark set meta mark | {action.value:#x}"
    masked = f"meta mark set meta mark & {kept:#x}"
    return f"{masked} | {action.value:#x}" if action.value else masked


def _render_chain(chain: Chain) -> str:
    lines = [f"\tchain {chain.name} {{"]
    if chain.hook is not None:
        lines.append(f"\t\t{_render_hook(chain.hook)}")
    lines += (f"\t\t{render_rule(rule)}" for rule in chain.rules)
    return "\n".join([*lines, "\t}", ""])


def _render_hook(hook: BaseHook) -> str:
    return f"type {hook.type} hook {hook.hook} priority {hook.priority}; policy {hook.policy};"


def _not(negate: bool) -> str:
    return "!= " if negate else ""


def _one_or_set(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"


def _address(version: int, side: Side) -> str:
    return f"{_FAMILY[version]} {'saddr' if side == 'source' else 'daddr'}"


def _port(side: Side) -> str:
    return "sport" if side == "source" else "dport"


def _endpoint(version: int, side: Side) -> str:
    return f"{_address(version, side)} . meta l4proto . th {_port(side)}"


_NODE_PORT = "meta l4proto . th dport"
_DISPATCH_KEYS = {
    "in_interface": "iifname",
    "out_interface": "oifname",
    "service4": _endpoint(4, "destination"),
    "service6": _endpoint(6, "destination"),
    "node_port4": f"meta nfproto ipv4 {_NODE_PORT}",
    "node_port6": f"meta nfproto ipv6 {_NODE_PORT}",
}
