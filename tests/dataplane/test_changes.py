"""Of several who want one key the first by name has it, whatever they wanted before and whoever came when."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.objects import Key, Object, Sysctl

OWNERS, PATHS, VALUES = ("a", "b", "c", "d"), ("x", "y"), ("0", "1")
WISHES = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(VALUES))


def derive_desired(wishes: Mapping[str, Mapping[str, str]]) -> Mapping[Key, Object]:
    """What should be, from what everybody wants now."""
    wanted: dict[Key, Object] = {}
    for owner in sorted(wishes, reverse=True):
        wanted |= {one.key: one for one in (Sysctl(path, value) for path, value in wishes[owner].items())}
    return wanted


@given(st.lists(st.tuples(st.sampled_from(OWNERS), WISHES), max_size=20))
def test_any_history_ends_in_what_everybody_wants_now(history: list[tuple[str, dict[str, str]]]) -> None:
    ledger, held, wishes = Ledger(), dict[Key, Object](), dict[str, Mapping[str, str]]()
    for owner, wish in history:
        changes, before = Changes(), dict(held)
        ledger.put(owner, [Sysctl(path, value) for path, value in wish.items()], changes)
        wishes[owner] = wish
        for key, one in changes.objects.items():
            assert before.get(key) != one, "nothing is said that is so already"
            if one is None:
                del held[key]
            else:
                held[key] = one
        assert held == ledger.desired() == derive_desired(wishes)
        assert ledger.owners(Sysctl("x", "0").key) == tuple(sorted(who for who in wishes if "x" in wishes[who]))
