"""Makes the kernel's policy routing rules as asked: the new one first, then what else is in its place.

In → out: ops on IpRules → requests, and an Outcome each. The kernel takes two rules of one priority and tells nothing
of it, so what is there is read before each batch. Source: net/core/fib_rules.c.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from felixpy.dataplane.objects import Drop, IpRule, Op, Outcome, Put
from felixpy.drivers.netlink.codec import NLM_F_CREATE, NLM_F_EXCL, Failure
from felixpy.drivers.netlink.dumps import read_ip_rules
from felixpy.drivers.netlink.iprules import RTM_DELRULE, RTM_NEWRULE, encode_ip_rule
from felixpy.drivers.netlink.socket import NetlinkError, NetlinkSocket
from felixpy.drivers.outcomes import failed


def apply_ip_rules(socket: NetlinkSocket, ops: Sequence[Op], protocols: Sequence[int]) -> list[Outcome]:
    """One outcome per op; new rules carry the first of the protocol numbers.

    Raises  NetlinkError only when what is there cannot be read.
    """
    present = list(read_ip_rules(socket, protocols))
    outcomes: list[Outcome] = []
    for op in ops:
        wanted = op.object if isinstance(op, Put) and isinstance(op.object, IpRule) else None
        key = op.key if isinstance(op, Drop) else wanted.key if wanted else None
        others = [entry for entry in present if entry[1].key == key and entry[1] != wanted]
        failure: Failure | None = None
        if wanted is not None:
            failure = _change(socket, RTM_NEWRULE, wanted, protocols[0])
        if failure is None:
            for protocol, other in others:
                failure = _change(socket, RTM_DELRULE, other, protocol) or failure
        outcomes.append(Outcome(op) if failure is None else failed(op, failure.errno, failure.text))
    return outcomes


def _change(socket: NetlinkSocket, kind: int, rule: IpRule, protocol: int) -> Failure | None:
    """What the kernel has against it, where it is not so already."""
    flags, harmless = (NLM_F_CREATE | NLM_F_EXCL, errno.EEXIST) if kind == RTM_NEWRULE else (0, errno.ENOENT)
    try:
        socket.request(kind, flags, encode_ip_rule(rule, protocol))
    except NetlinkError as error:
        if error.errno != harmless:
            return Failure(error.errno or errno.EIO, error.strerror or "")
    return None
