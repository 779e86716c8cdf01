"""What `ipam check` compares IPAM with, whom it blames, and the report that `ipam release` goes by.

In: every key that bears on addresses, at one revision; out: who is alive, findings with who is behind them, a report
and back. Pure; ipam.audit finds, and the allocator releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from felixpy.ctl.ipam.view import HeldAddress, derive_pools, iter_held, read_blocks
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import CALICO, GRANTS_PREFIX, IPAM_PREFIX, KINDS, Name
from felixpy.resources.service_types import Grant
from felixpy.resources.tables import Decoded
from felixpy.resources.types import Node, WorkloadEndpoint
from ipam.addresses import Address, format_address, parse_address
from ipam.audit import CAUSES, Audit, Finding, Problem, Suspect, audit
from ipam.model import LOAD_BALANCER, MACHINE_INFIX, parse_affinity_key
from ipam.request import Tunnel, tunnel_request

_KINDS = ("IPPool", "Node", "WorkloadEndpoint")
PREFIXES = tuple(
    prefix.encode()
    for prefix in (
        IPAM_PREFIX,
        GRANTS_PREFIX,
        *(info.prefix for info in KINDS if info.api_version == CALICO and info.kind in _KINDS),
    )
)
_SERVICE = "Service "
_WIREGUARD = (Tunnel.WIREGUARD, Tunnel.WIREGUARD_V6)


@dataclass(frozen=True, slots=True)
class Alive:
    """Who uses addresses: handles that count as used, each address with the endpoints or nodes that have it.

    `nodes` are those that there are.
    """

    handles: frozenset[str]
    users: Mapping[Address, tuple[str, ...]]
    nodes: frozenset[str] = frozenset()

    def holders(self, address: Address) -> tuple[str, ...]:
        """The endpoints and nodes that have an address; Services may share one."""
        return tuple(name for name in self.users.get(address, ()) if not name.startswith(_SERVICE))


class SuspectItem(msgspec.Struct, frozen=True):
    """A suspect as it stands in a report."""

    address: str
    handle: str
    sequence: int


class FindingItem(msgspec.Struct, frozen=True):
    """A finding as it stands in a report."""

    problem: str
    what: str
    subject: str
    key: str
    detail: str = ""
    blame: str = ""
    cause: str = ""


class AuditReport(msgspec.Struct, frozen=True, rename="camel"):
    """One look at the datastore, to be compared with a later one."""

    taken_at: datetime
    revision: int
    findings: tuple[FindingItem, ...] = ()
    suspects: tuple[SuspectItem, ...] = ()
    outside_pools: tuple[str, ...] = ()


def derive_alive(values: Mapping[str, bytes]) -> Alive:
    """Who is alive, as endpoints, Nodes and grants say.

    Missing who holds an address of a Service block of Calico's own, or for a KubeVirt machine: it counts as alive, as
            nothing here says otherwise.
    """
    decoder = Decoder("")
    users: dict[Address, list[str]] = {}
    handles: set[str] = set()
    nodes: set[str] = set()
    for key, value in values.items():
        decoded = decoder.decode(key.encode(), value)
        if not isinstance(decoded, Decoded):
            continue
        name = decoded.ref.name
        match decoded.value:
            case WorkloadEndpoint(addresses=addresses):
                for address in addresses:
                    users.setdefault(Address(address), []).append(f"endpoint {name}")
            case Node(ipip_tunnel=ipip, vxlan_tunnel4=vxlan4, vxlan_tunnel6=vxlan6):
                nodes.add(name.name)
                handles.update(tunnel_request(name.name, tunnel).handle_id for tunnel in _WIREGUARD)
                for tunnel_address in (ipip, vxlan4, vxlan6):
                    if tunnel_address is not None:
                        users.setdefault(Address(tunnel_address), []).append(f"node {name}")
            case Grant(address=granted, services=services):
                users.setdefault(Address(granted), []).extend(_service_words(one) for one in services)
            case _:
                pass
    for block in read_blocks(values):
        for held in iter_held(block):
            if block.affinity == str(LOAD_BALANCER) or MACHINE_INFIX in held.attribute.holder:
                handles.add(held.attribute.holder)
    return Alive(frozenset(handles), {address: tuple(names) for address, names in users.items()}, frozenset(nodes))


def _service_words(name: Name) -> str:
    return f"{_SERVICE}{name}"


def run_audit(values: Mapping[str, bytes], alive: Alive) -> Audit:
    """What is wrong."""
    several = {address: names for address in alive.users if len(names := alive.holders(address)) > 1}
    shared = {address: ", ".join(names) for address, names in several.items()}
    return audit(values, alive.handles, alive.users.keys(), shared)


def find_outside(values: Mapping[str, bytes], alive: Alive) -> tuple[str, ...]:
    """Addresses that endpoints and nodes have and that are of no pool, each with who has it: no fault by itself."""
    pools = [view.pool for view in derive_pools(values) if view.pool is not None]
    outside = (one for one in sorted(alive.users) if not any(pool.cidr.contains(one) for pool in pools))
    return tuple(f"{format_address(one)} ({', '.join(names)})" for one in outside if (names := alive.holders(one)))


def make_report(values: Mapping[str, bytes], alive: Alive, found: Audit, revision: int, now: datetime) -> AuditReport:
    """The findings with who is behind each, and the suspects."""
    held = {one.address: one for block in read_blocks(values) for one in iter_held(block)}
    suspects = sorted(found.suspects, key=lambda one: (len(one.address), one.address))
    return AuditReport(
        taken_at=now,
        revision=revision,
        findings=tuple(
            FindingItem(
                one.problem.name,
                str(one.problem),
                one.subject,
                one.key,
                one.detail,
                _blame(one, held, alive),
                CAUSES[one.problem],
            )
            for one in found.findings
        ),
        suspects=tuple(SuspectItem(format_address(one.address), one.handle_id, one.sequence) for one in suspects),
        outside_pools=find_outside(values, alive),
    )


def _blame(finding: Finding, held: Mapping[Address, HeldAddress], alive: Alive) -> str:
    """Who made it so, as far as it is recorded."""
    claim = parse_affinity_key(finding.key)
    if claim is not None:
        return f"{claim[0]}"
    try:
        address = parse_address(finding.subject)
    except ValueError:
        return ""
    if address in alive.users:
        return ", ".join(alive.users[address])
    if address not in held:
        return ""
    gone = held[address].node and held[address].node not in alive.nodes
    return held[address].describe() + (", a node that there is not" if gone else "")


def parse_report(value: bytes) -> AuditReport:
    """A report from its JSON.

    Raises  ValueError when it is none.
    """
    return msgspec.json.decode(value, type=AuditReport)


def suspects_of(report: AuditReport) -> Audit:
    """The audit that a report was made of, as far as releasing asks.

    Raises  ValueError when an address is none.
    """
    return Audit(
        (), frozenset(Suspect(parse_address(one.address), one.handle, one.sequence) for one in report.suspects)
    )


def repairs_of(first: AuditReport, second: Audit) -> tuple[Finding, ...]:
    """Handles without addresses, and claims and blocks without use, that both looks found: they can be given up."""
    seen = {(one.problem, one.key) for one in first.findings}
    return tuple(one for one in second.findings if one.problem in _REPAIRED and (one.problem.name, one.key) in seen)


_REPAIRED = frozenset({Problem.NO_ADDRESS, Problem.CLAIM_STALE, Problem.EMPTY_OUTSIDE_POOLS})
