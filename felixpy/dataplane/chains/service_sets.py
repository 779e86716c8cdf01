"""The sets and maps that all Services share, by family, and how their keys and values are encoded. Pure.

svc4      frontend → goto a chain that picks one of N      svc-out4  the same for Local policy, from outside
eps4      frontend . slot → backend                        eps-out4  the same for Local policy, from outside
svc-guard4  frontend → jump to its source ranges           svc-noep4 frontends that nobody serves: refused
hairpin4  backend . itself                                 vip4      addresses whose other ports are refused
client-slots  owner . slot: of clients that nobody knows those that are an owner's (affinity.py)
nport4, nport-out4, nport-eps4, nport-eps-out4, nport-noep4
          the same for node ports: the key has no address
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from felixpy.addresses import Address
from felixpy.calc.services.frontends import BackendAddress, Frontend
from felixpy.dataplane.objects import DataType, Set, SetType
from felixpy.dataplane.sets import PORT_KEY_BYTES, VERSIONS, Version, encode_port_key


@dataclass(frozen=True, slots=True)
class Steering:
    """Where connections to frontends are led: the verdicts and slots of those from inside, and of those from outside.

    `unserved` are the frontends that nobody serves.
    """

    services: Set
    services_outside: Set
    backends: Set
    backends_outside: Set
    unserved: Set

    def all(self) -> tuple[Set, ...]:
        return (self.services, self.services_outside, self.backends, self.backends_outside, self.unserved)


@dataclass(frozen=True, slots=True)
class ServiceSets:
    """The sets and maps of one family."""

    services: Set
    services_outside: Set
    backends: Set
    backends_outside: Set
    guards: Set
    unserved: Set
    hairpins: Set
    addresses: Set
    node_ports: Steering

    @property
    def frontends(self) -> Steering:
        """The maps of frontends with an address of their own."""
        return Steering(self.services, self.services_outside, self.backends, self.backends_outside, self.unserved)

    def all(self) -> tuple[Set, ...]:
        return (*self.frontends.all(), self.guards, self.hairpins, self.addresses, *self.node_ports.all())


def _sets(version: Version) -> ServiceSets:
    four = version == 4
    frontend = SetType.IPV4_PORT if four else SetType.IPV6_PORT
    slot = SetType.IPV4_PORT_SLOT if four else SetType.IPV6_PORT_SLOT
    backend = DataType.IPV4_PORT if four else DataType.IPV6_PORT
    return ServiceSets(
        services=Set(f"svc{version}", frontend, DataType.VERDICT),
        services_outside=Set(f"svc-out{version}", frontend, DataType.VERDICT),
        backends=Set(f"eps{version}", slot, backend),
        backends_outside=Set(f"eps-out{version}", slot, backend),
        guards=Set(f"svc-guard{version}", frontend, DataType.VERDICT),
        unserved=Set(f"svc-noep{version}", frontend),
        hairpins=Set(f"hairpin{version}", SetType.IPV4_IPV4 if four else SetType.IPV6_IPV6),
        addresses=Set(f"vip{version}", SetType.IPV4 if four else SetType.IPV6),
        node_ports=Steering(
            services=Set(f"nport{version}", SetType.NODE_PORT, DataType.VERDICT),
            services_outside=Set(f"nport-out{version}", SetType.NODE_PORT, DataType.VERDICT),
            backends=Set(f"nport-eps{version}", SetType.NODE_PORT_SLOT, backend),
            backends_outside=Set(f"nport-eps-out{version}", SetType.NODE_PORT_SLOT, backend),
            unserved=Set(f"nport-noep{version}", SetType.NODE_PORT, DataType.VERDICT),
        ),
    )


SETS: Mapping[Version, ServiceSets] = {version: _sets(version) for version in VERSIONS}
CLIENT_SLOTS = Set("client-slots", SetType.OWNER_SLOT)


def encode_frontend(frontend: Frontend) -> bytes:
    """Key of a map of frontends; a node port's has no address."""
    key = encode_port_key(*frontend)
    return key[-PORT_KEY_BYTES:] if frontend.is_node_port else key


def encode_slot(frontend: Frontend, slot: int) -> bytes:
    """Key of a backend map; the slot in the byte order of the machine, as numgen and jhash leave it."""
    return encode_frontend(frontend) + slot.to_bytes(4, sys.byteorder)


def encode_backend(backend: BackendAddress) -> bytes:
    """Value of a backend map."""
    return backend.address + backend.port.to_bytes(2, "big") + b"\0\0"


def parse_backend(data: bytes) -> BackendAddress:
    """The backend that `encode_backend` made `data` of."""
    return BackendAddress(Address(data[:-4]), int.from_bytes(data[-4:-2], "big"))
