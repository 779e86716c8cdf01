"""Who announces a Service's address, who answers for it, and who does not and why, as the nodes say.

In: what the nodes said, sorted once by address, since there may be thousands of addresses and hundreds of nodes; out:
values to show. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from felixpy.addresses import Address, Prefix, format_address, parse_prefix
from felixpy.calc.announcing.announcements import Why
from felixpy.calc.reasons import Reason
from felixpy.status.answers import AnsweredAddress, NodeStatus

NO_SESSION = "no session up"
UNSAID = "the node does not say why"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Reach:
    """Who announces one address, and who does not: the nodes, by why not; `layer2` says on which interface who answers.

    `rivals` are hardware addresses of hosts that answer for it too, and are no nodes.
    """

    announced_by: tuple[str, ...]
    silent: Mapping[str, tuple[str, ...]]
    layer2: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeTold:
    """What one node says, by address. `wide`: the prefixes of more than one address that it announces for Services.

    `has_bgp`: it has a part of BGP to speak of; `no_speaker` why it announces nothing at all.
    """

    established: bool
    has_bgp: bool
    no_speaker: str
    hosts: frozenset[Address]
    wide: tuple[Prefix, ...]
    stands: Mapping[str, Sequence[AnsweredAddress]]
    silent_by_bgp: Mapping[str, Sequence[str]]
    silent_at_layer2: Mapping[str, Sequence[str]]

    def announces(self, address: Address) -> bool:
        """Whether it does, by BGP."""
        return address in self.hosts or any(one.contains(address) for one in self.wide)

    def list_reasons(self, text: str) -> Sequence[str]:
        """Why it does not announce an address: by BGP; by layer 2 where that is all there is to say, or says more."""
        by_bgp = [self.no_speaker] if self.no_speaker else self.silent_by_bgp.get(text, ())
        by_layer2 = self.silent_at_layer2.get(text, ())
        if Reason.NOT_ADVERTISED in by_bgp and by_layer2 and Reason.NOT_LAYER2 not in by_layer2:
            return by_layer2
        return by_bgp or by_layer2 or ([UNSAID] if self.has_bgp else [])


def index_nodes(nodes: Mapping[str, NodeStatus | None]) -> Mapping[str, NodeTold]:
    """What the nodes say that did answer."""
    return {name: _index(status) for name, status in nodes.items() if status is not None}


def find_reach(address: Address, told: Mapping[str, NodeTold]) -> Reach:
    """Who announces an address to somebody, and why the others do not.

    A node that answers or stands by at layer 2 is not asked why it has no BGP for the address, nor the other way round.
    """
    text = format_address(address)
    announced: list[str] = []
    silent: dict[str, list[str]] = {}
    answering: list[str] = []
    rivals: set[str] = set()
    for name, node in told.items():
        stands = node.stands.get(text, ())
        answering += (f"{name} on {one.interface}" for one in stands if one.owns)
        rivals |= {one.foreign_mac for one in stands if one.foreign_mac}
        if node.announces(address):
            announced.append(name if node.established else f"{name} ({NO_SESSION})")
        elif not stands:
            for reason in node.list_reasons(text):
                silent.setdefault(reason, []).append(name)
    named = {reason: tuple(names) for reason, names in silent.items()}
    return Reach(tuple(announced), named, tuple(answering), tuple(sorted(rivals)))


NOWHERE = Reach((), {})


def derive_reach(address: Address, nodes: Mapping[str, NodeStatus | None]) -> Reach:
    """The same of one address alone."""
    return find_reach(address, index_nodes(nodes))


def _index(status: NodeStatus) -> NodeTold:
    bgp, layer2 = status.bgp, status.layer2
    announced = bgp.announcements if bgp is not None and not bgp.no_speaker else ()
    of_services = [parse_prefix(one.prefix) for one in announced if one.why == Why.SERVICE]
    return NodeTold(
        established=bgp is not None and bgp.established > 0,
        has_bgp=bgp is not None,
        no_speaker=bgp.no_speaker if bgp is not None else "",
        hosts=frozenset(one.address for one in of_services if one.is_host),
        wide=tuple(one for one in of_services if not one.is_host),
        stands=_by_key((one.address, one) for one in (layer2.addresses if layer2 is not None else ())),
        silent_by_bgp=_by_key(
            (one.prefix.partition("/")[0], one.reason) for one in (bgp.silences if bgp is not None else ())
        ),
        silent_at_layer2=_by_key((one.prefix, one.reason) for one in (layer2.silences if layer2 is not None else ())),
    )


def _by_key(pairs: Iterable[tuple[str, _T]]) -> Mapping[str, Sequence[_T]]:
    found: dict[str, list[_T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
