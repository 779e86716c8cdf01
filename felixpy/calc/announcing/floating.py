"""Floating addresses of this node's workloads, as far as they are announced: which there are, and why one is not.

In: endpoints and FelixConfiguration; out: names of those that changed, and the reason of one's silence. A name is the
endpoint's and the address's. Pure. Source: felix/dataplane/linux/floating_ip_mgr.go; confd's bird_ipam.cfg.template
(only what a pool has is exported).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from felixpy.addresses import Address, format_address
from felixpy.calc.options import derive_options
from felixpy.calc.reasons import Reason, Silent
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import FelixConfiguration, IpPool, WorkloadEndpoint


def floating_of(value: Resource | None, node: str) -> tuple[Address, ...]:
    """The addresses that lead to a workload of `node`."""
    if not isinstance(value, WorkloadEndpoint) or value.node != node:
        return ()
    return tuple(one.external for one in value.floating if one.internal in value.addresses)


def is_enabled(configurations: Mapping[Name, Resource], node: str) -> bool:
    """Whether floating addresses are in use on `node`."""
    common, own = (configurations.get(Name("", name)) for name in ("default", f"node.{node}"))
    return derive_options(
        common if isinstance(common, FelixConfiguration) else None,
        own if isinstance(own, FelixConfiguration) else None,
    ).floating


def find_silence(address: Address, pools: Iterable[IpPool], enabled: bool) -> Silent | None:
    """Why the address of a workload of this node is not announced; None where it is."""
    around = [pool for pool in pools if pool.cidr.contains(address)]
    if not enabled:
        return Silent(Reason.FLOATING_DISABLED)
    if not around:
        return Silent(Reason.NOT_IN_POOL)
    return Silent(Reason.EXPORT_DISABLED) if any(pool.disable_bgp_export for pool in around) else None


@dataclass(slots=True)
class FloatingAddresses:
    """Those of one node, kept up to date."""

    node: str
    addresses: dict[Name, Address] = field(default_factory=dict)
    enabled: bool = False
    _names: dict[Name, tuple[Name, ...]] = field(default_factory=dict)
    _configurations: dict[Name, Resource] = field(default_factory=dict)

    def update(self, ref: Ref, value: Resource | None) -> Iterator[Name]:
        """Takes in one resource; yields the names of what may be another thing now."""
        if ref.table is Table.FELIX_CONFIGURATION:
            self._configurations.pop(ref.name, None)
            if value is not None:
                self._configurations[ref.name] = value
            enabled = is_enabled(self._configurations, self.node)
            if enabled != self.enabled:
                self.enabled = enabled
                yield from self.addresses
        elif ref.table is Table.WORKLOAD:
            found = {Name(str(ref.name), format_address(one)): one for one in floating_of(value, self.node)}
            for name in self._names.pop(ref.name, ()):
                del self.addresses[name]
                yield name
            if found:
                self._names[ref.name] = tuple(found)
                self.addresses.update(found)
                yield from found
