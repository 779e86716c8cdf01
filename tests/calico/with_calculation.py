"""What Felix's own calculation makes of a cluster, packets do by our rules; `make calico` builds it and runs this.

The cluster is Calico's own JSON in etcd. Felix's messages to its dataplane are read by `felix`; ours are compiled.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from felixpy.dataplane.judging.compiled import compile_node
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import verdict
from felixpy.resources.codec import Decoder
from felixpy.resources.resource import Broken, Resource
from felixpy.resources.tables import Ref
from tests.calico.felix import ICMP6, Felix, Way, read_felix
from tests.calico.world import Author
from tests.dataplane.meaning_world import LOCAL, NODE
from tests.dataplane.truth import describe
from tests.support.etcd import Etcd

PROGRAM = Path("build/calico")
WORLDS = int(os.environ.get("WORLDS", "60"))
PACKETS = 150


def ask_felix(store: Etcd, node: str) -> Felix:
    """Felix's calculation for what is in etcd now."""
    argv = [str(PROGRAM), "calculate", node]
    environment = {**os.environ, "ETCD_ENDPOINTS": store.url}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    refused = [line for line in done.stderr.splitlines() if "Validation failed" in line or "level=error" in line]
    assert not refused, "\n".join(refused)
    return read_felix(done.stdout.splitlines())


def read_ours(store: Etcd) -> Iterator[tuple[Ref, Resource]]:
    """What our agent reads of the same."""
    decoder = Decoder(NODE)
    for key, value in store.get_prefix("/calico/").items():
        decoded = decoder.decode(key.encode(), value.encode())
        assert not isinstance(decoded, Broken), decoded
        if decoded is not None and decoded.value is not None:
            yield decoded.ref, decoded.value


@pytest.mark.parametrize("seed", range(WORLDS))
def test_packets_fare_as_felix_calculates(etcd: Etcd, seed: int) -> None:
    author = Author(seed)
    etcd.delete_prefix("/")
    for key, body in author.write().items():
        etcd.put(key, body)
    felix = ask_felix(etcd, NODE)
    ours = compile_node(NODE, read_ours(etcd), LOCAL)
    wrong = []
    for packet in [author.packet() for _ in range(PACKETS)]:
        if is_beyond(packet):
            continue
        done, said = verdict(ours.kernel, packet), Way(felix, packet, LOCAL).passes()
        if done.accepted != said:
            wrong += [f"{describe(packet)}: Felix {'allows' if said else 'denies'} it", *map(str, done.steps)]
    assert not wrong, "\n".join(wrong)


def is_beyond(packet: Packet) -> bool:
    """What host endpoints never close here, beyond Calico's (docs/policy.md)."""
    return packet.protocol == ICMP6 or (not packet.in_interface and packet.destination in LOCAL)
