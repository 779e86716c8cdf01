"""Who answers for one Service address on one segment: the node with the greatest claim among those that are heard.

In      this node's standing, what is heard on the segment, the time → what to send; `owner` tells who answers here.
Never   sends, reads a clock, or needs a datastore: nodes that hear each other settle it between them.
Rules   A deputy asks the owner PROBE_INTERVAL_S apart, as a client would; after some silences it takes over with a
        greater claim. An owner that hears a greater one yields at once, and one that hears a lesser one announces
        itself. The best-ranked node takes its address back when it has been well for PREEMPT_AFTER_S; an owner that
        says it is leaving is followed at once; one that leaves gently answers those who know it for a while, and
        its successor tells nobody before that, so that connections end where they began.
        Claims order by term, then score: two owners never yield to each other. What nodes believe about each other's
        right to an address never makes one take it, so that nodes whose news are of different age do not fight.
        Where a node has heard nobody, since the segment keeps its hosts from each other, it goes by what the datastore
        says: it leaves the address to whoever answers already, and of two that do, the lesser yields. A node that has
        heard others trusts its ears alone.
Source  RFC 5227 §2.4 (ongoing conflict detection), RFC 5798 §6 (roles of a virtual router).
"""

from __future__ import annotations

from typing import NamedTuple

from birdpy.l2.packets import Assertion, Claim, Heard, Question, Stamp

PROBE_INTERVAL_S = 0.3
SILENCES = 3
"""Unanswered probes in a row after which the first deputy takes over; the next ones wait one longer each."""
DEPUTIES = 2
"""How many nodes probe at full rate; the others, RESERVE_INTERVAL_S apart or when the owner's node is not heard any
more, are for when these fail with the owner."""
RESERVE_INTERVAL_S = 3.0
PREEMPT_AFTER_S = 5.0
REFRESH_S = 60.0
CHECK_S = 3.0
"""How often an owner asks whether there is another, with its claim: two who were apart meet again within this."""
DEFEND_S = 0.2
"""Announcements against a lesser claim are at least so far apart."""
DRAIN_S = 60.0
"""How long a node that leaves gently answers those who have it in their neighbour tables, where it is not told."""
FOREIGN_DEFEND_S = 10.0
"""The same against a device that takes no part in this (DEFEND_INTERVAL of RFC 5227)."""
BURST_S = (0.2, 0.9, 1.1, 2.2)
"""Between the announcements after a take-over: peers refuse a change within a second of the last one."""
TERM_MOST = 2**32 - 1
NEVER = float("inf")


class Standing(NamedTuple):
    """This node among those that may have the address: `rank` 0 is the best. `score` orders as ranks do.

    `elsewhere` is the greatest score of the other nodes that say, by the datastore, that they answer on this segment;
    0 where none does. `drain_s` is how long a node that leaves gently answers those who know it, during which its
    successor tells nobody.
    """

    rank: int
    score: int
    elsewhere: int = 0
    drain_s: float = DRAIN_S


class Announce(NamedTuple):
    """Tell everybody that the address is here."""

    stamp: Stamp


class Probe(NamedTuple):
    """Ask for the address: the device `to`, or everybody."""

    to: bytes | None
    stamp: Stamp


class Answer(NamedTuple):
    """Answer a question."""

    question: Question
    stamp: Stamp


Action = Announce | Probe | Answer
_NOBODY = Claim(0, 0)


