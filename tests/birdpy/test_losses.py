"""Which sessions are down, as they are read."""

from __future__ import annotations

from birdpy.losses import Losses
from birdpy.session import Session, SessionState

A, B = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])


def test_down_is_a_session_that_was_up_until_it_is_again_or_nobody_wants_it() -> None:
    losses = Losses()

    def read(**up: bool) -> frozenset[bytes]:
        addresses = {"a": A, "b": B}
        state = {True: SessionState.ESTABLISHED, False: SessionState.ACTIVE}
        losses.note_sessions({addresses[name]: Session(addresses[name], state=state[one]) for name, one in up.items()})
        return losses.down

    assert read(a=True, b=False) == frozenset(), "b was never up"
    assert read(a=False, b=True) == {A}
    assert read(a=False, b=False) == {A, B}
    assert read(a=True, b=False) == {B}
    assert read(a=True) == frozenset()
