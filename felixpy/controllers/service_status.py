"""What the controllers say of a Service in its status: its addresses, and whether it was granted what it wants.

In: a decision; out: JSON, and back. The reason is typed, the message for people. Pure.
Source: k8s.io/api/core/v1 (ServiceStatus); the condition is our own.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from felixpy.addresses import Address, format_address
from felixpy.resources.foreign_json import decode_or_none


def render_status(wanted: Mapping[Address, str], state: str, reason: str, message: str) -> bytes:
    """The status of a Service with these addresses."""
    body = {
        "loadBalancer": {"ingress": [{"ip": format_address(address)} for address in wanted]} if wanted else {},
        "conditions": [{"type": "AddressGranted", "status": state, "reason": reason, "message": message}],
    }
    return msgspec.json.encode(body)


class _Condition(msgspec.Struct):
    status: str = ""
    message: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] = []


def read_refusal(status: bytes) -> str:
    """What a Service's status says of why it was refused; "" where it was not."""
    read = decode_or_none(status, _Status) or _Status()
    return next((one.message for one in read.conditions if one.status == "False"), "")
