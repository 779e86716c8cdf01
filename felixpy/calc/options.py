"""What FelixConfiguration says of this node, with Calico's defaults where it says nothing. Pure.

Source: felix/config/config_params.go (names, defaults); the node's own configuration goes before the global one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from felixpy.addresses import Address, Prefix, parse_address
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.types import FailsafePort, FelixConfiguration

_TCP, _UDP = 6, 17
BGP_PORT = 179


class HostAction(StrEnum):
    """What becomes of what a workload sends to its own host, once its policy allows it."""

    DROP = "Drop"
    RETURN = "Return"
    ACCEPT = "Accept"


class LoopAction(StrEnum):
    """What becomes of a packet to a Service range that no Service took."""

    DROP = "Drop"
    REJECT = "Reject"
    DISABLED = "Disabled"


def _ports(protocol: int, *ports: int) -> tuple[FailsafePort, ...]:
    return tuple(FailsafePort(protocol, port) for port in ports)


DEFAULT_FAILSAFE_IN = (*_ports(_TCP, 22), *_ports(_UDP, 68), *_ports(_TCP, 179, 2379, 2380, 5473, 6443, 6666, 6667))
DEFAULT_FAILSAFE_OUT = (*_ports(_UDP, 53, 67), *_ports(_TCP, 179, 2379, 2380, 5473, 6443, 6666, 6667))


@dataclass(frozen=True, slots=True)
class OnIptables:
    """What is otherwise where other programs have rules in the same tables.

    `refuses` as of Options; `ends_filter` and `ends_mangle`: what is allowed passes all that others have in the table.
    """

    refuses: bool = False
    ends_filter: bool = True
    ends_mangle: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """How policy is enforced on this node, and where it is watched over.

    `interface_prefixes`: what the names of workloads' interfaces begin with. `failsafe_in` and `failsafe_out`: what
    host endpoints always let in and out. `nat_address` None: natOutgoing takes the outgoing device's; it goes out from
    one of `nat_ports`, None being any; with `nat_spares_nodes` what goes to nodes keeps its source. `service_cidrs`:
    where Services have their addresses. `workload_peering`: where workloads may speak BGP with their node, an address
    and port each. `floating`: workloads are reached by their floating addresses. `report_denied`, `report_allowed` and
    `report_logged`: which packets are told of. `metrics_at` and `health_at`: host and port of their pages, None for
    neither. `external_nodes`: where tunnel packets may come from beside the cluster's nodes. `spoofing`: workloads may
    give the addresses as their own that their endpoints say. `refuses`: what no policy allows is refused, not dropped.
    `shared` is None where tables are our own.
    """

    interface_prefixes: tuple[str, ...] = ("cali",)
    endpoint_to_host: HostAction = HostAction.DROP
    failsafe_in: tuple[FailsafePort, ...] = DEFAULT_FAILSAFE_IN
    failsafe_out: tuple[FailsafePort, ...] = DEFAULT_FAILSAFE_OUT
    allow_vxlan_from_workloads: bool = False
    allow_ipip_from_workloads: bool = False
    drop_invalid: bool = True
    vxlan_port: int = 4789
    log_prefix: str = "calico-packet"
    nat_address: Address | None = None
    nat_interface: str = ""
    nat_ports: tuple[int, int] | None = None
    nat_spares_nodes: bool = False
    service_loop: LoopAction = LoopAction.REJECT
    service_cidrs: tuple[Prefix, ...] = ()
    workload_peering: tuple[tuple[Address, int], ...] = ()
    floating: bool = False
    report_denied: bool = True
    report_allowed: bool = False
    report_logged: bool = True
    metrics_at: tuple[str, int] | None = None
    health_at: tuple[str, int] | None = None
    external_nodes: tuple[Prefix, ...] = ()
    spoofing: bool = False
    refuses: bool = False
    on_iptables: OnIptables = OnIptables()
    shared: OnIptables | None = None

    def is_workload(self, interface: str) -> bool:
        """Whether an interface's name says that it is a workload's."""
        return interface.startswith(self.interface_prefixes)


DEFAULTS = Options()


def without_reports(options: Options) -> Options:
    """For a kernel that cannot tell of packets."""
    return replace(options, report_denied=False, report_allowed=False, report_logged=False)


def with_shared_tables(options: Options) -> Options:
    """For the back ends in whose tables other programs have rules."""
    return replace(options, refuses=options.on_iptables.refuses, shared=options.on_iptables)


def derive_options(
    common: FelixConfiguration | None,
    own: FelixConfiguration | None,
    bgp: BgpConfiguration | None = None,
    own_bgp: BgpConfiguration | None = None,
) -> Options:
    """Field by field: the node's own configuration, else the common one, else the default.

    `bgp` is the default BGPConfiguration, which names the ranges of Services; `own_bgp` is this node's.
    """
    values: dict[str, object] = {}
    for configuration in (common, own):
        if configuration is not None:
            values.update(_read(configuration))
    return Options(
        interface_prefixes=_prefixes(values),
        endpoint_to_host=_host_action(values),
        failsafe_in=_get(values, "failsafe_in", DEFAULTS.failsafe_in),
        failsafe_out=_get(values, "failsafe_out", DEFAULTS.failsafe_out),
        allow_vxlan_from_workloads=_get(values, "allowVXLANPacketsFromWorkloads", DEFAULTS.allow_vxlan_from_workloads),
        allow_ipip_from_workloads=_get(values, "allowIPIPPacketsFromWorkloads", DEFAULTS.allow_ipip_from_workloads),
        drop_invalid=not _get(values, "disableConntrackInvalidCheck", False),
        vxlan_port=_get(values, "vxlanPort", DEFAULTS.vxlan_port),
        log_prefix=_get(values, "logPrefix", DEFAULTS.log_prefix),
        nat_address=_address(values, "natOutgoingAddress"),
        nat_interface=_nat_interface(values),
        nat_ports=_nat_ports(values),
        nat_spares_nodes=_get(values, "natOutgoingExclusions", "") == "IPPoolsAndHostIPs",
        service_loop=_loop_action(values),
        service_cidrs=_service_cidrs(bgp),
        workload_peering=_workload_peering(bgp, own_bgp),
        floating=_get(values, "floatingIPs", "").capitalize() == "Enabled",
        report_denied=_get(values, "flowLogsFileEnabledForDenied", DEFAULTS.report_denied),
        report_allowed=_get(values, "flowLogsFileEnabledForAllowed", DEFAULTS.report_allowed),
        metrics_at=_page(values, "prometheusMetrics", "", 9091),
        health_at=_page(values, "health", "localhost", 9099),
        external_nodes=_get(values, "external_nodes", DEFAULTS.external_nodes),
        spoofing=_get(values, "workloadSourceSpoofing", "") == "Any",
        refuses=_get(values, "nftablesFilterDenyAction", "") == "Reject",
        on_iptables=OnIptables(
            refuses=_get(values, "iptablesFilterDenyAction", "") == "Reject",
            ends_filter=_get(values, "iptablesFilterAllowAction", "") != "Return",
            ends_mangle=_get(values, "iptablesMangleAllowAction", "") != "Return",
        ),
    )


def _read(configuration: FelixConfiguration) -> Mapping[str, object]:
    values: dict[str, object] = dict(configuration.values)
    if configuration.failsafe_in is not None:
        values["failsafe_in"] = configuration.failsafe_in
    if configuration.failsafe_out is not None:
        values["failsafe_out"] = configuration.failsafe_out
    if configuration.external_nodes is not None:
        values["external_nodes"] = configuration.external_nodes
    return values


_Value = TypeVar("_Value")


def _get(values: Mapping[str, object], name: str, default: _Value) -> _Value:
    """The value where it is of the default's type, as the codec leaves it."""
    value = values.get(name)
    return value if isinstance(value, type(default)) else default


