"""What the load balancer controller knows, and the next thing it has to write. Pure: loadbalancer.py reads and writes.

In: keys as they are in the datastore; out: Batches, each a transaction that compares the keys it relied on. A batch is
planned step by step, each as if those before it were made; where it is refused, all of that is taken back.
Grants are the truth: a Service keeps what was granted to it, over restarts too, and even where its pools no longer
allow it, as long as nothing else can be had. First come, first served: those who hold something, then by age and name.
An address that is given back rests: its key under grants/resting goes by itself, and until then others come before it.
What cannot be read changes nothing: such a Service keeps what it has, and no one moves while a pool is unreadable.
Nothing may be planned before the whole datastore has been observed; nothing is while the cluster is not to be obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from felixpy.addresses import Address, format_address, parse_address
from felixpy.controllers.batch import MOST_OPERATIONS, Batch, IpamChange, Step, changes_of, join_steps, size_of
from felixpy.controllers.calico_holdings import CalicoHoldings, make_attributes, make_handle
from felixpy.controllers.events import EventReason, make_event
from felixpy.controllers.grants import GRANTED_ADDRESSES, derive_grant_writes, is_grant
from felixpy.controllers.pool_status import POOLS, PoolCount, PoolStatus
from felixpy.controllers.resting import RESTING, make_rest, parse_rest
from felixpy.controllers.service_status import read_refusal, render_status
from felixpy.controllers.turns import Turns
from felixpy.controllers.vips import CALICO_POOL, for_services, make_pools, make_service, make_sharer, wants_address
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, parse_cluster_information
from felixpy.datastore.model import Expect, Write
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, STATUS_PREFIX, Name, grant_key
from felixpy.resources.resource import Broken, Resource
from felixpy.resources.service_types import AddressPool, Grant, Service
from felixpy.resources.tables import Decoded, Table
from felixpy.resources.types import IpPool, Namespace
from ipam import addresses as ipam_addresses
from ipam.ledger import Ledger, Sharer
from ipam.loadbalancer import Refused, VipPool, VipService, choose_addresses, explain_sharing
from ipam.model import BLOCKS_PREFIX

SERVICES = BY_TYPE["v1", "Service"]
IP_POOLS = BY_TYPE["projectcalico.org/v3", "IPPool"]
WATCHED = (
    CLUSTER_INFORMATION_KEY,
    SERVICES.prefix.encode(),
    BY_TYPE["v1", "Namespace"].prefix.encode(),
    POOLS.prefix.encode(),
    IP_POOLS.prefix.encode(),
    BLOCKS_PREFIX.encode(),
    GRANTED_ADDRESSES.encode(),
    RESTING.encode(),
    SERVICES.status_prefix.encode(),
    POOLS.status_key(Name("", "")).encode(),
)
_OURS = (GRANTS_PREFIX.encode(), STATUS_PREFIX.encode())
"""What begins the keys that are written and watched."""
_LEAST_ROOM = 12
"""Operations that one Service may need at most, with some to spare."""
_NOT_YET = 1 << 62
"""Where a revision is not known yet: later than all."""


class Allocation:
    """Services, pools and grants as observed; `observe` changes, then take `next_batch` until there is none."""

    def __init__(self) -> None:
        self._decoder = Decoder("")
        self._ledger = Ledger()
        self._services: dict[Name, Service] = {}
        self._pools: dict[Name, AddressPool] = {}
        self._namespaces: dict[Name, Namespace] = {}
        self._vip_pools: tuple[VipPool, ...] | None = None
        self.overlapping: Mapping[str, str] = {}
        """Pools that are not used, each with the pool that it overlaps."""
        self._grants: dict[Address, Grant] = {}
        self._held: dict[Name, set[Address]] = {}
        self._statuses: dict[Name, bytes] = {}
        self._revisions: dict[bytes, int] = {}
        self._deleted: dict[bytes, int] = {}
        self._unreadable: dict[Table, set[Name]] = {Table.SERVICE: set(), Table.ADDRESS_POOL: set()}
        self._sharers: dict[Name, Sharer] = {}
        self._waiting: set[Name] = set()
        self._refused: set[Name] = set()
        self._turns = Turns()
        self._obeyed = False
        self._pool_status = PoolStatus()
        self._ip_pools: dict[Name, IpPool] = {}
        self._ipam = CalicoHoldings()
        self._undo: list[Callable[[], None]] = []
        self._steps_at_once = MOST_OPERATIONS

    @property
    def grants(self) -> Mapping[Address, Grant]:
        """Who holds which address."""
        return self._grants

    @property
    def waiting(self) -> frozenset[Name]:
        """Services that were refused an address."""
        return frozenset(self._waiting)

    def pool_counts(self) -> Mapping[str, PoolCount]:
        """How full each pool is."""
        return self._pool_status.counts()

    def refusal_of(self, name: Name) -> str:
        """Why a Service was refused, as its status says; "" where it was not."""
        return read_refusal(self._statuses.get(name, b"{}"))

    def observe(self, key: bytes, value: bytes | None, mod_revision: int) -> None:
        """Takes in a key as it is at `mod_revision` (None: deleted then); what is older than known is passed over."""
        if mod_revision <= self._revisions.get(key, 0) or mod_revision < self._deleted.get(key, 0):
            return
        self._deleted.pop(key, None)
        if value is None:
            self._revisions.pop(key, None)
        else:
            self._revisions[key] = mod_revision
        if key == CLUSTER_INFORMATION_KEY:
            guid, ready = parse_cluster_information(value)
            self._obeyed = bool(guid and ready)
            return
        self._apply(key, value, mod_revision)

    def _apply(self, key: bytes, value: bytes | None, mod_revision: int) -> None:
        """Takes over what a key holds."""
        text = key.decode("utf-8", "replace")
        if text.startswith(SERVICES.status_prefix):
            self._observe_status(text, value)
            return
        if text.startswith(RESTING):
            self._observe_rest(text, value, mod_revision)
            return
        if self._pool_status.observe(text, value):
            return
        holders = self._ipam.observe(text, value)
        if holders is not None:
            self._touch_holders(holders)
            return
        ref = self._decoder.ref_of(text)
        decoded = self._decoder.decode(key, value)
        if ref is None or decoded is None:
            return
        if ref.table in self._unreadable:
            (set.add if isinstance(decoded, Broken) else set.discard)(self._unreadable[ref.table], ref.name)
        if isinstance(decoded, Decoded):
            self._observe_resource(ref.table, ref.name, decoded.value)
        elif ref.table is Table.GRANT:
            self._observe_unreadable_grant(ref.name.name)
        else:
            self._observe_resource(ref.table, ref.name, None)

    def _observe_status(self, key: str, value: bytes | None) -> None:
        name = _name_of_status(key)
        if value is None:
            self._statuses.pop(name, None)
        else:
            self._statuses[name] = value
        self._touch(name)

    def _touch_holders(self, holders: Iterable[Name]) -> None:
        """Calico's IPAM says something else of what these hold."""
        for name in holders:
            self._record(name)
            self._touch(name)
        if holders:
            self._touch(*self._waiting)

    def _observe_rest(self, key: str, value: bytes | None, since: int) -> None:
        """An address rests, or no longer; who waits may have it either way."""
        try:
            address = ipam_addresses.Address(parse_address(key.removeprefix(RESTING)))
        except ValueError:
            return
        if value is None:
            self._ledger.wake(address)
        else:
            self._ledger.rest(address, since, parse_rest(value))

    def _observe_unreadable_grant(self, text: str) -> None:
        """A grant that nobody can read still takes its address."""
        try:
            address = parse_address(text)
        except ValueError:
            return
        self._set_grant(address, Grant(address, (Name("", f"unreadable grant {text}"),), ""))

    def _observe_resource(self, table: Table, name: Name, value: Resource | None) -> None:
        match table:
            case Table.SERVICE:
                if isinstance(value, Service):
                    self._services[name] = value
                else:
                    self._services.pop(name, None)
                if self._record(name):
                    self._touch(*self._waiting)
                self._touch(name)
            case Table.ADDRESS_POOL:
                if isinstance(value, AddressPool):
                    self._pools[name] = value
                else:
                    self._pools.pop(name, None)
                self._touch_all()
            case Table.POOL:
                was = self._ip_pools.pop(name, None)
                if isinstance(value, IpPool) and for_services(value):
                    self._ip_pools[name] = value
                if was is not None or name in self._ip_pools:
                    self._touch_all()
            case Table.NAMESPACE:
                before = self._namespaces.pop(name, None)
                if isinstance(value, Namespace):
                    self._namespaces[name] = value
                if before != value:
                    self._touch_all(name.name)
            case Table.GRANT:
                try:
                    address = parse_address(name.name)
                except ValueError:
                    return
                self._set_grant(address, value if isinstance(value, Grant) else None)
            case _:
                pass

    def _set_grant(self, address: Address, grant: Grant | None) -> None:
        before = self._grants.pop(address, None)
        if grant is not None:
            self._grants[address] = grant
        self._pool_status.recount(address, before, grant)
        old, new = (set(one.services) if one else set() for one in (before, grant))
        for name in old - new:
            self._held[name].discard(address)
            if not self._held[name]:
                del self._held[name]
        for name in new:
            self._held.setdefault(name, set()).add(address)
        for name in old | new:
            self._record(name)
            self._touch(name)
        if old - new:
            self._touch(*self._waiting)

    def _record(self, name: Name) -> bool:
        """Tells the ledger what a Service holds, and how it shares; whether a holder shares otherwise than before."""
        both = self._held.get(name, set()) | self._ipam.addresses_of(name)
        held = tuple(ipam_addresses.Address(address) for address in sorted(both))
        service = self._services.get(name)
        sharer = make_sharer(name, service, self._changed_at(name)) if name.namespace else Sharer(name.name)
        before = self._sharers.pop(name, None)
        if held:
            self._sharers[name] = sharer
        outranked = before is not None and before.rank != sharer.rank
        if held != self._ledger.held_by(sharer.name) or before not in (None, sharer) or outranked:
            self._ledger.grant(sharer, held)
        return bool(held) and before not in (None, sharer)

    def _changed_at(self, name: Name) -> int:
        """The revision of a Service's last change; 0 of one that is gone."""
        return self._revisions.get(SERVICES.key(name).encode(), 0)

    def _touch(self, *names: Name) -> None:
        for name in names:
            if name.namespace:
                service = self._services.get(name)
                self._turns.add(name, service.created if service else "", name in self._held)

    def _touch_all(self, namespace: str = "") -> None:
        """The pools look different now: to all Services, or to those of one namespace."""
        self._vip_pools = None
        self._pool_status.forget()
        self._touch(*(name for name in self._services if namespace in ("", name.namespace)))

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
                self._touch(step.service)
                break
            room -= size_of(step)
            self._assume(step)
            steps.append(step)
            if step.ipam is not None:
                break
        if not steps and self._obeyed:
            steps += self._pool_status.steps(self._pools, self._grants, self._revisions, MOST_OPERATIONS // 2)
        return join_steps(steps) if steps else None

    def _next_step(self, now: str) -> Step | None:
        while self._obeyed and (name := self._turns.take()) is not None:
            step = self._plan(name, now)
            if step is not None:
                return step
        return None

    def _assume(self, step: Step) -> None:
        """Takes a step for made; `refuse` takes that back."""
        for key, value in changes_of(step):
            if key.startswith(_OURS):
                self._undo.append(self._inverse(key))
                self._apply(key, value, _NOT_YET)
        if step.service is not None:
            self._turns.withdraw((step.service,))

    def _inverse(self, key: bytes) -> Callable[[], None]:
        """What makes what is known of a key as it is now; of a resting address the time is kept as well."""
        text = key.decode()
        if text.startswith(RESTING):
            address = ipam_addresses.Address(parse_address(text.removeprefix(RESTING)))
            rested = self._ledger.rest_of(address)
            return lambda: self._ledger.rest(address, *rested) if rested is not None else self._ledger.wake(address)
        if text.startswith(GRANTED_ADDRESSES):
            granted = parse_address(text.removeprefix(GRANTED_ADDRESSES))
            grant = self._grants.get(granted)
            return lambda: self._set_grant(granted, grant)
        name = _name_of_status(text)
        status = self._statuses.get(name)
        return lambda: self._observe_status(text, status)

    def settle(self, batch: Batch, revision: int) -> None:
        """A batch was made, at `revision`; older events of its keys are still to come."""
        self._undo.clear()
        if batch.ipam is not None:
            self._settle_ipam(batch.ipam, batch.steps[0].service, revision)
        self._steps_at_once = min(self._steps_at_once * 2, MOST_OPERATIONS)
        for key, value in changes_of(batch):
            if not key.startswith(_OURS):
                continue
            if value is None:
                self._revisions.pop(key, None)
                self._deleted[key] = revision
            else:
                self._deleted.pop(key, None)
                self._revisions[key] = revision
            if key.startswith(RESTING.encode()) or self._pool_status.owns(key):
                self._apply(key, value, revision)

    def _settle_ipam(self, change: IpamChange, name: Name | None, revision: int) -> None:
        """Older events of the blocks are still to come."""
        for address, holder in (*((one, None) for one in change.released), *((one, name) for one in change.taken)):
            block = self._ipam.assume(address, holder)
            if block:
                self._deleted[block.encode()] = revision
        if name is not None:
            self._record(name)

    def refuse(self, batch: Batch) -> None:
        """A batch was refused: what it relied on has changed. Its Services wait for `resume`; then one goes at a time.

        What the keys hold now is not taken in here: keys known as of different revisions would together say what was
        never so (a status already there, not yet the grant that came with it). The watch brings all of it, in order.
        """
        while self._undo:
            self._undo.pop()()
        self._steps_at_once = 1
        self._refused.update(step.service for step in batch.steps if step.service is not None)
        self._turns.withdraw(self._refused)

    def resume(self) -> None:
        """The watch has brought something: those that were refused are planned anew."""
        refused, self._refused = self._refused, set()
        self._touch(*refused)

    def _plan(self, name: Name, now: str) -> Step | None:
        self._waiting.discard(name)
        if name in self._unreadable[Table.SERVICE]:
            return None
        service = self._services.get(name)
        if service is None or not wants_address(service, bool(self._ip_pools)):
            return self._release(name, now)
        if self._vip_pools is None:
            self._vip_pools, self.overlapping = make_pools(self._pools, self._namespaces, self._ip_pools)
        held = {address: self._grants[address].pool for address in sorted(self._held.get(name, ()))}
        asking = make_service(name, service, self._pools, self._changed_at(name), self._ip_pools)
        choice = choose_addresses(asking, self._vip_pools, self._ledger)
        if isinstance(choice, Refused):
            self._waiting.add(name)
            held = {address: pool for address, pool in held.items() if self._may_stay(asking, address)}
            reason = next(iter(choice.reasons.values())).name
            words = choice.describe()
            return self._step(name, held, render_status(held, "False", reason, words), now, (EventReason.FAILED, words))
        wanted = {Address(vip.address): vip.pool for vip in choice.vips}
        broken = self._unreadable[Table.ADDRESS_POOL]
        if broken and held.keys() - wanted.keys():
            message = f"stays while a pool cannot be read: {', '.join(map(str, sorted(broken)))}"
            return self._step(name, held, render_status(held, "True", "POOL_UNREADABLE", message), now)
        words = " ".join(f"{format_address(address)} of pool {pool}" for address, pool in wanted.items())
        granted = (EventReason.ALLOCATED, f"has {words}")
        return self._step(name, wanted, render_status(wanted, "True", "GRANTED", ""), now, granted)

    def _may_stay(self, asking: VipService, address: Address) -> bool:
        """Whether a Service that can have no other address may keep this one: beside those that it may share with."""
        return explain_sharing(asking, ipam_addresses.Address(address), self._ledger) is None

    def _release(self, name: Name, now: str) -> Step | None:
        holds = name in self._held or (self._ip_pools and self._ipam.addresses_of(name))
        return self._step(name, {}, None, now) if holds or name in self._statuses else None

    def _ipam_change(self, name: Name, wanted: Mapping[Address, str], now: str) -> IpamChange | None:
        """What Calico's IPAM has to record otherwise, so that a Service holds what is wanted of its pools there."""
        if not self._ip_pools:
            return None
        recorded = self._ipam.addresses_of(name)
        due = {address for address, pool in wanted.items() if pool.startswith(CALICO_POOL)}
        if due == recorded:
            return None
        service = self._services.get(name)
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
        writes = list(derive_grant_writes(name, self._held.get(name, ()), wanted, self._grants))
        if self._statuses.get(name) != status:
            writes.append(Write(SERVICES.status_key(name).encode(), status))
        ipam = self._ipam_change(name, wanted, now)
        if not writes and ipam is None:
            return None
        rests = [make_rest(one.key, str(name)) for one in writes if one.value is None and is_grant(one.key)]
        relied_on = {
            CLUSTER_INFORMATION_KEY,
            SERVICES.key(name).encode(),
            *(grant_key(format_address(address)).encode() for address in wanted),
            *(write.key for write in writes),
        }
        expect = tuple(Expect(key, self._revisions.get(key, 0)) for key in sorted(relied_on))
        addresses = " ".join(map(format_address, wanted)) or "no address"
        woken = (f"{RESTING}{format_address(address)}".encode() for address in wanted)
        writes += [Write(key, None) for key in woken if key in self._revisions]
        passing = (*rests, *((make_event(name, *event, now),) if event is not None else ()))
        return Step(name, expect, tuple(writes), f"{name} has {addresses}", passing, ipam)


def _name_of_status(key: str) -> Name:
    namespace, _, last = key.removeprefix(SERVICES.status_prefix).partition("/")
    return Name(namespace, last)
