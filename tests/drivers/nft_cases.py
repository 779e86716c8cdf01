"""Every match, action and set that rules know, as nft and iptables are to have them."""

from __future__ import annotations

from collections.abc import Mapping
from sys import byteorder

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.aging import Part, encode_owner
from felixpy.dataplane.objects import BaseHook, Chain, DataType, Members, Set, SetType
from felixpy.dataplane.rules import (
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
    SourceNat,
    SourceSlotIn,
)

OWNER = bytes.fromhex("0102030405fffefd")


PREROUTING = BaseHook("filter", "prerouting", -300)


FORWARD = BaseHook("filter", "forward", 0, "drop")


NAT = BaseHook("nat", "prerouting", -100)


POSTROUTING = BaseHook("nat", "postrouting", 100)


def nets(*texts: str) -> tuple:
    return tuple(map(parse_prefix, texts))


def endpoint(address: str, port: int) -> bytes:
    return parse_address(address) + b"\x06\0\0\0" + port.to_bytes(2, "big") + b"\0\0"


def slot(address: str, port: int, number: int) -> bytes:
    return endpoint(address, port) + number.to_bytes(4, "little")


def target(address: str, port: int) -> bytes:
    return parse_address(address) + port.to_bytes(2, "big") + b"\0\0"


SETS: Mapping[Set, Members] = {
    Set("s4", SetType.IPV4): {parse_address("10.0.0.1"): b"", parse_address("10.0.0.2"): b""},
    Set("s6", SetType.IPV6): {parse_address("fd00::1"): b""},
    Part(4, OWNER).set: {},
    Part(4, OWNER[::-1]).set: {},
    Part(6, OWNER).set: {},
    Set("client-slots", SetType.OWNER_SLOT): {
        encode_owner(OWNER) + number.to_bytes(4, byteorder): b"" for number in (0, 5, 63)
    },
    Set("n4", SetType.IPV4, interval=True): {
        parse_address("10.0.0.0") + b"\x08": b"",
        parse_address("11.0.0.0") + b"\x08": b"",
        parse_address("192.168.1.1") + b"\x20": b"",
        parse_address("255.255.255.0") + b"\x18": b"",
    },
    Set("n6", SetType.IPV6, interval=True): {
        parse_address("fd00::") + b"\x40": b"",
        parse_address("ffff::") + b"\x10": b"",
    },
    Set("all4", SetType.IPV4, interval=True): {bytes(4) + b"\0": b""},
    Set("p4", SetType.IPV4_PORT): {endpoint("10.0.0.1", 80): b""},
    Set("p6", SetType.IPV6_PORT): {endpoint("fd00::1", 80): b""},
    Set("pair4", SetType.IPV4_IPV4): {parse_address("10.0.0.1") * 2: b""},
    Set("pair6", SetType.IPV6_IPV6): {parse_address("fd00::1") * 2: b""},
    Set("from", SetType.INTERFACE, DataType.VERDICT): {
        b"cali1": b"jump one",
        b"cali12345678901": b"goto two",
        b"eth0": b"accept",
        b"eth1": b"drop",
        b"eth2": b"return",
    },
    Set("svc4", SetType.IPV4_PORT, DataType.VERDICT): {endpoint("10.96.0.1", 80): b"goto one"},
    Set("svc6", SetType.IPV6_PORT, DataType.VERDICT): {endpoint("fd00:96::1", 80): b"goto one"},
    Set("eps4", SetType.IPV4_PORT_SLOT, DataType.IPV4_PORT): {
        slot("10.96.0.1", 80, 0): target("10.0.0.1", 8080),
        slot("10.96.0.1", 80, 1): target("10.0.0.2", 8080),
    },
    Set("floating4", SetType.IPV4, DataType.IPV4): {parse_address("192.0.2.1"): parse_address("10.0.0.1")},
    Set("floating6", SetType.IPV6, DataType.IPV6): {parse_address("2001:db8::1"): parse_address("fd00::1")},
    Set("floating-back4", SetType.IPV4_IPV4, DataType.IPV4): {
        parse_address("10.0.0.1") * 2: parse_address("192.0.2.1"),
    },
    Set("floating-back6", SetType.IPV6_IPV6, DataType.IPV6): {
        parse_address("fd00::1") * 2: parse_address("2001:db8::1"),
    },
    Set("eps6", SetType.IPV6_PORT_SLOT, DataType.IPV6_PORT): {
        slot("fd00:96::1", 80, 0): target("fd00::1", 8080),
    },
    Set("nport4", SetType.NODE_PORT, DataType.VERDICT): {endpoint("0.0.0.0", 30080)[-8:]: b"goto one"},
    Set("nport-eps4", SetType.NODE_PORT_SLOT, DataType.IPV4_PORT): {
        slot("0.0.0.0", 30080, 0)[4:]: target("10.0.0.1", 8080),
        slot("0.0.0.0", 30080, 1)[4:]: target("10.0.0.2", 8080),
    },
    Set("nport-eps6", SetType.NODE_PORT_SLOT, DataType.IPV6_PORT): {
        slot("0.0.0.0", 30080, 0)[4:]: target("fd00::1", 8080),
    },
}


