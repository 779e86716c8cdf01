"""Peers as they were asked for, of Calico and of MetalLB → what birdpy's topology takes; and why some get no session.

What guards a session (password, filters) and cannot be kept closes it, whoever else wants the same one. Never talks
BGP. Pure. Source: Calico's BGPPeer (api/pkg/apis/projectcalico/v3), metallb api/v1beta2 and internal/config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from birdpy import topology
from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import anyone_in, bare, format_address
from birdpy.intent import ANY_AS, MULTIHOP_TTL_MAX, RESTART_TIME_S_MAX, Bfd, GracefulRestart
from birdpy.topology import KERNELS_CHOICE, Wish
from felixpy.calc.bgp.workloads import Selected
from felixpy.resources.bgp_extras import SessionExtras
from felixpy.resources.bgp_types import (
    BfdProfile,
    BgpFilter,
    BgpPeer,
    Secret,
    SecretKey,
    SpeakerPeer,
)
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Table
from felixpy.resources.types import Node
from felixpy.selector import Selector, compile_selector

Tables = Mapping[Table, Mapping[Name, Resource]]

AGENTS_NAMESPACE = "kube-system"
"""Where the Secrets lie that Calico's objects name: the namespace of the agents' pods (deploy/daemonset.yaml)."""
PASSWORD_BYTES_MOST = 80
"""TCP_MD5SIG_MAXKEYLEN, linux/tcp.h."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What somebody wrote and does not get, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Passwords:
    """Where passwords come from: Secrets in the datastore, and files for those that are not there."""

    secrets: Mapping[Name, Resource]
    files: Mapping[SecretKey, str] = field(repr=False)

    def find(self, key: SecretKey) -> str | None:
        """The password; None where there is none."""
        secret = self.secrets.get(Name(key.namespace or AGENTS_NAMESPACE, key.name))
        if isinstance(secret, Secret):
            return secret.texts.get(key.key)
        return self.files.get(key)

    def is_stored(self, key: SecretKey) -> bool:
        """Whether the datastore has the Secret."""
        return isinstance(self.secrets.get(Name(key.namespace or AGENTS_NAMESPACE, key.name)), Secret)

    def why_unusable(self, key: SecretKey) -> str:
        """What is wrong with it, without saying what it is; "" when nothing is."""
        found = self.find(key)
        if found is None:
            namespace = key.namespace or AGENTS_NAMESPACE
            beside = "in etcd (felixctl apply)" if key.namespace else "in etcd, nor a file for it"
            return f"there is no Secret {namespace}/{key.name} with the key {key.key} {beside}"
        if not 0 < len(found.encode()) <= PASSWORD_BYTES_MOST:
            return f"the password of Secret {key} is empty or longer than {PASSWORD_BYTES_MOST} bytes"
        return ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The peers of all nodes, and why some of them get no session: by the names that `peers` have.

    `links`: this node's devices that stand for whoever is at their other end.
    """

    peers: tuple[topology.Peer, ...]
    refused: Mapping[str, str]
    links: frozenset[str] = frozenset()


def object_of(name: str) -> str:
    """The resource that a peer's name stands for; those of MetalLB have a namespace."""
    return f"BGPPeer.metallb.io {name}" if "/" in name else f"BGPPeer {name}"


@dataclass(frozen=True, slots=True)
class Around:
    """Who is at hand: routers heard on the devices that MetalLB's peers name, workloads that Calico's select."""

    routers: Mapping[str, bytes]
    workloads: Selected


def derive_asked(tables: Tables, node: str, passwords: Passwords, around: Around) -> Asked:
    """All peers; `node` is this node, whose labels say which of MetalLB's are for it."""
    routers = around.routers
    peers: list[topology.Peer] = []
    refused: dict[str, str] = {}
    for name, peer in tables[Table.BGP_PEER].items():
        if isinstance(peer, BgpPeer):
            why = _why_not(peer, tables, passwords)
            made = _calico_peer(name.name, peer, tables, passwords)
            if peer.workload_selector is not None:
                made = _with_workloads(made, around.workloads.get(name.name, ()))
            peers.append(replace(made, refused=bool(why)))
            if why:
                refused[name.name] = why
    links: set[str] = set()
    for name, speaker_peer in _speaker_peers(tables, node):
        why = _why_not_speaker(speaker_peer, name.namespace, tables, passwords)
        made = _speaker_peer(str(name), speaker_peer, node, tables, passwords)
        if speaker_peer.interface:
            links.add(speaker_peer.interface)
            made = replace(made, address=routers.get(speaker_peer.interface))
            why = why or _why_nobody(speaker_peer.interface, routers)
        peers.append(replace(made, refused=bool(why)))
        if why:
            refused[str(name)] = why
    return Asked(tuple(peers), refused, frozenset(links))


