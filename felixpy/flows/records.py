"""Flows as they are told to people: the values, their JSON, the question, and which records it asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field

FLOWS_SHOWN = 500
"""The most flows of one answer, so that it stays below 300 kB."""


class FlowEnd(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One end: the address, and who has it (`pod`, `host endpoint`, `network set`, `node`, `Service`) by name.

    `node` is the pod's.
    """

    address: str
    kind: str = ""
    namespace: str = ""
    name: str = ""
    node: str = ""

    def __str__(self) -> str:
        if not self.name:
            return self.address
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        words = name if self.kind == "pod" else f"{self.kind} {name}"
        return f"{words} ({self.address})"


class FlowRecord(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A flow with what decided about it.

    `direction` is as `endpoint` sees it, whose rule it was: ingress or egress. `by` says which rule in words, with
    `policy`, `field` and `tier` where a policy has it; `stage` where its policies have one of their own.
    """

    verdict: str
    source: FlowEnd
    destination: FlowEnd
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    direction: str = ""
    endpoint: str = ""
    tier: str = ""
    policy: str = ""
    place: str = field(default="", name="field")
    stage: str = ""
    by: str = ""
    in_interface: str = ""
    out_interface: str = ""
    first_s: float = field(default=0.0, name="firstSeen")
    last_s: float = field(default=0.0, name="lastSeen")
    told: int = field(default=0, name="packets")


class FlowsQuestion(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which flows: of these `verdicts` (any where there are none), that a namespace, pod or address has an end of.

    `follow`: and then those that change, as long as the question stands.
    """

    verdicts: tuple[str, ...] = ()
    namespace: str = ""
    pod: str = ""
    address: str = ""
    follow: bool = False


class FlowsAnswer(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What one node tells, the oldest first; `more` flows that the answer has no room for.

    `lost`: packets that the kernel could not hand over; beyond each rule's limit it does not tell of packets at all.
    `unread` says why the node reads none.
    """

    node: str
    flows: tuple[FlowRecord, ...] = ()
    more: int = 0
    lost: int = 0
    unread: str = ""


def is_asked_for(record: FlowRecord, question: FlowsQuestion) -> bool:
    """Whether a record answers the question."""
    ends = (record.source, record.destination)
    return (
        (not question.verdicts or record.verdict in question.verdicts)
        and (not question.namespace or any(end.namespace == question.namespace for end in ends))
        and (not question.pod or any(end.kind == "pod" and end.name == question.pod for end in ends))
        and (not question.address or any(end.address == question.address for end in ends))
    )


def select(records: Iterable[FlowRecord], question: FlowsQuestion) -> Iterator[FlowRecord]:
    """Those of the records that are asked for."""
    return (record for record in records if is_asked_for(record, question))