def _page(values: Mapping[str, object], what: str, host: str, port: int) -> tuple[str, int] | None:
    if not _get(values, f"{what}Enabled", False):
        return None
    return _get(values, f"{what}Host", host), _get(values, f"{what}Port", port)


def _prefixes(values: Mapping[str, object]) -> tuple[str, ...]:
    words = _get(values, "interfacePrefix", "").split(",")
    return tuple(word.strip() for word in words if word.strip()) or DEFAULTS.interface_prefixes


def _host_action(values: Mapping[str, object]) -> HostAction:
    word = _get(values, "defaultEndpointToHostAction", "").capitalize()
    return HostAction(word) if word in tuple(HostAction) else DEFAULTS.endpoint_to_host


def _address(values: Mapping[str, object], name: str) -> Address | None:
    """One that cannot be read is not said."""
    try:
        return parse_address(_get(values, name, ""))
    except ValueError:
        return None


def _nat_interface(values: Mapping[str, object]) -> str:
    """The device's name, in Calico's form of a pattern (`eth+` is every name that begins so), as ours (`eth*`)."""
    text = _get(values, "iptablesNATOutgoingInterfaceFilter", "")
    return f"{text[:-1]}*" if text.endswith("+") and text != "+" else text.rstrip("+")


def _nat_ports(values: Mapping[str, object]) -> tuple[int, int] | None:
    """`32768:65535`, or one port. Source: numorstring's Port; felix/rules/nat.go."""
    first, colon, last = str(values.get("natPortRange", "")).partition(":")
    words = (first, last) if colon else (first, first)
    if not all(word.isascii() and word.isdecimal() for word in words):
        return None
    low, high = (int(word) for word in words)
    return (low, high) if 0 < low <= high < 1 << 16 else None


def _workload_peering(bgp: BgpConfiguration | None, own: BgpConfiguration | None) -> tuple[tuple[Address, int], ...]:
    if bgp is None:
        return ()
    port = (own.listen_port if own is not None else None) or bgp.listen_port or BGP_PORT
    return tuple((address, port) for address in bgp.workload_peering)


def _loop_action(values: Mapping[str, object]) -> LoopAction:
    word = _get(values, "serviceLoopPrevention", "").capitalize()
    return LoopAction(word) if word in tuple(LoopAction) else DEFAULTS.service_loop


def _service_cidrs(bgp: BgpConfiguration | None) -> tuple[Prefix, ...]:
    if bgp is None:
        return ()
    return tuple(sorted({*bgp.service_cluster_cidrs, *bgp.service_external_cidrs, *bgp.service_lb_cidrs}))
