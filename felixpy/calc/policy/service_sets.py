"""What is behind each Service, as members of IP sets: for rules that name a Service.

In: slices, one at a time; out: the addresses of every backend, ready or not (a rule is about who they are, not about
where new connections go), with the ports of its slice where asked. Pure.
Source: felix/calc (service index): EndpointSlices; Endpoints where a Service has no slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felixpy.addresses import Address
from felixpy.calc.intent import ServiceMembers
from felixpy.calc.services.frontends import effective_slices
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import EndpointSlice
from felixpy.resources.tables import Ref

ServiceMember = Address | tuple[Address, int, int]
"""An address; or address, protocol and port."""


class ServiceSlices:
    """Slices by the Service that they belong to."""

    def __init__(self) -> None:
        self._slices: dict[Name, dict[Ref, EndpointSlice]] = {}
        self._owner: dict[Ref, Name] = {}

    def put(self, ref: Ref, value: EndpointSlice | None) -> frozenset[Name]:
        """Sets or (None) removes a slice; the Services that this concerns."""
        touched: set[Name] = set()
        old = self._owner.pop(ref, None)
        if old is not None:
            touched.add(old)
            del self._slices[old][ref]
            if not self._slices[old]:
                del self._slices[old]
        if value is not None:
            service = Name(ref.name.namespace, value.service)
            touched.add(service)
            self._owner[ref] = service
            self._slices.setdefault(service, {})[ref] = value
        return frozenset(touched)

    def members(self, wanted: ServiceMembers) -> frozenset[ServiceMember]:
        """All members of one set."""
        return derive_members(wanted, self._slices.get(wanted.service, {}))


def derive_members(wanted: ServiceMembers, slices: Mapping[Ref, EndpointSlice]) -> frozenset[ServiceMember]:
    """The members that the slices of one Service make."""
    return frozenset(member for one in effective_slices(slices) for member in _members_of(one, wanted.ports))


def _members_of(one: EndpointSlice, ports: bool) -> Iterable[ServiceMember]:
    for group in one.groups:
        for backend in group.backends:
            for address in backend.addresses:
                if ports:
                    yield from ((address, port.protocol, port.port) for port in group.ports)
                else:
                    yield address


def derive_service_members(wanted: ServiceMembers, slices: Mapping[Ref, EndpointSlice]) -> frozenset[ServiceMember]:
    """The oracle: the members of one set, out of all slices there are."""
    own = {ref: one for ref, one in slices.items() if Name(ref.name.namespace, one.service) == wanted.service}
    return derive_members(wanted, own)
