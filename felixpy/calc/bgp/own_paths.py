"""What this node announces → the paths that its speaker originates, with their attributes. Pure.

Source: Calico's confd bird_ipam.cfg.template (local_pref of blocks); draft-ietf-idr-link-bandwidth §2.
"""

from __future__ import annotations

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.fib import LOCAL_PREF_TOP
from birdpy.intent import Advertisement, LinkBandwidth, parse_community, parse_large_community
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.bgp.filters import OwnPath
from felixpy.calc.bgp.settings import Configuration

AS_TRANS = 23456
"""What stands for an AS of four octets where there is room for two (RFC 6793 §9)."""
ENDPOINT_BYTES_PER_S = 125_000_000.0
"""One Gbit/s an endpoint: only how the nodes compare matters."""


def derive_own_path(announced: Announcement, settings: Configuration, asn: int) -> OwnPath:
    """Blocks and addresses of pods carry the normal priority, so that Calico's nodes and ours rank them alike."""
    plain = [word for word in announced.communities if word.count(":") == 1]
    large = [word for word in announced.communities if word.count(":") > 1]
    local_pref = announced.local_pref
    priority = settings.normal_priority(announced.prefix.version)
    if local_pref is None and announced.why is not Why.SERVICE:
        local_pref = LOCAL_PREF_TOP - priority
    return OwnPath(
        Advertisement(
            BgpPrefix(announced.prefix.address, announced.prefix.length),
            communities=tuple(parse_community(word) for word in plain),
            large_communities=tuple(parse_large_community(word) for word in large),
            local_pref=local_pref,
            link_bandwidth=None if announced.endpoints is None else _bandwidth(announced.endpoints, asn),
        ),
        priority,
        announced.interface,
    )


def _bandwidth(endpoints: int, asn: int) -> LinkBandwidth:
    """What makes a router that weighs its equal-cost paths send each endpoint as much, whichever node it is on."""
    return LinkBandwidth(asn if asn < 1 << 16 else AS_TRANS, endpoints * ENDPOINT_BYTES_PER_S)
