"""Which of a node's endpoints and addresses nothing uses any more.

Pure. What is recorded and which devices there are → what is gone for certain, what is missing and has to stay so for a
while, and since when. A container does not outlive the boot of its machine; within one boot a device may be missing for
a moment, or the agent may look in another network namespace than the one where the pods are: then nothing is said.
An address that an endpoint has, or whose handle has a device, is never among them.
Source: kube-controllers/pkg/controllers/node/ipam.go (grace period, sequence numbers); proc(5), random/boot_id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from felixpy.cni.plan import Attachment
from ipam.addresses import Address
from ipam.audit import Suspect
from ipam.model import Block

GRACE_S = 300.0
"""How long something must be missing without a break before it counts as gone."""


class Place(NamedTuple):
    """Where and when a pod was wired: the boot of the machine, and the node's network namespace (its inode)."""

    boot: str
    netns: str

    def __str__(self) -> str:
        return f"{self.boot}/{self.netns}"


@dataclass(frozen=True, slots=True)
class Recorded:
    """An attachment that has an endpoint, and the place that the endpoint tells; None when it tells none."""

    attachment: Attachment
    place: Place | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Attachments whose containers ended with a boot before this one, and those whose device is missing."""

    gone: frozenset[Attachment]
    missing: frozenset[Attachment]


def parse_place(text: str) -> Place | None:
    """The place that an endpoint tells; None when it is none."""
    boot, slash, netns = text.partition("/")
    return Place(boot, netns) if boot and slash and netns else None


def judge_endpoints(recorded: Iterable[Recorded], owners: Collection[str], here: Place) -> Judgement:
    """The endpoints that have no device; `owners` are those of the devices that there are (`Attachment.owner`)."""
    absent = [one for one in recorded if one.place is not None and one.attachment.owner not in owners]
    return Judgement(
        frozenset(one.attachment for one in absent if one.place and one.place.boot != here.boot),
        frozenset(one.attachment for one in absent if one.place == here),
    )


def find_orphans(
    blocks: Iterable[Block], node: str, live_handles: Collection[str], live_addresses: Collection[Address]
) -> frozenset[Suspect]:
    """The node's pod addresses in these blocks that no endpoint has and whose handle nothing alive has.

    Missing  addresses that other nodes hold, tunnels', and those whose holder did not record its node.
    """
    held = [
        (attribute, block.cidr.nth(ordinal), block.sequence_of.get(ordinal, 0))
        for block in blocks
        for ordinal in range(block.cidr.size)
        if (attribute := block.attribute_of(ordinal)) is not None and attribute.released_at is None
    ]
    alive = {*live_handles, *(attribute.holder for attribute, address, _ in held if address in live_addresses)}
    return frozenset(
        Suspect(address, attribute.holder, sequence)
        for attribute, address, sequence in held
        if attribute.holder
        and attribute.holder not in alive
        and attribute.owner.get("node") == node
        and "pod" in attribute.owner
    )
