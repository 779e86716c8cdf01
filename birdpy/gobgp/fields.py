"""GoBGP's messages as a table of field numbers: what both versions share, and what each has of its own.

Names are ours; the numbers are the protocol's (GoBGP 3.10 and 4.8). Only what birdpy uses is here: unknown fields are
skipped by protobuf itself. Enumerations are plain int32, since version 4 counts most of them from 1 (see `codec.py`).
Version 3 wraps prefixes and attributes in google.protobuf.Any, version 4 in messages with a union.
"""

from __future__ import annotations

from typing import Any

from birdpy.messages import Table, build_messages

_INNER: Table = {
    "Empty": {},
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Family": {"afi": (1, "int32"), "safi": (2, "int32")},
    "IpPrefix": {"length": (1, "uint32"), "address": (2, "string")},
    "Origin": {"origin": (1, "uint32")},
    "AsSegment": {"type": (1, "int32"), "numbers": (2, "repeated uint32")},
    "AsPath": {"segments": (1, "repeated AsSegment")},
    "NextHop": {"next_hop": (1, "string")},
    "Med": {"med": (1, "uint32")},
    "LocalPref": {"local_pref": (1, "uint32")},
    "Communities": {"communities": (1, "repeated uint32")},
    "LargeCommunity": {"global_admin": (1, "uint32"), "local1": (2, "uint32"), "local2": (3, "uint32")},
    "LargeCommunities": {"communities": (1, "repeated LargeCommunity")},
    "LinkBandwidth": {"asn": (1, "uint32"), "bytes_per_s": (2, "float")},
}

_NLRI3: Table = {
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "MpReach": {"family": (1, "Family"), "next_hops": (2, "repeated string"), "nlris": (3, "repeated Any")},
    "ExtendedCommunities": {"communities": (1, "repeated Any")},
}

_NLRI4: Table = {
    "Nlri": {"prefix": (1, "oneof nlri IpPrefix")},
    "MpReach": {"family": (1, "Family"), "next_hops": (2, "repeated string"), "nlris": (3, "repeated Nlri")},
    "ExtendedCommunity": {"link_bandwidth": (5, "oneof extcom LinkBandwidth")},
    "ExtendedCommunities": {"communities": (1, "repeated ExtendedCommunity")},
    "Attribute": {
        "origin": (2, "oneof attr Origin"),
        "as_path": (3, "oneof attr AsPath"),
        "next_hop": (4, "oneof attr NextHop"),
        "med": (5, "oneof attr Med"),
        "local_pref": (6, "oneof attr LocalPref"),
        "communities": (9, "oneof attr Communities"),
        "mp_reach": (12, "oneof attr MpReach"),
        "extended_communities": (14, "oneof attr ExtendedCommunities"),
        "large_communities": (21, "oneof attr LargeCommunities"),
    },
}


def _path(nlri: str, attribute: str) -> Table:
    return {
        "Path": {
            "nlri": (1, nlri),
            "attributes": (2, f"repeated {attribute}"),
            "is_withdraw": (5, "bool"),
            "family": (9, "Family"),
            "source_asn": (10, "uint32"),
            "stale": (13, "bool"),
            "neighbor": (15, "string"),
            "identifier": (18, "uint32"),
        }
    }


