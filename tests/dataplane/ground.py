"""Devices of a node in a namespace, frames between them, and rules in its kernel."""

from __future__ import annotations

from dataclasses import dataclass

from felixpy.addresses import parse_address
from felixpy.dataplane.judging.compiled import CompiledNode
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.objects import Put, PutMembers
from felixpy.drivers.netlink.nft.driver import NftDriver
from tests.dataplane.frames import Wires, build_bell, build_frame, on_one_processor
from tests.support.netns import Namespace

PODS = {f"cali{number}": (f"10.0.0.{number}", f"fd00::{number}") for number in (1, 2, 3)}
GATEWAYS = ("198.51.100.254", "2001:db8::fe")
OWN = parse_address("198.51.100.1")
"""The node's own address, which nobody here sends to."""


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


@dataclass(frozen=True)
class Ground:
    """A node with pods behind cali1 to cali3 and an unknown one behind cali9; everything else is behind eth0."""

    node: Namespace
    driver: NftDriver
    wires: Wires

    def load(self, compiled: CompiledNode) -> None:
        """Makes the rules of a node this node's, and forgets every connection."""
        kernel = compiled.kernel
        self.driver.destroy()
        objects = [Put(one) for one in (*kernel.sets.values(), *kernel.chains.values())]
        members = [PutMembers(kernel.sets[name], held) for name, held in kernel.members.items() if held]
        failed = [outcome for outcome in self.driver.apply([*objects, *members]) if outcome.error]
        assert not failed, failed
        self.node.run("conntrack", "-F")

    def send(self, packets: list[Packet]) -> list[str]:
        """The device that each packet comes out of, "" where it does not."""
        with on_one_processor():
            for ident, packet in enumerate(packets):
                self.wires.send(packet.in_interface, build_frame(packet, ident, mac(2), mac(1)))
            self.wires.send("eth0", build_bell(OWN, parse_address("198.51.100.77"), mac(2)))
        found = self.wires.collect()
        return [found.get(ident, "") for ident in range(len(packets))]
