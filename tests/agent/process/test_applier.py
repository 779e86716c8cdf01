"""What failed is taken up again, each thing in its own time, and said once; a silent kernel ends nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from felixpy.addresses import parse_prefix
from felixpy.agent.kernel import applier
from felixpy.agent.kernel.applier import Applier
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import ROUTE_PROTOCOL_WORKLOAD, Object, Outcome, Put, Route
from felixpy.reconcile import Reconciler
from tests.fakes.kernel import FakeKernel
from tests.support.wait import until

HOPELESS = Route(parse_prefix("10.0.0.9/32"), ROUTE_PROTOCOL_WORKLOAD, device="cali9", link_scope=True)
LATE = Route(parse_prefix("10.0.0.1/32"), ROUTE_PROTOCOL_WORKLOAD, device="cali1", link_scope=True)


class Desk:
    """An applier on a kernel in memory that has no device; its delays are short."""

    def __init__(self, awaited: Callable[[Outcome], bool] = applier.awaits_nothing) -> None:
        self.kernel = FakeKernel()
        self.reconciler = Reconciler(self.kernel, lambda _: {})
        self.applier = Applier("kernel", self.reconciler, lambda: None, awaited)

    def want(self, *objects: Object) -> None:
        self.reconciler.want(Changes({one.key: one for one in objects}))
        self.applier.apply("change")


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "RETRY_FIRST_S", 0.02)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_hopeless_object_delays_no_other_and_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.want(HOPELESS)
    await until(lambda: len(desk.kernel.applied) >= 4)
    desk.want(LATE)
    desk.kernel.add_device("cali1")
    desk.kernel.applied.clear()
    await until(lambda: desk.reconciler.holds([LATE.key]))
    assert len([op for op in desk.kernel.applied if op.object == HOPELESS]) <= 1
    assert len([line for line in warnings(caplog) if "10.0.0.9" in line and "not done" in line]) == 1


async def test_what_waits_long_is_tried_soon_after_something_came_right() -> None:
    desk = Desk(awaited=lambda outcome: outcome.op == Put(HOPELESS))
    desk.want(HOPELESS, LATE)
    desk.kernel.add_device("cali9")
    desk.kernel.add_device("cali1")
    await until(lambda: desk.reconciler.holds([LATE.key]))
    await until(lambda: desk.reconciler.holds([HOPELESS.key]))


async def test_what_an_event_will_tell_of_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    desk = Desk(awaited=lambda outcome: True)
    desk.want(HOPELESS)
    assert warnings(caplog) == []
    assert any("waits for its device" in record.message for record in caplog.records)


async def test_a_kernel_that_does_not_answer_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.kernel.add_device("cali1")
    desk.kernel.unreachable = True
    desk.want(LATE)
    desk.reconciler.distrust()
    assert not desk.reconciler.holds([LATE.key])
    desk.kernel.unreachable = False
    await until(lambda: desk.reconciler.holds([LATE.key]))
    assert len(warnings(caplog)) == 1