def restart_within(limit_s: int | None, extras: SessionExtras) -> GracefulRestart | None:
    """Graceful restart with the times that were asked for: none of it where the first is no time at all."""
    if limit_s is None and extras.long_lived_s is None:
        return None
    found = GracefulRestart(long_lived_s=extras.long_lived_s or 0)
    if limit_s is None:
        return found
    return replace(found, enabled=limit_s > 0, restart_time_s=min(limit_s, RESTART_TIME_S_MAX))


def select_nodes(selector: Selector, tables: Tables) -> frozenset[str]:
    """The nodes whose labels it matches."""
    matches = compile_selector(selector)
    return frozenset(
        name.name
        for name, value in tables[Table.NODE].items()
        if isinstance(value, Node) and matches(dict(value.labels))
    )


def find_router_id(tables: Tables, node: str) -> tuple[bytes | None, tuple[Refusal, ...]]:
    """The router id that MetalLB's peers of this node ask for, where they agree."""
    asked: dict[bytes, list[Name]] = {}
    for name, peer in sorted(_speaker_peers(tables, node), key=lambda found: found[0]):
        if peer.router_id is not None:
            asked.setdefault(peer.router_id, []).append(name)
    if len(asked) <= 1:
        return next(iter(asked), None), ()
    why = "a speaker has one router id, and others ask for another: it keeps the node's own"
    return None, tuple(Refusal(object_of(str(name)), f"routerID: {why}") for names in asked.values() for name in names)


def _speaker_peers(tables: Tables, node: str) -> Iterator[tuple[Name, SpeakerPeer]]:
    """MetalLB's that are for this node."""
    me = tables[Table.NODE].get(Name("", node))
    labels = dict(me.labels) if isinstance(me, Node) else {}
    for name, peer in tables[Table.SPEAKER_PEER].items():
        if isinstance(peer, SpeakerPeer):
            selectors = peer.node_selectors
            if not selectors or any(compile_selector(one)(labels) for one in selectors):
                yield name, peer


def _why_nobody(device: str, routers: Mapping[str, bytes]) -> str:
    """Why a device gives no neighbour. Policies name neighbours by address: two alike would be taken for one."""
    router = routers.get(device)
    if router is None:
        return f"no router is heard on {device} (it has to send router advertisements there)"
    alike = [one for one, other in sorted(routers.items()) if bare(other) == bare(router)]
    if alike[0] != device:
        return f"the routers on {alike[0]} and {device} have one address, {format_address(bare(router))}"
    return ""


def _why_not(peer: BgpPeer, tables: Tables, passwords: Passwords) -> str:
    if peer.password is not None and (why := passwords.why_unusable(peer.password)):
        return why
    known = tables[Table.BGP_FILTER]
    missing = [name for name in peer.filters if not isinstance(known.get(Name("", name)), BgpFilter)]
    return f"filters: there is no BGPFilter {', '.join(missing)}" if missing else ""


def _calico_peer(name: str, peer: BgpPeer, tables: Tables, passwords: Passwords) -> topology.Peer:
    local: frozenset[str] | None = None
    if peer.node:
        local = frozenset({peer.node})
    elif peer.node_selector is not None:
        local = select_nodes(peer.node_selector, tables)
    remote = select_nodes(peer.peer_selector, tables) if peer.peer_selector is not None else frozenset[str]()
    restart = restart_within(peer.max_restart_s, peer.extras)
    return topology.Peer(
        name=name,
        local_nodes=local,
        address=None if peer.peer_selector is not None else _peer_address(peer),
        remote_nodes=remote,
        wish=Wish(
            asn=peer.as_number,
            local_asn=peer.local_as_number,
            port=peer.peer_port,
            source=None if peer.use_node_source else KERNELS_CHOICE,
            password=passwords.find(peer.password) if peer.password is not None else None,
            passive=True if peer.peer_range is not None else None,
            keepalive_s=peer.keepalive_s,
            ttl_security_hops=peer.ttl_security_hops or None,
            allow_own_asn=peer.allow_local_as or None,
            prefix_limit=peer.extras.prefix_limit,
            graceful_restart=restart,
        ),
        defaults=Wish(multihop_ttl=MULTIHOP_TTL_MAX, graceful_restart=GracefulRestart()),
        use_source=peer.use_node_source,
        two_way=peer.reverse and peer.workload_selector is None,
        besides=(
            ("filters", peer.filters),
            ("nextHopMode", peer.next_hop),
            ("keepOriginalNextHop", peer.legacy_keep),
            ("reachableBy", peer.reachable_by),
        ),
    )


