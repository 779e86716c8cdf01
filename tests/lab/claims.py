"""The claims of `make lab`, as a test: a module takes it in for the topology that its fixture names."""

from __future__ import annotations

import pytest

from tests.lab.prove import PROOFS, Proof
from tests.lab.world import World


@pytest.mark.parametrize(("claim", "proof"), PROOFS, ids=[claim for claim, _ in PROOFS])
def test_what_the_lab_claims(world: World, claim: str, proof: Proof) -> None:
    assert proof(world)
