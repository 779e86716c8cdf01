"""What the resources say of this node to its CNI server: which pools are for it, and the mtu of its pods.

In: resources, one by one; out: answers from what is known by now. Does no input or output: the device's mtu is given.
Source: libcalico-go/lib/ipam/pools.go (SelectsNode, SelectsNamespace); felix/dataplane/linux/int_dataplane.go
(determinePodMTU) for the order in which settings count, and the bytes that each encapsulation takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from felixpy.addresses import Address, Prefix
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import EncapMode, FelixConfiguration, FelixValue, IpPool, Node
from felixpy.selector import Predicate, compile_selector, parse_selector
from ipam.model import Pool

_IPIP, _VXLAN, _VXLAN_V6 = ("ipipMTU", 20), ("vxlanMTU", 50), ("vxlanMTUV6", 70)
"""Of each encapsulation: the setting of its mtu, and the bytes that it takes of the underlay's."""


class NodeFacts:
    """What is known of one node."""

    def __init__(self, node: str) -> None:
        self._node = Name("", node)
        self._scopes = (Name("", "default"), Name("", f"node.{node}"))
        self._resource = Node()
        self._labels: Mapping[str, str] = {}
        self._pools: dict[Name, IpPool] = {}
        self._settings: dict[Name, FelixConfiguration] = {}

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        match ref.table:
            case Table.NODE if ref.name == self._node:
                self._resource = value if isinstance(value, Node) else Node()
                self._labels = dict(self._resource.labels)
            case Table.POOL:
                self._pools.pop(ref.name, None)
                if isinstance(value, IpPool):
                    self._pools[ref.name] = value
            case Table.FELIX_CONFIGURATION if ref.name in self._scopes:
                self._settings.pop(ref.name, None)
                if isinstance(value, FelixConfiguration):
                    self._settings[ref.name] = value

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's own addresses, IPv4 first."""
        return tuple(one.address for one in (self._resource.ipv4, self._resource.ipv6) if one is not None)

    @property
    def primary(self) -> tuple[Prefix, ...]:
        """The same as prefixes of one address each."""
        return tuple(Prefix(address, len(address) * 8) for address in self.addresses)

    @property
    def mtu_pattern(self) -> re.Pattern[str] | None:
        """The devices whose mtu counts, where mtuIfacePattern says so and can be read."""
        said = self._values().get("mtuIfacePattern")
        return _pattern(said) if isinstance(said, str) and said else None

    def _values(self) -> Mapping[str, FelixValue]:
        return {key: value for scope in self._scopes if scope in self._settings for key, value in self._of(scope)}

    def selects(self, pool: Pool) -> bool:
        """Whether a pool is for this node."""
        return matches(pool.node_selector, self._labels)

    def derive_pod_mtu(self, underlay: int) -> int:
        """The mtu of this node's pods.

        Shape   the smallest that an encapsulation in use leaves or is set to; without one, the underlay's.
        Units   bytes; an `underlay` of 0 is not known, and 0 leaves the kernel's own.
        """
        values = self._values()
        mtus = [underlay]
        for setting, overhead in self._encapsulations():
            said = values.get(setting)
            if isinstance(said, int) and said > 0:
                mtus.append(said)
            elif underlay:
                mtus.append(underlay - overhead)
        return min((mtu for mtu in mtus if mtu > 0), default=0)

    def _of(self, scope: Name) -> tuple[tuple[str, FelixValue], ...]:
        return self._settings[scope].values

    def _encapsulations(self) -> set[tuple[str, int]]:
        used: set[tuple[str, int]] = set()
        for pool in self._pools.values():
            if pool.ipip is not EncapMode.NEVER:
                used.add(_IPIP)
            if pool.vxlan is not EncapMode.NEVER:
                used.add(_VXLAN if pool.cidr.version == 4 else _VXLAN_V6)
        return used


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether a pool's selector takes these labels; one that cannot be read takes none, and the empty one any."""
    predicate = _compile(selector)
    return predicate is not None and predicate(labels)


@lru_cache(maxsize=16)
def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text)
    except re.error:
        return None


@lru_cache(maxsize=1024)
def _compile(selector: str) -> Predicate | None:
    try:
        return compile_selector(parse_selector(selector))
    except ValueError:
        return None
