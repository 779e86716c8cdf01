"""Which Service frontends this kernel steers, read from it by a process that does not program it.

In: nothing; out: keys of the maps of frontends (dataplane/chains/service_sets.py), of nftables or else of iptables'
sets. What a key leads to is not read.
"""

from __future__ import annotations

from contextlib import closing

from felixpy.dataplane.chains.service_sets import SETS
from felixpy.dataplane.iptables.names import PREFIX, set_kernel_name
from felixpy.dataplane.nftables import TABLE
from felixpy.drivers.netlink.ipset import IpsetClient
from felixpy.drivers.netlink.nft.table import NftTable
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket

_MAPS = tuple(one for sets in SETS.values() for one in (sets.services, sets.services_outside))


def read_served_keys() -> frozenset[bytes]:
    """The keys of all frontends with an address of their own that lead somewhere.

    Raises  OSError when the kernel does not answer.
    """
    with closing(NetlinkSocket(NETLINK_NETFILTER)) as socket:
        table = NftTable(TABLE, socket)
        found = [members for one in _MAPS if (members := table.read_members(one)) is not None]
    if found:
        return frozenset().union(*found)
    names = {set_kernel_name(one.name) for one in _MAPS}
    with IpsetClient() as client:
        return frozenset().union(*(members for it, members in client.read(PREFIX).items() if it.name in names))
