"""What a node says of Services when it is asked: frontends in its kernel, and addresses at layer 2.

In: the roles; out: parts of its status, bounded as all of it is. Never changes the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from birdpy.l2.protocol import ProtocolError, Status
from felixpy.addresses import format_address
from felixpy.calc.announcing.own_answers import find_own_answers
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.status.answers import (
    DETAILS_SHOWN,
    AnsweredAddress,
    FrontendStatus,
    Layer2Status,
    SilentPrefix,
    Want,
)

if TYPE_CHECKING:
    from felixpy.agent.agent import AgentRole
    from felixpy.agent.services.layer2 import Layer2Role

RESPONDER_TIMEOUT_S = 1.0
ARP_IGNORE = Path("/proc/sys/net/ipv4/conf/all/arp_ignore")


def read_served(agent: AgentRole, services: Collection[str]) -> tuple[FrontendStatus, ...]:
    """The frontends of some Services (all where none is named), in order, and whether the kernel has them."""
    wanted = frozenset(services)
    frontends = agent.dataplane.frontends
    found: Iterator[tuple[Frontend, FrontendIntent]] = (
        (frontend, intent)
        for frontend, intent in sorted(frontends.items(), key=lambda item: (item[1].service, item[0]))
        if not wanted or str(intent.service) in wanted
    )
    return tuple(
        FrontendStatus(
            service=str(intent.service),
            address=format_address(frontend.address),
            protocol=frontend.protocol,
            port=frontend.port,
            origin=intent.origin.name.lower(),
            inside=len(intent.inside),
            outside=len(intent.outside),
            reason=str(intent.reason or ""),
            programmed=agent.dataplane.holds_frontend(frontend),
        )
        for frontend, intent in islice(found, DETAILS_SHOWN)
    )


async def read_layer2(role: Layer2Role, agent: AgentRole, want: Collection[str]) -> Layer2Status:
    """How addresses at layer 2 stand: what the calculation wants, and what the responder hears and answers."""
    from felixpy.agent.services.layer2 import ResponderGone

    status, error = None, ""
    try:
        async with asyncio.timeout(RESPONDER_TIMEOUT_S):
            status = await role.ask()
    except (OSError, TimeoutError, ProtocolError, ResponderGone) as failure:
        error = str(failure) or "it does not answer"
    silences = role.calc.silences
    shown = DETAILS_SHOWN if Want.ANNOUNCED in want else 0
    return Layer2Status(
        wanted=len(role.calc.vips),
        silent=len(silences),
        addresses=tuple(islice(_answered(status), shown)) if status is not None else (),
        silences=tuple(
            SilentPrefix(format_address(address), str(silent.reason))
            for address, silent in islice(sorted(silences.items()), shown)
        ),
        error=error,
        own_answers=_own_answers(role, agent),
    )


def _own_answers(role: Layer2Role, agent: AgentRole) -> tuple[str, ...]:
    if not role.calc.vips:
        return ()
    try:
        arp_ignore = int(ARP_IGNORE.read_text())
        return tuple(find_own_answers(role.calc.vips, agent.dataplane.read_interfaces(), arp_ignore))
    except (OSError, ValueError) as error:
        return (f"the host's addresses cannot be read: {error}",)


def _answered(status: Status) -> Iterator[AnsweredAddress]:
    for one in status.vips:
        yield AnsweredAddress(one.address, one.interface, one.owns, one.mac, one.foreign_mac)
