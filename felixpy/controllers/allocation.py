"""What the load balancer controller knows, and the next thing it has to write. Pure: loadbalancer.py reads and writes.

In: keys as they are in the datastore; out: one Step at a time, each a transaction that compares the keys it relied on.
Grants are the truth: a Service keeps what was granted to it, over restarts too, and even where its pools no longer
allow it, as long as nothing else can be had. First come, first served: those who hold something, then by age and name.
What cannot be read changes nothing: such a Service keeps what it has, and no one moves while a pool is unreadable.
Nothing may be planned before the whole datastore has been observed; nothing is while the cluster is not to be obeyed.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from felixpy.addresses import Address, format_address, parse_address
from felixpy.controllers.vips import make_pools, make_service, make_sharer, wants_address
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, parse_cluster_information
from felixpy.datastore.model import Expect, Write
from felixpy.resources.codec import Decoded, Decoder, Table, grant_key
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, STATUS_PREFIX, Name
from felixpy.resources.types import AddressPool, Broken, Grant, Namespace, Resource, Service
from ipam import addresses as ipam_addresses
from ipam.ledger import Ledger, Sharer
from ipam.loadbalancer import Refused, VipPool, choose_addresses

SERVICES = BY_TYPE["v1", "Service"]
_STATUS_OF_SERVICES = f"{STATUS_PREFIX}{SERVICES.group}/{SERVICES.version}/{SERVICES.plural}/"
_GRANTED_ADDRESSES = f"{GRANTS_PREFIX}addresses/"
WATCHED = (
    CLUSTER_INFORMATION_KEY,
    SERVICES.prefix.encode(),
    BY_TYPE["v1", "Namespace"].prefix.encode(),
    BY_TYPE["metallb.io/v1beta1", "IPAddressPool"].prefix.encode(),
    _GRANTED_ADDRESSES.encode(),
    _STATUS_OF_SERVICES.encode(),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction for one Service; `why` tells a person what it does."""

    service: Name
    expect: tuple[Expect, ...]
    writes: tuple[Write, ...]
    why: str


