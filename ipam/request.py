"""What is asked of the allocator, what may ride along in the same transaction, and how it says no.

In: wishes in the caller's words; out: values that the planners read. Holds no policy beyond Calico's naming of handles
and attributes for pods and tunnels.
Source: cni-plugin/internal/pkg/utils (handles), node/pkg/allocateip (tunnels), libcalico-go/lib/backend/model/block.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .addresses import Address
from .choose import PoolRefusal, describe_addresses, describe_refusals
from .model import Pool, Use


@dataclass(frozen=True, slots=True)
class Write:
    """A write of the caller's own that happens with the address or not at all.

    `expect` is the mod_revision that the key must have (0: it must not exist); None asks for nothing.
    """

    key: str
    value: bytes | None
    expect: int | None = None


def _select_all(_pool: Pool) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Request:
    """Addresses for one handle, all or none.

    `v4` and `v6` say how many of each family; `addresses` are those of them that have to be these very ones. `pools`
    are names or CIDRs, and lift the pools' selectors; `selects` is the namespace's part of them. A handle that already
    holds what is asked for is given the same again.
    """

    handle_id: str
    owner: Mapping[str, str] = field(default_factory=dict)
    v4: int = 0
    v6: int = 0
    addresses: tuple[Address, ...] = ()
    pools: tuple[str, ...] = ()
    use: Use = Use.WORKLOAD
    selects: Callable[[Pool], bool] = _select_all

    def wanted(self, version: int) -> int:
        """How many of one family in all."""
        fixed = sum(1 for address in self.addresses if (len(address) == 4) == (version == 4))
        return max(self.v4 if version == 4 else self.v6, fixed)


class Tunnel(StrEnum):
    """The kinds of tunnel whose address is taken from a pool; the value is its type in Calico's attributes."""

    IPIP = "ipipTunnelAddress"
    VXLAN = "vxlanTunnelAddress"
    VXLAN_V6 = "vxlanV6TunnelAddress"
    WIREGUARD = "wireguardTunnelAddress"
    WIREGUARD_V6 = "wireguardV6TunnelAddress"


_TUNNEL_HANDLES = {
    Tunnel.IPIP: "ipip-tunnel-addr-",
    Tunnel.VXLAN: "vxlan-tunnel-addr-",
    Tunnel.VXLAN_V6: "vxlan-v6-tunnel-addr-",
    Tunnel.WIREGUARD: "wireguard-tunnel-addr-",
    Tunnel.WIREGUARD_V6: "wireguard-v6-tunnel-addr-",
}


def pod_handle(network: str, container_id: str) -> str:
    """The handle of one attachment of a container."""
    return f"{network}.{container_id}"


def pod_owner(node: str, namespace: str, pod: str, now: datetime) -> Mapping[str, str]:
    """What is recorded of a pod's addresses."""
    return {
        "namespace": namespace,
        "node": node,
        "pod": pod,
        "timestamp": now.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC"),
    }


def tunnel_request(node: str, tunnel: Tunnel, pools: tuple[str, ...] = ()) -> Request:
    """A tunnel's one address."""
    v6 = tunnel in (Tunnel.VXLAN_V6, Tunnel.WIREGUARD_V6)
    return Request(
        handle_id=_TUNNEL_HANDLES[tunnel] + node,
        owner={"node": node, "type": tunnel},
        v4=0 if v6 else 1,
        v6=1 if v6 else 0,
        pools=pools,
        use=Use.TUNNEL,
    )


class AddressRefusal(StrEnum):
    """Why a particular address cannot be had."""

    NO_POOL = "no enabled pool holds the address"
    OTHER_USE = "the address's pool is not for this use"
    IN_USE = "another handle holds the address"
    COOLING_DOWN = "the address was released a moment ago"
    STRICT_AFFINITY = "the address is in a block of another owner, and strict affinity forbids to borrow"
    OVERLAP = "blocks of another size lie where the address's block would be"
    UNREADABLE = "the address's block cannot be read"


class IpamError(Exception):
    """The allocator did not do what was asked; nothing was written for this request."""


class PoolExhausted(IpamError):
    """No pool gave an address of the family; `reasons` has each pool's."""

    def __init__(self, version: int, reasons: Mapping[str, PoolRefusal]) -> None:
        super().__init__(f"no IPv{version} address: {describe_refusals(reasons)}")
        self.version = version
        self.reasons = reasons


class AddressRefused(IpamError):
    """A particular address cannot be had."""

    def __init__(self, address: Address, reason: AddressRefusal, holder: str = "") -> None:
        super().__init__(f"{describe_addresses([address])}: {reason}{f' ({holder})' if holder else ''}")
        self.address = address
        self.reason = reason
        self.holder = holder


class BlockInUse(IpamError):
    """A block cannot be had or given up: another has it, or addresses in it are held."""


class Unreadable(IpamError):
    """A key that the request depends on holds something else than it should; it has to be repaired by hand."""


class ExpectationFailed(IpamError):
    """A key that the caller's own writes depend on has changed; the caller has to look again."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is not at the expected revision")
        self.key = key


class Conflict(IpamError):
    """Others kept changing the same keys for as many attempts as are made; trying later may help."""
