"""Who has which address, for people who look at BGP sessions: nodes and peers by the names of their resources."""

from __future__ import annotations

from felixpy.addresses import format_address
from felixpy.datastore.model import Store
from felixpy.resources.bgp_types import BgpPeer, SpeakerPeer
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import CALICO, KINDS
from felixpy.resources.tables import Decoded
from felixpy.resources.types import Node

_PREFIXES = [
    info.prefix.encode()
    for info in KINDS
    if info.kind == "BGPPeer" or (info.kind == "Node" and info.api_version == CALICO)
]


async def find_names(store: Store) -> dict[str, str]:
    """Names by address; a node's wins over that of a peer."""
    decoder = Decoder("")
    peers: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for pair in (await store.snapshot(_PREFIXES)).items:
        decoded = decoder.decode(pair.key, pair.value)
        if not isinstance(decoded, Decoded):
            continue
        name = decoded.ref.name.name
        match decoded.value:
            case Node() as node:
                addresses = (node.ipv4, node.ipv6)
                nodes.update((format_address(one.address), name) for one in addresses if one is not None)
            case BgpPeer(peer_address=address) if address is not None:
                peers[format_address(address)] = name
            case SpeakerPeer(address=address) if address is not None:
                peers.setdefault(format_address(address), name)
            case _:
                pass
    return {**peers, **nodes}
