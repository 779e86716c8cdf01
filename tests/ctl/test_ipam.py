"""felixctl ipam on addresses that the allocator itself gave out, in a real etcd."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from ipam.addresses import format_address, parse_address
from ipam.engine import Allocator
from ipam.model import node_owner
from ipam.request import Request, pod_handle, pod_owner
from tests.ctl.conftest import Answer
from tests.support.etcd import Etcd

Felixctl = Callable[..., Answer]
CALICO = "/calico/resources/v3/projectcalico.org"
POOL = {"cidr": "10.64.0.0/24", "blockSize": 28}


def assign(store: Etcd, node: str, pod: str, address: str = "", handle: str = "") -> str:
    """Gives the pod an address on a node, as its agent would; a particular one, or any."""

    async def run() -> str:
        client = open_store(EtcdSettings(parse_endpoints(store.url)))
        try:
            now = datetime.now(UTC)
            allocator = Allocator(IpamStore(client), node_owner(node), now=lambda: now, rng=random.Random(1))
            request = Request(
                handle_id=handle or pod_handle("k8s-pod-network", f"c{pod}"),
                owner=pod_owner(node, "default", pod, now),
                v4=0 if address else 1,
                addresses=(parse_address(address),) if address else (),
            )
            return format_address((await allocator.assign(request)).addresses[0].address)
        finally:
            await client.close()

    return asyncio.run(run())


def put(store: Etcd, plural: str, name: str, kind: str, spec: dict[str, Any]) -> None:
    """Writes a Calico object; `name` with its namespace where it has one."""
    body = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name.rpartition("/")[2]}}
    store.put(f"{CALICO}/{plural}/{name}", {**body, "spec": spec})


def put_endpoint(store: Etcd, node: str, pod: str, address: str) -> None:
    spec = {"node": node, "orchestrator": "k8s", "pod": pod, "endpoint": "eth0", "interfaceName": f"cali{pod}"}
    put(
        store, "workloadendpoints", f"default/{node}-k8s-{pod}-eth0", "WorkloadEndpoint",
        {**spec, "ipNetworks": [f"{address}/32"]},
    )  # fmt: skip


@pytest.fixture
def pods(store: Etcd) -> dict[str, str]:
    """Pods a and b of n1 and c of n2, by name, each with the endpoint that uses its address."""
    put(store, "ippools", "default-pool", "IPPool", POOL)
    held: dict[str, str] = {}
    for node, pod, address in (("n1", "a", "10.64.0.1"), ("n1", "b", "10.64.0.2"), ("n2", "c", "10.64.0.17")):
        held[pod] = assign(store, node, pod, address)
        put_endpoint(store, node, pod, held[pod])
    return held


def leak(store: Etcd, node: str, pod: str) -> None:
    """Takes a pod's endpoint away, and leaves its address allocated."""
    store.delete(f"{CALICO}/workloadendpoints/default/{node}-k8s-{pod}-eth0")


def aged(report: str, age: timedelta, path: Path) -> str:
    """The report as if it had been made `age` ago; the name of its file."""
    body = json.loads(report)
    body["takenAt"] = (datetime.now(UTC) - age).isoformat()
    path.write_text(json.dumps(body))
    return str(path)


def test_pools_nodes_and_blocks_by_how_full_they_are(felixctl: Felixctl, pods: dict[str, str]) -> None:
    rows = [" ".join(line.split()) for line in felixctl("ipam", "show").lines]
    assert [row.split()[0] for row in rows] == ["POOL,", "default-pool", "n1", "n2"]
    assert [row.split()[-1] for row in rows[1:]] == ["3/256", "2/16", "1/16"]
    blocks = felixctl("ipam", "show", "--blocks").lines
    assert [line.split()[0] for line in blocks[2:]] == ["n1", "10.64.0.0/28", "n2", "10.64.0.16/28"]
    items = json.loads(felixctl("ipam", "show", "-o", "json").out)["items"]
    of_pool = {"pool": "default-pool", "cidr": "10.64.0.0/24"}
    assert items[0] == {**of_pool, "owner": "n1", "block": "10.64.0.0/28", "used": "2", "size": "16"}


def test_who_has_an_address(felixctl: Felixctl, pods: dict[str, str]) -> None:
    said = felixctl("ipam", "show", "--ip", pods["c"]).out
    assert "10.64.0.16/28 of n2" in said
    assert "pod default/c on n2, since 20" in said
    assert "in use by:   endpoint default/n2-k8s-c-eth0" in said
    assert "nobody: it is free" in felixctl("ipam", "show", "--ip", "10.64.0.30").out
    assert felixctl("ipam", "show", "--ip", "10.64.0").code == 2
    assert json.loads(felixctl("ipam", "show", "--ip", pods["a"], "-o", "json").out)["items"][0]["pod"] == "a"


