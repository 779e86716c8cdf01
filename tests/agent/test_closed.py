"""What one wrong object may not do: close the node to every other pod."""

from __future__ import annotations

from felixpy.addresses import parse_address
from felixpy.agent.kernel.dataplane import Dataplane
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import WorkloadEndpoint
from tests.agent.conftest import Scene
from tests.agent.test_applier import until
from tests.fakes.kernel import FakeKernel
from tests.support.wait import eventually


def test_an_endpoint_of_an_unfit_device_closes_nobody_else(scene: Scene) -> None:
    c = scene.node.pod("c", "10.65.0.4")
    odd = scene.node.pod("odd", "10.65.0.9")
    odd.device = "workload"
    odd.write()
    c.write()
    eventually(lambda: c.reaches(scene.b) and scene.b.reaches(c), what="c and b reach each other")
    chains = scene.node.nft("list", "chains")
    assert f"ep-from-{c.device}" in chains
    assert "ep-from-workload" not in chains
    assert '"workload"' not in scene.node.nft("list", "map", "inet", "felixpy", "from-endpoint")


async def test_a_kernel_that_is_silent_at_the_start_is_neither_written_nor_the_end() -> None:
    kernel = FakeKernel()
    dataplane = Dataplane("n1", kernel, dict, lambda _: 0)
    kernel.unreachable = True
    dataplane.flush(1, ServiceDelta({}))
    assert not dataplane.started
    kernel.unreachable = False
    await until(lambda: dataplane.started)
    assert "filter-forward" in kernel.netfilter.chains


async def test_a_repair_that_the_kernel_does_not_answer_is_not_lost() -> None:
    kernel = FakeKernel()
    dataplane = Dataplane("n1", kernel, dict, lambda _: 0)
    dataplane.flush(1, ServiceDelta({}))
    kernel.flush_netfilter()
    kernel.unreachable = True
    dataplane.rules_changed("a flush", certain=True)
    await until(lambda: dataplane.reconciler.stale)
    kernel.unreachable = False
    await until(lambda: "filter-forward" in kernel.netfilter.chains)


async def test_what_two_endpoints_want_on_one_device_is_put_when_it_comes() -> None:
    kernel = FakeKernel()
    dataplane = Dataplane("n1", kernel, dict, lambda _: 0)
    names = (Name("default", "a"), Name("default", "b"))
    for number, name in enumerate(names):
        endpoint = WorkloadEndpoint("n1", "cali1", (parse_address(f"10.65.0.{number}"),), (), ())
        dataplane.update(Ref(Table.WORKLOAD, name), endpoint)
    dataplane.flush(1, ServiceDelta({}))
    dataplane.update(Ref(Table.WORKLOAD, Name("default", "c")), endpoint)
    dataplane.flush(2, ServiceDelta({}))
    dataplane.update(Ref(Table.WORKLOAD, Name("default", "c")), None)
    dataplane.flush(3, ServiceDelta({}))
    kernel.add_device("cali1")
    dataplane.device_changed("cali1", 7, up=True, gone=False)
    assert [dataplane.holds(name) for name in names] == [True, True]