def _peer_address(peer: BgpPeer) -> bytes | None:
    return anyone_in(BgpPrefix(*peer.peer_range)) if peer.peer_range is not None else peer.peer_address


def _with_workloads(peer: topology.Peer, addresses: tuple[bytes, ...]) -> topology.Peer:
    """They connect to us, at whichever address of ours they know."""
    wish = replace(peer.wish, passive=True, source=KERNELS_CHOICE)
    return replace(peer, address=None, workloads=addresses, wish=wish, use_source=False, two_way=False)


def _why_not_speaker(peer: SpeakerPeer, namespace: str, tables: Tables, passwords: Passwords) -> str:
    if peer.unsupported:
        return f"{', '.join(peer.unsupported)}: not to be had with GoBGP"
    if peer.interface and (peer.source is not None or peer.multihop):
        return f"{'sourceAddress' if peer.source is not None else 'ebgpMultiHop'}: not with interface"
    if peer.password_secret is not None:
        if why := passwords.why_unusable(peer.password_secret):
            return why
    elif len(peer.password.encode()) > PASSWORD_BYTES_MOST:
        return f"the password is longer than {PASSWORD_BYTES_MOST} bytes"
    if not peer.bfd_profile:
        return ""
    profile = tables[Table.BFD_PROFILE].get(Name(namespace, peer.bfd_profile))
    if not isinstance(profile, BfdProfile):
        return f"bfdProfile: there is no BFDProfile {namespace}/{peer.bfd_profile}"
    if profile.unsupported:
        return f"BFDProfile {namespace}/{peer.bfd_profile}: {', '.join(profile.unsupported)}: not to be had with GoBGP"
    return ""


def _speaker_peer(name: str, peer: SpeakerPeer, node: str, tables: Tables, passwords: Passwords) -> topology.Peer:
    profile = tables[Table.BFD_PROFILE].get(Name(name.partition("/")[0], peer.bfd_profile))
    bfd = (
        Bfd(profile.transmit_ms, profile.receive_ms, profile.multiplier)
        if peer.bfd_profile and isinstance(profile, BfdProfile)
        else None
    )
    password = passwords.find(peer.password_secret) if peer.password_secret is not None else peer.password or None
    restart = GracefulRestart(enabled=bool(peer.graceful_restart), long_lived_s=peer.extras.long_lived_s or 0)
    return topology.Peer(
        name=name,
        local_nodes=frozenset({node}),
        address=peer.address,
        wish=Wish(
            asn=peer.my_asn if peer.internal else peer.asn,
            local_asn=peer.local_asn or peer.my_asn,
            port=peer.port,
            source=peer.source,
            password=password,
            hold_time_s=peer.hold_time_s,
            keepalive_s=peer.keepalive_s,
            connect_retry_s=peer.connect_retry_s,
            multihop_ttl=MULTIHOP_TTL_MAX if peer.multihop else None,
            prefix_limit=peer.extras.prefix_limit,
            versions=(4, 6) if peer.both_families or peer.interface else None,
            graceful_restart=restart if peer.graceful_restart else None,
            bfd=bfd,
        ),
        defaults=Wish(asn=ANY_AS, multihop_ttl=0, graceful_restart=restart, source=KERNELS_CHOICE),
        use_source=False,
        two_way=False,
        joins=True,
    )


def conflict_refusals(conflicts: tuple[topology.Conflict, ...]) -> Iterator[Refusal]:
    """Each contradiction, named at every object that is part of it."""

    for one in conflicts:
        where = format_address(one.address)
        for name in one.peers:
            others = ", ".join(object_of(other) for other in one.peers if other != name)
            what = ", ".join(one.fields)
            if one.overruled:
                said = f"{others} has the session with {where}" if name != one.peers[0] else ""
            else:
                said = f"no session with {where}: {others} asks for another {what}"
            if said:
                yield Refusal(object_of(name), said if not one.overruled else f"{said}, with another {what}")
