"""felixctl doctor: each pitfall named, in words, and silence where nothing is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from felixpy.ctl.doctor.cluster import EtcdFacts, judge_cluster, judge_etcd
from felixpy.ctl.doctor.finding import Level
from felixpy.ctl.doctor.host import HostFacts, Listener, judge_host
from felixpy.status.answers import NodeStatus
from tests.ctl.conftest import FELIXCTL, run
from tests.support.etcd import Etcd
from tests.support.netns import Namespace
from tests.support.wait import eventually

TRACKED = {"net/netfilter/nf_conntrack_max": "262144", "net/netfilter/nf_conntrack_count": "200000"}
GOOD = HostFacts(
    sysctls={"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/eth0/rp_filter": "2"}
    | TRACKED,
    devices={"lo": 65536, "eth0": 1500, "vxlan.calico": 1450},
    conflists=(("10-felixpy.conflist", ("felixpy-cni", "portmap")), ("87-podman.conflist", ("bridge",))),
    nft_tables=("felixpy",),
    listeners=(Listener(179, "gobgpd"),),
    gobgpd=(4, 8, 0),
    lacking={"nftables": "", "iptables-nft": "", "iptables-legacy": "no module"},
    uplink_mtu=1500,
)
CLOSED = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -j DOCKER-USER\nCOMMIT\n"
LOCKED = CLOSED.replace("FORWARD DROP", "FORWARD ACCEPT").replace("INPUT ACCEPT", "INPUT DROP")
OPENED = "-A DOCKER-USER -i cali+ -j ACCEPT\n-A DOCKER-USER -o cali+ -j ACCEPT\nCOMMIT"


def test_a_good_host_has_nothing_to_say() -> None:
    assert list(judge_host(GOOD)) == []
    assert list(judge_host(HostFacts())) == [], "what cannot be read is not wrong"
    opened = {
        "iptables-save": CLOSED.replace("COMMIT", OPENED),
        "ip6tables-save": "*nat\n:FORWARD DROP [0:0]\nCOMMIT\n",
    }
    assert list(judge_host(replace(GOOD, saved=opened))) == []


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"sysctls": {"net/ipv4/ip_forward": "0"}}, Level.WARNING, "net.ipv4.ip_forward is 0"),
        ({"sysctls": {"net/ipv6/conf/all/forwarding": "0"}}, Level.WARNING, "beyond the node over IPv6"),
        ({"sysctls": {"net/ipv4/conf/eth0/rp_filter": "1"}}, Level.WARNING, "rp_filter is strict (1) on eth0"),
        ({"sysctls": {"net/ipv4/conf/all/rp_filter": "1"}}, Level.WARNING, "strict (1) on eth0, vxlan.calico"),
        (
            {"advertised": frozenset({"eth0"}), "sysctls": GOOD.sysctls | {"net/ipv6/conf/eth0/accept_ra": "1"}},
            Level.WARNING,
            "by eth0 is from router advertisements, and accept_ra is 1; this host forwards",
        ),
        ({"lacking": {"nftables": "EPERM", "iptables-nft": "x"}}, Level.ERROR, "no nftables: EPERM; no iptables-nft"),
        ({"lacking": {"nftables": "EPERM", "iptables-nft": ""}}, Level.NOTE, "iptables is used instead"),
        ({"saved": {"iptables-legacy-save": ":fpx-INPUT"}}, Level.WARNING, "in nftables and in iptables-legacy-save"),
        ({"saved": {"iptables-nft-save": ":cali-INPUT - [0:0]"}}, Level.WARNING, "Calico's own rules are still there"),
        ({"saved": {"iptables-nft-save": "KUBE-SERVICES"}}, Level.WARNING, "kube-proxy's rules are there too"),
        ({"saved": {"iptables-nft-save": CLOSED}}, Level.ERROR, "drops what nobody accepts in FORWARD (as Docker"),
        ({"saved": {"iptables-nft-save": LOCKED}}, Level.WARNING, "nodes need TCP 179"),
        ({"nft_tables": ("firewalld",)}, Level.WARNING, "firewalld rejects what it is to forward"),
        ({"dropping": ("inet filter forward",)}, Level.ERROR, "the nftables chain inet filter forward drops"),
        ({"sysctls": TRACKED | {"net/netfilter/nf_conntrack_count": "210000"}}, Level.WARNING, "210000 connections"),
        ({"sysctls": {"net/netfilter/nf_conntrack_max": "65536"}}, Level.NOTE, "only 65536 connections can be tracked"),
        ({"nft_tables": ("kube-proxy",)}, Level.WARNING, "run one of the two"),
        ({"devices": {"kube-ipvs0": 1500}}, Level.NOTE, "IPVS mode"),
        ({"devices": {"kube-ipvs0": 1500}, "layer2": True}, Level.ERROR, "strictARP: true"),
        ({"conflists": (("10-calico.conflist", ("calico",)), *GOOD.conflists)}, Level.ERROR, "comes before 10-felixpy"),
        ({"conflists": (("10-x.conflist", ("bridge",)),)}, Level.WARNING, "no network configuration uses felixpy-cni"),
        ({"plugin_there": False}, Level.ERROR, "the program felixpy-cni is not"),
        ({"listeners": (Listener(179, "bird"),)}, Level.ERROR, "bird listens at TCP port 179"),
        ({"gobgpd": (3, 10, 0)}, Level.WARNING, "gobgpd is of version 3.10.0"),
        ({"uplink_mtu": 1480}, Level.ERROR, "packets over 1430 bytes are lost"),
    ],
)
def test_each_pitfall_of_a_host_is_named(changed: dict[str, object], level: Level, said: str) -> None:
    (found,) = judge_host(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert (found.level, said in str(found)) == (level, True), str(found)


def test_strict_arp_is_enough_beside_ipvs() -> None:
    arp = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
    (found,) = judge_host(replace(GOOD, devices={"kube-ipvs0": 1500}, layer2=True, sysctls=arp))
    assert found.level is Level.NOTE


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (EtcdFacts("e", error="refused"), "etcd e: does not answer: refused"),
        (EtcdFacts("e", healthy=False), "says that it is not healthy"),
        (EtcdFacts("e", read_ms=200), "a read takes 200 ms"),
        (EtcdFacts("e", skew_s=-60), "its clock is 60 s behind this machine's"),
        (EtcdFacts("e", used_bytes=90, quota_bytes=100), "90 % of its space is used"),
    ],
)
def test_each_trouble_of_etcd_is_named(facts: EtcdFacts, said: str) -> None:
    assert list(judge_etcd([EtcdFacts("good", read_ms=3)])) == []
    (found,) = judge_etcd([facts])
    assert said in str(found)


def test_trouble_of_a_cluster_is_named() -> None:
    well = NodeStatus("n1", ("agent",), in_sync=True, leader=True, version="1")
    assert list(judge_cluster({"n1": well}, (), True)) == []
    found = [
        str(one) for one in judge_cluster({"n1": NodeStatus("n1", (), version="2"), "n2": well, "n3": None}, (), False)
    ]
    assert any("datastoreReady" in one for one in found)
    assert any(one.startswith("n3: no answer") for one in found)
    assert any("several versions: 1, 2" in one for one in found)
    alone = [str(one) for one in judge_cluster({"n1": NodeStatus("n1", ("agent",), in_sync=True)}, (), True)]
    assert alone == [
        "controllers: nobody gives Services their addresses; start a process with the role controllers "
        "(felixpy --roles ...)"
    ]


@pytest.fixture
def host(etcd: Etcd, tmp_path: Path) -> Iterator[tuple[Namespace, Path]]:
    """A machine of its own, and the directory of its network configurations."""
    with Namespace.create("doctor") as namespace:
        (tmp_path / "net.d").mkdir()
        yield namespace, tmp_path


def doctor(namespace: Namespace, directory: Path, *arguments: str) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if "ETCD" not in key}
    given = ["--conf-dir", directory / "net.d", "--bin-dir", directory, "--run-dir", directory, *arguments]
    done = subprocess.run(
        namespace.enter_argv([FELIXCTL, "doctor", "--no-cluster", *given]),
        capture_output=True,
        text=True,
        timeout=60,
        env=clean,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_a_real_host_is_looked_at(host: tuple[Namespace, Path]) -> None:
    namespace, directory = host
    namespace.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    namespace.sysctl(ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0)
    _, quiet = doctor(namespace, directory)
    assert [line for line in quiet.splitlines() if not line.startswith(("warning: BGP", "note:", "Nothing"))] == []
    namespace.sysctl(ipv4__ip_forward=0)
    namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    namespace.ip("link", "set", "up0", "up")
    namespace.sysctl(ipv6__conf__up0__accept_ra=1)
    namespace.ip("-6", "route", "add", "default", "via", "fe80::9", "dev", "up0", "proto", "ra")
    namespace.run("nft", "add", "table", "ip", "kube-proxy")
    namespace.run(
        "nft",
        "add table inet guard; add chain inet guard through { type filter hook forward priority 0; policy drop; }",
    )
    namespace.run("iptables-nft", "-P", "FORWARD", "DROP")
    (directory / "net.d" / "10-felixpy.conflist").write_text(json.dumps({"plugins": [{"type": "felixpy-cni"}]}))
    (directory / "net.d" / "05-other.conflist").write_text(json.dumps({"plugins": [{"type": "bridge"}]}))
    listener = namespace.popen(sys.executable, "-c", _LISTEN, "179")
    try:
        assert listener.stdout is None
        code, said = eventually(lambda: _if_says(doctor(namespace, directory), "port 179"), within_s=20)
    finally:
        listener.kill()
        listener.wait()
    assert code == 1
    assert "warning: forwarding: net.ipv4.ip_forward is 0" in said
    assert "warning: routing: the IPv6 default route by up0 is from router advertisements, and accept_ra is 1" in said
    assert "warning: kube-proxy: kube-proxy's rules are there too (nftables)" in said
    assert "error: CNI: 05-other.conflist (bridge) comes before 10-felixpy.conflist" in said
    assert "error: CNI: 10-felixpy.conflist is there and the program felixpy-cni is not" in said
    assert "listens at TCP port 179" in said
    assert "error: firewall: the nftables chain inet guard through drops what it does not accept" in said
    assert "error: firewall: iptables-nft drops what nobody accepts in FORWARD" in said
    tables = namespace.run("nft", "list", "tables").splitlines()
    assert tables == ["table ip kube-proxy", "table inet guard", "table ip filter"], "the trial left nothing behind"
    for way in ("-i", "-o"):
        namespace.run("iptables-nft", "-I", "FORWARD", way, "cali+", "-j", "ACCEPT")
    namespace.run("nft", "add rule inet guard through iifname cali* accept")
    assert "firewall" not in doctor(namespace, directory)[1]


_LISTEN = "import socket,sys,time; s=socket.create_server(('', int(sys.argv[1]))); time.sleep(60)"


def _if_says(answer: tuple[int, str], words: str) -> tuple[int, str] | None:
    return answer if words in answer[1] else None


def test_an_etcd_that_is_there_and_one_that_is_not(store: Etcd) -> None:
    said = run("doctor", "--no-host", environment={"FELIXPY_ETCD": f"{store.url},http://127.0.0.1:1"})
    assert said.code == 1
    assert "error: etcd http://127.0.0.1:1: does not answer: [Errno 111] Connection refused" in said.out
    assert "error: datastore: there is no ClusterInformation that says datastoreReady" in said.out
    assert f"etcd {store.url}" not in said.out, "this one is well"


def test_overlaps_that_somebody_wrote_past_apply_are_found(store: Etcd) -> None:
    pool = {"metadata": {"name": "vips", "namespace": "m"}, "spec": {"addresses": ["10.0.0.0/24", "10.9.0.0/24"]}}
    store.put("/felixpy/resources/metallb.io/v1beta1/ipaddresspools/m/vips", pool)
    node = {"metadata": {"name": "n1"}, "spec": {"bgp": {"ipv4Address": "10.0.0.9/16"}}}
    store.put("/calico/resources/v3/projectcalico.org/nodes/n1", node)
    pods = {"metadata": {"name": "pods"}, "spec": {"cidr": "10.9.0.128/25"}}
    store.put("/calico/resources/v3/projectcalico.org/ippools/pods", pods)
    said = run("doctor", "--no-host", environment={"FELIXPY_ETCD": store.url}).out
    assert "error: IPAddressPool m/vips: 10.0.0.0/24 overlaps 10.0.0.9 of Node n1" in said
    assert "error: IPAddressPool m/vips: 10.9.0.0/24 overlaps 10.9.0.128/25 of IPPool pods" in said


def test_a_full_etcd_is_named_with_what_helps() -> None:
    full = Etcd()
    full.daemon.argv.append("--quota-backend-bytes=300000")
    with full:
        with pytest.raises(AssertionError, match="space exceeded"):
            full.put("/junk", "x" * 400_000)
        environment = {"FELIXPY_ETCD": full.url}
        said = run("doctor", "--no-host", environment=environment)
        assert said.code == 1
        assert f"error: etcd {full.url}: says that it is not healthy; etcdctl endpoint status; alarm list" in said.out
        assert "error: nodes: they cannot be asked; " in said.out
        assert "takes no writes until it is compacted, defragmented and its alarm disarmed" in said.out
        policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: a}\nspec: {}\n"
        applied = run("apply", "-f", "-", stdin=policy, environment=environment)
        assert (applied.code, "its alarm disarmed" in applied.err) == (1, True)
