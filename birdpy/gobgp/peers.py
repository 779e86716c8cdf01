"""Speakers, neighbours and sessions to and from GoBGP's messages.

What is read back is brought to the same canonical form as what is wanted, so that a restarted client finds no
difference where there is none. Source: GoBGP's defaults (pkg/config/oc/default.go), measured on 3.10 and 4.8.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

from birdpy.addresses import Version, anyone_in, format_address, parse_address, parse_prefix
from birdpy.gobgp.wire import Message, Wire, family_message, family_version
from birdpy.intent import (
    BGP_PORT,
    MULTIHOP_TTL_MAX,
    Bfd,
    GracefulRestart,
    Neighbor,
    Reflection,
    Speaker,
)
from birdpy.session import BfdSession, MessageCounts, Session, SessionState

IDLE_HOLD_AFTER_RESET_S = 1
"""GoBGP's default of 30 s refuses a neighbour that is back long before."""
CONNECT_RETRY_MIN_S = 2
"""GoBGP takes no less."""
BFD_PORT = 3784
_GROUP = "birdpy."
"""What the names of our groups begin with."""
_STATES = tuple(SessionState)
_ADMIN_OVER_LIMIT = 2
_BFD_UP = 1
_NO_RESTART = GracefulRestart(False, 0, 0, 0)


def global_message(wire: Wire, speaker: Speaker) -> Message:
    """StartBgp's argument. Equal paths are always kept: the kernel shares traffic between them."""
    return wire.messages["Global"](
        asn=speaker.asn,
        router_id=format_address(speaker.router_id),
        listen_port=speaker.listen_port,
        listen_addresses=[format_address(address) for address in speaker.listen_addresses],
        use_multiple_paths=True,
    )


def read_global(message: Message) -> Speaker | None:
    """The speaker that GoBGP is; None before StartBgp (it then answers AS 0 and a router id that is none)."""
    if message.asn == 0:
        return None
    addresses = [parse_address(text) for text in message.listen_addresses]
    listens_on = () if {bytes(4), bytes(16)} >= set(addresses) else tuple(addresses)
    return Speaker(message.asn, parse_address(message.router_id), message.listen_port, listens_on)


def canonical_neighbor(neighbor: Neighbor, speaker: Speaker) -> Neighbor:
    """`neighbor` with every default spelt out as GoBGP will report it."""
    restart = neighbor.graceful_restart
    return replace(
        neighbor,
        local_asn=0 if neighbor.local_asn == speaker.asn else neighbor.local_asn,
        connect_retry_s=max(neighbor.connect_retry_s, CONNECT_RETRY_MIN_S),
        multihop_ttl=0 if neighbor.asn == (neighbor.local_asn or speaker.asn) else neighbor.multihop_ttl,
        versions=tuple(sorted(neighbor.families)),
        graceful_restart=restart if restart.enabled else _NO_RESTART,
    )


def same_neighbor(wanted: Neighbor, found: Neighbor, speaker: Speaker) -> bool:
    """Whether GoBGP's neighbour is as wanted. Where no source is wanted, the one that the kernel chose is as good."""
    wanted, found = canonical_neighbor(wanted, speaker), canonical_neighbor(found, speaker)
    return wanted == (replace(found, source=None) if wanted.source is None else found)


