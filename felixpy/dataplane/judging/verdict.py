"""What the rules of a node do to a packet: the same chains, sets and maps that the kernel runs, walked here.

In: KernelState and a Packet; out: a Verdict, with every rule that the packet satisfied on its way. Hooks are passed in
the kernel's order; nat chains see the first packet of a connection only. Pure.
Source: net/netfilter/nf_tables_core.c (nft_do_chain), net/netfilter/nf_nat_core.c, net/ipv4/netfilter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from felixpy.addresses import Address
from felixpy.calc.services.frontends import ANY_OWN, BackendAddress, Frontend
from felixpy.dataplane.chains.service_sets import encode_slot, parse_backend
from felixpy.dataplane.judging.matching import satisfies
from felixpy.dataplane.judging.packet import HookName, KernelState, Packet
from felixpy.dataplane.objects import BaseHook, Chain
from felixpy.dataplane.rules import (
    Accept,
    Action,
    Balance,
    CtState,
    DestinationNat,
    Dispatch,
    Done,
    Drop,
    Goto,
    Jump,
    Log,
    MapDestination,
    MapSource,
    Masquerade,
    NoTrack,
    Reject,
    Remember,
    Report,
    Return,
    Rule,
    SetMark,
    SourceNat,
)
from felixpy.dataplane.sets import PORT_KEY_BYTES

CONNTRACK_PRIORITY = -200
"""Chains before it see no connection (NF_IP_PRI_CONNTRACK, linux/netfilter_ipv4.h)."""
_MASK = 0xFFFFFFFF
_BALANCED = (6, 17, 132)


class Fate(StrEnum):
    """What becomes of a packet on one node."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"
    REJECTED = "rejected"
    UNROUTED = "unrouted"


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that a packet satisfied: the `index`th of `chain`. `action` is what was done (a map's own verdict)."""

    chain: str
    index: int
    rule: Rule
    action: Done

    def __str__(self) -> str:
        comment = f" ({self.rule.comment})" if self.rule.comment else ""
        return f"{self.chain}[{self.index}] {type(self.action).__name__}{comment}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate, the packet as it left (or was lost), and the rules on its way. `local`: it was for the node itself.

    `masqueraded`: its source became the outgoing device's address, which is not known here.
    """

    fate: Fate
    packet: Packet
    steps: tuple[Step, ...]
    local: bool = False
    masqueraded: bool = False

    @property
    def accepted(self) -> bool:
        return self.fate is Fate.ACCEPTED


def verdict(kernel: KernelState, packet: Packet) -> Verdict:
    """What becomes of `packet`.

    Raises  KeyError where a rule names a chain or set that is not there: the kernel would not have taken it.
    """
    walk = _Walk(kernel, packet)
    if not packet.in_interface:
        fate = walk.find_no_route()
        walk.route()
        fate = fate or walk.pass_hook("output") or walk.find_no_route()
        walk.route()
    else:
        fate = walk.pass_hook("prerouting") or walk.find_no_route()
        local = not walk.route()
        fate = fate or walk.pass_hook("input" if local else "forward")
        if local:
            return Verdict(fate or Fate.ACCEPTED, walk.packet, tuple(walk.steps), local=True)
    fate = fate or walk.pass_hook("postrouting")
    return Verdict(fate or Fate.ACCEPTED, walk.packet, tuple(walk.steps), masqueraded=walk.masqueraded)


@dataclass(frozen=True, slots=True)
class _Enter:
    """On in `chain`, whose end leads back (Jump) or not (Goto)."""

    chain: str
    returns: bool


class _Next(StrEnum):
    RULE = "the next rule"
    CALLER = "the rule after the jump"
    HOOK = "the next base chain"


class _Walk:
    """One packet on its way, and the rules it has met."""

    def __init__(self, kernel: KernelState, packet: Packet) -> None:
        self.kernel = kernel
        self.packet = packet
        self.steps: list[Step] = []
        self.masqueraded = False

    def route(self) -> bool:
        """Sets the outgoing device; whether there is one (else the packet is for this node)."""
        device = self.kernel.route_out(self.packet.destination)
        self.packet = replace(self.packet, out_interface=device or "")
        return device is not None

    def find_no_route(self) -> Fate | None:
        """What becomes of a packet whose route leads nowhere."""
        return Fate.UNROUTED if self.kernel.discards(self.packet.destination) else None

    def pass_hook(self, hook: HookName) -> Fate | None:
        """Goes through the base chains of a hook; None when all let it on."""
        for chain, base in self.kernel.base_chains(hook):
            if base.type == "nat" and self.packet.state is not CtState.NEW:
                continue
            fate = self._pass_chain(chain, base)
            if fate is not None:
                return fate
        return None

    def _pass_chain(self, chain: Chain, base: BaseHook) -> Fate | None:
        tracked = base.priority > CONNTRACK_PRIORITY
        callers: list[tuple[Chain, int]] = []
        index = 0
        while True:
            if index == len(chain.rules):
                if not callers:
                    return Fate.DROPPED if base.policy == "drop" else None
                chain, index = callers.pop()
                continue
            rule = chain.rules[index]
            index += 1
            seen = self.packet if tracked else replace(self.packet, state=CtState.INVALID)
            if not all(satisfies(match, seen, self.kernel) for match in rule.matches):
                continue
            action = self._resolve(rule.action)
            if action is None:
                continue
            self.steps.append(Step(chain.name, index - 1, rule, action))
            match self._act(action):
                case Fate() as fate:
                    return fate
                case _Enter(name, returns):
                    if returns:
                        callers.append((chain, index))
                    chain, index = self.kernel.chains[name], 0
                case _Next.RULE:
                    pass
                case _Next.CALLER:
                    index = len(chain.rules)
                case _Next.HOOK:
                    return None
                case never:
                    assert_never(never)

    def _resolve(self, action: Action) -> Done | None:
        """What a verdict map says, for a Dispatch; None where a lookup finds nothing, so that nothing happens."""
        match action:
            case Dispatch(key, map_name):
                data = self.kernel.find_data(map_name, self._dispatch_key(key))
                return None if data is None else parse_verdict(data)
            case Balance():
                return action if self._find_backend(action) is not None else None
            case MapDestination() | MapSource():
                return action if self._find_mapped(action) is not None else None
            case _:
                return action

    def _dispatch_key(self, key: str) -> bytes:
        packet = self.packet
        match key:
            case "in_interface":
                return packet.in_interface.encode()
            case "out_interface":
                return packet.out_interface.encode()
            case "node_port4" | "node_port6":
                return packet.port_key("destination")[-PORT_KEY_BYTES:] if key.endswith(str(packet.version)) else b""
            case _:
                return packet.port_key("destination") if key == f"service{packet.version}" else b""

    def _find_backend(self, action: Balance) -> BackendAddress | None:
        packet = self.packet
        if packet.protocol not in _BALANCED or packet.version != action.version:
            return None
        address = ANY_OWN[packet.version] if action.any_address else packet.destination
        frontend = Frontend(address, packet.protocol, packet.destination_port)
        data = self.kernel.find_data(action.map_name, encode_slot(frontend, packet.slot % action.count))
        return None if data is None else parse_backend(data)

    def _find_mapped(self, action: MapDestination | MapSource) -> Address | None:
        packet = self.packet
        if packet.version != action.version:
            return None
        key = packet.destination if isinstance(action, MapDestination) else packet.source + packet.destination
        data = self.kernel.find_data(action.map_name, key)
        return None if data is None else Address(data)

    def _translate(self, backend: BackendAddress | None) -> None:
        if backend is not None:
            self.packet = replace(
                self.packet, destination=backend.address, destination_port=backend.port, translated=True
            )

    def _act(self, action: Done) -> Fate | _Enter | _Next:
        match action:
            case Accept():
                return _Next.HOOK
            case Drop():
                return Fate.DROPPED
            case Reject():
                return Fate.REJECTED
            case Return():
                return _Next.CALLER
            case Jump(chain):
                return _Enter(chain, returns=True)
            case Goto(chain):
                return _Enter(chain, returns=False)
            case SetMark(value, mask):
                self.packet = replace(self.packet, mark=self.packet.mark & ~mask & _MASK | value)
                return _Next.RULE
            case Log() | Report():
                return _Next.RULE
            case NoTrack():
                self.packet = replace(self.packet, state=CtState.UNTRACKED)
                return _Next.RULE
            case Masquerade():
                self.masqueraded = True
                return _Next.HOOK
            case SourceNat(address, _):
                self.packet = replace(self.packet, source=address)
                return _Next.HOOK
            case DestinationNat(address, port):
                self._translate(BackendAddress(address, port))
                return _Next.HOOK
            case Remember():
                return _Next.RULE
            case MapDestination():
                address = self._find_mapped(action) or self.packet.destination
                self.packet = replace(self.packet, destination=address, translated=True)
                return _Next.HOOK
            case MapSource():
                self.packet = replace(self.packet, source=self._find_mapped(action) or self.packet.source)
                return _Next.HOOK
            case Balance():
                self._translate(self._find_backend(action))
                return _Next.HOOK
            case _:
                assert_never(action)


def parse_verdict(data: bytes) -> Accept | Drop | Return | Jump | Goto:
    """The data of a verdict map, as an action.

    Raises  ValueError for words that no verdict has.
    """
    word, _, chain = data.decode().partition(" ")
    match word:
        case "jump":
            return Jump(chain)
        case "goto":
            return Goto(chain)
        case "accept":
            return Accept()
        case "drop":
            return Drop()
        case "return":
            return Return()
    raise ValueError(f"{data!r} is no verdict")
