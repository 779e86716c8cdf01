"""What becomes of a packet, as iptables says it: actions → targets. Pure.

Source: iptables-extensions(8).
"""

from __future__ import annotations

from typing import assert_never

from felixpy.addresses import format_address, version_of
from felixpy.dataplane.iptables.matches import Sought
from felixpy.dataplane.iptables.names import chain_kernel_name, set_kernel_name
from felixpy.dataplane.iptables.services import translate_to
from felixpy.dataplane.iptables.terms import Inexpressible, Place, Table, set_mark
from felixpy.dataplane.nftables import printable, report_text
from felixpy.dataplane.rules import (
    MARK_DROP,
    REPORT_GROUP,
    REPORTS_AT_ONCE,
    REPORTS_PER_S,
    Accept,
    Action,
    Balance,
    DestinationNat,
    Dispatch,
    Drop,
    Goto,
    Jump,
    Log,
    MapDestination,
    MapSource,
    Masquerade,
    NoTrack,
    Reject,
    Remember,
    Report,
    Return,
    SetMark,
    SourceNat,
)

LOG_PREFIX_BYTES = 29
"""Of a LOG target's prefix less its NUL (linux/netfilter/xt_LOG.h)."""
_TCP = 6


def find_targets(action: Action, sought: Sought, place: Place) -> tuple[str, ...]:
    """The targets of one action, in order; none where it concerns the other family.

    Raises  Inexpressible.
    """
    table = place.table
    match action:
        case Accept():
            return ("-j ACCEPT",)
        case Drop():
            return drop_targets(table)
        case Reject(tcp_reset):
            return (_reject(tcp_reset, sought, place),)
        case Return():
            return ("-j RETURN",)
        case Jump(chain):
            return (f"-j {chain_kernel_name(chain)}",)
        case Goto(chain):
            return (f"-g {chain_kernel_name(chain)}",)
        case SetMark(value, mask):
            return (set_mark(value, mask | value),)
        case Log():
            prefix = printable(action.prefix, LOG_PREFIX_BYTES).replace("\\", "/")
            return ("-j LOG" + (f' --log-prefix "{prefix}"' if prefix else "") + " --log-level 5",)
        case Report():
            limit = f"-m limit --limit {REPORTS_PER_S}/sec --limit-burst {REPORTS_AT_ONCE}"
            text = report_text(action).replace("\\", "/")
            return (f'{limit} -j NFLOG --nflog-group {REPORT_GROUP} --nflog-prefix "{text}"',)
        case NoTrack():
            return (only_in(Table.RAW, table, "-j CT --notrack"),)
        case Masquerade(random, ports):
            to = "" if ports is None else f" --to-ports {ports[0]}-{ports[1]}"
            return (only_in(Table.NAT, table, "-j MASQUERADE" + to + (" --random-fully" if random else "")),)
        case SourceNat(address, ports):
            if version_of(address) != place.version:
                return ()
            source = format_address(address)
            if ports is not None:
                source = f"{source if place.version == 4 else f'[{source}]'}:{ports[0]}-{ports[1]}"
            return (only_in(Table.NAT, table, f"-j SNAT --to-source {source}"),)
        case DestinationNat(address, port):
            return (
                (only_in(Table.NAT, table, translate_to(address, port)),)
                if version_of(address) == place.version
                else ()
            )
        case Remember(name, version, timeout_s):
            kept = f"-j SET --add-set {set_kernel_name(name)} src --exist --timeout {timeout_s}"
            return (kept,) if version == place.version else ()
        case Balance():
            raise Inexpressible("balancing is reached by something else than a frontend")
        case Dispatch() | MapDestination() | MapSource():
            raise Inexpressible("a lookup is no single target")
        case _:
            assert_never(action)


def _reject(tcp_reset: bool, sought: Sought, place: Place) -> str:
    if tcp_reset and f"-p {_TCP}" not in sought.words:
        raise Inexpressible("a TCP reset needs a rule for TCP")
    answer = "tcp-reset" if tcp_reset else "icmp-port-unreachable" if place.version == 4 else "icmp6-port-unreachable"
    return only_in(Table.FILTER, place.table, f"-j REJECT --reject-with {answer}")


def only_in(needed: Table, table: Table, target: str) -> str:
    """A target that one table has.

    Raises  Inexpressible elsewhere.
    """
    if table is not needed:
        raise Inexpressible(f"{target.split()[1]} works in the {needed} table only, not in {table}")
    return target


def render_verdict(verdict: str, table: Table) -> tuple[str, ...]:
    """Targets for a verdict map's value."""
    word, _, chain = verdict.partition(" ")
    match word:
        case "jump":
            return (f"-j {chain_kernel_name(chain)}",)
        case "goto":
            return (f"-g {chain_kernel_name(chain)}",)
        case "drop":
            return drop_targets(table)
        case "accept":
            return ("-j ACCEPT",)
        case "return":
            return ("-j RETURN",)
        case _:
            raise Inexpressible(f"there is no verdict {verdict!r}")


def drop_targets(table: Table) -> tuple[str, ...]:
    """A nat chain cannot drop: it marks the packet, and the filter table drops what is marked."""
    return (set_mark(MARK_DROP, MARK_DROP), "-j ACCEPT") if table is Table.NAT else ("-j DROP",)
