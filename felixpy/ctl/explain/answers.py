"""Whether answers get back where policies leave connection tracking out of it.

A tracked connection's answers pass whatever tracked policies say; untracked policies look at each packet by itself, and
where the first packet was not tracked its answer is one that belongs to no connection. An answer that is not tracked is
not translated back, so that nobody takes it who asked a Service. In: a Flow; out: the passages of
its first answer. Pure.
Source: net/netfilter/nf_conntrack_proto_{tcp,icmp,icmpv6,sctp,udp}.c (what may begin a connection).
"""

from __future__ import annotations

from dataclasses import replace

from felixpy.ctl.explain.flow import ECHO, ECHO6, ICMP, ICMP6, Flow, Passage
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Fate, Verdict, verdict
from felixpy.dataplane.rules import CtState, NoTrack

BEGUN_BY_ASKING = frozenset({6, 132, ICMP, ICMP6})
"""Protocols of which an answer cannot be the first packet of a connection."""
ECHO_REPLY, ECHO_REPLY6 = (0, 0), (129, 0)


def answer_passages(flow: Flow) -> tuple[Passage, ...]:
    """The first answer on its way back, node by node, until it is lost; nothing where the flow itself is not allowed.

    ICMP that is no echo has no answer.
    """
    if not flow.allowed or not _has_answer(flow.packet):
        return ()
    found: list[Passage] = []
    for passage in reversed(flow.passages):
        answer = _answer_to(passage)
        judged = verdict(passage.compiled.kernel, answer)
        if _is_translated(passage) and _is_untracked(judged):
            judged = replace(judged, fate=Fate.DROPPED)
        done = Passage(passage.compiled, answer, judged)
        found.append(done)
        if not done.verdict.accepted:
            break
    return tuple(found)


def _is_translated(passage: Passage) -> bool:
    """Whether a node changed one of the addresses, so that it has to do the same to the answer."""
    sent, left = passage.entered, passage.verdict.packet
    return passage.verdict.masqueraded or (sent.source, sent.destination) != (left.source, left.destination)


def _is_untracked(judged: Verdict) -> bool:
    return any(isinstance(step.action, NoTrack) for step in judged.steps)


def _has_answer(packet: Packet) -> bool:
    return packet.icmp is None or packet.icmp[0] == (ECHO if packet.protocol == ICMP else ECHO6)


def _answer_to(passage: Passage) -> Packet:
    """What comes back through a node for what passed it."""
    sent, left = passage.entered, passage.verdict.packet
    state = CtState.ESTABLISHED
    if _is_untracked(passage.verdict):
        state = CtState.INVALID if sent.protocol in BEGUN_BY_ASKING else CtState.NEW
    icmp = None if sent.icmp is None else (ECHO_REPLY if sent.version == 4 else ECHO_REPLY6)
    return Packet(
        left.destination,
        sent.source,
        sent.protocol,
        "" if passage.verdict.local else left.out_interface,
        left.destination_port,
        left.source_port,
        icmp,
        state,
    )
