"""What an ADD prints: the CNI result, in the version that was asked for.

Pure. Source: CNI specification 1.1.0 section 5 (success), 0.4.0 and 0.3.1 (`version` beside each address).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from felixpy.addresses import format_address, host_prefix
from felixpy.cni.netconf import Dns
from felixpy.dataplane.pod import HOST_MAC, PodWiring, gateway_for

_WITH_ADDRESS_VERSION = ("0.3.0", "0.3.1", "0.4.0")
_WITH_MTU = ("1.1.0",)
_POD_INTERFACE = 1


@dataclass(frozen=True, slots=True)
class AddResult:
    """A pod that is wired; `netns` is the sandbox as the runtime names it."""

    wiring: PodWiring
    netns: str
    dns: Dns | None = None


def render_result(result: AddResult, version: str, before: bytes = b"") -> bytes:
    """The result as JSON: node end, pod end, addresses with their gateways, routes.

    `before` is what the plugins before ours gave, which is passed on in front of it.
    """
    previous: dict[str, Any] = msgspec.json.decode(before) if before else {}
    interfaces = previous.get("interfaces") or []
    wiring, link = result.wiring, result.wiring.link
    mtu = {"mtu": link.mtu} if link.mtu and version in _WITH_MTU else {}
    ips: list[dict[str, Any]] = [
        {
            **({"version": "4" if len(address) == 4 else "6"} if version in _WITH_ADDRESS_VERSION else {}),
            "interface": len(interfaces) + _POD_INTERFACE,
            "address": str(host_prefix(address)),
            "gateway": format_address(gateway_for(address)),
        }
        for address in wiring.addresses
    ]
    body = {
        "cniVersion": version,
        "interfaces": [
            *interfaces,
            {"name": link.host_device, "mac": format_mac(HOST_MAC), **mtu},
            {"name": link.pod_device, "mac": format_mac(link.pod_mac), **mtu, "sandbox": result.netns},
        ],
        "ips": [*(previous.get("ips") or ()), *ips],
        "routes": [
            *(previous.get("routes") or ()),
            *({"dst": str(prefix), "gw": format_address(gateway_for(prefix.address))} for prefix in wiring.routes),
        ],
        "dns": result.dns or previous.get("dns") or Dns(),
    }
    return msgspec.json.encode(body) + b"\n"


def format_mac(mac: bytes) -> str:
    """`ee:ee:ee:ee:ee:ee`."""
    return mac.hex(":")
