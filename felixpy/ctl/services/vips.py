"""Service addresses as a person asks about them: how full the pools are, who announces what, who does not and why.

In: the datastore's pools, grants, Services and their status, and what the nodes said; out: values to show. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from felixpy.addresses import Address
from felixpy.controllers.pool_status import count_addresses
from felixpy.controllers.service_status import read_refusal
from felixpy.controllers.vips import CALICO_POOL, for_services, wants_address
from felixpy.ctl.services.reach import NOWHERE, Reach, find_reach, index_nodes
from felixpy.datastore.model import KeyValue
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, Name
from felixpy.resources.service_types import AddressPool, AddressRange, Grant, Service
from felixpy.resources.services import last_address
from felixpy.resources.tables import Decoded, Table
from felixpy.resources.types import ControllersConfiguration, IpPool
from felixpy.status.answers import NodeStatus

SERVICES = BY_TYPE["v1", "Service"]
POOLS = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"]
CONTROLLERS = BY_TYPE["projectcalico.org/v3", "KubeControllersConfiguration"]
IP_POOLS = BY_TYPE["projectcalico.org/v3", "IPPool"]
PREFIXES = tuple(
    prefix.encode()
    for prefix in (
        POOLS.prefix,
        IP_POOLS.prefix,
        GRANTS_PREFIX,
        SERVICES.prefix,
        SERVICES.status_prefix,
        CONTROLLERS.prefix,
    )
)
NOT_DECIDED = "nobody has decided on it yet: no controller runs, or it just came"


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How many of a pool's addresses are held."""

    name: str
    used: int
    size: int


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """One address of a Service; `address` None where it has none, and `refusal` or `waiting` then says why."""

    service: Name
    address: Address | None
    pool: str = ""
    refusal: str = ""
    reach: Reach = NOWHERE
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """All pools and all addresses of LoadBalancer Services."""

    pools: tuple[PoolUse, ...]
    addresses: tuple[ServiceAddress, ...]


def read_pairs(pairs: Iterable[KeyValue], refusals: dict[Name, str]) -> Iterator[Decoded]:
    """What can be read of these keys; why Services were refused, which their status says, goes to `refusals`."""
    decoder = Decoder("")
    for pair in pairs:
        told_of = SERVICES.parse_status_name(pair.key.decode("utf-8", "replace"))
        if told_of is not None:
            refusals[told_of] = read_refusal(pair.value)
            continue
        decoded = decoder.decode(pair.key, pair.value)
        if isinstance(decoded, Decoded):
            yield decoded


def derive_balance(pairs: Iterable[KeyValue], nodes: Mapping[str, NodeStatus | None]) -> Balance:
    """What the keys below PREFIXES and the nodes' answers come to."""
    classes = ControllersConfiguration().classes
    pools: dict[Name, AddressPool] = {}
    grants: list[Grant] = []
    services: dict[Name, Service] = {}
    refusals: dict[Name, str] = {}
    for decoded in read_pairs(pairs, refusals):
        match decoded.ref.table, decoded.value:
            case Table.ADDRESS_POOL, AddressPool() as pool:
                pools[decoded.ref.name] = pool
            case Table.POOL, IpPool() as ip_pool if for_services(ip_pool):
                whole = AddressRange(ip_pool.cidr.address, last_address(ip_pool.cidr))
                pools[Name("", f"{CALICO_POOL}{decoded.ref.name.name}")] = AddressPool((whole,), ip_pool.automatic)
            case Table.GRANT, Grant() as grant:
                grants.append(grant)
            case Table.CONTROLLERS_CONFIGURATION, ControllersConfiguration() as configuration:
                classes = configuration.classes
            case Table.SERVICE, Service(type="LoadBalancer") as service:
                services[decoded.ref.name] = service
            case _:
                pass
    uses = (
        PoolUse(name.name, _count_used(grants, name.name, pool), _count(pool)) for name, pool in sorted(pools.items())
    )
    return Balance(tuple(uses), tuple(_derive_addresses(services, grants, refusals, nodes, classes)))


def _derive_addresses(
    services: Mapping[Name, Service],
    grants: Sequence[Grant],
    refusals: Mapping[Name, str],
    nodes: Mapping[str, NodeStatus | None],
    classes: frozenset[str],
) -> Iterable[ServiceAddress]:
    held: dict[Name, list[Grant]] = {}
    told = index_nodes(nodes)
    for grant in sorted(grants, key=lambda grant: (len(grant.address), grant.address)):
        for name in grant.services:
            held.setdefault(name, []).append(grant)
    for name in sorted({*services, *held}):
        refusal = refusals.get(name, "")
        for grant in held.get(name, ()):
            yield ServiceAddress(name, grant.address, grant.pool, refusal, find_reach(grant.address, told))
        if name not in held:
            yield ServiceAddress(
                name, None, refusal=refusal, waiting="" if refusal else _why_waiting(services[name], classes)
            )


def _why_waiting(service: Service, classes: frozenset[str]) -> str:
    return NOT_DECIDED if wants_address(service, classes, calico=True) else describe_class(service)


def describe_class(service: Service) -> str:
    """Whose a Service is that is not ours."""
    return f"left to class {service.class_name}" if service.class_name else "left to others, as it has no class"


def _count_used(grants: Iterable[Grant], name: str, pool: AddressPool) -> int:
    """How many of its addresses are held; one that was given out before the pool shrank is none of its own."""
    return sum(grant.pool == name and any(_holds(one, grant.address) for one in pool.ranges) for grant in grants)


def _holds(one: AddressRange, address: Address) -> bool:
    return len(address) == len(one.first) and one.first <= address <= one.last


def _count(pool: AddressPool) -> int:
    return sum(count_addresses(pool))
