"""JSON to values and back, byte for byte as Calico writes it.

In: an etcd value; out: a value of model.py, or Malformed naming the field. Out: compact JSON in the order of Calico's
structs, with its nulls and omissions, map keys sorted, `<`, `>` and `&` escaped, unknown fields last. The reverse of a
parse is the identity on anything that Calico wrote. Never decides anything about addresses.
Source: Go encoding/json; libcalico-go/lib/backend/model; k8s apimachinery metav1.Time (whole seconds, UTC).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from .addresses import Prefix, parse_prefix
from .model import (
    BLOCK_LENGTHS,
    Affinity,
    AffinityState,
    Attribute,
    Block,
    Config,
    Handle,
    Pool,
    Use,
)

T = TypeVar("T")

_GO_ESCAPES = (
    (b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"),
)  # fmt: skip


class Malformed(ValueError):
    """A value is not what its key promises: it counts as unusable, and its `field` is to be reported."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field


def parse_block(value: bytes) -> Block:
    """A block.

    Raises  Malformed also when its lists contradict one another, as using it could give an address out twice.
    """
    fields = _Fields(value)
    nulls = frozenset(
        name
        for name in ("unallocated", "attributes", "sequenceNumberForAllocation")
        if fields.rest.get(name) is None
    )  # fmt: skip
    cidr = _parse_cidr("cidr", fields.take("cidr", str, ""))
    block = Block(
        cidr=cidr,
        affinity=fields.take_optional("affinity", str),
        claimed_at=_parse_time("affinity_claim_time", fields.take_optional("affinity_claim_time", str)),
        allocations=tuple(fields.take("allocations", list, [])),
        unallocated=tuple(fields.take("unallocated", list, [])),
        attributes=tuple(_parse_attribute(raw) for raw in fields.take("attributes", list, [])),
        sequence_number=fields.take("sequenceNumber", int, 0),
        sequence_of=_parse_sequences(fields.take("sequenceNumberForAllocation", dict, {})),
        deleted=fields.take("deleted", bool, False),
        nulls=nulls,
        extra=fields.rest,
    )
    _check_lists(block)
    return block


def render_block(block: Block) -> bytes:
    """The block's JSON."""
    tree: dict[str, object] = {"cidr": str(block.cidr), "affinity": block.affinity}
    if block.claimed_at is not None:
        tree["affinity_claim_time"] = _render_time(block.claimed_at)
    tree["allocations"] = block.allocations
    tree["unallocated"] = _null_if_empty(block, "unallocated", block.unallocated)
    tree["attributes"] = _null_if_empty(block, "attributes", [_attribute_tree(each) for each in block.attributes])
    tree["sequenceNumber"] = block.sequence_number
    sequences = _sorted_tree((str(ordinal), sequence) for ordinal, sequence in block.sequence_of.items())
    tree["sequenceNumberForAllocation"] = _null_if_empty(block, "sequenceNumberForAllocation", sequences)
    tree["deleted"] = block.deleted
    return _encode(tree, block.extra)


def parse_affinity(value: bytes) -> Affinity:
    """A claim. Old versions stored nothing at all for a confirmed one. Raises Malformed."""
    fields = _Fields(value or b"{}")
    state = fields.take("state", str, "")
    if state not in tuple(AffinityState):
        raise Malformed("state", f"{state!r} is not a state")
    return Affinity(AffinityState(state), fields.take("deleted", bool, False), fields.rest)


def render_affinity(affinity: Affinity) -> bytes:
    """The claim's JSON."""
    return _encode({"state": affinity.state, "deleted": affinity.deleted}, affinity.extra)


def parse_handle(value: bytes) -> Handle:
    """A handle. Raises Malformed."""
    fields = _Fields(value)
    blocks = {}
    for text, count in fields.take("block", dict, {}).items():
        if type(count) is not int:
            raise Malformed("block", f"{count!r} is not a count")
        blocks[_parse_cidr("block", text)] = count
    return Handle(blocks, fields.take("deleted", bool, False), fields.rest)


def render_handle(handle: Handle) -> bytes:
    """The handle's JSON."""
    blocks = _sorted_tree((str(cidr), count) for cidr, count in handle.blocks.items())
    return _encode({"block": blocks, "deleted": handle.deleted}, handle.extra)


def parse_config(value: bytes) -> Config:
    """The configuration. A field that is left out is off, unlike where the whole key is missing. Raises Malformed."""
    fields = _Fields(value)
    return Config(
        strict_affinity=fields.take("strict_affinity", bool, False),
        auto_allocate_blocks=fields.take("auto_allocate_blocks", bool, False),
        max_blocks=fields.take("maxBlocksPerHost", int, 0),
        cooldown_s=fields.take("ipCooldownSeconds", int, 0),
        extra=fields.rest,
    )


def parse_configuration(value: bytes) -> Config:
    """The configuration, from a Calico IPAMConfiguration; blocks are claimed automatically unless it says otherwise.

    Raises  Malformed.
    """
    spec = _Fields.of("spec", _Fields(value).take("spec", dict, {}))
    return Config(
        strict_affinity=spec.take("strictAffinity", bool, False),
        auto_allocate_blocks=spec.take("autoAllocateBlocks", bool, True),
        max_blocks=spec.take("maxBlocksPerHost", int, 0),
        cooldown_s=spec.take("ipCooldownSeconds", int, 0),
    )


def render_config(config: Config) -> bytes:
    """The configuration's JSON; what is off is left out."""
    persistence = config.extra.get("kubeVirtVMAddressPersistence")
    tree: dict[str, object] = {
        "strict_affinity": config.strict_affinity,
        "auto_allocate_blocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks,
        "kubeVirtVMAddressPersistence": persistence,
        "ipCooldownSeconds": config.cooldown_s,
    }
    rest = {name: value for name, value in config.extra.items() if name not in tree}
    return _encode({name: value for name, value in tree.items() if value}, rest)


