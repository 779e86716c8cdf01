"""What the load balancer controller knows: keys as they are, or as it takes them to be; and whose turn it is.

In: keys and values; out: tables, the ledger of who holds which address, and the Services whose turn that makes it. What
is older than known is passed over; what was taken to be so can be taken back. Decides nothing. Pure.
What cannot be read changes nothing: a Service keeps what it has, and no one moves while a pool is unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from felixpy.addresses import Address, parse_address
from felixpy.controllers.batch import IpamChange
from felixpy.controllers.calico_holdings import CalicoHoldings
from felixpy.controllers.grants import GRANTED_ADDRESSES
from felixpy.controllers.pool_status import POOLS, PoolStatus
from felixpy.controllers.resting import RESTING, parse_rest
from felixpy.controllers.turns import Turns
from felixpy.controllers.vips import CALICO_CLASS, PoolRules, asks_for_address, for_services, make_pools, make_sharer
from felixpy.controllers.waiting import Waiting
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, parse_cluster_information
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, CALICO, GRANTS_PREFIX, STATUS_PREFIX, Name
from felixpy.resources.resource import Broken, Resource
from felixpy.resources.service_types import AddressPool, Grant, Service
from felixpy.resources.tables import Decoded, Table
from felixpy.resources.types import ControllersConfiguration, IpPool, IpReservation, Namespace
from ipam import addresses as ipam_addresses
from ipam.ledger import Ledger, Sharer
from ipam.loadbalancer import VipPool
from ipam.model import BLOCKS_PREFIX

SERVICES = BY_TYPE["v1", "Service"]
WATCHED = (
    CLUSTER_INFORMATION_KEY,
    SERVICES.prefix.encode(),
    BY_TYPE["v1", "Namespace"].prefix.encode(),
    POOLS.prefix.encode(),
    BY_TYPE[CALICO, "IPPool"].prefix.encode(),
    BY_TYPE[CALICO, "IPReservation"].prefix.encode(),
    BY_TYPE[CALICO, "KubeControllersConfiguration"].prefix.encode(),
    BLOCKS_PREFIX.encode(),
    GRANTED_ADDRESSES.encode(),
    RESTING.encode(),
    SERVICES.status_prefix.encode(),
    POOLS.status_prefix.encode(),
)
_OURS = (GRANTS_PREFIX.encode(), STATUS_PREFIX.encode())
"""What begins the keys that are written and watched."""
_NOT_YET = 1 << 62
"""Where a revision is not known yet: later than all."""
_NOTHING: frozenset[Address] = frozenset()
_DEFAULT = Name("", "default")


class Knowledge:
    """Services, pools and grants; `observe` what the watch brings, `assume` what is about to be written."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.services: dict[Name, Service] = {}
        self.pools: dict[Name, AddressPool] = {}
        self.ip_pools: dict[Name, IpPool] = {}
        self.overlapping: Mapping[str, str] = {}
        """Pools that are not used, each with the pool that it overlaps."""
        self.grants: dict[Address, Grant] = {}
        self.held: dict[Name, set[Address]] = {}
        self.statuses: dict[Name, bytes] = {}
        self.revisions: dict[bytes, int] = {}
        self.unreadable: dict[Table, set[Name]] = {
            Table.SERVICE: set(),
            Table.ADDRESS_POOL: set(),
            Table.POOL: set(),
        }
        self.faults: dict[Name, str] = {}
        """Services that ask for an address and cannot be read, and why not."""
        self.waiting = Waiting()
        """Services that were refused an address."""
        self.turns = Turns()
        self.obeyed = False
        self.pool_status = PoolStatus()
        self.ipam = CalicoHoldings()
        self._decoder = Decoder("")
        self._namespaces: dict[Name, Namespace] = {}
        self._reservations: dict[Name, IpReservation] = {}
        self._configuration = ControllersConfiguration()
        self._vip_pools: tuple[VipPool, ...] | None = None
        self._deleted: dict[bytes, int] = {}
        self._sharers: dict[Name, Sharer] = {}

    def vip_pools(self) -> tuple[VipPool, ...]:
        """The pools as the choice sees them."""
        if self._vip_pools is None:
            reserved = tuple(cidr for _, one in sorted(self._reservations.items()) for cidr in one.cidrs)
            rules = PoolRules(reserved, self._configuration.requested_only)
            self._vip_pools, self.overlapping = make_pools(self.pools, self._namespaces, self.ip_pools, rules)
        return self._vip_pools

    @property
    def classes(self) -> frozenset[str]:
        """The classes of Services that are ours."""
        return self._configuration.classes

    def changed_at(self, name: Name) -> int:
        """The revision of a Service's last change; 0 of one that is gone."""
        return self.revisions.get(SERVICES.key(name).encode(), 0)

    def observe(self, key: bytes, value: bytes | None, mod_revision: int) -> None:
        """Takes in a key as it is at `mod_revision` (None: deleted then); what is older than known is passed over."""
        if mod_revision <= self.revisions.get(key, 0) or mod_revision < self._deleted.get(key, 0):
            return
        self._deleted.pop(key, None)
        if value is None:
            self.revisions.pop(key, None)
        else:
            self.revisions[key] = mod_revision
        if key == CLUSTER_INFORMATION_KEY:
            guid, ready = parse_cluster_information(value)
            self.obeyed = bool(guid and ready)
            return
        self._apply(key, value, mod_revision)

    def _apply(self, key: bytes, value: bytes | None, mod_revision: int) -> None:
        """Takes over what a key holds."""
        text = key.decode("utf-8", "replace")
        told_of = SERVICES.parse_status_name(text)
        if told_of is not None:
            self._observe_status(told_of, value)
            return
        if text.startswith(RESTING):
            self._observe_rest(text, value, mod_revision)
            return
        if self.pool_status.observe(text, value):
            return
        holders = self.ipam.observe(text, value)
        if holders is not None:
            self._touch_holders(holders)
            return
        decoded = self._decoder.decode(key, value)
        ref = decoded.ref if isinstance(decoded, Decoded) else self._decoder.ref_of(text)
        if ref is None or decoded is None:
            return
        if ref.table is Table.SERVICE:
            self._note_fault(ref.name, decoded, value)
        if ref.table in self.unreadable:
            (set.add if isinstance(decoded, Broken) else set.discard)(self.unreadable[ref.table], ref.name)
        if isinstance(decoded, Decoded):
            self._observe_resource(ref.table, ref.name, decoded.value)
        elif ref.table is Table.GRANT:
            self._observe_unreadable_grant(ref.name.name)
        else:
            self._observe_resource(ref.table, ref.name, None)

    def _note_fault(self, name: Name, decoded: Decoded | Broken, value: bytes | None) -> None:
        """A Service that cannot be read is told so, if it is of those that have addresses of us."""
        self.faults.pop(name, None)
        classes = self.classes | {CALICO_CLASS} if self.ip_pools else self.classes
        if isinstance(decoded, Broken) and value is not None and asks_for_address(value, classes):
            self.faults[name] = f"{decoded.field}: {decoded.why}" if decoded.field else decoded.why

    def _observe_status(self, name: Name, value: bytes | None) -> None:
        if value is None:
            self.statuses.pop(name, None)
        else:
            self.statuses[name] = value
        self.touch(name)

    def _touch_holders(self, holders: Iterable[Name]) -> None:
        """Calico's IPAM says something else of what these hold."""
        for name in holders:
            self._record(name)
            self.touch(name)
        if holders:
            self.touch(*self.waiting.firsts())

    def _observe_rest(self, key: str, value: bytes | None, since: int) -> None:
        """An address rests, or no longer; who waits may have it either way."""
        try:
            address = ipam_addresses.Address(parse_address(key.removeprefix(RESTING)))
        except ValueError:
            return
        if value is None:
            self.ledger.wake(address)
        else:
            self.ledger.rest(address, since, parse_rest(value))

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
                    self.services[name] = value
                else:
                    self.services.pop(name, None)
                if self._record(name):
                    self.touch(*self.waiting.firsts())
                self.touch(name)
            case Table.ADDRESS_POOL:
                if isinstance(value, AddressPool):
                    self.pools[name] = value
                else:
                    self.pools.pop(name, None)
                self._touch_all()
            case Table.POOL:
                was = self.ip_pools.pop(name, None)
                if isinstance(value, IpPool) and for_services(value):
                    self.ip_pools[name] = value
                if was is not None or name in self.ip_pools:
                    self._touch_all()
            case Table.NAMESPACE:
                before = self._namespaces.pop(name, None)
                if isinstance(value, Namespace):
                    self._namespaces[name] = value
                if before != value:
                    self._touch_all(name.name)
            case Table.RESERVATION:
                before_it = self._reservations.pop(name, None)
                if isinstance(value, IpReservation):
                    self._reservations[name] = value
                if before_it != value:
                    self._touch_all()
            case Table.CONTROLLERS_CONFIGURATION if name == _DEFAULT:
                was_so = self._configuration
                self._configuration = (
                    value if isinstance(value, ControllersConfiguration) else ControllersConfiguration()
                )
                if was_so != self._configuration:
                    self._touch_all()
            case Table.GRANT:
                try:
                    address = parse_address(name.name)
                except ValueError:
                    return
                self._set_grant(address, value if isinstance(value, Grant) else None)
            case _:
                pass

    def _set_grant(self, address: Address, grant: Grant | None) -> None:
        before = self.grants.pop(address, None)
        if grant is not None:
            self.grants[address] = grant
        self.pool_status.recount(address, before, grant)
        old, new = (set(one.services) if one else set() for one in (before, grant))
        for name in old - new:
            self.held[name].discard(address)
            if not self.held[name]:
                del self.held[name]
        for name in new:
            self.held.setdefault(name, set()).add(address)
        for name in old | new:
            self._record(name)
            self.touch(name)
        if old - new:
            self.touch(*self.waiting.firsts())

    def _record(self, name: Name) -> bool:
        """Tells the ledger what a Service holds, and how it shares; whether a holder shares otherwise than before."""
        both = self.held.get(name, _NOTHING) | self.ipam.addresses_of(name)
        if not both and name not in self._sharers:
            return False
        held = tuple(ipam_addresses.Address(address) for address in sorted(both))
        service = self.services.get(name)
        sharer = make_sharer(name, service, self.changed_at(name)) if name.namespace else Sharer(name.name)
        before = self._sharers.pop(name, None)
        if held:
            self._sharers[name] = sharer
        outranked = before is not None and before.rank != sharer.rank
        if held != self.ledger.held_by(sharer.name) or before not in (None, sharer) or outranked:
            self.ledger.grant(sharer, held)
        return bool(held) and before not in (None, sharer)

    def touch(self, *names: Name) -> None:
        """It is these Services' turn."""
        for name in names:
            if name.namespace:
                service = self.services.get(name)
                had = service is not None and bool(service.had)
                self.turns.add(name, service.created if service else "", name in self.held or had)

    def _touch_all(self, namespace: str = "") -> None:
        """The pools look different now: to all Services, or to those of one namespace."""
        self._vip_pools = None
        self.pool_status.forget()
        self.touch(*(name for name in self.services if namespace in ("", name.namespace)))

    def assume(self, key: bytes, value: bytes | None) -> Callable[[], None] | None:
        """Takes a key to be so, before it is written; what takes that back, None where the key is not looked at."""
        if not key.startswith(_OURS):
            return None
        undo = self._inverse(key)
        self._apply(key, value, _NOT_YET)
        return undo

    def assume_grant(self, address: Address, grant: Grant | None) -> Callable[[], None]:
        """As `assume`, of who holds an address."""
        before = self.grants.get(address)
        self._set_grant(address, grant)
        return lambda: self._set_grant(address, before)

    def _inverse(self, key: bytes) -> Callable[[], None]:
        """What makes what is known of a key as it is now; of a resting address the time is kept as well."""
        text = key.decode()
        if text.startswith(RESTING):
            address = ipam_addresses.Address(parse_address(text.removeprefix(RESTING)))
            rested = self.ledger.rest_of(address)
            return lambda: self.ledger.rest(address, *rested) if rested is not None else self.ledger.wake(address)
        name = SERVICES.parse_status_name(text)
        assert name is not None
        status = self.statuses.get(name)
        return lambda: self._observe_status(name, status)

    def confirm(self, key: bytes, value: bytes | None, revision: int) -> None:
        """A key was written, at `revision`; older events of it are still to come."""
        if not key.startswith(_OURS):
            return
        if value is None:
            self.revisions.pop(key, None)
            self._deleted[key] = revision
        else:
            self._deleted.pop(key, None)
            self.revisions[key] = revision
        if key.startswith(RESTING.encode()) or self.pool_status.owns(key):
            self._apply(key, value, revision)

    def confirm_ipam(self, change: IpamChange, name: Name | None, revision: int) -> None:
        """Calico's IPAM was written; older events of the blocks are still to come."""
        for address, holder in (*((one, None) for one in change.released), *((one, name) for one in change.taken)):
            block = self.ipam.assume(address, holder)
            if block:
                self._deleted[block.encode()] = revision
        if name is not None:
            self._record(name)
