"""Packets and what was made of them, as people compare them: truth tables for failure messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from felixpy.addresses import format_address
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Verdict
from tests.dataplane.definition import Decision
from tests.dataplane.meaning_world import Cluster, resources_of


def describe(packet: Packet) -> str:
    """One line: where from, where to, what."""
    protocol = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp6"}.get(packet.protocol, str(packet.protocol))
    detail = f"{packet.icmp}" if packet.icmp else f"{packet.source_port}>{packet.destination_port}"
    ends = f"{format_address(packet.source)} > {format_address(packet.destination)}"
    return f"{packet.in_interface} {ends} {protocol} {detail} {packet.state}"


def render_case(packet: Packet, said: Decision, done: Verdict) -> str:
    """A packet on which two disagree, with the rules that it met."""
    lines = [
        describe(packet),
        f"  policy: {'allowed' if said.allowed else 'denied'}, {said.why}",
        f"  rules:  {done.fate}",
    ]
    return "\n".join((*lines, *(f"    {step}" for step in done.steps)))


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns; a row whose last two cells differ is marked."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join(
        ("  " if index == 0 or line[-1] == line[-2] else "! ")
        + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for index, line in enumerate(lines)
    )


def render_cluster(cluster: Cluster) -> str:
    """Every resource, one a line."""
    return "\n".join(f"{ref}: {one}" for ref, one in resources_of(cluster))
