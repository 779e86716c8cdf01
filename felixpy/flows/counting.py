"""What the kernel counted of each cause → figures for Prometheus, of a bounded number of rows. Pure.

Causes that were told of are counted, each by its chain: the count is the kernel's, of all packets, not of those that
the limit let through to be told of. Beyond MOST_CAUSES they are one row, `other`, of flows that were told of.
Source: the names are Calico's where it has one (calico_denied_packets).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from felixpy.dataplane.chains.causes import Cause, Effect
from felixpy.dataplane.objects import Counts
from felixpy.flows.telling import VERDICTS, field_of, subject_of

MOST_CAUSES = 1000
OTHER = "other"
LABELS = ("verdict", "direction", "tier", "policy", "rule")
_DIRECTIONS = {"in": "ingress", "out": "egress", "": ""}

Row = tuple[str, ...]


class ToldCauses:
    """The causes that were told of since the start, with their tiers."""

    def __init__(self, most: int = MOST_CAUSES) -> None:
        self._most = most
        self._tiers: dict[Cause, str] = {}
        self._gone: frozenset[Cause] = frozenset()
        self.others = 0

    def note(self, cause: Cause, tier: str) -> None:
        """Something was told of this cause, that a policy of `tier` may be."""
        if cause not in self._tiers and len(self._tiers) >= self._most:
            for gone in self._gone:
                self._tiers.pop(gone, None)
            self._gone = frozenset()
        if cause in self._tiers or len(self._tiers) < self._most:
            self._tiers[cause] = tier
        else:
            self.others += 1

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Those that are counted."""
        return tuple(self._tiers)

    def counted(self, counts: Mapping[Cause, Counts]) -> None:
        """The kernel counts these: others have no chain any more, and make room when it is needed."""
        self._gone = frozenset(self._tiers.keys() - counts.keys())

    def packet_rows(self, counts: Mapping[Cause, Counts]) -> dict[Row, float]:
        """Packets by verdict, direction, tier, policy and rule."""
        rows = {row: float(count.packets) for row, count in self._rows(counts)}
        if self.others:
            rows["", "", "", OTHER, OTHER] = float(self.others)
        return rows

    def byte_rows(self, counts: Mapping[Cause, Counts]) -> dict[Row, float]:
        """Bytes by the same."""
        return {row: float(count.bytes) for row, count in self._rows(counts)}

    def denied_rows(self, counts: Mapping[Cause, Counts]) -> dict[Row, float]:
        """Denied packets by policy (or default), as Calico counts them."""
        found: dict[Row, float] = {}
        for cause, count in counts.items():
            if cause.effect in (Effect.DENY, Effect.REFUSE):
                row = (subject_of(cause),)
                found[row] = found.get(row, 0.0) + count.packets
        return found

    def _rows(self, counts: Mapping[Cause, Counts]) -> Iterator[tuple[Row, Counts]]:
        for cause, count in counts.items():
            policy = subject_of(cause) if cause.policy is not None or cause.profile else ""
            rule = field_of(cause) or str(cause)
            row = (VERDICTS[cause.effect], _DIRECTIONS[cause.way], self._tiers.get(cause, ""), policy, rule)
            yield row, count
