"""Which address each Service is to have, and the next transaction that makes it so. Pure: loadbalancer.py makes it.

In: what knowledge.py knows; out: Batches, each a transaction that compares the keys it relied on. A batch is planned
step by step, each as if those before it were made; where it is refused, all of that is taken back.
Grants are the truth: a Service keeps what was granted to it, over restarts too, and even where its pools no longer
allow it, as long as nothing else can be had. First come, first served: those who hold something, then by age and name.
An address that is given back rests: its key under grants/resting goes by itself, and until then others come before it.
Nothing may be planned before the whole datastore has been observed; nothing is while the cluster is not to be obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from felixpy.addresses import Address, format_address
from felixpy.controllers.batch import MOST_OPERATIONS, Batch, IpamChange, Step, changes_of, join_steps, size_of
from felixpy.controllers.calico_holdings import make_attributes, make_handle
from felixpy.controllers.events import EventReason, make_event
from felixpy.controllers.grants import derive_grants, is_grant, render_grant
from felixpy.controllers.knowledge import SERVICES, WATCHED, Knowledge
from felixpy.controllers.pool_status import PoolCount
from felixpy.controllers.resting import RESTING, make_rest
from felixpy.controllers.service_status import read_refusal, render_status
from felixpy.controllers.vips import CALICO_POOL, make_service, wants_address
from felixpy.controllers.waiting import classify
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY
from felixpy.datastore.model import Expect, Write
from felixpy.resources.kinds import Name, grant_key
from felixpy.resources.service_types import Grant
from felixpy.resources.tables import Table
from ipam import addresses as ipam_addresses
from ipam.loadbalancer import Refused, VipService, choose_addresses, explain_sharing

__all__ = ["SERVICES", "WATCHED", "Allocation"]

_LEAST_ROOM = 12
"""Operations that one Service may need at most, with some to spare."""


class Allocation:
    """`observe` changes, then take `next_batch` until there is none."""

    def __init__(self) -> None:
        self._known = Knowledge()
        self._refused: set[Name] = set()
        self._undo: list[Callable[[], None]] = []
        self._steps_at_once = MOST_OPERATIONS

    @property
    def grants(self) -> Mapping[Address, Grant]:
        """Who holds which address."""
        return self._known.grants

    @property
    def waiting(self) -> frozenset[Name]:
        """Services that were refused an address."""
        return frozenset(self._known.waiting)

    @property
    def overlapping(self) -> Mapping[str, str]:
        """Pools that are not used, each with the pool that it overlaps."""
        return self._known.overlapping

    def pool_counts(self) -> Mapping[str, PoolCount]:
        """How full each pool is."""
        return self._known.pool_status.counts()

    def refusal_of(self, name: Name) -> str:
        """Why a Service was refused, as its status says; "" where it was not."""
        return read_refusal(self._known.statuses.get(name, b"{}"))

    def observe(self, key: bytes, value: bytes | None, mod_revision: int) -> None:
        """Takes in a key as it is at `mod_revision` (None: deleted then); what is older than known is passed over."""
        self._known.observe(key, value, mod_revision)

    def next_batch(self, now: str) -> Batch | None:
        """The next transaction to make, or None when nothing is to be done now; `now` is for events (RFC 3339).

        To be followed by `settle` or `refuse`. What the pools' status has to say comes after all else.
        """
        steps: list[Step] = []
        room = MOST_OPERATIONS - 2
        while room > _LEAST_ROOM and len(steps) < self._steps_at_once:
            step = self._next_step(now)
            if step is None:
                break
            if step.ipam is not None and steps and step.service is not None:
                self._known.touch(step.service)
                break
            room -= size_of(step)
            self._assume(step)
            steps.append(step)
            if step.ipam is not None:
                break
        if not steps and self._known.obeyed:
            known = self._known
            steps += known.pool_status.steps(known.pools, known.grants, known.revisions, MOST_OPERATIONS // 2)
        return join_steps(steps) if steps else None

    def _next_step(self, now: str) -> Step | None:
        while self._known.obeyed and (name := self._known.turns.take()) is not None:
            step = self._plan(name, now)
            if step is not None:
                return step
        return None

    def _assume(self, step: Step) -> None:
        """Takes a step for made; `refuse` takes that back."""
        self._undo += [self._known.assume_grant(address, grant) for address, grant in step.grants]
        others = [(key, value) for key, value in changes_of(step) if not is_grant(key)]
        self._undo += [one for key, value in others if (one := self._known.assume(key, value)) is not None]
        if step.service is not None:
            self._known.turns.withdraw((step.service,))

    def settle(self, batch: Batch, revision: int) -> None:
        """A batch was made, at `revision`; older events of its keys are still to come."""
        self._undo.clear()
        if batch.ipam is not None:
            self._known.confirm_ipam(batch.ipam, batch.steps[0].service, revision)
        self._steps_at_once = min(self._steps_at_once * 2, MOST_OPERATIONS)
        for key, value in changes_of(batch):
            self._known.confirm(key, value, revision)

    def refuse(self, batch: Batch) -> None:
        """A batch was refused: what it relied on has changed. Its Services wait for `resume`; then one goes at a time.

        What the keys hold now is not taken in here: keys known as of different revisions would together say what was
        never so (a status already there, not yet the grant that came with it). The watch brings all of it, in order.
        """
        while self._undo:
            self._undo.pop()()
        self._steps_at_once = 1
        self._refused.update(step.service for step in batch.steps if step.service is not None)
        self._known.turns.withdraw(self._refused)

    def resume(self) -> None:
        """The watch has brought something: those that were refused are planned anew."""
        refused, self._refused = self._refused, set()
        self._known.touch(*refused)

    def _plan(self, name: Name, now: str) -> Step | None:
        """What there is to write of one Service. Who waits no longer as it did passes its turn on."""
        waiting = self._known.waiting
        kind = waiting.leave(name)
        step = self._decide(name, now)
        if kind is not None and kind != waiting.class_of(name) and (following := waiting.first_of(kind)) is not None:
            self._known.touch(following)
        return step

    def _decide(self, name: Name, now: str) -> Step | None:
        if name in self._known.unreadable[Table.SERVICE]:
            return self._tell_fault(name, now)
        service = self._known.services.get(name)
        if service is None or not wants_address(service, self._known.classes, bool(self._known.ip_pools)):
            return self._release(name, now)
        held = {address: self._known.grants[address].pool for address in sorted(self._known.held.get(name, ()))}
        asking = make_service(name, service, self._known.pools, self._known.changed_at(name), self._known.ip_pools)
        choice = choose_addresses(asking, self._known.vip_pools(), self._known.ledger)
        if isinstance(choice, Refused):
            kept = {address: pool for address, pool in held.items() if self._may_stay(asking, address)}
            reason = next(iter(choice.reasons.values())).name
            words = self._tell_kept(kept, choice)
            kind = classify(asking, self._known.vip_pools(), bool(held or self._known.ledger.held_by(str(name))))
            self._known.touch(*self._known.waiting.join(name, service.created, kind, words))
            event = EventReason.FAILED if len(kept) == len(held) else EventReason.CLEARED
            return self._step(name, kept, render_status(kept, "False", reason, words), now, (event, words))
        wanted = {Address(vip.address): vip.pool for vip in choice.vips}
        broken = self._known.unreadable[Table.ADDRESS_POOL] | self._known.unreadable[Table.POOL]
        if broken and held.keys() - wanted.keys():
            message = f"stays while a pool cannot be read: {', '.join(map(str, sorted(broken)))}"
            return self._step(name, held, render_status(held, "True", "POOL_UNREADABLE", message), now)
        words = " ".join(f"{format_address(address)} of pool {pool}" for address, pool in wanted.items())
        granted = (EventReason.ALLOCATED, f"has {words}")
        return self._step(name, wanted, render_status(wanted, "True", "GRANTED", ""), now, granted)

    def _tell_fault(self, name: Name, now: str) -> Step | None:
        """A Service that cannot be read keeps what it has, and says that it cannot."""
        why = self._known.faults.get(name)
        if why is None:
            return None
        held = {address: self._known.grants[address].pool for address in sorted(self._known.held.get(name, ()))}
        status = render_status(held, "False", "UNREADABLE", why)
        return self._step(name, held, status, now, (EventReason.FAILED, why))

    def _tell_kept(self, kept: Iterable[Address], choice: Refused) -> str:
        """Why a Service does not have what it wants, and what it keeps meanwhile."""
        pools = self._known.vip_pools()
        told = [
            f"keeps {format_address(address)}"
            + ("" if any(pool.contains(address) for pool in pools) else ", which is of no pool any more")
            for address in kept
        ]
        return "; ".join((*told, choice.describe()))

    def _may_stay(self, asking: VipService, address: Address) -> bool:
        """Whether a Service that can have no other address may keep this one: beside those that it may share with."""
        return explain_sharing(asking, ipam_addresses.Address(address), self._known.ledger) is None

    def _release(self, name: Name, now: str) -> Step | None:
        holds = name in self._known.held or (self._known.ip_pools and self._known.ipam.addresses_of(name))
        return self._step(name, {}, None, now) if holds or name in self._known.statuses else None

    def _ipam_change(self, name: Name, wanted: Mapping[Address, str], now: str) -> IpamChange | None:
        """What Calico's IPAM has to record otherwise, so that a Service holds what is wanted of its pools there.

        Without such a pool only what we gave of one that is gone: the rest is of another controller.
        """
        held = (self._known.grants[address].pool for address in self._known.held.get(name, ()))
        if not self._known.ip_pools and not any(pool.startswith(CALICO_POOL) for pool in held):
            return None
        recorded = self._known.ipam.addresses_of(name)
        due = {address for address, pool in wanted.items() if pool.startswith(CALICO_POOL)}
        if due == recorded:
            return None
        service = self._known.services.get(name)
        attributes = make_attributes(name, service, now) if service is not None else {}
        handle = make_handle(name, service.uid if service is not None else "")
        return IpamChange(handle, attributes, tuple(sorted(due - recorded)), tuple(sorted(recorded - due)))

    def _step(
        self,
        name: Name,
        wanted: Mapping[Address, str],
        status: bytes | None,
        now: str,
        event: tuple[EventReason, str] | None = None,
    ) -> Step | None:
        grants = tuple(derive_grants(name, self._known.held.get(name, ()), wanted, self._known.grants))
        writes = [render_grant(address, grant) for address, grant in grants]
        rests = [make_rest(one.key, str(name)) for one in writes if one.value is None]
        if self._known.statuses.get(name) != status:
            writes.append(Write(SERVICES.status_key(name).encode(), status))
        ipam = self._ipam_change(name, wanted, now)
        if not writes and ipam is None:
            return None
        texts = tuple(map(format_address, wanted))
        relied_on = (
            CLUSTER_INFORMATION_KEY,
            SERVICES.key(name).encode(),
            *(grant_key(address).encode() for address in texts),
            *(write.key for write in writes),
        )
        expect = tuple(Expect(key, self._known.revisions.get(key, 0)) for key in dict.fromkeys(relied_on))
        addresses = " ".join(texts) or "no address"
        woken = (f"{RESTING}{address}".encode() for address in texts)
        writes += [Write(key, None) for key in woken if key in self._known.revisions]
        passing = (*rests, *((make_event(name, *event, now),) if event is not None else ()))
        return Step(name, expect, tuple(writes), f"{name} has {addresses}", passing, ipam, grants)
