"""A node that serves Services, with clients and backends around it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from felixpy.addresses import Prefix
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.dataplane.chains.base import HOOKS
from felixpy.dataplane.chains.services import ServiceTables, service_base_rules, service_objects
from felixpy.dataplane.objects import Chain, Drop, DropMembers, Op, Put, PutMembers
from felixpy.dataplane.rules import MARK_FROM_WORKLOAD, InterfaceIs, Rule, SetMark
from felixpy.drivers.iptables import IptablesDriver
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import in_namespace
from tests.calc.service_world import (
    ME,
    OTHER,
    Change,
)
from tests.support.netns import Namespace

VIP, VIP6 = "203.0.113.1", "2001:db8:1::1"


POD1, POD2, REMOTE = "10.0.1.1", "10.0.2.1", "10.0.9.1"


CLIENT = "192.0.2.9"


_PROBE = """
import json, socket, sys
host, port, kind, times, wait = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
found = []
for _ in range(times):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET,
                       socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as s:
        s.settimeout(wait)
        try:
            s.connect((host, port))
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answer = s.recv(4096)
            while kind == "tcp" and (chunk := s.recv(4096)):
                answer += chunk
            found.append(answer.partition(b"\\r\\n\\r\\n")[2].decode().strip() if kind == "tcp"
                         else answer.split()[0].decode())
        except TimeoutError:
            found.append("silence")
        except ConnectionRefusedError:
            found.append("refused")
        except OSError as error:
            found.append(error.strerror)
print(json.dumps(found))
"""


def ask(
    source: Namespace, address: str, port: int = 80, kind: str = "tcp", times: int = 1, wait_s: float = 2.0
) -> list[str]:
    """What each of `times` new connections got: "NAME CLIENT" (UDP: "NAME"), refused, silence, or the error."""
    output = source.run(sys.executable, "-I", "-S", "-c", _PROBE, address, str(port), kind, str(times), str(wait_s))
    return [str(word) for word in json.loads(output)]


def ask_one(source: Namespace, address: str, port: int = 80, kind: str = "tcp", wait_s: float = 2.0) -> str:
    return ask(source, address, port, kind, 1, wait_s)[0]


@dataclass(frozen=True, slots=True)
class Place:
    """A node with a client outside, two local pods, and a pod of another node behind a device that is not a pod's."""

    node: Namespace
    client: Namespace
    pod1: Namespace
    pod2: Namespace
    remote: Namespace


class ServiceNode:
    """The node's Services as the agent programs them: resources in, kernel changed."""

    def __init__(
        self,
        node: Namespace,
        make_driver: Callable[[], NftDriver | IptablesDriver] = NftDriver,
        node_port_addresses: tuple[Prefix, ...] | None = None,
    ) -> None:
        self.driver = in_namespace(node.path, make_driver)
        self.calc, self.tables = ServiceCalc(ME), ServiceTables()
        rules = dict(service_base_rules(node_port_addresses))
        rules["raw-prerouting"] = (
            Rule(SetMark(0, MARK_FROM_WORKLOAD)),
            Rule(SetMark(MARK_FROM_WORKLOAD, MARK_FROM_WORKLOAD), (InterfaceIs("in", "cali*"),)),
        )
        bases = (Chain(name, rules.get(name, ()), hook) for name, hook in HOOKS.items())
        self._apply([Put(one) for one in (*service_objects(), *bases)])

    def see(self, *changes: Change) -> None:
        """Feeds the resources, and programs what follows from them."""
        for change in changes:
            self.calc.update(*change)
        wanted = self.tables.update(self.calc.flush())
        ops: list[Op] = [Drop(key) if one is None else Put(one) for key, one in wanted.objects.items()]
        for target, change_ in wanted.members.items():
            ops += [DropMembers(target, change_.removed)] if change_.removed else []
            ops += [PutMembers(target, change_.added)] if change_.added else []
        self._apply(ops)

    def _apply(self, ops: Sequence[Op]) -> None:
        errors = [outcome for outcome in self.driver.apply(ops) if outcome.error]
        assert not errors

    def close(self) -> None:
        self.driver.destroy()
        self.driver.close()


BOTH = ((POD1, ME), (REMOTE, OTHER))