class Allocation:
    """Services, pools and grants as observed; `observe` changes, then take `next_step` until there is none."""

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
        self._dirty: set[Name] = set()
        self._queue: list[tuple[bool, str, Name]] = []
        self._obeyed = False

    @property
    def grants(self) -> Mapping[Address, Grant]:
        """Who holds which address."""
        return self._grants

    @property
    def waiting(self) -> Collection[Name]:
        """Services that were refused an address."""
        return self._waiting

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
        text = key.decode("utf-8", "replace")
        if text.startswith(_STATUS_OF_SERVICES):
            self._observe_status(text, value)
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
        namespace, _, last = key.removeprefix(_STATUS_OF_SERVICES).partition("/")
        name = Name(namespace, last)
        if value is None:
            self._statuses.pop(name, None)
        else:
            self._statuses[name] = value
        self._touch(name)

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
        held = tuple(ipam_addresses.Address(address) for address in sorted(self._held.get(name, ())))
        sharer = make_sharer(name, self._services.get(name)) if name.namespace else Sharer(name.name)
        before = self._sharers.pop(name, None)
        if held:
            self._sharers[name] = sharer
        if held != self._ledger.held_by(sharer.name) or before not in (None, sharer):
            self._ledger.grant(sharer, held)
        return bool(held) and before not in (None, sharer)

    def _touch(self, *names: Name) -> None:
        for name in names:
            if name.namespace and name not in self._dirty:
                self._dirty.add(name)
                service = self._services.get(name)
                created = service.created if service else ""
                heapq.heappush(self._queue, (name not in self._held, created, name))

    def _touch_all(self, namespace: str = "") -> None:
        """The pools look different now: to all Services, or to those of one namespace."""
        self._vip_pools = None
        self._touch(*(name for name in self._services if namespace in ("", name.namespace)))

    def next_step(self) -> Step | None:
        """The next transaction to make, or None when nothing is to be done now."""
        while self._queue and self._obeyed:
            _, _, name = heapq.heappop(self._queue)
            if name in self._dirty:
                self._dirty.discard(name)
                step = self._plan(name)
                if step is not None:
                    return step
        return None

    def settle(self, step: Step, revision: int) -> None:
        """A step was made, at `revision`."""
        for write in step.writes:
            self._learn(write.key, write.value, revision)
        self._dirty.discard(step.service)

    def refuse(self, step: Step) -> None:
        """A step was refused: what it relied on has changed. The Service waits for `resume`.

        What the keys hold now is not taken in here: keys known as of different revisions would together say what was
        never so (a status already there, not yet the grant that came with it). The watch brings all of it, in order.
        """
        self._refused.add(step.service)

    def resume(self) -> None:
        """The watch has brought something: those that were refused are planned anew."""
        refused, self._refused = self._refused, set()
        self._touch(*refused)

    def _learn(self, key: bytes, value: bytes | None, revision: int) -> None:
        """What a transaction told us before the watch does: older events of the key are still to come."""
        self.observe(key, value, revision)
        if value is None:
            self._deleted[key] = revision

    def _plan(self, name: Name) -> Step | None:
        self._waiting.discard(name)
        if name in self._unreadable[Table.SERVICE]:
            return None
        service = self._services.get(name)
        if service is None or not wants_address(service):
            return self._release(name)
        if self._vip_pools is None:
            self._vip_pools, self.overlapping = make_pools(self._pools, self._namespaces)
        held = {address: self._grants[address].pool for address in sorted(self._held.get(name, ()))}
        choice = choose_addresses(make_service(name, service, self._pools), self._vip_pools, self._ledger)
        if isinstance(choice, Refused):
            self._waiting.add(name)
            reason = next(iter(choice.reasons.values())).name
            return self._step(name, held, _status(held, "False", reason, choice.describe()))
        wanted = {Address(vip.address): vip.pool for vip in choice.vips}
        broken = self._unreadable[Table.ADDRESS_POOL]
        if broken and held.keys() - wanted.keys():
            message = f"stays while a pool cannot be read: {', '.join(map(str, sorted(broken)))}"
            return self._step(name, held, _status(held, "True", "POOL_UNREADABLE", message))
        return self._step(name, wanted, _status(wanted, "True", "GRANTED", ""))

    def _release(self, name: Name) -> Step | None:
        return self._step(name, {}, None) if name in self._held or name in self._statuses else None

    def _step(self, name: Name, wanted: Mapping[Address, str], status: bytes | None) -> Step | None:
        writes = list(self._grant_writes(name, wanted))
        if self._statuses.get(name) != status:
            writes.append(Write(SERVICES.status_key(name).encode(), status))
        if not writes:
            return None
        relied_on = {
            CLUSTER_INFORMATION_KEY,
            SERVICES.key(name).encode(),
            *(grant_key(format_address(address)).encode() for address in wanted),
            *(write.key for write in writes),
        }
        expect = tuple(Expect(key, self._revisions.get(key, 0)) for key in sorted(relied_on))
        addresses = " ".join(map(format_address, wanted)) or "no address"
        return Step(name, expect, tuple(writes), f"{name} has {addresses}")

    def _grant_writes(self, name: Name, wanted: Mapping[Address, str]) -> Iterator[Write]:
        for address in sorted(self._held.get(name, set()) - wanted.keys()):
            others = tuple(one for one in self._grants[address].services if one != name)
            yield _write_grant(address, others, self._grants[address].pool)
        for address, pool in wanted.items():
            grant = self._grants.get(address)
            if grant is None:
                yield _write_grant(address, (name,), pool)
            elif name not in grant.services or grant.pool != pool:
                yield _write_grant(address, tuple(sorted({*grant.services, name})), pool)


def _write_grant(address: Address, services: tuple[Name, ...], pool: str) -> Write:
    text = format_address(address)
    body = {"address": text, "services": [str(name) for name in services], "pool": pool}
    return Write(grant_key(text).encode(), msgspec.json.encode(body) if services else None)


def _status(wanted: Mapping[Address, str], state: str, reason: str, message: str) -> bytes:
    body = {
        "loadBalancer": {"ingress": [{"ip": format_address(address)} for address in wanted]} if wanted else {},
        "conditions": [{"type": "AddressGranted", "status": state, "reason": reason, "message": message}],
    }
    return msgspec.json.encode(body)
