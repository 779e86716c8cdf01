"""Writing beside other writers: nothing of theirs is lost, and one object's trouble is its own."""

from __future__ import annotations

from collections.abc import Sequence

from felixpy.ctl.applying.plan import Outcome
from felixpy.ctl.applying.writer import ATTEMPTS, apply_all
from felixpy.ctl.manifests import Manifest
from felixpy.ctl.reading.intake import take_in
from felixpy.ctl.reading.yaml_text import parse_documents
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import DatastoreError, Expect, TxnResult, Write

KEY = b"/felixpy/resources/core/v1/services/default/%s"


def services(*names: str) -> tuple[Manifest, ...]:
    text = "---\n".join(
        f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{}}}}\n" for name in names
    )
    return take_in(parse_documents(text, "f.yaml")).manifests


class Contested(MemoryStore):
    """Another writer puts `a`, with a status, just before each of the first `times` transactions."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        if self.times:
            self.times -= 1
            await self.put(KEY % b"a", b'{"status":{"by":"another"},"metadata":{"uid":"theirs"}}')
        return await super().transact(expect, writes)


class Choosy(MemoryStore):
    """Takes no transaction that writes `a`."""

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        if any(write.key == KEY % b"a" for write in writes):
            raise DatastoreError("request is too large")
        return await super().transact(expect, writes)


async def outcomes(store: MemoryStore) -> list[tuple[str, Outcome]]:
    return [(str(change.manifest.name), change.outcome) async for change in apply_all(store, services("a", "b"))]


async def test_what_another_wrote_meanwhile_is_kept() -> None:
    store = Contested(times=2)

    assert await outcomes(store) == [("default/a", Outcome.CONFIGURED), ("default/b", Outcome.CREATED)]
    assert b'"uid":"theirs"' in store.data[KEY % b"a"].value
    assert b'"by":"another"' in store.data[KEY % b"a"].value


async def test_it_gives_up_on_what_never_holds_still() -> None:
    store = Contested(times=1000)

    assert [outcome for _, outcome in await outcomes(store)] == [Outcome.REFUSED, Outcome.CREATED]
    assert 1000 - store.times <= 2 + ATTEMPTS * 2


async def test_a_transaction_that_etcd_refuses_is_written_object_by_object() -> None:
    assert await outcomes(Choosy()) == [("default/a", Outcome.REFUSED), ("default/b", Outcome.CREATED)]