TCP = ProtocolIs(6)


MATCHES: Mapping[str, tuple[Match, ...]] = {
    "interface": (InterfaceIs("in", "eth0"),),
    "interface prefix": (InterfaceIs("out", "cali*"),),
    "interface negated": (InterfaceIs("in", "eth0", negate=True), InterfaceIs("out", "cali*", negate=True)),
    "longest interface": (InterfaceIs("in", "cali12345678901"),),
    "family": (FamilyIs(4),),
    "family 6": (FamilyIs(6),),
    "protocol": (ProtocolIs(132),),
    "unnamed protocol": (ProtocolIs(99),),
    "protocol negated": (ProtocolIs(58, negate=True),),
    "address": (NetIn("source", nets("10.0.0.1")),),
    "address 6": (NetIn("destination", nets("fd00::1")),),
    "prefix of whole bytes": (NetIn("source", nets("10.0.0.0/8")),),
    "prefix of whole bytes 6": (NetIn("source", nets("fd00::/64")),),
    "odd prefix": (NetIn("destination", nets("10.0.0.0/25")),),
    "odd prefix 6": (NetIn("destination", nets("fd00::/67")),),
    "prefix negated": (NetIn("source", nets("10.0.0.0/25"), negate=True),),
    "prefix negated 6": (NetIn("source", nets("fd00::/64"), negate=True),),
    "both addresses": (NetIn("source", nets("10.0.0.1")), NetIn("destination", nets("10.0.0.2"))),
    "addresses": (NetIn("source", nets("10.0.0.1", "10.0.0.3")),),
    "prefixes": (NetIn("source", nets("10.0.0.0/8", "192.168.1.1", "10.1.0.0/16")),),
    "adjacent prefixes": (NetIn("source", nets("10.0.0.0/25", "10.0.0.128/25")),),
    "adjacent prefixes and odd ones": (NetIn("source", nets("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/25")),),
    "prefixes to the top": (NetIn("source", nets("10.0.0.0/8", "255.0.0.0/8")),),
    "prefixes 6": (NetIn("destination", nets("fd00::/8", "2001:db8::1", "ff00::/8")),),
    "prefixes negated": (NetIn("destination", nets("10.0.0.0/8", "172.16.0.0/12"), negate=True),),
    "everything": (NetIn("source", nets("0.0.0.0/0")),),
    "everything 6": (NetIn("source", nets("::/0", "fd00::1")),),
    "nothing": (NetIn("source", nets("0.0.0.0/0"), negate=True),),
    "set": (SetHas("source", "s4", 4),),
    "set 6": (SetHas("destination", "s6", 6),),
    "set negated": (SetHas("source", "n4", 4, negate=True),),
    "set with ports": (SetHas("source", "p4", 4, ports=True),),
    "set with ports 6": (SetHas("destination", "p6", 6, ports=True),),
    "set with ports negated": (SetHas("destination", "p4", 4, ports=True, negate=True),),
    "port": (TCP, PortIn("destination", ((80, 80),))),
    "port range": (ProtocolIs(17), PortIn("source", ((8000, 8010),))),
    "port range negated": (TCP, PortIn("destination", ((8000, 8010),), negate=True)),
    "port negated": (TCP, PortIn("destination", ((80, 80),), negate=True)),
    "ports": (TCP, PortIn("destination", ((80, 80), (443, 443)))),
    "ports and ranges": (TCP, PortIn("destination", ((443, 443), (80, 80), (8000, 8010), (8005, 8020)))),
    "ports to the top": (TCP, PortIn("destination", ((1, 80), (60000, 65535)))),
    "ports negated": (TCP, PortIn("source", ((80, 80), (8000, 8010)), negate=True)),
    "icmp type": (IcmpIs(4, 8),),
    "icmp type and code": (IcmpIs(4, 3, 4),),
    "icmp type negated": (IcmpIs(4, 8, negate=True),),
    "icmpv6 type": (ProtocolIs(58), IcmpIs(6, 128)),
    "icmpv6 type and code": (IcmpIs(6, 1, 4),),
    "icmpv6 type and code negated": (IcmpIs(6, 1, 4, negate=True),),
    "conntrack state": (CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED})),),
    "conntrack states": (CtStateIn(frozenset({CtState.INVALID})), CtStateIn(frozenset({CtState.NEW}), negate=True)),
    "conntrack state negated": (CtStateIn(frozenset({CtState.NEW, CtState.UNTRACKED}), negate=True),),
    "conntrack dnat": (CtDestinationTranslated(),),
    "conntrack dnat negated": (CtDestinationTranslated(negate=True),),
    "mark": (MarkIs(0x10000, 0x10000),),
    "mark clear": (MarkIs(0, 0x30000),),
    "mark negated": (MarkIs(0x10000, 0x30000, negate=True),),
    "reverse path": (ReversePathFails(),),
    "local destination": (DestinationIsLocal(),),
    "other destination": (DestinationIsLocal(negate=True),),
    "service": (ServiceKnown("p4", 4),),
    "service 6 negated": (ServiceKnown("p6", 6, negate=True),),
    "slot of a source": (SourceSlotIn(4, 64, (5,), "client-slots", OWNER),),
    "slots of a source": (SourceSlotIn(4, 64, (0, 5, 63), "client-slots", OWNER), TCP),
    "slots of a source 6": (SourceSlotIn(6, 128, (1, 2, 127), "client-slots", OWNER[::-1]),),
    "source that went there of late": (SetHas("source", Part(4, OWNER).name, 4),),
    "source that went there of late 6": (SetHas("source", Part(6, OWNER).name, 6),),
    "hairpin": (Hairpin("pair4", 4),),
    "hairpin 6": (Hairpin("pair6", 6),),
    "much": (InterfaceIs("in", "cali*"), SetHas("source", "n4", 4), SetHas("destination", "s4", 4), TCP,
             PortIn("destination", ((80, 80),)), MarkIs(0, 0x10000)),
}  # fmt: skip


