"""The causes that a node's rules may come to: the chains that endpoints share, and the names of them all.

In: what each owner's rules may come to; out: a chain, through the ledger, for each cause that some endpoint shares, and
the cause of a text in which the kernel names it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.calc.options import DEFAULTS, Options
from felixpy.calc.policy.usage import Users
from felixpy.dataplane.chains.causes import Cause
from felixpy.dataplane.chains.report import render_cause
from felixpy.dataplane.changes import Changes, Ledger


class KnownCauses:
    """Kept up to date by those who render policies and endpoints."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._options = DEFAULTS
        self._shared: Users[str, Cause] = Users()
        self._own: dict[str, tuple[Cause, ...]] = {}
        self._by_text: dict[str, Cause] = {}

    @property
    def by_text(self) -> Mapping[str, Cause]:
        """Each cause by its text."""
        return self._by_text

    def share(self, owner: str, causes: frozenset[Cause], changes: Changes) -> None:
        """What an endpoint's rules may come to, whose chains are not its own."""
        for cause in self._shared.note(owner, causes):
            used = cause in self._shared
            self._ledger.put(_owner(cause), (render_cause(cause, self._options),) if used else (), changes)
            self._name(cause, used)

    def note(self, owner: str, causes: tuple[Cause, ...]) -> None:
        """What the rules of a policy or profile may come to: it has the chains itself."""
        for cause in self._own.pop(owner, ()):
            self._name(cause, used=False)
        for cause in causes:
            self._name(cause, used=True)
        if causes:
            self._own[owner] = causes

    def configure(self, options: Options, changes: Changes) -> None:
        """The chains are otherwise from now on."""
        self._options = options
        for cause in self._shared:
            self._ledger.put(_owner(cause), (render_cause(cause, options),), changes)

    def _name(self, cause: Cause, used: bool) -> None:
        if used:
            self._by_text[cause.text] = cause
        else:
            self._by_text.pop(cause.text, None)


def _owner(cause: Cause) -> str:
    return f"cause {cause.text}"