def peer_message(wire: Wire, wanted: Neighbor, speaker: Speaker, restarting: bool) -> Message:
    """AddPeer's and UpdatePeer's argument.

    `restarting` says that forwarding survived our restart (RFC 4724's R bit and what goes with it): a helper keeps its
    routes, and GoBGP holds back its own until the neighbours have sent theirs or the deferral time is over.
    Raises  ValueError when the neighbour needs what this version of GoBGP cannot do.
    """
    messages = wire.messages
    neighbor = canonical_neighbor(wanted, speaker)
    restart = neighbor.graceful_restart
    peer = messages["Peer"](
        conf=messages["PeerConf"](
            address=format_address(neighbor.address),
            asn=neighbor.asn,
            local_asn=neighbor.local_asn,
            password=neighbor.password,
            allow_own_asn=neighbor.allow_own_asn,
        ),
        timers=messages["Timers"](
            config=messages["TimersConfig"](
                connect_retry_s=neighbor.connect_retry_s,
                hold_time_s=neighbor.hold_time_s,
                keepalive_s=neighbor.keepalive_s,
                idle_hold_after_reset_s=IDLE_HOLD_AFTER_RESET_S,
            )
        ),
        transport=messages["Transport"](
            local_address="" if neighbor.source is None else format_address(neighbor.source),
            passive=neighbor.passive,
            remote_port=neighbor.port,
        ),
        families=[_family_message(wire, version, neighbor) for version in neighbor.versions],
    )
    if restart.enabled:
        peer.graceful.CopyFrom(
            messages["GracefulRestart"](
                enabled=True,
                restart_time_s=restart.restart_time_s,
                deferral_time_s=restart.deferral_time_s,
                notification=True,
                long_lived=restart.long_lived_s > 0,
                local_restarting=restarting,
            )
        )
    if neighbor.ttl_security_hops:
        minimum = MULTIHOP_TTL_MAX + 1 - neighbor.ttl_security_hops
        peer.ttl_security.CopyFrom(messages["TtlSecurity"](enabled=True, minimum=minimum))
    elif neighbor.multihop_ttl:
        peer.multihop.CopyFrom(messages["Multihop"](enabled=True, ttl=neighbor.multihop_ttl))
    if neighbor.reflection is not None:
        cluster = format_address(neighbor.reflection.cluster_id)
        peer.reflection.CopyFrom(messages["Reflection"](client=True, cluster_id=cluster))
    if neighbor.bfd is not None:
        if wire.generation == 3:
            raise ValueError("GoBGP 3 has no BFD")
        peer.bfd.CopyFrom(
            messages["BfdConfig"](
                enabled=True,
                port=BFD_PORT,
                transmit_us=neighbor.bfd.transmit_ms * 1000,
                receive_us=neighbor.bfd.receive_ms * 1000,
                multiplier=neighbor.bfd.multiplier,
            )
        )
    return peer


def group_name(neighbor: Neighbor, speaker: Speaker) -> str:
    """The name of the group of whoever connects from a prefix: another one as soon as anything about it is another."""
    content = repr((canonical_neighbor(neighbor, speaker), neighbor.password))
    return f"{_GROUP}{blake2b(content.encode(), digest_size=6).hexdigest()}"


def group_message(wire: Wire, wanted: Neighbor, speaker: Speaker) -> Message:
    """AddPeerGroup's argument: what a neighbour would have, for each that comes.

    Raises  ValueError when the neighbour needs what this version of GoBGP cannot do.
    """
    peer = peer_message(wire, wanted, speaker, restarting=False)
    conf = peer.conf
    group = wire.messages["Group"](
        conf=wire.messages["GroupConf"](
            password=conf.password,
            local_asn=conf.local_asn,
            asn=conf.asn,
            name=group_name(wanted, speaker),
            allow_own_asn=conf.allow_own_asn,
        ),
        timers=peer.timers,
        transport=wire.messages["Transport"](passive=True),
        families=peer.families,
    )
    for part in ("multihop", "reflection", "graceful", "ttl_security", "bfd"):
        if peer.HasField(part):
            getattr(group, part).CopyFrom(getattr(peer, part))
    return group


def read_range(message: Message) -> tuple[bytes, str] | None:
    """A prefix from which neighbours may connect, of ListDynamicNeighbor's reply, and its group; None for others'."""
    if not message.group.startswith(_GROUP):
        return None
    return anyone_in(parse_prefix(message.prefix)), message.group


def _family_message(wire: Wire, version: Version, neighbor: Neighbor) -> Message:
    messages = wire.messages
    family = family_message(wire, version)
    described = messages["PeerFamily"](config=messages["FamilyConfig"](family=family, enabled=True))
    restart = neighbor.graceful_restart
    if restart.enabled:
        described.graceful.config.enabled = True
    if restart.enabled and restart.long_lived_s:
        long_lived = messages["LongLivedConfig"](enabled=True, restart_time_s=restart.long_lived_s)
        described.long_lived.config.CopyFrom(long_lived)
    if neighbor.prefix_limit:
        limit = messages["PrefixLimit"](family=family, maximum=neighbor.prefix_limit, percent=100)
        described.prefix_limit.CopyFrom(limit)
    return described