ACTIONS: Mapping[str, tuple[BaseHook | None, tuple[Match, ...], Action]] = {
    "accept": (FORWARD, (), Accept()),
    "drop": (FORWARD, (), Drop()),
    "return": (None, (), Return()),
    "reject": (FORWARD, (), Reject()),
    "reset": (FORWARD, (TCP,), Reject(tcp_reset=True)),
    "reset implies tcp": (FORWARD, (), Reject(tcp_reset=True)),
    "jump": (FORWARD, (), Jump("one")),
    "goto": (FORWARD, (), Goto("two")),
    "dispatch in": (FORWARD, (), Dispatch("in_interface", "from")),
    "dispatch out": (FORWARD, (), Dispatch("out_interface", "from")),
    "dispatch service": (NAT, (), Dispatch("service4", "svc4")),
    "dispatch service 6": (NAT, (), Dispatch("service6", "svc6")),
    "dispatch node port": (NAT, (DestinationIsLocal(),), Dispatch("node_port4", "nport4")),
    "dispatch node port of a family": (NAT, (FamilyIs(4), DestinationIsLocal()), Dispatch("node_port4", "nport4")),
    "dispatch node port 6": (NAT, (), Dispatch("node_port6", "nport4")),
    "mark": (FORWARD, (), SetMark(0x10000, 0x10000)),
    "mark cleared": (FORWARD, (), SetMark(0, 0x30000)),
    "mark changed": (FORWARD, (), SetMark(0x10000, 0x30000)),
    "mark set": (FORWARD, (), SetMark(0x12345, 0xFFFFFFFF)),
    "log": (FORWARD, (), Log("calico-packet: ")),
    "log what needs quoting": (FORWARD, (), Log('quote " and\nline')),
    "log without prefix": (FORWARD, (), Log("")),
    "report": (FORWARD, (), Report("deny|in|np/default/web|3")),
    "notrack": (PREROUTING, (), NoTrack()),
    "masquerade": (POSTROUTING, (), Masquerade()),
    "masquerade in order": (POSTROUTING, (), Masquerade(random=False)),
    "masquerade from ports": (POSTROUTING, (ProtocolIs(6),), Masquerade(ports=(40000, 40010))),
    "source from ports": (POSTROUTING, (ProtocolIs(17),), SourceNat(parse_address("192.0.2.1"), (40000, 40010))),
    "source 6 from ports": (POSTROUTING, (ProtocolIs(6),), SourceNat(parse_address("2001:db8::1"), (40000, 40010))),
    "source": (POSTROUTING, (), SourceNat(parse_address("192.0.2.1"))),
    "source 6": (POSTROUTING, (), SourceNat(parse_address("2001:db8::1"))),
    "map destination": (NAT, (), MapDestination("floating4", 4)),
    "map destination 6": (NAT, (FamilyIs(6),), MapDestination("floating6", 6)),
    "map source": (POSTROUTING, (), MapSource("floating-back4", 4)),
    "map source 6": (POSTROUTING, (CtDestinationTranslated(),), MapSource("floating-back6", 6)),
    "balance": (NAT, (), Balance("eps4", 4, 2)),
    "balance 6": (NAT, (FamilyIs(6),), Balance("eps6", 6, 3)),
    "destination": (NAT, (TCP,), DestinationNat(parse_address("10.0.0.1"), 8080)),
    "destination 6": (NAT, (ProtocolIs(17),), DestinationNat(parse_address("fd00::1"), 53)),
    "remember": (NAT, (TCP,), Remember(Part(4, OWNER).name, 4, 10800)),
    "remember 6": (NAT, (), Remember(Part(6, OWNER).name, 6, 3)),
    "balance a node port": (NAT, (), Balance("nport-eps4", 4, 2, any_address=True)),
    "balance a node port 6": (NAT, (), Balance("nport-eps6", 6, 1, any_address=True)),
}


TARGETS = (Chain("one", (Rule(Accept()),)), Chain("two", (Rule(Return()),)))