def test_an_address_of_another_nodes_block_is_borrowed(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    assign(store, "n2", "d", "10.64.0.9")
    rows = felixctl("ipam", "show", "--borrowed").lines
    assert rows[1].split()[:3] == ["10.64.0.9", "10.64.0.0/28", "n1"]
    assert "pod default/d on n2" in rows[1]
    assert len(rows) == 2


def test_a_clean_cluster_passes_the_check(felixctl: Felixctl, pods: dict[str, str]) -> None:
    said = felixctl("ipam", "check")
    assert (said.code, said.out) == (0, "Nothing is wrong.\n")


def test_findings_name_who_is_to_blame(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    leak(store, "n1", "b")
    put_endpoint(store, "n2", "squatter", "10.64.0.99")
    store.delete("/calico/ipam/v2/host/n2/ipv4/block/10.64.0.16-28")
    said = felixctl("ipam", "check")
    assert said.code == 1
    assert f"  {pods['b']} (k8s-pod-network.cb, pod default/b on n1" in said.out
    assert "  10.64.0.99 (endpoint default/n2-k8s-squatter-eth0)" in said.out
    assert "the block has an owner and no claim by it:  (a Calico node was overtaken" in said.out
    assert "\n  10.64.0.16/28 (host:n2)" in said.out
    found = json.loads(felixctl("ipam", "check", "-o", "json").out)
    assert {one["problem"] for one in found["findings"]} == {"LEAKED", "NOT_ALLOCATED", "CLAIM_MISSING"}
    assert [one["address"] for one in found["suspects"]] == [pods["b"]]


def test_what_a_node_tunnels_through_is_in_use(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    tunnel = assign(store, "n1", "tunnel")
    assert felixctl("ipam", "check").code == 1
    put(store, "nodes", "n1", "Node", {"bgp": {"ipv4Address": "10.9.0.1/24", "ipv4IPIPTunnelAddr": tunnel}})
    assert felixctl("ipam", "check").code == 0


def test_what_calico_keeps_for_a_machine_is_no_leak(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    assign(store, "n1", "virt-launcher-m", handle="k8s-pod-network.vmi.default.m")
    assert felixctl("ipam", "check").code == 0


def test_only_what_two_looks_agree_on_is_released(
    felixctl: Felixctl, store: Etcd, pods: dict[str, str], tmp_path: Path
) -> None:
    leak(store, "n1", "a")
    leak(store, "n1", "b")
    report = felixctl("ipam", "check", "-o", "json").out
    young = felixctl("ipam", "release", "--from-report", aged(report, timedelta(minutes=1), tmp_path / "young"))
    assert (young.code, "too young" in young.err) == (1, True)
    put_endpoint(store, "n1", "a", pods["a"])
    done = felixctl("ipam", "release", "--from-report", aged(report, timedelta(hours=1), tmp_path / "old"))
    assert (done.code, done.out) == (0, f"{pods['b']} released\n")
    assert felixctl("ipam", "check").code == 0


def test_one_address_is_released_unless_it_is_in_use(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    used = felixctl("ipam", "release", "--ip", pods["a"])
    assert (used.code, "is in use by endpoint default/n1-k8s-a-eth0" in used.err) == (1, True)
    leak(store, "n1", "a")
    assert felixctl("ipam", "release", "--ip", pods["a"]).out == f"{pods['a']} released\n"
    assert felixctl("ipam", "release", "--ip", pods["a"]).code == 1, "it is free"
    assert felixctl("ipam", "release").code == 2


def test_a_deleted_pools_empty_blocks_go_with_it(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    leak(store, "n2", "c")
    assert felixctl("ipam", "release", "--ip", pods["c"]).code == 0
    assert "/calico/ipam/v2/assignment/ipv4/block/10.64.0.16-28" in store.get_prefix("/calico/ipam/")

    done = felixctl("delete", "ippool", "default-pool")

    assert done.out == "IPPool default-pool deleted\nIPPool default-pool: empty blocks released: 1\n"
    stays = "block 10.64.0.0/28 of n1 stays, as 2 of its addresses are in use"
    assert (done.code, done.err) == (0, f"warning: IPPool default-pool: {stays}\n")
    left = [key for key in store.get_prefix("/calico/ipam/v2/") if "/handle/" not in key and "config" not in key]
    assert {key.rpartition("/")[2] for key in left} == {"10.64.0.0-28"}, "the block in use and its claim"


def test_a_block_that_another_pool_has_too_stays(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    put(store, "ippools", "wide", "IPPool", {**POOL, "cidr": "10.64.0.0/16"})
    done = felixctl("delete", "ippool", "default-pool")
    assert (done.code, done.out, done.err) == (0, "IPPool default-pool deleted\n", "")
    assert felixctl("ipam", "check").code == 0


def test_an_empty_block_of_no_pool_is_a_finding(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    for node, pod in (("n1", "a"), ("n1", "b"), ("n2", "c")):
        leak(store, node, pod)
        felixctl("ipam", "release", "--ip", pods[pod])
    store.delete(f"{CALICO}/ippools/default-pool")
    said = felixctl("ipam", "check")
    assert said.code == 1
    assert "the block is empty and outside every pool:  (its pool was" in said.out
    assert "\n  10.64.0.0/28 (host:n1)\n" in said.out


def test_what_calico_left_half_done_is_given_up_when_two_looks_agree(
    felixctl: Felixctl, store: Etcd, pods: dict[str, str], tmp_path: Path
) -> None:
    orphan, used = "/calico/ipam/v2/handle/orphan", "/calico/ipam/v2/handle/used"
    claim = "/calico/ipam/v2/host/n3/ipv4/block/10.64.0.0-28"
    store.put(orphan, '{"block":{"10.64.0.0/28":1},"deleted":false}')
    store.put(used, '{"block":{"10.64.0.0/28":1},"deleted":false}')
    store.put(claim, '{"state":"pending","deleted":false}')
    said = felixctl("ipam", "check")
    assert "the handle exists and holds no address:  (a Calico node ended between handle and block)" in said.out
    report = aged(felixctl("ipam", "check", "-o", "json").out, timedelta(hours=1), tmp_path / "report")
    store.delete(used)
    done = felixctl("ipam", "release", "--from-report", report, "-o", "json")
    assert done.code == 0
    assert json.loads(done.out) == {
        "released": [],
        "givenUp": ["handle orphan", "claim of host:n3 to 10.64.0.0/28"],
        "kept": {},
    }
    assert felixctl("ipam", "check").code == 0


def test_a_deleted_nodes_addresses_are_said_to_stay_a_while(
    felixctl: Felixctl, store: Etcd, pods: dict[str, str]
) -> None:
    put(store, "nodes", "n1", "Node", {})
    put(store, "nodes", "idle", "Node", {})
    said = "Node n1: its 1 block and addresses go in 15 minutes, unless it is back"
    assert felixctl("delete", "node", "n1", "idle").lines == ["Node n1 deleted", said, "Node idle deleted"]


def test_who_has_an_address_that_another_has_and_who_has_one_of_no_pool(
    felixctl: Felixctl, store: Etcd, pods: dict[str, str]
) -> None:
    put_endpoint(store, "n2", "outsider", "192.0.2.7")
    said = felixctl("ipam", "check")
    outsider = "192.0.2.7 (endpoint default/n2-k8s-outsider-eth0)"
    words = f"In use and of no pool, which is no fault by itself: {outsider}"
    assert (said.code, said.lines) == (0, ["Nothing is wrong.", words])
    put_endpoint(store, "n2", "twin", pods["a"])
    report = json.loads(felixctl("ipam", "check", "-o", "json").out)
    (finding,) = report["findings"]
    assert (finding["problem"], finding["subject"]) == ("SEVERAL_USERS", pods["a"])
    assert finding["blame"] == "endpoint default/n1-k8s-a-eth0, endpoint default/n2-k8s-twin-eth0"
    assert report["outsidePools"] == [outsider]


def test_a_leak_of_a_node_that_is_gone_says_so(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    put(store, "nodes", "n1", "Node", {})
    leak(store, "n1", "a")
    leak(store, "n2", "c")
    lines = {line.split()[0]: line for line in felixctl("ipam", "check").lines}
    assert "a node that there is not" not in lines[pods["a"]]
    assert lines[pods["c"]].endswith(", a node that there is not)")


CONFIG = "/calico/ipam/v2/config"
CONFIGURATION = f"{CALICO}/ipamconfigurations/default"


def test_settings_are_changed_where_calico_has_them(felixctl: Felixctl, store: Etcd) -> None:
    shown = felixctl("ipam", "show", "--configuration").lines
    assert [line.split() for line in shown] == [
        ["strictAffinity:", "false"],
        ["autoAllocateBlocks:", "true"],
        ["maxBlocksPerHost:", "0"],
        ["kubeVirtVMAddressPersistence:", "Disabled"],
        ["ipCooldownSeconds:", "0"],
    ]
    done = felixctl("ipam", "configure", "--strict-affinity", "true", "--max-blocks-per-host", "4")
    assert done.out == "strictAffinity: true (was false)\nmaxBlocksPerHost: 4 (was 0)\n"
    assert store.get(CONFIG) == '{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4}'
    store.put(CONFIG, '{"strict_affinity":true,"auto_allocate_blocks":true,"later":1}')
    answer = felixctl("ipam", "configure", "--ip-cooldown-seconds", "60", "-o", "json")
    assert json.loads(answer.out)["ipCooldownSeconds"] == 60
    assert json.loads(store.get(CONFIG) or "")["later"] == 1
    assert store.get(CONFIGURATION) is None


def test_settings_that_were_applied_are_changed_there(felixctl: Felixctl, store: Etcd) -> None:
    put(store, "ipamconfigurations", "default", "IPAMConfiguration", {"strictAffinity": True, "later": 1})
    assert felixctl("ipam", "configure", "--auto-allocate-blocks", "false").code == 0
    spec = json.loads(store.get(CONFIGURATION) or "")["spec"]
    assert (spec["strictAffinity"], spec["autoAllocateBlocks"], spec["later"]) == (True, False, 1)
    assert store.get(CONFIG) is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--auto-allocate-blocks", "false"], "strictAffinity"),
        (["--max-blocks-per-host", "-1"], "maxBlocksPerHost"),
        (["--ip-cooldown-seconds", "1201"], "ipCooldownSeconds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    felixctl: Felixctl, store: Etcd, options: list[str], word: str
) -> None:
    done = felixctl("ipam", "configure", *options)
    assert (done.code, word in done.err) == (1, True)
    assert store.get(CONFIG) is None


def test_configuring_nothing_or_what_nobody_acts_on_is_said(felixctl: Felixctl, store: Etcd) -> None:
    assert felixctl("ipam", "configure").code == 2
    done = felixctl("ipam", "configure", "--kubevirt-ip-persistence", "Enabled")
    assert (done.code, "ours do not know when a machine is gone" in done.err) == (0, True)
    assert json.loads(store.get(CONFIG) or "")["kubeVirtVMAddressPersistence"] == "Enabled"


def test_a_pool_is_split_and_its_addresses_stay(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    before = store.get_prefix("/calico/ipam/")
    done = felixctl("ipam", "split", "2", "--name", "default-pool")
    assert done.lines == [
        "IPPool default-pool 10.64.0.0/24 split into 2:",
        "  split-default-pool-0 10.64.0.0/25",
        "  split-default-pool-1 10.64.0.128/25",
    ]
    pools = {key.rpartition("/")[2]: json.loads(value) for key, value in store.get_prefix(f"{CALICO}/ippools/").items()}
    assert {name: body["spec"] for name, body in pools.items()} == {
        "split-default-pool-0": {**POOL, "cidr": "10.64.0.0/25"},
        "split-default-pool-1": {**POOL, "cidr": "10.64.0.128/25"},
    }
    assert len({body["metadata"]["uid"] for body in pools.values()}) == 2
    assert store.get_prefix("/calico/ipam/") == before
    assert felixctl("ipam", "check").code == 0
    assert assign(store, "n1", "d").startswith("10.64.0.")
    again = felixctl("ipam", "split", "2", "--cidr", "10.64.0.128/25", "-o", "json")
    assert list(json.loads(again.out).values()) == ["10.64.0.128/26", "10.64.0.192/26"]


def test_a_pool_that_cannot_be_split_so_is_left_alone(felixctl: Felixctl, store: Etcd, pods: dict[str, str]) -> None:
    for parts, words in (("3", "2, 4, 8"), ("1", "2, 4, 8"), ("32", "16 blocks of /28")):
        done = felixctl("ipam", "split", parts, "--cidr", "10.64.0.0/24")
        assert (done.code, words in done.err) == (1, True)
    assert "no pool nothing" in felixctl("ipam", "split", "2", "--name", "nothing").err
    put(store, "ippools", "split-default-pool-1", "IPPool", {"cidr": "10.70.0.0/24"})
    assert "split-default-pool-1 already" in felixctl("ipam", "split", "2", "--name", "default-pool").err
    assert len(store.get_prefix(f"{CALICO}/ippools/")) == 2
