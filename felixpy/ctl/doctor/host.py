"""What is wrong with a host that is to be a node. Pure: facts.py reads it.

Source: metallb's IPVS notes (kubernetes 59976), net/ipv4/arp.c (arp_ignore), Documentation/networking/ip-sysctl.rst,
GoBGP's advisories, and what reference installations were found to stumble over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from felixpy.ctl.doctor.finding import Finding, Level
from felixpy.ctl.doctor.firewalls import judge_firewalls

PLUGIN = "felixpy-cni"
GOOD_GOBGPD = (4, 8)
"""What users run; 3.10 has two known crashes by a peer's message (docs/dependencies.md)."""
TUNNEL_BYTES = {"vxlan.calico": 50, "vxlan-v6.calico": 70, "tunl0": 20}
CONNECTIONS_FULL = 0.8
CONNECTIONS_LEAST = 131_072
"""What kube-proxy sees to (conntrack.min)."""
_KUBE_PROXY_CHAIN = "KUBE-SERVICES"
_CALICO_CHAIN = ":cali-"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens at a TCP port; `program` "" where that cannot be told."""

    port: int
    program: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host is like. `lacking` says of each netfilter back end why it does not work, "" where it does.

    `advertised` are the devices by which routers that advertise themselves are its way out.
    """

    sysctls: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    conflists: tuple[tuple[str, tuple[str, ...]], ...] = ()
    saved: Mapping[str, str] = field(default_factory=dict)
    nft_tables: tuple[str, ...] = ()
    dropping: tuple[str, ...] = ()
    listeners: tuple[Listener, ...] = ()
    gobgpd: tuple[int, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    plugin_there: bool = True
    uplink_mtu: int = 0
    advertised: frozenset[str] = frozenset()
    layer2: bool = False
    bgp: bool = True


def judge_host(facts: HostFacts) -> Iterator[Finding]:
    """Everything that is wrong, or may become so."""
    yield from _forwarding(facts)
    yield from _advertisements(facts)
    yield from _netfilter(facts)
    yield from judge_firewalls(facts.saved, facts.nft_tables, facts.dropping)
    yield from _kube_proxy(facts)
    yield from _connections(facts)
    yield from _cni(facts)
    yield from _bgp(facts)
    yield from _mtu(facts)


def _forwarding(facts: HostFacts) -> Iterator[Finding]:
    for path, family in (("net/ipv4/ip_forward", "IPv4"), ("net/ipv6/conf/all/forwarding", "IPv6")):
        if facts.sysctls.get(path) == "0":
            words = f"{path.replace('/', '.')} is 0: pods reach nobody beyond the node over {family}"
            yield Finding(Level.WARNING, "forwarding", words, "the agent turns it on once there is a pool")
    strict = [name for name in facts.devices if _rp_filter(facts, name) == 1 and not name.startswith(("cali", "lo"))]
    if strict:
        words = f"rp_filter is strict (1) on {', '.join(sorted(strict))}"
        advice = "answers that come in by another way than they went are dropped; loose is 2"
        yield Finding(Level.WARNING, "routing", words, advice)


def _advertisements(facts: HostFacts) -> Iterator[Finding]:
    """A host that forwards takes no more advertisements where accept_ra is 1 (ip-sysctl.rst)."""
    deaf = [name for name in facts.advertised if facts.sysctls.get(f"net/ipv6/conf/{name}/accept_ra") == "1"]
    if deaf:
        words = f"the IPv6 default route by {', '.join(sorted(deaf))} is from router advertisements, and accept_ra is 1"
        forwards = facts.sysctls.get("net/ipv6/conf/all/forwarding") == "1"
        when = "this host forwards" if forwards else "a host with an IPv6 pool forwards"
        advice = f"{when}, so that the kernel takes no more of them and the route expires: set accept_ra to 2"
        yield Finding(Level.WARNING, "routing", words, advice)


def _rp_filter(facts: HostFacts, device: str) -> int:
    """The higher of the device's own and that of all devices counts (ip-sysctl.rst)."""
    own = facts.sysctls.get(f"net/ipv4/conf/{device}/rp_filter", "0")
    every = facts.sysctls.get("net/ipv4/conf/all/rp_filter", "0")
    return max(int(one) if one.isdigit() else 0 for one in (own, every))


def _netfilter(facts: HostFacts) -> Iterator[Finding]:
    if facts.lacking and all(facts.lacking.values()):
        words = "; ".join(f"no {name}: {why}" for name, why in facts.lacking.items())
        yield Finding(Level.ERROR, "netfilter", words, "no policy can be enforced on this kernel")
    elif facts.lacking.get("nftables"):
        yield Finding(Level.NOTE, "netfilter", f"no nftables: {facts.lacking['nftables']}", "iptables is used instead")
    ours = [name for name, text in facts.saved.items() if "fpx-" in text]
    if "felixpy" in facts.nft_tables and ours:
        words = f"rules of ours are in nftables and in {' and '.join(sorted(ours))}"
        yield Finding(Level.WARNING, "netfilter", words, "the agent removes those of the back end that it does not use")
    calico = [name for name, text in facts.saved.items() if _CALICO_CHAIN in text]
    calico += [f"table {name}" for name in facts.nft_tables if name == "calico"]
    if calico:
        words = f"Calico's own rules are still there ({', '.join(sorted(calico))})"
        yield Finding(Level.WARNING, "netfilter", words, "what they drop stays dropped: remove them, or reboot")


def _kube_proxy(facts: HostFacts) -> Iterator[Finding]:
    chains = [name for name, text in facts.saved.items() if _KUBE_PROXY_CHAIN in text]
    if chains or "kube-proxy" in facts.nft_tables:
        where = ", ".join(sorted(chains)) or "nftables"
        advice = "both translate the same Services; run one of the two"
        yield Finding(Level.WARNING, "kube-proxy", f"kube-proxy's rules are there too ({where})", advice)
    if "kube-ipvs0" in facts.devices:
        ignore, announce = (int(facts.sysctls.get(f"net/ipv4/conf/all/{one}", "0") or 0) for one in _ARP)
        words = "kube-proxy runs in IPVS mode and keeps Service addresses on kube-ipvs0"
        if facts.layer2 and (ignore < 1 or announce < 2):
            advice = (
                f"every node answers ARP for them (arp_ignore {ignore}, arp_announce {announce}): set strictARP: true"
            )
            yield Finding(Level.ERROR, "kube-proxy", words, advice)
        else:
            yield Finding(Level.NOTE, "kube-proxy", words)


_ARP = ("arp_ignore", "arp_announce")


def _connections(facts: HostFacts) -> Iterator[Finding]:
    """The table of connections: kube-proxy makes it large, and where there is none, nobody does."""
    most, held = (int(facts.sysctls.get(f"net/netfilter/nf_conntrack_{one}", "0") or 0) for one in ("max", "count"))
    advice = "where it is full, new connections are dropped: raise net.netfilter.nf_conntrack_max"
    if most and held >= most * CONNECTIONS_FULL:
        yield Finding(Level.WARNING, "conntrack", f"{held} connections are tracked of {most} that can be", advice)
    elif 0 < most < CONNECTIONS_LEAST:
        yield Finding(Level.NOTE, "conntrack", f"only {most} connections can be tracked", advice)


def _cni(facts: HostFacts) -> Iterator[Finding]:
    ours = [name for name, types in facts.conflists if PLUGIN in types]
    if facts.conflists and not ours:
        words = f"no network configuration uses {PLUGIN}"
        yield Finding(
            Level.WARNING, "CNI", words, "pods get their network from somebody else (python -m felixpy.cni.install)"
        )
    elif ours and facts.conflists[0][0] != ours[0]:
        first, types = facts.conflists[0]
        words = f"{first} ({', '.join(types) or 'unreadable'}) comes before {ours[0]}"
        yield Finding(Level.ERROR, "CNI", words, "the runtime takes the first by name: remove or rename it")
    if ours and not facts.plugin_there:
        yield Finding(Level.ERROR, "CNI", f"{ours[0]} is there and the program {PLUGIN} is not", "no pod can be added")


def _bgp(facts: HostFacts) -> Iterator[Finding]:
    if not facts.bgp:
        return
    for one in facts.listeners:
        if one.port == 179 and one.program and not one.program.startswith("gobgpd"):
            words = f"{one.program} listens at TCP port 179"
            yield Finding(Level.ERROR, "BGP", words, "gobgpd cannot take sessions there: stop it, or set listenPort")
    if facts.gobgpd and facts.gobgpd < GOOD_GOBGPD:
        version = ".".join(map(str, facts.gobgpd))
        advice = "versions before 4.8 have known crashes by a peer's message; use 4.8 or later"
        yield Finding(Level.WARNING, "BGP", f"gobgpd is of version {version}", advice)


def _mtu(facts: HostFacts) -> Iterator[Finding]:
    for name, head in TUNNEL_BYTES.items():
        mtu = facts.devices.get(name, 0)
        if mtu and facts.uplink_mtu and mtu + head > facts.uplink_mtu:
            words = f"{name} has an mtu of {mtu}, and the device below it {facts.uplink_mtu}"
            yield Finding(Level.ERROR, "mtu", words, f"packets over {facts.uplink_mtu - head} bytes are lost")
