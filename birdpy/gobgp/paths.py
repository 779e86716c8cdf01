"""Advertisements to GoBGP's paths, and its table events to path events.

A next hop of 0.0.0.0 or :: lets GoBGP put each session's own local address in its place. Source: RFC 4271 §5,
RFC 4760 (IPv6 next hops travel in MP_REACH_NLRI), RFC 9494 §4.4 (the LLGR_STALE community). What the neighbour on a
bare link taught leads to it, whichever address of its own it names: that one need not be reachable by any other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from birdpy.addresses import Prefix, format_address, parse_address, version_of
from birdpy.fib import DEFAULT_LOCAL_PREF, Path, PathSet, Source
from birdpy.gobgp.alike import Tail
from birdpy.gobgp.wire import Message, Wire, family_message
from birdpy.intent import Advertisement

LLGR_STALE = 65535 << 16 | 6
_ORIGIN_IGP = 0
_NO_NEIGHBOR = ("", "<nil>", "invalid IP")
"""How the versions name the neighbour of a path of our own."""


def path_messages(wire: Wire, advertisements: Iterable[Advertisement]) -> Iterator[Message]:
    """A Path for each advertisement.

    All that does not depend on the prefix is built once per set of attributes and copied: 4 times as fast.
    """
    templates: dict[tuple[object, ...], Message] = {}
    for given in advertisements:
        if len(given.prefix.address) == 16:
            yield _path_message(wire, given)
            continue
        shape = (
            given.next_hop,
            given.communities,
            given.large_communities,
            given.local_pref,
            given.med,
            given.link_bandwidth,
        )
        template = templates.get(shape)
        if template is None:
            template = templates[shape] = _path_message(wire, given)
        path = wire.messages["Path"]()
        path.CopyFrom(template)
        path.nlri.CopyFrom(wire.nlri(given.prefix))
        yield path


def _path_message(wire: Wire, advertisement: Advertisement) -> Message:
    messages = wire.messages
    prefix = advertisement.prefix
    version = version_of(prefix.address)
    next_hop = format_address(advertisement.next_hop or bytes(len(prefix.address)))
    nlri = wire.nlri(prefix)
    family = family_message(wire, version)
    given = {"origin": messages["Origin"](origin=_ORIGIN_IGP)}
    if version == 4 and len(advertisement.next_hop or b"1234") == 4:
        given["next_hop"] = messages["NextHop"](next_hop=next_hop)
    else:
        given["mp_reach"] = messages["MpReach"](family=family, next_hops=[next_hop], nlris=[nlri])
    if advertisement.med is not None:
        given["med"] = messages["Med"](med=advertisement.med)
    if advertisement.local_pref is not None:
        given["local_pref"] = messages["LocalPref"](local_pref=advertisement.local_pref)
    if advertisement.communities:
        given["communities"] = messages["Communities"](communities=advertisement.communities)
    if advertisement.large_communities:
        large = messages["LargeCommunity"]
        given["large_communities"] = messages["LargeCommunities"](
            communities=[large(global_admin=a, local1=b, local2=c) for a, b, c in advertisement.large_communities]
        )
    if advertisement.link_bandwidth is not None:
        given["extended_communities"] = wire.extended_communities(advertisement.link_bandwidth)
    return messages["Path"](nlri=nlri, family=family, attributes=list(wire.attributes(given)))


def withdraw_message(wire: Wire, prefix: Prefix) -> Message:
    """A Path that takes `prefix` back, whatever was announced with it. Version 3 wants a next hop even so."""
    path = _path_message(wire, Advertisement(prefix))
    path.is_withdraw = True
    return path


def read_path(wire: Wire, path: Message) -> tuple[Prefix, Tail] | None:
    """A path of version 4's events; None where its prefix is of another family or unreadable."""
    prefix = _prefix_of(wire, path)
    if prefix is None:
        return None
    return prefix, (_source_of(path), None if path.is_withdraw else _path_of(wire, path))


def read_sets(wire: Wire, paths: Iterable[Message]) -> Iterator[PathSet]:
    """The best paths that an event of version 3 tells, of each prefix that it names."""
    sets: dict[Prefix, dict[Source, Path]] = {}
    for message in paths:
        prefix = _prefix_of(wire, message)
        if prefix is None:
            continue
        members = sets.setdefault(prefix, {})
        if not message.is_withdraw:
            members[_source_of(message)] = _path_of(wire, message)
    return (PathSet(prefix, members) for prefix, members in sets.items())


def _prefix_of(wire: Wire, message: Message) -> Prefix | None:
    try:
        return wire.read_prefix(message)
    except ValueError:
        return None


def _source_of(message: Message) -> Source:
    neighbor = message.neighbor
    return Source("" if neighbor in _NO_NEIGHBOR else neighbor, message.identifier)


def _path_of(wire: Wire, message: Message) -> Path:
    found: Mapping[str, Message] = wire.read_attributes(message)
    text = ""
    if "%" in message.neighbor:
        text = message.neighbor
    elif "mp_reach" in found and found["mp_reach"].next_hops:
        text = found["mp_reach"].next_hops[0]
    elif "next_hop" in found:
        text = found["next_hop"].next_hop
    try:
        next_hop = parse_address(text)
    except ValueError:
        next_hop = bytes(4)
    local_pref = found["local_pref"].local_pref if "local_pref" in found else DEFAULT_LOCAL_PREF
    stale = "communities" in found and LLGR_STALE in found["communities"].communities
    return Path(next_hop, local_pref, stale)