_PEER: Table = {
    "PeerConf": {
        "password": (1, "string"),
        "description": (2, "string"),
        "local_asn": (3, "uint32"),
        "address": (4, "string"),
        "asn": (5, "uint32"),
        "group": (6, "string"),
        "allow_own_asn": (13, "uint32"),
        "admin_down": (15, "bool"),
    },
    "Multihop": {"enabled": (1, "bool"), "ttl": (2, "uint32")},
    "TtlSecurity": {"enabled": (1, "bool"), "minimum": (2, "uint32")},
    "Reflection": {"client": (1, "bool"), "cluster_id": (2, "string")},
    "MessageCounts": {
        "notification": (1, "uint64"),
        "update": (2, "uint64"),
        "open": (3, "uint64"),
        "keepalive": (4, "uint64"),
        "refresh": (5, "uint64"),
        "total": (7, "uint64"),
    },
    "Messages": {"received": (1, "MessageCounts"), "sent": (2, "MessageCounts")},
    "BfdConfig": {
        "enabled": (1, "bool"),
        "port": (2, "uint32"),
        "transmit_us": (3, "uint32"),
        "receive_us": (4, "uint32"),
        "multiplier": (5, "uint32"),
    },
    "BfdPackets": {"sent": (3, "uint64"), "received": (4, "uint64")},
    "BfdState": {"session": (1, "int32"), "failures": (4, "uint64"), "packets": (10, "BfdPackets")},
    "PeerState": {
        "local_asn": (3, "uint32"),
        "messages": (4, "Messages"),
        "address": (5, "string"),
        "asn": (6, "uint32"),
        "session": (13, "int32"),
        "admin": (15, "int32"),
        "router_id": (20, "string"),
        "bfd": (23, "BfdState"),
    },
    "TimersConfig": {
        "connect_retry_s": (1, "uint64"),
        "hold_time_s": (2, "uint64"),
        "keepalive_s": (3, "uint64"),
        "idle_hold_after_reset_s": (5, "uint64"),
    },
    "TimersState": {
        "negotiated_hold_time_s": (5, "uint64"),
        "uptime": (6, "Timestamp"),
        "downtime": (7, "Timestamp"),
    },
    "Timers": {"config": (1, "TimersConfig"), "state": (2, "TimersState")},
    "Transport": {"local_address": (1, "string"), "passive": (4, "bool"), "remote_port": (6, "uint32")},
    "GracefulRestart": {
        "enabled": (1, "bool"),
        "restart_time_s": (2, "uint32"),
        "deferral_time_s": (4, "uint32"),
        "notification": (5, "bool"),
        "long_lived": (6, "bool"),
        "local_restarting": (10, "bool"),
    },
    "Enabled": {"enabled": (1, "bool")},
    "MpGracefulState": {"received": (2, "bool"), "end_of_rib_received": (4, "bool")},
    "MpGraceful": {"config": (1, "Enabled"), "state": (2, "MpGracefulState")},
    "FamilyConfig": {"family": (1, "Family"), "enabled": (2, "bool")},
    "FamilyState": {
        "family": (1, "Family"),
        "received": (3, "uint64"),
        "accepted": (4, "uint64"),
        "advertised": (5, "uint64"),
    },
    "LongLivedConfig": {"enabled": (1, "bool"), "restart_time_s": (2, "uint32")},
    "LongLived": {"config": (1, "LongLivedConfig")},
    "PrefixLimit": {"family": (1, "Family"), "maximum": (2, "uint32"), "percent": (3, "uint32")},
    "PeerFamily": {
        "graceful": (1, "MpGraceful"),
        "config": (2, "FamilyConfig"),
        "state": (3, "FamilyState"),
        "prefix_limit": (7, "PrefixLimit"),
        "long_lived": (9, "LongLived"),
    },
    "Peer": {
        "conf": (2, "PeerConf"),
        "multihop": (3, "Multihop"),
        "reflection": (4, "Reflection"),
        "state": (5, "PeerState"),
        "timers": (6, "Timers"),
        "transport": (7, "Transport"),
        "graceful": (9, "GracefulRestart"),
        "families": (10, "repeated PeerFamily"),
        "ttl_security": (11, "TtlSecurity"),
        "bfd": (12, "BfdConfig"),
    },
    "GroupConf": {
        "password": (1, "string"),
        "local_asn": (3, "uint32"),
        "asn": (4, "uint32"),
        "name": (5, "string"),
        "allow_own_asn": (11, "uint32"),
    },
    "Group": {
        "conf": (2, "GroupConf"),
        "multihop": (3, "Multihop"),
        "reflection": (4, "Reflection"),
        "timers": (6, "Timers"),
        "transport": (7, "Transport"),
        "graceful": (9, "GracefulRestart"),
        "families": (10, "repeated PeerFamily"),
        "ttl_security": (11, "TtlSecurity"),
        "bfd": (12, "BfdConfig"),
    },
    "Range": {"prefix": (1, "string"), "group": (2, "string")},
}

