"""A neighbour that falls silent is noticed: by BFD, or by the hold timer where there is none. FRR is the ToR.

The whole agent with gobgpd 4 and 3, fed through etcd; what is noticed is seen in the node's kernel and at the ToR.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.bgp.rack import BLOCK, LONG, Rack, rack_of
from tests.support.wait import eventually

SHORT = {"holdTime": "3s", "keepaliveTime": "1s"}


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    with rack_of(request.param) as made:
        yield made


def test_bfd_notices_at_either_side_what_the_hold_time_would_not_for_an_hour(rack: Rack) -> None:
    rack.profile()
    rack.peer(bfdProfile="fast", **LONG)
    try:
        if rack.generation == 3:
            said = eventually(lambda: [one["error"] for one in rack.bgp()["refusals"]], within_s=20)
            assert said == ["GoBGP 3 has no BFD"]
            return
        eventually(lambda: rack.met() and rack.session()["bfd"]["up"], within_s=40)
        before = rack.session()["bfd"]["failures"]
        with rack.silence():
            eventually(lambda: not rack.has_route(), within_s=10)
            down = rack.session()
            assert (down["established"], down["bfd"]["failures"] > before) == (False, True), down
            assert down["lastError"].startswith("BFD went down"), down
            eventually(lambda: BLOCK not in rack.frr.told_by(64512), within_s=10, what="the ToR sends nothing here")
        eventually(lambda: rack.met() and rack.session()["bfd"]["up"], within_s=40, what="all is back")
    finally:
        rack.forget()


def test_the_hold_timer_notices_where_there_is_no_bfd(rack: Rack) -> None:
    rack.peer(**SHORT)
    try:
        eventually(rack.met, within_s=40)
        assert rack.session()["bfd"] is None
        with rack.silence():
            eventually(lambda: not rack.has_route(), within_s=20)
            assert "silent for the hold time" in rack.session()["lastError"]
        eventually(rack.met, within_s=40, what="all is back")
    finally:
        rack.forget()
