"""Granted addresses in order: announced once the kernel serves them, withdrawn before it ceases to.

In      what services.py asks for, what the kernel holds, and whether withdrawals have been carried out.
Out     what to tell the kernel, and what to tell those who announce. A frontend that the kernel does not hold yet takes
        no connection from outside, as far as they know; one that is to end stays in the kernel until it is withdrawn.
        All other frontends pass as they come.
Never   knows a kernel, BGP or a clock: whoever feeds it says what has come to pass. Its cost is that of what changed.
Source  docs/architecture.md, the order of puts and drops: an address is announced last and withdrawn first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent, Origin

Holds = Callable[[Frontend], bool | None]
"""Whether the kernel holds a frontend as it was last told; None where that is not known now."""


class Gate:
    """For every change `take`, then `release` to the kernel, then `admit`; the last two again when more came true.

    Each gives what changed for the one that it is for.
    """

    def __init__(self) -> None:
        self._wanted: dict[Frontend, FrontendIntent] = {}
        self._announced: dict[Frontend, FrontendIntent] = {}
        self._ending: dict[Frontend, int] = {}
        self._untold: set[Frontend] = set()
        self._unsettled: set[Frontend] = set()

    @property
    def ending(self) -> Collection[Frontend]:
        """What the kernel still holds because it may still be announced."""
        return self._ending.keys()

    def take(self, delta: ServiceDelta, turn: int) -> ServiceDelta:
        """Takes over what Services ask for; gives what must no longer be announced. `turn` counts the changes."""
        puts: dict[Frontend, FrontendIntent] = {}
        drops = set()
        for frontend in (*delta.drops, *delta.puts):
            self._untold.add(frontend)
            old, new = self._wanted.pop(frontend, None), delta.puts.get(frontend)
            if new is not None:
                self._wanted[frontend] = new
            if not (_is_granted(old) or _is_granted(new)):
                continue
            self._unsettled.add(frontend)
            said = self._announced.get(frontend)
            if said is None or not said.outside:
                continue
            if new is None:
                drops.add(frontend)
                del self._announced[frontend]
            elif not (_is_granted(new) and new.outside):
                puts[frontend] = self._announced[frontend] = new
            else:
                continue
            self._ending[frontend] = turn
        return ServiceDelta(puts, frozenset(drops))

    def release(self, withdrawn: int) -> ServiceDelta:
        """What the kernel is told: all that changed, but what is to end only where turn `withdrawn` has come."""
        for frontend in [one for one, turn in self._ending.items() if turn <= withdrawn or self._serves(one)]:
            del self._ending[frontend]
        ready = self._untold - self._ending.keys()
        self._untold &= self._ending.keys()
        return ServiceDelta(
            {one: self._wanted[one] for one in ready if one in self._wanted},
            frozenset(one for one in ready if one not in self._wanted),
        )

    def _serves(self, frontend: Frontend) -> bool:
        intent = self._wanted.get(frontend)
        return intent is not None and bool(intent.outside)

    def doubt(self, frontends: Iterable[Frontend]) -> None:
        """Has the next `admit` look at some frontends again: the kernel may hold them otherwise than it did."""
        self._unsettled.update(frontends)

    def admit(self, holds: Holds, everything: bool = False) -> ServiceDelta:
        """What those who announce are told, now that the kernel holds what it holds.

        `everything` looks at what was settled as well: something that held may hold no longer.
        """
        puts: dict[Frontend, FrontendIntent] = {}
        drops = set()
        looked = set(self._wanted) | self._unsettled if everything else set(self._unsettled)
        for frontend in looked - self._untold:
            wanted, said = self._wanted.get(frontend), self._announced.get(frontend)
            settled = True
            now = wanted
            if wanted is not None and _is_granted(wanted) and wanted.outside:
                held = holds(frontend)
                settled = held is True
                if held is None and said is not None and said.outside:
                    now = said
                elif held is not True:
                    now = replace(wanted, outside=(), reason=Reason.NOT_IN_KERNEL)
            (self._unsettled.discard if settled else self._unsettled.add)(frontend)
            if now is None or not _is_granted(now):
                if self._announced.pop(frontend, None) is not None:
                    drops.add(frontend)
            elif now != said:
                puts[frontend] = self._announced[frontend] = now
        return ServiceDelta(puts, frozenset(drops))


def _is_granted(intent: FrontendIntent | None) -> bool:
    return intent is not None and intent.origin is Origin.GRANT
