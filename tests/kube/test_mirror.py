"""Whatever comes in between, the datastore ends with what the API has; what people wrote stays."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from felixpy.datastore.model import KeyValue
from felixpy.kube.convert import convert, is_imported
from felixpy.kube.mirror import BATCH_MOST, OBJECT_MOST_BYTES, Mirror, MirrorBatch, Refusal
from felixpy.resources.kinds import BY_TYPE

NAMESPACE = BY_TYPE["v1", "Namespace"]
PREFIX = NAMESPACE.prefix.encode()
BY_HAND = b'{"metadata":{"name":"by hand"}}'


def imported(name: int, label: int) -> tuple[bytes, bytes]:
    made = convert(NAMESPACE, {"metadata": {"name": f"ns{name}", "labels": {"l": str(label)}}})
    assert made is not None
    return made


@dataclass
class Datastore:
    """A dict with versions that refuses a batch whose conditions do not hold."""

    pairs: dict[bytes, KeyValue] = field(default_factory=dict)
    revision: int = 0
    log: list[tuple[bytes, bytes | None, int]] = field(default_factory=list)

    def put(self, key: bytes, value: bytes | None) -> None:
        self.revision += 1
        self.log.append((key, value, self.revision))
        self.pairs.pop(key, None)
        if value is not None:
            self.pairs[key] = KeyValue(key, value, self.revision)

    def tell(self, mirror: Mirror) -> None:
        """What the watch has not told yet."""
        for key, value, revision in self.log:
            mirror.holds(key, value, revision)
        self.log.clear()

    def current(self, batch: MirrorBatch) -> list[KeyValue | None]:
        return [self.pairs.get(condition.key) for condition in batch.expect]

    def take(self, mirror: Mirror, batch: MirrorBatch) -> None:
        current = self.current(batch)
        versions = [pair.mod_revision if pair is not None else 0 for pair in current]
        if versions != [condition.mod_revision for condition in batch.expect]:
            mirror.refuse(batch, current)
            return
        self.revision += 1
        revision = self.revision
        for write in batch.writes:
            self.pairs.pop(write.key, None)
            if write.value is not None:
                self.pairs[write.key] = KeyValue(write.key, write.value, revision)
        mirror.settle(batch, revision)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("api"), st.integers(0, 4), st.integers(0, 2)),
        st.tuples(st.just("api gone"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("list"), st.just(0), st.just(0)),
        st.tuples(st.just("person"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("person deletes"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("write"), st.just(0), st.just(0)),
        st.tuples(st.just("watch"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_datastore_ends_with_what_the_api_has(steps: list[tuple[str, int, int]]) -> None:
    mirror, store, api = Mirror(), Datastore(), dict[bytes, bytes]()
    for what, name, label in steps:
        key, value = imported(name, label)
        match what:
            case "api":
                api[key] = value
                mirror.changed(key, value)
            case "api gone":
                api.pop(key, None)
                mirror.changed(key, None)
            case "list":
                mirror.listed(PREFIX, dict(api))
            case "person":
                store.put(key, BY_HAND)
            case "person deletes":
                store.put(key, None)
            case "write" if (batch := mirror.next_batch()) is not None:
                store.take(mirror, batch)
            case "watch":
                store.tell(mirror)
            case "restart":
                mirror = read(store)
                mirror.listed(PREFIX, dict(api))
    if not any(what in ("list", "restart") for what, _, _ in steps):
        mirror.listed(PREFIX, dict(api))
    store.tell(mirror)
    while (batch := mirror.next_batch()) is not None:
        store.take(mirror, batch)
        store.tell(mirror)
    by_hand = {key for key, pair in store.pairs.items() if not is_imported(pair.value)}
    assert {key: pair.value for key, pair in store.pairs.items() if key not in by_hand} == {
        key: value for key, value in api.items() if key not in by_hand
    }


def read(store: Datastore) -> Mirror:
    mirror = Mirror()
    for key, pair in store.pairs.items():
        mirror.holds(key, pair.value, pair.mod_revision)
    store.log.clear()
    return mirror


def test_what_a_person_wrote_meanwhile_is_found_by_the_refusal_and_told_once() -> None:
    mirror, store = Mirror(), Datastore()
    key, value = imported(1, 1)
    other, kept = imported(2, 1)
    mirror.listed(PREFIX, {key: value, other: kept})
    store.put(key, BY_HAND)
    while (batch := mirror.next_batch()) is not None:
        store.take(mirror, batch)
    assert (store.pairs[key].value, store.pairs[other].value) == (BY_HAND, kept)
    assert mirror.take_refused() == {key: Refusal.FOREIGN}
    mirror.changed(key, imported(1, 2)[1])
    assert mirror.take_refused() == {}
    store.put(key, None)
    store.tell(mirror)
    again = mirror.next_batch()
    assert again is not None
    assert [write.key for write in again.writes] == [key]


def test_an_object_that_etcd_does_not_take_is_named_and_holds_up_nobody() -> None:
    mirror = Mirror()
    key, value = imported(1, 1)
    mirror.listed(PREFIX, {b"%slarge" % PREFIX: value.ljust(OBJECT_MOST_BYTES + 1), key: value})
    batch = mirror.next_batch()
    assert batch is not None
    assert [write.key for write in batch.writes] == [key]
    assert mirror.take_refused() == {b"%slarge" % PREFIX: Refusal.TOO_LARGE}


def test_a_batch_is_as_large_as_a_transaction_may_be() -> None:
    mirror = Mirror()
    mirror.listed(PREFIX, dict(imported(number, 0) for number in range(BATCH_MOST + 1)))
    batch = mirror.next_batch()
    assert batch is not None
    assert len(batch.writes) == BATCH_MOST
    mirror.settle(batch, 1)
    assert (rest := mirror.next_batch()) is not None
    assert len(rest.writes) == 1