def parse_pool(value: bytes) -> Pool:
    """A pool, from a Calico IPPool. Raises Malformed."""
    fields = _Fields(value)
    name = _Fields.of("metadata", fields.take("metadata", dict, {})).take("name", str, "")
    spec = _Fields.of("spec", fields.take("spec", dict, {}))
    cidr = _parse_cidr("spec.cidr", spec.take("cidr", str, ""))
    length = spec.take("blockSize", int, 0) or (26 if cidr.version == 4 else 122)
    if length not in BLOCK_LENGTHS[cidr.version] or length < cidr.length:
        raise Malformed("spec.blockSize", f"{length} does not go with {cidr}")
    uses = frozenset(Use(use) for use in spec.take("allowedUses", list, []) if use in tuple(Use))
    return Pool(
        name=name,
        cidr=cidr,
        block_length=length,
        disabled=spec.take("disabled", bool, False),
        automatic=spec.take("assignmentMode", str, "") != "Manual",
        uses=uses or frozenset({Use.WORKLOAD, Use.TUNNEL}),
        node_selector=spec.take("nodeSelector", str, ""),
        namespace_selector=spec.take("namespaceSelector", str, ""),
    )


def parse_reservation(value: bytes) -> tuple[Prefix, ...]:
    """The ranges of a Calico IPReservation. Raises Malformed."""
    spec = _Fields.of("spec", _Fields(value).take("spec", dict, {}))
    return tuple(_parse_cidr("spec.reservedCIDRs", cidr) for cidr in spec.take("reservedCIDRs", list, []))


class _Fields:
    """The fields of one JSON object, taken out one by one; `rest` is what nobody took."""

    def __init__(self, value: bytes) -> None:
        try:
            tree = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise Malformed("", str(problem)) from None
        if not isinstance(tree, dict):
            raise Malformed("", "not an object")
        self.rest: dict[str, Any] = tree

    @classmethod
    def of(cls, name: str, tree: Any) -> _Fields:
        if not isinstance(tree, dict):
            raise Malformed(name, "not an object")
        fields = cls.__new__(cls)
        fields.rest = dict(tree)
        return fields

    def take_optional(self, name: str, kind: type[T]) -> T | None:
        value = self.rest.pop(name, None)
        if value is not None and type(value) is not kind:
            raise Malformed(name, f"{value!r} is not {kind.__name__}")
        return value

    def take(self, name: str, kind: type[T], default: T) -> T:
        value = self.take_optional(name, kind)
        return default if value is None else value


def _parse_attribute(raw: object) -> Attribute:
    fields = _Fields.of("attributes", raw)
    return Attribute(
        handle_id=fields.take_optional("handle_id", str),
        owner=fields.take("secondary", dict, {}),
        alternate_owner=fields.take("alternateOwnerAttrs", dict, {}),
        released_at=_parse_time("releasedAt", fields.take_optional("releasedAt", str)),
        extra=fields.rest,
    )


def _attribute_tree(attribute: Attribute) -> dict[str, object]:
    tree: dict[str, object] = {}
    if attribute.handle_id is not None:
        tree["handle_id"] = attribute.handle_id
    if attribute.owner:
        tree["secondary"] = _sorted_tree(attribute.owner.items())
    if attribute.alternate_owner:
        tree["alternateOwnerAttrs"] = _sorted_tree(attribute.alternate_owner.items())
    if attribute.released_at is not None:
        tree["releasedAt"] = _render_time(attribute.released_at)
    if attribute.extra:
        tree.update(attribute.extra)
    return tree


def _parse_sequences(tree: Mapping[str, object]) -> dict[int, int]:
    sequences: dict[int, int] = {}
    for ordinal, sequence in tree.items():
        if not ordinal.isdecimal() or type(sequence) is not int:
            raise Malformed("sequenceNumberForAllocation", f"{ordinal!r}: {sequence!r}")
        sequences[int(ordinal)] = sequence
    return sequences


def _check_lists(block: Block) -> None:
    if len(block.allocations) != block.cidr.size:
        raise Malformed("allocations", f"{len(block.allocations)} of {block.cidr.size} addresses")
    indexes = range(len(block.attributes))
    for index in block.allocations:
        if index is not None and (type(index) is not int or index not in indexes):
            raise Malformed("allocations", f"there is no attribute {index!r}")
    free = set(block.unallocated)
    if len(free) != len(block.unallocated):
        raise Malformed("unallocated", "an ordinal is listed twice")
    for ordinal in block.unallocated:
        if type(ordinal) is not int or not 0 <= ordinal < len(block.allocations):
            raise Malformed("unallocated", f"{ordinal!r} is not in the block")
        if block.allocations[ordinal] is not None:
            raise Malformed("unallocated", f"{ordinal} is allocated")


def _parse_cidr(field: str, text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except (ValueError, AttributeError) as problem:
        raise Malformed(field, str(problem)) from None


def _parse_time(field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise Malformed(field, f"{text!r} is not a time") from None


def _render_time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _null_if_empty(block: Block, name: str, value: T) -> T | None:
    return None if not value and name in block.nulls else value


def _sorted_tree(items: Iterable[tuple[str, object]]) -> dict[str, object]:
    return dict(sorted(items))


def _encode(tree: dict[str, object], extra: Mapping[str, object]) -> bytes:
    if extra:
        tree.update(extra)
    text = msgspec.json.encode(tree)
    for character, escape in _GO_ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return text
