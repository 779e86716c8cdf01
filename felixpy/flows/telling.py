"""A flow of the table, and what is known about it → the record that people read. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.addresses import Address, format_address
from felixpy.dataplane.chains.causes import Cause, Effect
from felixpy.flows.names import NOBODY, POD, Named, Rank
from felixpy.flows.records import FlowEnd, FlowRecord
from felixpy.flows.table import About, Flow

VERDICTS = {Effect.DENY: "denied", Effect.REFUSE: "refused", Effect.ADMIT: "allowed", Effect.LOG: "logged"}
_FIELDS = {"in": "ingress", "out": "egress", "": ""}


def tell(flow: Flow, named: Mapping[Address, Named]) -> FlowRecord:
    """The record of one flow; `named` are those that its addresses are now, where they have a name."""
    about, traffic = flow.about, flow.key.traffic
    cause = about.cause
    source, destination = (_end_of(flow, one, named.get(one, NOBODY)) for one in traffic[:2])
    if about.local is not None and cause is not None and about.local.kind == POD:
        if cause.way == "out":
            source = _at(about.local, traffic.source)
        elif cause.way == "in":
            destination = _at(about.local, traffic.destination)
    return FlowRecord(
        verdict=VERDICTS[cause.effect] if cause is not None else VERDICTS[Effect.DENY],
        source=source,
        destination=destination,
        protocol=traffic.protocol,
        source_port=flow.source_port,
        destination_port=traffic.destination_port,
        icmp_type=traffic.icmp_type,
        icmp_code=traffic.icmp_code,
        direction=_FIELDS[cause.way] if cause is not None else "",
        endpoint=_words(about.local),
        tier=about.tier,
        policy=str(cause.policy) if cause is not None and cause.policy is not None else "",
        place=field_of(cause) if cause is not None else "",
        stage=about.stage,
        by=_by(about, flow.key.text),
        in_interface=about.in_device,
        out_interface=about.out_device,
        first_s=round(flow.first_s, 3),
        last_s=round(flow.last_s, 3),
        told=flow.told,
    )


def _end_of(flow: Flow, address: Address, now: Named) -> FlowEnd:
    """Who an address was when the flow was told of."""
    for rank in Rank:
        end = flow.end_at(address, rank, now[rank])
        if end is not None:
            return end
    return FlowEnd(format_address(address))


def _at(end: FlowEnd, address: Address) -> FlowEnd:
    """The endpoint, at whatever address the packet names."""
    return FlowEnd(format_address(address), end.kind, end.namespace, end.name, end.node)


def _words(end: FlowEnd | None) -> str:
    if end is None:
        return ""
    name = f"{end.namespace}/{end.name}" if end.namespace else end.name
    return name if end.kind == POD else f"{end.kind} {name}"


def field_of(cause: Cause) -> str:
    """The field of the policy that holds the rule: `spec.ingress[2]`."""
    if cause.index is None or not cause.way:
        return ""
    return f"spec.{_FIELDS[cause.way]}[{cause.index}]"


def _by(about: About, text: str) -> str:
    """Who decided: `GlobalNetworkPolicy default.web spec.ingress[2]`, or a default in words."""
    return text if about.cause is None else f"{subject_of(about.cause)} {field_of(about.cause)}".rstrip()


def subject_of(cause: Cause) -> str:
    """Whose rule it is: a policy's or a profile's; else the default, in words."""
    if cause.policy is not None:
        return str(cause.policy)
    return f"Profile {cause.profile}" if cause.profile else str(cause)
