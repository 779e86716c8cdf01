"""What nft(8) leaves beside a set so that it can list it again; the kernel does not look at it.

In → out: Set → user data. Without it `nft list` would show interface names as empty, and the key of a Balance map,
which ends in a random number, not at all. Source: libnftnl's udata.h, libnftables' expr_*_build_udata.
"""

from __future__ import annotations

from struct import Struct

from felixpy.dataplane.objects import DataType, Set, SetType

_KEY_BYTE_ORDER, _DATA_BYTE_ORDER, _KEY_TYPEOF, _DATA_TYPEOF, _DATA_INTERVAL = 0, 1, 3, 4, 6
_HOST_ENDIAN = 1
_PAYLOAD, _META, _CONCATENATION, _NUMGEN = 7, 9, 13, 23
_IP_SADDR, _IP6_SADDR = (12, 11), (13, 8)
_IP_DADDR, _IP6_DADDR, _TH_DPORT = (12, 12), (13, 9), (11, 2)
"""Protocol and field, as nft numbers them."""
_L4PROTO = 16
_U32 = Struct("=I")


def describe_set(it: Set) -> bytes:
    """User data for the set's type; b"" where nft needs none."""
    match it.type:
        case SetType.INTERFACE:
            return HOST_ORDER
        case SetType.IPV4_PORT_SLOT | SetType.IPV6_PORT_SLOT | SetType.NODE_PORT_SLOT:
            daddr = _typeof(_PAYLOAD, *(_IP_DADDR if it.data is DataType.IPV4_PORT else _IP6_DADDR))
            dport = _typeof(_PAYLOAD, *_TH_DPORT)
            asked = (_typeof(_META, _L4PROTO), dport, _NUMBER)
            key = _concatenation(*(asked if it.type is SetType.NODE_PORT_SLOT else (daddr, *asked)))
            return (
                _number(_KEY_BYTE_ORDER, 0)
                + _number(_DATA_BYTE_ORDER, 0)
                + _entry(_KEY_TYPEOF, key)
                + _entry(_DATA_TYPEOF, _concatenation(daddr, dport))
                + _number(_DATA_INTERVAL, 0)
            )
        case SetType.IPV4_OWNER | SetType.IPV6_OWNER:
            return _of_key(_typeof(_PAYLOAD, *(_IP_SADDR if it.type is SetType.IPV4_OWNER else _IP6_SADDR)))
        case SetType.OWNER_SLOT:
            return _of_key(_NUMBER)
        case _:
            return b""


def _of_key(first: bytes) -> bytes:
    """Of a set, whose key begins so and has two numbers behind."""
    head = _number(_KEY_BYTE_ORDER, 0) + _entry(_KEY_TYPEOF, _concatenation(first, _NUMBER, _NUMBER))
    return head + _number(_DATA_INTERVAL, 0)


def _entry(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


def _number(kind: int, number: int) -> bytes:
    return _entry(kind, _U32.pack(number))


HOST_ORDER = _number(_KEY_BYTE_ORDER, _HOST_ENDIAN) + _number(_DATA_BYTE_ORDER, 0) + _number(_DATA_INTERVAL, 0)
"""User data of a set whose keys are in the byte order of the machine, as names of interfaces and slots are."""


def _typeof(expression: int, *numbers: int) -> bytes:
    operands = b"".join(_number(position, number) for position, number in enumerate(numbers))
    return _number(0, expression) + _entry(1, operands)


_NUMBER = _typeof(_NUMGEN, 1, 2, 0)


def _concatenation(*parts: bytes) -> bytes:
    operands = b"".join(_entry(position, part) for position, part in enumerate(parts))
    return _number(0, _CONCATENATION) + _entry(1, operands)