_POLICY: Table = {
    "PrefixRange": {"prefix": (1, "string"), "shortest": (2, "uint32"), "longest": (3, "uint32")},
    "DefinedSet": {
        "type": (1, "int32"),
        "name": (2, "string"),
        "list": (3, "repeated string"),
        "prefixes": (4, "repeated PrefixRange"),
    },
    "MatchSet": {"type": (1, "int32"), "name": (2, "string")},
    "Value": {"value": (1, "uint32")},
    "Conditions": {
        "prefixes": (1, "MatchSet"),
        "neighbors": (2, "MatchSet"),
        "as_path": (4, "MatchSet"),
        "communities": (5, "MatchSet"),
        "route_type": (8, "int32"),
        "large_communities": (9, "MatchSet"),
        "next_hops": (10, "repeated string"),
        "families": (11, "repeated Family"),
        "local_pref": (14, "Value"),
    },
    "CommunityAction": {"type": (1, "int32"), "communities": (2, "repeated string")},
    "MedAction": {"type": (1, "int32"), "value": (2, "int64")},
    "PrependAction": {"asn": (1, "uint32"), "repeat": (2, "uint32")},
    "NextHopAction": {"address": (1, "string"), "to_self": (2, "bool"), "unchanged": (3, "bool")},
    "Actions": {
        "route": (1, "int32"),
        "communities": (2, "CommunityAction"),
        "med": (3, "MedAction"),
        "prepend": (4, "PrependAction"),
        "next_hop": (6, "NextHopAction"),
        "local_pref": (7, "Value"),
        "large_communities": (8, "CommunityAction"),
    },
    "Statement": {"name": (1, "string"), "conditions": (2, "Conditions"), "actions": (3, "Actions")},
    "Policy": {"name": (1, "string"), "statements": (2, "repeated Statement")},
    "Assignment": {
        "name": (1, "string"),
        "direction": (2, "int32"),
        "policies": (4, "repeated Policy"),
        "default": (5, "int32"),
    },
}

_CALLS: Table = {
    "Global": {
        "asn": (1, "uint32"),
        "router_id": (2, "string"),
        "listen_port": (3, "int32"),
        "listen_addresses": (4, "repeated string"),
        "use_multiple_paths": (6, "bool"),
    },
    "GlobalCall": {"global": (1, "Global")},
    "PeerCall": {"peer": (1, "Peer")},
    "GroupCall": {"group": (1, "Group")},
    "NameCall": {"name": (1, "string")},
    "RangeCall": {"range": (1, "Range")},
    "AddressCall": {"address": (1, "string")},
    "ListPeerCall": {"address": (1, "string"), "enable_advertised": (2, "bool")},
    "ResetPeerCall": {"address": (1, "string"), "soft": (3, "bool"), "direction": (4, "int32")},
    "PathsCall": {"table": (1, "int32"), "paths": (3, "repeated Path")},
    "SetPoliciesCall": {"sets": (1, "repeated DefinedSet"), "policies": (2, "repeated Policy")},
    "AssignmentCall": {"assignment": (1, "Assignment")},
    "NameDirectionCall": {"name": (1, "string"), "direction": (2, "int32")},
    "TableFilter": {"type": (1, "int32"), "init": (2, "bool")},
    "TableWatch": {"filters": (1, "repeated TableFilter")},
    "WatchCall": {"peers": (1, "Empty"), "table": (2, "TableWatch"), "batch": (3, "uint32")},
    "PeerEvent": {"type": (1, "int32"), "peer": (2, "Peer")},
    "TableEvent": {"paths": (2, "repeated Path")},
    "WatchReply": {"peer": (2, "oneof event PeerEvent"), "table": (3, "oneof event TableEvent")},
}


def build_v3() -> dict[str, Any]:
    """Message classes for GoBGP 3."""
    return build_messages("gobgp3", {**_INNER, **_NLRI3, **_path("Any", "Any"), **_PEER, **_POLICY, **_CALLS})


def build_v4() -> dict[str, Any]:
    """Message classes for GoBGP 4."""
    return build_messages("gobgp4", {**_INNER, **_NLRI4, **_path("Nlri", "Attribute"), **_PEER, **_POLICY, **_CALLS})