class Election:
    """One address on one segment. Every method takes the time in seconds; `due` is when `tick` wants to be called."""

    __slots__ = (
        "_awaiting",
        "_burst",
        "_burst_at",
        "_defend_at",
        "_greatest",
        "_heard_any",
        "_heard_node",
        "_left_at",
        "_left_gently",
        "_next_at",
        "_owner_claim",
        "_owner_mac",
        "_quiet_until",
        "_refresh_at",
        "_settled_at",
        "_silences",
        "foreign_mac",
        "gently",
        "leaving",
        "owns",
        "retired",
        "standing",
    )

    def __init__(self, standing: Standing, now: float) -> None:
        self.standing = standing
        self.owns = False
        self.leaving = False
        """Whether an owner waits for another to take the address."""
        self.gently = False
        """Whether it will go on answering those who know it."""
        self.retired = False
        """Whether it does so now that another has the address, and contends no more."""
        self.foreign_mac = b""
        """A device outside this protocol that was heard to have the address."""
        self._greatest = _NOBODY
        self._owner_claim = _NOBODY
        self._owner_mac: bytes | None = None
        self._heard_any = False
        self._heard_node = False
        """Whether any other node was heard about this address, its owner or not."""
        self._awaiting = False
        self._silences = 0
        self._left_at: float | None = None
        """Since when the owner is known to be leaving."""
        self._left_gently = False
        self._quiet_until = now
        """Until when an owner tells nobody, since its forerunner still answers."""
        self._next_at = now
        self._settled_at = now
        """Since when nothing has changed about who is best, or who owns."""
        self._burst: tuple[float, ...] = ()
        self._burst_at = self._refresh_at = self._defend_at = now

    @property
    def owner_mac(self) -> bytes | None:
        """Where the address is, as far as it was heard; None when it is here, or nowhere."""
        return None if self.owns else self._owner_mac

    @property
    def claim(self) -> Claim:
        """The claim that holds, as far as this node knows."""
        return self._owner_claim

    @property
    def due(self) -> float:
        """When `tick` has something to do, at the earliest."""
        if self.retired:
            return NEVER
        if not self.owns:
            return self._next_at
        return min(self._next_at, self._refresh_at, self._burst_at if self._burst else self._refresh_at)

    def set_standing(self, standing: Standing, now: float) -> list[Action]:
        """Other nodes came or went, or are preferred now."""
        if standing.rank == 0 and self.standing.rank:
            self._settled_at = now
        if self.retired:
            self._next_at = now
        self.leaving = self.gently = self.retired = False
        self.standing = standing
        if self.owns and not self._heard_node and standing.elsewhere > standing.score:
            self._stand_back(now)
            return []
        return self._take_over(now) if self.owns and self._owner_claim.score != standing.score else []

    def leave(self, gently: bool = False) -> list[Action]:
        """This node may no longer have the address: others are told, and answers go on until one has it.

        One that left gently and now can serve nobody any more says so, and the address's owner then tells everybody.
        """
        if not (self.owns or self.retired):
            return []
        self.leaving, self.gently, self.retired = True, gently, self.retired and gently
        return [Probe(None, self.stamp)]

    def suspect(self, now: float) -> None:
        """The owner's node is not heard any more, which counts as a silence: it is asked at once."""
        if not self.owns and not self._silences:
            self._silences, self._awaiting, self._next_at = 1, False, now

    def ask(self) -> list[Action]:
        """There may be another owner: asks everybody."""
        return [Probe(None, self.stamp)] if self.owns else []

    def announce_anew(self, now: float) -> list[Action]:
        """The address is now elsewhere on this node."""
        if not self.owns:
            return []
        self._start_burst(now)
        return [Announce(self.stamp)]

    def hear(self, heard: Heard, now: float) -> list[Action]:
        """A frame about this address, of another device."""
        stamp = heard.stamp
        if stamp is not None:
            return [*self._weigh(stamp, heard, now), *self._answer(heard)]
        if isinstance(heard, Assertion):
            return self._meet_foreign(heard.mac, now)
        return self._answer(heard)

    def tick(self, now: float) -> list[Action]:
        """What the time asks for."""
        if now < self.due:
            return []
        return self._tick_owner(now) if self.owns else self._tick_deputy(now)

    def _answer(self, heard: Heard) -> list[Action]:
        if not isinstance(heard, Question):
            return []
        known = self.retired and not heard.to_all and heard.stamp is None
        return [Answer(heard, self.stamp)] if self.owns or known else []

    @property
    def stamp(self) -> Stamp:
        """What frames of ours about the address say."""
        return Stamp(self.owns, self._owner_claim, self.leaving, self.gently)

    def _weigh(self, stamp: Stamp, heard: Heard, now: float) -> list[Action]:
        claim = stamp.claim
        self._greatest = max(self._greatest, claim)
        self._heard_node = True
        mac = heard.mac if isinstance(heard, Assertion) else heard.asker_mac
        if self.owns and stamp.leaving and not stamp.owns and not stamp.gently and now < self._quiet_until:
            return self._tell_everybody(now)
        if self.owns:
            if claim.score == self._owner_claim.score:
                self._owner_claim = max(claim, self._owner_claim)
                return []
            if claim > self._owner_claim:
                self._yield(claim, mac if stamp.owns else None, now)
                return []
            if stamp.owns and claim < self._owner_claim and now >= self._defend_at:
                self._defend_at = now + DEFEND_S
                if now < self._quiet_until:
                    return [Probe(None, self.stamp)]
                return self._tell_everybody(now)
            return []
        if not stamp.owns or claim < self._owner_claim:
            return []
        if claim > self._owner_claim:
            self._settled_at = now
        self._owner_claim, self._owner_mac, self._heard_any = claim, mac, True
        self._awaiting, self._silences = False, 0
        if not stamp.leaving:
            self._left_at = None
        elif self._left_at is None:
            self._left_at, self._left_gently = now, stamp.gently
            self._next_at = min(self._next_at, now + self.standing.rank * PROBE_INTERVAL_S)
        return []

    def _meet_foreign(self, mac: bytes, now: float) -> list[Action]:
        self.foreign_mac = mac
        if not self.owns or now < self._defend_at:
            return []
        self._defend_at = now + FOREIGN_DEFEND_S
        return [Announce(self.stamp)]

    def _yield(self, claim: Claim, mac: bytes | None, now: float) -> None:
        self.retired = self.gently
        self.owns = self.leaving = False
        self._left_at = None
        self._owner_claim, self._owner_mac, self._heard_any = claim, mac, True
        self._awaiting, self._silences = False, 0
        self._burst = ()
        self._next_at = now + PROBE_INTERVAL_S
        self._settled_at = now

    def _stand_back(self, now: float) -> None:
        """Another answers, whom this node does not hear: it goes on asking, and hears of its end by the datastore."""
        self.owns = self.leaving = False
        self._owner_claim = _NOBODY
        self._awaiting, self._silences = False, 0
        self._burst = ()
        self._next_at = now + PROBE_INTERVAL_S
        self._settled_at = now

    def _tick_owner(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._burst and now >= self._burst_at:
            self._burst = self._burst[1:]
            self._burst_at = now + (self._burst[0] if self._burst else 0)
            actions.append(Announce(self.stamp))
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            actions.append(Announce(self.stamp))
        if now >= self._next_at:
            self._next_at = now + CHECK_S
            actions.append(Probe(None, self.stamp))
        return actions

    def _tick_deputy(self, now: float) -> list[Action]:
        if self._awaiting:
            self._silences += 1
            if self._silences >= self._patience() and (self._heard_node or not self.standing.elsewhere):
                return self._take_over(now)
        elif self._may_preempt(now):
            return self._take_over(now)
        self._awaiting = True
        waiting = self._silences > 0 or not self._heard_any
        interval = PROBE_INTERVAL_S if waiting or self.standing.rank <= DEPUTIES else RESERVE_INTERVAL_S
        self._next_at = now + interval
        return [Probe(None if waiting else self._owner_mac, self.stamp)]

    def _patience(self) -> int:
        if self.standing.rank == 0:
            return SILENCES if self._heard_any else 1
        return SILENCES + self.standing.rank - 1

    def _may_preempt(self, now: float) -> bool:
        """Whether the address is ours although another has it, and answers."""
        if self._left_at is not None:
            return now - self._left_at >= self.standing.rank * PROBE_INTERVAL_S
        lesser = self._heard_any and self._owner_claim.score < self.standing.score
        return lesser and not self.standing.rank and now - self._settled_at >= PREEMPT_AFTER_S

    def _take_over(self, now: float) -> list[Action]:
        term = min(max(self._greatest.term, self._owner_claim.term) + 1, TERM_MOST)
        quietly = self._left_at is not None and self._left_gently
        self.owns = True
        self._left_at = None
        self._owner_claim = Claim(term, self.standing.score)
        self._owner_mac = None
        self._awaiting, self._silences = False, 0
        self._next_at = now + CHECK_S
        self._quiet_until = now + self.standing.drain_s if quietly else now
        self._refresh_at = self._quiet_until + REFRESH_S
        if quietly:
            self._start_burst(self._quiet_until)
            return [Probe(None, self.stamp)]
        return self._tell_everybody(now)

    def _tell_everybody(self, now: float) -> list[Action]:
        self._quiet_until = now
        self._start_burst(now)
        return [Announce(self.stamp)]

    def _start_burst(self, now: float) -> None:
        self._burst_at, self._burst = now + BURST_S[0], BURST_S
