"""BGPFilter: document → type. Source: projectcalico/calico api/pkg/apis/projectcalico/v3/bgpfilter.go."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from felixpy.addresses import Prefix
from felixpy.resources.bgp import read_priority
from felixpy.resources.bgp_documents import BgpFilterDoc, FilterRuleDoc, OperationDoc
from felixpy.resources.bgp_types import (
    AddCommunity,
    BgpFilter,
    FilterOperation,
    FilterRule,
    MatchOperator,
    PrependAsPath,
    SetPriority,
)
from felixpy.resources.scalars import FieldError, read_as_number, read_prefix
from felixpy.resources.services import read_community

OPERATIONS_MOST = 10
_T = TypeVar("_T")
_INTERFACE = re.compile(r"[a-zA-Z0-9_.*-]{1,15}")


def read_bgp_filter(doc: BgpFilterDoc) -> BgpFilter:
    """One rule that is wrong makes the whole filter missing: the others would mean something else without it."""
    spec = doc.spec
    return BgpFilter(
        import4=_rules("spec.importV4", spec.import4, 4),
        import6=_rules("spec.importV6", spec.import6, 6),
        export4=_rules("spec.exportV4", spec.export4, 4),
        export6=_rules("spec.exportV6", spec.export6, 6),
    )


def _rules(field: str, rules: Iterable[FilterRuleDoc] | None, version: int) -> tuple[FilterRule, ...]:
    return tuple(_rule(f"{field}[{index}]", one, version) for index, one in enumerate(rules or ()))


def _rule(field: str, doc: FilterRuleDoc, version: int) -> FilterRule:
    cidr, operator = _prefix(field, doc, version)
    bits = 32 if version == 4 else 128
    shortest, longest = (doc.prefix_length.min, doc.prefix_length.max) if doc.prefix_length else (None, None)
    for word, length in (("min", shortest), ("max", longest)):
        if length is not None and not 0 <= length <= bits:
            raise FieldError(f"{field}.prefixLength.{word}", f"{length} is not between 0 and {bits}")
    if doc.prefix_length and cidr is None:
        raise FieldError(f"{field}.prefixLength", "needs cidr")
    if doc.interface and not _INTERFACE.fullmatch(doc.interface):
        raise FieldError(f"{field}.interface", f"{doc.interface!r} is no pattern of a device's name")
    accept = _one_of(f"{field}.action", doc.action, {"Accept": True, "Reject": False})
    operations = doc.operations or []
    if operations and not accept:
        raise FieldError(f"{field}.operations", "need action Accept")
    if len(operations) > OPERATIONS_MOST:
        raise FieldError(f"{field}.operations", f"are more than {OPERATIONS_MOST}")
    values = doc.communities.values if doc.communities else []
    if doc.communities and len(values) != 1:
        raise FieldError(f"{field}.communities.values", "must be one")
    return FilterRule(
        accept=accept,
        cidr=cidr,
        operator=operator,
        shortest=shortest,
        longest=longest,
        from_peers=bool(doc.source) and _one_of(f"{field}.source", doc.source, {"RemotePeers": True}),
        interface=doc.interface,
        external_peers=_one_of(f"{field}.peerType", doc.peer_type, {"eBGP": True, "iBGP": False})
        if doc.peer_type
        else None,
        community=read_community(f"{field}.communities.values[0]", values[0]) if values else "",
        as_path_prefix=_numbers(f"{field}.asPathPrefix", doc.as_path_prefix or ()),
        priority=read_priority(f"{field}.priority", doc.priority),
        operations=tuple(_operation(f"{field}.operations[{at}]", one) for at, one in enumerate(operations)),
    )


def _prefix(field: str, doc: FilterRuleDoc, version: int) -> tuple[Prefix | None, MatchOperator]:
    if bool(doc.cidr) != bool(doc.match_operator):
        raise FieldError(f"{field}.cidr", "and matchOperator go together")
    if not doc.cidr:
        return None, MatchOperator.IN
    cidr = read_prefix(f"{field}.cidr", doc.cidr)
    if cidr.version != version:
        raise FieldError(f"{field}.cidr", f"{cidr} is of the other family")
    return cidr, _one_of(f"{field}.matchOperator", doc.match_operator, {str(one): one for one in MatchOperator})


def _one_of(field: str, word: str, meanings: dict[str, _T]) -> _T:
    if word not in meanings:
        raise FieldError(field, f"{word!r} is none of {', '.join(meanings)}")
    return meanings[word]


def _numbers(field: str, values: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(read_as_number(f"{field}[{index}]", value) or 0 for index, value in enumerate(values))


def _operation(field: str, doc: OperationDoc) -> FilterOperation:
    given: list[FilterOperation] = []
    if doc.add_community is not None:
        given.append(AddCommunity(read_community(f"{field}.addCommunity.value", doc.add_community.value)))
    if doc.prepend_as_path is not None:
        numbers = _numbers(f"{field}.prependASPath.prefix", doc.prepend_as_path.prefix)
        if not 1 <= len(numbers) <= OPERATIONS_MOST or not all(numbers):
            raise FieldError(f"{field}.prependASPath.prefix", f"must be 1 to {OPERATIONS_MOST} AS numbers")
        given.append(PrependAsPath(numbers))
    if doc.set_priority is not None:
        priority = read_priority(f"{field}.setPriority.value", doc.set_priority.value)
        given.append(SetPriority(priority or 1))
    if len(given) != 1:
        raise FieldError(field, "must be exactly one of addCommunity, prependASPath and setPriority")
    return given[0]
