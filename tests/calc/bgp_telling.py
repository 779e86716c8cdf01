"""What a speaker's policy does with one prefix: told to a neighbour, or let in."""

from __future__ import annotations

from birdpy.addresses import Prefix, parse_address, parse_prefix
from birdpy.intent import BgpIntent, RouteOrigin, Statement


def applies(statement: Statement, prefix: Prefix, neighbor: str, origin: RouteOrigin) -> bool:
    match = statement.match
    if match.neighbors is not None and parse_address(neighbor) not in match.neighbors:
        return False
    if match.origin not in (None, origin):
        return False
    return match.prefixes is None or any(
        prefix.address.startswith(one.prefix.address[: one.prefix.length // 8])
        and one.shortest <= prefix.length <= one.longest
        for one in match.prefixes
    )


def tells(intent: BgpIntent, text: str, neighbor: str, origin: RouteOrigin) -> bool:
    """Whether a path goes out: the first verdict wins. (Pools here end at whole bytes.)"""
    verdicts = (one.accept for one in intent.policy.exports if applies(one, parse_prefix(text), neighbor, origin))
    return next((verdict for verdict in verdicts if verdict is not None), True)
