"""Service addresses as a person asks about them: how full the pools are, who announces what, who does not and why.

In: the datastore's pools, grants, Services and their status, and what the nodes said; out: values to show. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from felixpy.addresses import Address, format_address, parse_prefix
from felixpy.calc.announcing.announcements import Why
from felixpy.calc.reasons import Reason
from felixpy.controllers.pool_status import count_addresses
from felixpy.controllers.service_status import read_refusal
from felixpy.controllers.vips import CALICO_POOL, for_services, wants_address
from felixpy.datastore.model import KeyValue
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, Name
from felixpy.resources.service_types import AddressPool, AddressRange, Grant, Service
from felixpy.resources.services import last_address
from felixpy.resources.tables import Decoded, Table
from felixpy.resources.types import ControllersConfiguration, IpPool
from felixpy.status.answers import BgpStatus, NodeStatus

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
NO_SESSION = "no session up"
UNSAID = "the node does not say why"


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How many of a pool's addresses are held."""

    name: str
    used: int
    size: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Who announces one address, and who does not: the nodes, by why not; `layer2` says on which interface who answers.

    `rivals` are hardware addresses of hosts that answer for it too, and are no nodes.
    """

    announced_by: tuple[str, ...]
    silent: Mapping[str, tuple[str, ...]]
    layer2: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


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
    for grant in sorted(grants, key=lambda grant: (len(grant.address), grant.address)):
        for name in grant.services:
            held.setdefault(name, []).append(grant)
    for name in sorted({*services, *held}):
        refusal = refusals.get(name, "")
        for grant in held.get(name, ()):
            yield ServiceAddress(name, grant.address, grant.pool, refusal, derive_reach(grant.address, nodes))
        if name not in held:
            yield ServiceAddress(
                name, None, refusal=refusal, waiting="" if refusal else _why_waiting(services[name], classes)
            )


def _why_waiting(service: Service, classes: frozenset[str]) -> str:
    return NOT_DECIDED if wants_address(service, classes, calico=True) else describe_class(service)


def describe_class(service: Service) -> str:
    """Whose a Service is that is not ours."""
    return f"left to class {service.class_name}" if service.class_name else "left to others, as it has no class"


def derive_reach(address: Address, nodes: Mapping[str, NodeStatus | None]) -> Reach:
    """Who announces an address to somebody, and why the others do not; nodes that did not answer are left out.

    A node that answers or stands by at layer 2 is not asked why it has no BGP for the address, nor the other way round.
    """
    text = format_address(address)
    announced: list[str] = []
    silent: dict[str, list[str]] = {}
    answering: list[str] = []
    rivals: set[str] = set()
    for name, status in nodes.items():
        if status is None:
            continue
        stands = [one for one in status.layer2.addresses if one.address == text] if status.layer2 is not None else []
        answering += (f"{name} on {one.interface}" for one in stands if one.owns)
        rivals |= {one.foreign_mac for one in stands if one.foreign_mac}
        if status.bgp is not None and _announces(status.bgp, address):
            announced.append(name if status.bgp.established else f"{name} ({NO_SESSION})")
        elif not stands:
            for reason in _reasons(status, text):
                silent.setdefault(reason, []).append(name)
    named = {reason: tuple(names) for reason, names in silent.items()}
    return Reach(tuple(announced), named, tuple(answering), tuple(sorted(rivals)))


def _announces(bgp: BgpStatus, address: Address) -> bool:
    if bgp.no_speaker:
        return False
    return any(one.why == Why.SERVICE and parse_prefix(one.prefix).contains(address) for one in bgp.announcements)


def _reasons(status: NodeStatus, text: str) -> Sequence[str]:
    """Why a node does not announce an address: by BGP; by layer 2 where that is all there is to say, or says more."""
    by_bgp = [one.reason for one in status.bgp.silences if one.prefix.partition("/")[0] == text] if status.bgp else []
    if status.bgp is not None and status.bgp.no_speaker:
        by_bgp = [status.bgp.no_speaker]
    held = status.layer2.silences if status.layer2 is not None else ()
    by_layer2 = [one.reason for one in held if one.prefix == text]
    if Reason.NOT_ADVERTISED in by_bgp and by_layer2 and Reason.NOT_LAYER2 not in by_layer2:
        return by_layer2
    return by_bgp or by_layer2 or ([UNSAID] if status.bgp is not None else [])


def _count_used(grants: Iterable[Grant], name: str, pool: AddressPool) -> int:
    """How many of its addresses are held; one that was given out before the pool shrank is none of its own."""
    return sum(grant.pool == name and any(_holds(one, grant.address) for one in pool.ranges) for grant in grants)


def _holds(one: AddressRange, address: Address) -> bool:
    return len(address) == len(one.first) and one.first <= address <= one.last


def _count(pool: AddressPool) -> int:
    return sum(count_addresses(pool))
