"""felixctl and our allocator beside Calico's own code on one etcd. `make calico` builds that code and runs this.

Calico is the v3.28 that the Go module proxy has (program/go.mod), with policies of the tier `default` at the old names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import yaml

from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from ipam.addresses import format_address
from ipam.engine import Allocator
from ipam.model import node_owner
from ipam.request import IpamError, Request
from tests.ctl.conftest import Answer, run
from tests.support.etcd import Etcd

PROGRAM = Path("build/calico")
CALICO = "/calico/resources/v3/projectcalico.org"
POLICIES = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  {order: 10, selector: app == 'web', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, "90:99"]}}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: shop, namespace: default}
spec: {selector: all(), types: [Egress], egress: [{action: Deny, destination: {nets: [10.0.0.0/8]}}, {action: Log}]}
"""
OTHERS = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: bad, labels: {kind: bad}}
spec: {nets: [198.51.100.0/24, 203.0.113.7]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: up, labels: {a: b}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1], ports: [{name: ssh, protocol: TCP, port: 22}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 192.0.2.1, asNumber: 64512}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: open}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}], labelsToApply: {a: b}}
"""
UNKNOWN = {"tier": None, "assignmentMode": None}
"""What Calico 3.28 does not know yet."""
TURN_S = 8
BLOCK_LENGTH = 28

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(etcd: Etcd) -> Etcd:
    """A cluster whose Calico is of this version."""
    etcd.delete_prefix("/")
    spec = {"clusterGUID": "0" * 32, "datastoreReady": True, "calicoVersion": "v3.28.5"}
    metadata = {"name": "default", "uid": "00000000-0000-0000-0000-000000000001"}
    body = {"kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
    etcd.put(f"{CALICO}/clusterinformations/default", body)
    return etcd


@pytest.fixture
def calicoctl(store: Etcd) -> Program:
    def command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = [str(PROGRAM), *arguments, "--allow-version-mismatch"]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, env=environment(store))
        assert done.returncode == 0, done.stderr + done.stdout
        return done

    return command


@pytest.fixture
def felixctl(store: Etcd) -> Callable[..., Answer]:
    return partial(run, environment={"FELIXPY_ETCD": store.url})


def environment(store: Etcd) -> dict[str, str]:
    return {**os.environ, "DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": store.url}


@pytest.mark.parametrize("text", [POLICIES, OTHERS], ids=["policies", "others"])
def test_each_finds_what_the_other_wrote_and_changes_it_where_it_is(
    store: Etcd, calicoctl: Program, felixctl: Callable[..., Answer], text: str
) -> None:
    objects = [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(text)]
    assert felixctl("apply", "-f", "-", stdin=text).code == 0
    keys = set(store.get_prefix(CALICO))

    for kind, name in objects:
        shown = yaml.safe_load(calicoctl("get", kind, name, "-o", "yaml").stdout)
        ours = yaml.safe_load(felixctl("get", kind, name, "-o", "yaml").out)
        assert without_nothing(shown["spec"]) == without_nothing(ours["spec"] | UNKNOWN)
    calicoctl("apply", "-f", "-", stdin=text)
    assert [key for key in set(store.get_prefix(CALICO)) - keys if "/tiers/" not in key] == [], "nothing is there twice"

    calicoctl("delete", "-f", "-", stdin=text)
    assert [felixctl("get", kind, name).code for kind, name in objects] == [1] * len(objects)
    calicoctl("create", "-f", "-", stdin=text)
    again = felixctl("apply", "-f", "-", stdin=text)
    assert (again.code, len(again.lines)) == (0, len(objects))
    assert not any(line.endswith(" created") for line in again.lines)


def without_nothing(value: object) -> object:
    """Calico's own client writes out what is empty or off."""
    if isinstance(value, dict):
        return {
            key: kept for key, inner in value.items() if (kept := without_nothing(inner)) not in ({}, [], None, False)
        }
    return [without_nothing(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kills", [False, True], ids=["whole", "killed"])
async def test_no_address_is_given_to_two(store: Etcd, felixctl: Callable[..., Answer], kills: bool) -> None:
    pool = f"{{cidr: 10.70.0.0/25, blockSize: {BLOCK_LENGTH}}}"
    felixctl(
        "apply",
        "-f",
        "-",
        stdin=f"{{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: p}}, spec: {pool}}}",
    )
    for node in ("c0", "c1", "n0", "n1"):
        store.put(
            f"{CALICO}/nodes/{node}", {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": node}}
        )
    told: list[tuple[int, str, str, str]] = []
    end = time.monotonic() + TURN_S

    await asyncio.gather(
        *(be_ours(store, node, end, told) for node in ("n0", "n1")), be_theirs(store, ("c0", "c1"), end, told, kills)
    )

    held: dict[str, str] = {}
    twice = []
    for _, verb, handle, address in sorted(told):
        if verb == "assigned":
            if address in held:
                twice.append((address, held[address], handle))
            held[address] = handle
        elif verb == "release":
            held = {address: owner for address, owner in held.items() if owner != handle}
    assert twice == []
    stored = allocations(store)
    assert {address: stored.get(address) for address in held} == held
    assert {handle.partition(".")[0] for _, verb, handle, _ in told if verb == "assigned"} == {"calico", "ours"}


async def be_ours(store: Etcd, node: str, end: float, told: list[tuple[int, str, str, str]]) -> None:
    opened = open_store(EtcdSettings(parse_endpoints(store.url)))
    allocator = Allocator(
        IpamStore(opened), node_owner(node), now=partial(datetime.now, UTC), rng=random.Random(), sleep=asyncio.sleep
    )
    await allocator.load()
    rng, held, turn = random.Random(node), list[str](), 0
    while time.monotonic() < end:
        turn += 1
        if len(held) > 20 or (held and rng.random() < 0.45):
            handle = held.pop(rng.randrange(len(held)))
            told.append((time.time_ns(), "release", handle, ""))
            await allocator.release(handle)
            continue
        handle = f"ours.{node}-{turn}"
        try:
            given = await allocator.assign(Request(handle, {"node": node}, v4=1))
        except IpamError:
            continue
        told.append((time.time_ns(), "assigned", handle, format_address(given.addresses[0].address)))
        held.append(handle)
    await opened.close()


async def be_theirs(
    store: Etcd, nodes: tuple[str, ...], end: float, told: list[tuple[int, str, str, str]], kills: bool
) -> None:
    while (left := end - time.monotonic()) > 1:
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM), "allocate", str(int(left)), *nodes, env=environment(store), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        if kills:
            asyncio.get_running_loop().call_later(random.uniform(0.5, 2), end_at_once, process)
        async for line in process.stdout:
            words = line.decode().split()
            if len(words) >= 3 and words[1] in ("assigned", "release"):
                told.append((int(words[0]), words[1], words[2], words[3] if words[1] == "assigned" else ""))
        await process.wait()


def end_at_once(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)


def allocations(store: Etcd) -> dict[str, str]:
    """Each address in a block, and the handle that has it."""
    found = {}
    for text in store.get_prefix("/calico/ipam/v2/assignment/ipv4/block/").values():
        block = json.loads(text)
        addresses = ipaddress.ip_network(block["cidr"])
        for place, index in enumerate(block["allocations"]):
            if index is not None:
                found[str(addresses[place])] = block["attributes"][index].get("handle_id", "")
    return found
