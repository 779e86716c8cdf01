"""Which ports of every node Services get, where nobody gave them any: what the controller has to write. Pure.

In: Services and port grants as they are in the datastore; out: Batches, planned as if made: one that is refused ends
the plan, and everything is read anew. A port is one key, whatever the protocols; those of a Service with one number
share it. Which one: the first free from a place that the Service's name gives, so that one that comes back has it
again. Ports that Services name themselves are theirs without a grant, and nobody is given them.
Source: kubernetes pkg/registry/core/service/portallocator (range; TCP and UDP of one number get one node port).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b

import msgspec

from felixpy.calc.services.frontends import NODE_PORT_TYPES, has_health_check, is_forwarded
from felixpy.controllers.batch import MOST_OPERATIONS, Batch, Step, join_steps, size_of
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, parse_cluster_information
from felixpy.datastore.model import Expect, Write
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, Name, port_grant_key
from felixpy.resources.resource import Broken
from felixpy.resources.service_types import HEALTH, PortGrant, PortUse, Service
from felixpy.resources.services import format_port_use
from felixpy.resources.tables import Decoded, Table

RANGE = range(30000, 32768)
"""--service-node-port-range of an API server."""
SERVICES = BY_TYPE["v1", "Service"]
_GRANTS = f"{GRANTS_PREFIX}ports/"
WATCHED = (CLUSTER_INFORMATION_KEY, SERVICES.prefix.encode(), _GRANTS.encode())
_LEAST_ROOM = 40
"""Operations that a Service is planned with at least: one of more ports gets them in several turns."""

Uses = frozenset[PortUse]


class PortAllocation:
    """Services and port grants as observed; `observe` changes, then take `next_batch` until there is none."""

    def __init__(self) -> None:
        self._decoder = Decoder("")
        self._services: dict[Name, Service] = {}
        self._unreadable: set[Name] = set()
        self._grants: dict[int, PortGrant | None] = {}
        self._of: dict[Name, set[int]] = {}
        self._named: Counter[int] = Counter()
        self._revisions: dict[bytes, int] = {}
        self._dirty: dict[Name, None] = {}
        self._waiting: set[Name] = set()
        self._obeyed = False

    @property
    def waiting(self) -> frozenset[Name]:
        """Services for which there was no port left."""
        return frozenset(self._waiting)

    def observe(self, key: bytes, value: bytes | None, mod_revision: int) -> None:
        """Takes in a key as it is at `mod_revision` (None: deleted then); what is older than known is passed over."""
        if mod_revision <= self._revisions.get(key, 0):
            return
        self._revisions[key] = mod_revision
        if value is None:
            del self._revisions[key]
        if key == CLUSTER_INFORMATION_KEY:
            guid, ready = parse_cluster_information(value)
            self._obeyed = bool(guid and ready)
            return
        decoded = self._decoder.decode(key, value)
        if decoded is None:
            return
        ref = self._decoder.ref_of(key.decode("utf-8", "replace"))
        if ref is None:
            return
        found = decoded.value if isinstance(decoded, Decoded) else None
        if ref.table is Table.SERVICE:
            (self._unreadable.add if isinstance(decoded, Broken) else self._unreadable.discard)(ref.name)
            self._put_service(ref.name, found if isinstance(found, Service) else None)
        elif ref.table is Table.PORT_GRANT and ref.name.name.isdecimal():
            broken = isinstance(decoded, Broken)
            self._put_grant(int(ref.name.name), found if isinstance(found, PortGrant) else None, taken=broken)

    def _put_service(self, name: Name, service: Service | None) -> None:
        old = self._services.pop(name, None)
        self._named.subtract(_named_ports(old))
        if service is not None:
            self._services[name] = service
            self._named.update(_named_ports(service))
        self._dirty[name] = None
        if _named_ports(old) != _named_ports(service):
            self._dirty.update(dict.fromkeys(self._waiting))

    def _put_grant(self, port: int, grant: PortGrant | None, taken: bool = False) -> None:
        """`taken`: a grant that nobody can read still takes its port."""
        old = self._grants.pop(port, None)
        if old is not None:
            held = self._of[old.service]
            held.discard(port)
            if not held:
                del self._of[old.service]
            self._dirty[old.service] = None
        if grant is not None or taken:
            self._grants[port] = grant
        if grant is not None:
            self._of.setdefault(grant.service, set()).add(port)
            self._dirty[grant.service] = None
        elif not taken:
            self._dirty.update(dict.fromkeys(self._waiting))

    def next_batch(self) -> Batch | None:
        """The next transaction to make, or None when nothing is to be done now."""
        steps: list[Step] = []
        room = MOST_OPERATIONS - 2
        while self._obeyed and self._dirty and room > _LEAST_ROOM:
            name = next(iter(self._dirty))
            del self._dirty[name]
            step = self._plan(name, room)
            if step is not None:
                room -= size_of(step)
                steps.append(step)
        return join_steps(steps) if steps else None

    def settle(self, batch: Batch, revision: int) -> None:
        """The batch was made, at `revision`."""
        for write in batch.writes:
            if write.value is None:
                self._revisions.pop(write.key, None)
            else:
                self._revisions[write.key] = revision

    def _plan(self, name: Name, room: int) -> Step | None:
        self._waiting.discard(name)
        if name in self._unreadable:
            return None
        service = self._services.get(name)
        wanted = set(find_wanted(service)) if service is not None else set()
        after: dict[int, Uses] = {}
        for port in sorted(self._of.get(name, ())):
            grant = self._grants[port]
            uses = frozenset(grant.uses) if grant is not None else frozenset()
            kept = next((one for one in sorted(wanted, key=sorted) if one & uses), None)
            if kept is not None:
                wanted.discard(kept)
                after[port] = kept
        for uses in sorted(wanted, key=sorted):
            free = self._find_free(name, uses, after)
            if free is None:
                self._waiting.add(name)
            else:
                after[free] = uses
        return self._step(name, after, most=room - 1)

    def _find_free(self, name: Name, uses: Uses, mine: Mapping[int, Uses]) -> int | None:
        start = int.from_bytes(blake2b(f"{name} {min(uses).port}".encode(), digest_size=4).digest(), "big")
        for place in range(len(RANGE)):
            port = RANGE[(start + place) % len(RANGE)]
            if port not in self._grants and not self._named[port] and port not in mine:
                return port
        return None

    def _step(self, name: Name, after: Mapping[int, Uses], most: int) -> Step | None:
        """At most so many writes; what is left is the Service's next turn."""
        writes: list[Write] = []
        left = False
        for port in sorted({*self._of.get(name, ()), *after}):
            grant = PortGrant(port, name, tuple(sorted(after[port]))) if port in after else None
            if self._grants.get(port) == grant:
                continue
            if len(writes) == most:
                left = True
                break
            writes.append(Write(port_grant_key(port).encode(), _render(grant) if grant is not None else None))
            self._put_grant(port, grant)
        self._dirty.pop(name, None)
        if left:
            self._dirty[name] = None
        if not writes:
            return None
        relied_on = {CLUSTER_INFORMATION_KEY, SERVICES.key(name).encode(), *(write.key for write in writes)}
        expect = tuple(Expect(key, self._revisions.get(key, 0)) for key in sorted(relied_on))
        return Step(
            name, expect, tuple(writes), f"{name} has node ports {', '.join(map(str, sorted(after))) or 'none'}"
        )


def find_wanted(service: Service) -> Iterator[Uses]:
    """What a Service needs a port of every node for and names none: each number's protocols, and its health check."""
    if not is_forwarded(service):
        return
    by_number: dict[int, set[PortUse]] = {}
    if service.type in NODE_PORT_TYPES and service.node_ports:
        for port in service.ports:
            if not port.node_port:
                by_number.setdefault(port.port, set()).add(PortUse(port.protocol, port.port))
    yield from map(frozenset, by_number.values())
    if has_health_check(service) and not service.health_port:
        yield frozenset({HEALTH})


def _named_ports(service: Service | None) -> frozenset[int]:
    """The ports that a Service names itself."""
    if service is None:
        return frozenset()
    return frozenset(filter(None, (service.health_port, *(port.node_port for port in service.ports))))


def _render(grant: PortGrant) -> bytes:
    body = {"port": grant.port, "service": str(grant.service), "uses": [format_port_use(use) for use in grant.uses]}
    return msgspec.json.encode(body)