def read_neighbor(message: Message, speaker: Speaker) -> Neighbor:
    """A neighbour as configured, from ListPeer's reply.

    Raises  ValueError when its address cannot be read.
    """
    conf, restart, reflection = message.conf, message.graceful, message.reflection
    versions = tuple(v for family in message.families if (v := family_version(family.config.family)) is not None)
    long_lived = [family.long_lived.config.restart_time_s for family in message.families]
    limits = [family.prefix_limit.maximum for family in message.families]
    found = Neighbor(
        parse_address(conf.address),
        conf.asn,
        local_asn=conf.local_asn,
        port=message.transport.remote_port or BGP_PORT,
        source=_address_or_none(message.transport.local_address),
        password=conf.password,
        hold_time_s=message.timers.config.hold_time_s,
        keepalive_s=message.timers.config.keepalive_s,
        connect_retry_s=message.timers.config.connect_retry_s,
        passive=message.transport.passive,
        multihop_ttl=message.multihop.ttl if message.multihop.enabled else 0,
        ttl_security_hops=MULTIHOP_TTL_MAX + 1 - message.ttl_security.minimum if message.ttl_security.enabled else 0,
        allow_own_asn=conf.allow_own_asn,
        reflection=Reflection(parse_address(reflection.cluster_id)) if reflection.client else None,
        versions=versions,
        prefix_limit=max(limits, default=0),
        graceful_restart=GracefulRestart(
            restart.enabled, restart.restart_time_s, restart.deferral_time_s, max(long_lived, default=0)
        ),
        bfd=_read_bfd(message.bfd),
    )
    return canonical_neighbor(found, speaker)


def _read_bfd(message: Message) -> Bfd | None:
    if not message.enabled:
        return None
    return Bfd(message.transmit_us // 1000, message.receive_us // 1000, message.multiplier)


def _address_or_none(text: str) -> bytes | None:
    try:
        address = parse_address(text)
    except ValueError:
        return None
    return address if any(address) else None


def read_session(wire: Wire, message: Message) -> Session:
    """The session's state, from ListPeer's reply.

    Raises  ValueError when its address cannot be read.
    """
    state, timers = message.state, message.timers.state
    families = [family.state for family in message.families]
    graceful = [family.graceful.state for family in message.families if family.graceful.state.received]
    return Session(
        _address_or_none(message.conf.address) or parse_address(state.address),
        asn=state.asn or message.conf.asn,
        state=_STATES[max(state.session, 1) - 1],
        up_since=_seconds(timers.uptime),
        down_since=_seconds(timers.downtime),
        over_prefix_limit=state.admin == wire.enum(_ADMIN_OVER_LIMIT),
        received=sum(family.received for family in families),
        accepted=sum(family.accepted for family in families),
        advertised=sum(family.advertised for family in families),
        sent=_read_counts(state.messages.sent),
        got=_read_counts(state.messages.received),
        hold_time_s=timers.negotiated_hold_time_s,
        router_id=_address_or_none(state.router_id),
        graceful=bool(graceful),
        end_of_rib=bool(graceful) and all(family.end_of_rib_received for family in graceful),
        bfd=_read_bfd_session(state.bfd) if message.bfd.enabled else None,
    )


def _read_counts(message: Message) -> MessageCounts:
    return MessageCounts(
        message.open, message.update, message.notification, message.keepalive, message.refresh, message.total
    )


def _read_bfd_session(message: Message) -> BfdSession:
    packets = message.packets
    return BfdSession(message.session == _BFD_UP, packets.sent, packets.received, message.failures)


def _seconds(timestamp: Message) -> float | None:
    return float(timestamp.seconds) if timestamp.seconds > 0 else None
