"""Service addresses as a person asks about them: how full the pools are, who announces what, who does not and why.

In: the datastore's pools, grants, Services and their status, and what the nodes said; out: values to show. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from felixpy.addresses import Address, format_address, parse_prefix
from felixpy.calc.announcements import Why
from felixpy.controllers.pool_status import count_addresses
from felixpy.controllers.service_status import read_refusal
from felixpy.controllers.vips import wants_address
from felixpy.datastore.model import KeyValue
from felixpy.resources.codec import Decoded, Decoder, Table
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, STATUS_PREFIX, Name
from felixpy.resources.types import AddressPool, AddressRange, Grant, Service
from felixpy.status import NodeStatus

SERVICES = BY_TYPE["v1", "Service"]
POOLS = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"]
_STATUS_OF_SERVICES = f"{STATUS_PREFIX}{SERVICES.group}/{SERVICES.version}/{SERVICES.plural}/"
PREFIXES = tuple(prefix.encode() for prefix in (POOLS.prefix, GRANTS_PREFIX, SERVICES.prefix, _STATUS_OF_SERVICES))
NOT_DECIDED = "nobody has decided on it yet: no controller runs, or it just came"
NO_SESSION = "no session up"


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How many of a pool's addresses are held."""

    name: str
    used: int
    size: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Who announces one address, and who does not: the nodes, by why not."""

    announced_by: tuple[str, ...]
    silent: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """One address of a Service; `address` None where it has none, and `refusal` or `waiting` then says why."""

    service: Name
    address: Address | None
    pool: str = ""
    refusal: str = ""
    reach: Reach = Reach((), {})
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """All pools and all addresses of LoadBalancer Services."""

    pools: tuple[PoolUse, ...]
    addresses: tuple[ServiceAddress, ...]


def derive_balance(pairs: Iterable[KeyValue], nodes: Mapping[str, NodeStatus | None]) -> Balance:
    """What the keys below PREFIXES and the nodes' answers come to."""
    decoder = Decoder("")
    pools: dict[Name, AddressPool] = {}
    grants: list[Grant] = []
    services: dict[Name, Service] = {}
    refusals: dict[Name, str] = {}
    for pair in pairs:
        key = pair.key.decode("utf-8", "replace")
        if key.startswith(_STATUS_OF_SERVICES):
            namespace, _, name = key.removeprefix(_STATUS_OF_SERVICES).partition("/")
            refusals[Name(namespace, name)] = read_refusal(pair.value)
            continue
        decoded = decoder.decode(pair.key, pair.value)
        if not isinstance(decoded, Decoded):
            continue
        match decoded.ref.table, decoded.value:
            case Table.ADDRESS_POOL, AddressPool() as pool:
                pools[decoded.ref.name] = pool
            case Table.GRANT, Grant() as grant:
                grants.append(grant)
            case Table.SERVICE, Service(type="LoadBalancer") as service:
                services[decoded.ref.name] = service
            case _:
                pass
    uses = (
        PoolUse(name.name, _count_used(grants, name.name, pool), _count(pool)) for name, pool in sorted(pools.items())
    )
    return Balance(tuple(uses), tuple(_derive_addresses(services, grants, refusals, nodes)))


def _derive_addresses(
    services: Mapping[Name, Service],
    grants: Sequence[Grant],
    refusals: Mapping[Name, str],
    nodes: Mapping[str, NodeStatus | None],
) -> Iterable[ServiceAddress]:
    held: dict[Name, list[Grant]] = {}
    for grant in sorted(grants, key=lambda grant: (len(grant.address), grant.address)):
        for name in grant.services:
            held.setdefault(name, []).append(grant)
    for name in sorted({*services, *held}):
        refusal = refusals.get(name, "")
        for grant in held.get(name, ()):
            yield ServiceAddress(name, grant.address, grant.pool, refusal, derive_reach(grant.address, nodes))
        if name not in held:
            yield ServiceAddress(name, None, refusal=refusal, waiting="" if refusal else _why_waiting(services[name]))


def _why_waiting(service: Service) -> str:
    return NOT_DECIDED if wants_address(service) else f"left to class {service.class_name}"


def derive_reach(address: Address, nodes: Mapping[str, NodeStatus | None]) -> Reach:
    """Who announces an address to somebody, and why the others do not; nodes that did not answer are left out."""
    announced: list[str] = []
    silent: dict[str, list[str]] = {}
    for name, status in nodes.items():
        bgp = status.bgp if status is not None else None
        if bgp is None:
            continue
        text = format_address(address)
        if bgp.no_speaker:
            silent.setdefault(bgp.no_speaker, []).append(name)
        elif any(one.why == Why.SERVICE and parse_prefix(one.prefix).contains(address) for one in bgp.announcements):
            announced.append(name if bgp.established else f"{name} ({NO_SESSION})")
        else:
            reasons = (one.reason for one in bgp.silences if one.prefix.partition("/")[0] == text)
            silent.setdefault(next(reasons, "the node does not say why"), []).append(name)
    return Reach(tuple(announced), {reason: tuple(names) for reason, names in silent.items()})


def _count_used(grants: Iterable[Grant], name: str, pool: AddressPool) -> int:
    """How many of its addresses are held; one that was given out before the pool shrank is none of its own."""
    return sum(grant.pool == name and any(_holds(one, grant.address) for one in pool.ranges) for grant in grants)


def _holds(one: AddressRange, address: Address) -> bool:
    return len(address) == len(one.first) and one.first <= address <= one.last


def _count(pool: AddressPool) -> int:
    return sum(count_addresses(pool))
