"""CNI_ARGS: which pod a runtime wires, and what it asks for that pod. Pure.

Source: CNI specification 1.1.0, CNI_ARGS; the keys are those that kubelet's runtimes and podman give.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from felixpy.addresses import Address, parse_address
from felixpy.cni.errors import CniError, Code
from felixpy.cni.netconf import parse_mac

_DNS_1123 = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PodArgs:
    """The pod that CNI_ARGS name (both empty without an orchestrator), and what is asked for by `IP=` and `MAC=`.

    `uid` tells the pod from an earlier one of its name; "" where the runtime does not say.
    """

    namespace: str = ""
    pod: str = ""
    uid: str = ""
    address: Address | None = None
    mac: bytes = b""


def parse_args(text: str) -> PodArgs:
    """The pairs of CNI_ARGS that matter here; others are passed over, as IgnoreUnknown asks.

    Raises  CniError INVALID_ENVIRONMENT.
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} is no pair")
        pairs[name] = value
    namespace, pod = pairs.get("K8S_POD_NAMESPACE", ""), pairs.get("K8S_POD_NAME", "")
    if not (namespace and pod):
        namespace = pod = ""  # podman gives the name of a plain container as K8S_POD_NAME
    for name in filter(None, (namespace, pod)):
        if not _DNS_1123.fullmatch(name):
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS: {name!r} is no Kubernetes name")
    address = None
    if pairs.get("IP"):
        try:
            address = parse_address(pairs["IP"])
        except ValueError as error:
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS: IP: {error}") from None
    try:
        mac = parse_mac("CNI_ARGS: MAC", pairs["MAC"]) if pairs.get("MAC") else b""
    except CniError as error:
        raise CniError(Code.INVALID_ENVIRONMENT, error.message) from None
    return PodArgs(namespace, pod, pairs.get("K8S_POD_UID", "") if pod else "", address, mac)
