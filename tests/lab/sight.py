"""What is to be seen in a lab that is up: pods by name, and what kernels and routers hold."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.lab.topology import Node
from tests.lab.world import Pod, World


def pod(world: World, name: str) -> Pod:
    """Raises  StopIteration when the manifest has no such pod."""
    return next(pod for pod in world.pods if pod.name == name)


def gateways(world: World, node: Node, prefix: str) -> set[str]:
    """Next hops of the node's routes at or below `prefix`."""
    family = "-6" if ":" in prefix else "-4"
    routes = json.loads(world.lab.run(node, "ip", family, "-j", "-N", "route", "show", "root", prefix))
    hops = [hop for route in routes for hop in route.get("nexthops", [route])]
    return {hop["gateway"] for hop in hops if "gateway" in hop}


@dataclass(frozen=True, slots=True)
class Way:
    """How a packet leaves: `gateway` is "" where the other end is on the link."""

    device: str
    gateway: str = ""


def way(world: World, node: Node, to: str, version: int = 4) -> Way:
    """Where a node or router sends what is for a pod.

    Raises  CommandFailed when it has no route.
    """
    address = world.pod_address(pod(world, to), version)
    assert address is not None
    (route,) = json.loads(world.lab.run(node, "ip", "-j", "route", "get", address))
    return Way(route["dev"], route.get("gateway", ""))


def spread(world: World, node: Node, address: str) -> set[str]:
    """The equal-cost hops to an address: gateways, or devices where the gateway is link-local."""
    family = "-6" if ":" in address else "-4"
    routes = json.loads(world.lab.run(node, "ip", family, "-j", "route", "show", address))
    hops = [hop for route in routes for hop in route.get("nexthops", [route])]
    return {hop.get("gateway") or hop["dev"] for hop in hops}


def sessions(world: World, node: Node) -> dict[str, str]:
    """A node's BGP sessions as it says itself: the state by address."""
    said = json.loads(world.felixctl("status", node.name, "-o", "json"))
    return {one["address"]: one["state"] for one in said["bgp"]["sessions"]}
