"""Whether this node's kernel answers for Service addresses by itself, whoever should: what kube-proxy's IPVS mode does.

In: the addresses that nodes contend for at layer 2, the host's interfaces, the kernel's setting. Out: words for people.
Pure. Source: net/ipv4/arp.c (arp_ignore: 0 answers on any interface for an address of any other), net/ipv6/ndisc.c
(answers on the address's own interface alone); kube-proxy's ipvs.strictARP, which sets arp_ignore to 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from felixpy.addresses import Address, format_address
from felixpy.calc.policy.hosts import Interfaces

IPVS_DEVICE = "kube-ipvs0"
"""What kube-proxy puts every Service address on in its IPVS mode; it carries no packet."""


def find_own_answers(contended: Collection[Address], interfaces: Interfaces, arp_ignore: int) -> Iterator[str]:
    """What makes this kernel answer, a device at a time. `arp_ignore` is that of all interfaces."""
    for device, addresses in sorted(interfaces.items()):
        held = sorted(addresses & set(contended))
        if device == IPVS_DEVICE:
            held = [] if arp_ignore else [address for address in held if len(address) == 4]
        if not held:
            continue
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        what = f"{device} has {format_address(held[0])}{more}, so this kernel answers for it, whichever node should"
        if device == IPVS_DEVICE:
            yield f"{what}: net.ipv4.conf.all.arp_ignore is 0, and kube-proxy in IPVS mode needs strictARP: true"
        else:
            yield f"{what}: a Service address belongs on no interface"
