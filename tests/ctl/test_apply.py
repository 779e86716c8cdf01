"""felixctl apply against a real etcd: objects made, changed, kept, refused; each by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ctl.conftest import Answer, body_at, run
from tests.support.etcd import Etcd

Felixctl = Callable[..., Answer]

CALICO = "/calico/resources/v3/projectcalico.org"
CLUSTER_KEY = f"{CALICO}/clusterinformations/default"
POLICIES = f"{CALICO}/networkpolicies/"
POLICY_KEY = f"{POLICIES}default/web"
SERVICE_KEY = "/felixpy/resources/core/v1/services/default/svc"
POLICY = """\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web}
spec: {selector: "app == 'web'", ingress: [{action: Allow}]}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: svc}
spec: {type: LoadBalancer, ports: [{port: 80}]}
"""


def test_created_then_unchanged_then_configured(felixctl: Felixctl, store: Etcd) -> None:
    assert felixctl("apply", "-f", "-", stdin=POLICY).out == "NetworkPolicy default/web created\n"
    first = body_at(store, POLICY_KEY)
    assert felixctl("apply", "-f", "-", stdin=POLICY).out == "NetworkPolicy default/web unchanged\n"

    changed = felixctl("apply", "-f", "-", stdin=POLICY.replace("Allow", "Deny"))

    assert changed.out == "NetworkPolicy default/web configured\n"
    second = body_at(store, POLICY_KEY)
    assert second["spec"]["ingress"] == [{"action": "Deny"}]
    assert second["metadata"] == first["metadata"]


def test_one_bad_object_loses_nothing_else(felixctl: Felixctl, store: Etcd, tmp_path: Path) -> None:
    bad = POLICY.replace("name: web", "name: bad").replace("'web'", "web").replace("Allow", "Alow")
    (tmp_path / "all.yaml").write_text(f"{bad}---\n{POLICY}---\n{SERVICE}")

    answer = felixctl("apply", "-f", str(tmp_path / "all.yaml"))

    assert answer.code == 1
    assert answer.lines == ["NetworkPolicy default/web created", "Service default/svc created"]
    assert [line.removeprefix(f"error: {tmp_path}/").partition("(")[0] for line in answer.err.splitlines()] == [
        "all.yaml:4 ",
        "all.yaml:4 ",
    ]
    assert "NetworkPolicy default/bad: spec.selector: " in answer.err
    assert "NetworkPolicy default/bad: spec.ingress[0].action: the text 'Alow' is not Allow, Deny" in answer.err


def test_a_broken_file_does_not_hold_up_the_others(felixctl: Felixctl, store: Etcd, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{POLICY}---\nkind: [\n  a: b\n")
    (tmp_path / "b.yml").write_text(SERVICE)
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}')

    flat = felixctl("apply", "-f", str(tmp_path))
    deep = felixctl("apply", "-f", str(tmp_path), "-R")

    assert flat.code == 1
    assert flat.lines == ["NetworkPolicy default/web created", "Service default/svc created"]
    assert flat.err == f"error: {tmp_path}/a.yaml:8:1: did not find expected ',' or ']': it is read no further\n"
    assert deep.lines[-1] == "Namespace x created"


def test_a_file_that_is_no_text_is_named_and_does_not_hold_up_the_others(
    felixctl: Felixctl, store: Etcd, tmp_path: Path
) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "service.yaml").write_text(SERVICE)
    answer = felixctl("apply", "-f", str(tmp_path))
    assert (answer.code, answer.lines) == (1, ["Service default/svc created"])
    assert f"{tmp_path}/binary.yaml: is no UTF-8 text: invalid start byte at byte 0" in answer.err


def test_nothing_at_all_is_an_error(felixctl: Felixctl, store: Etcd, tmp_path: Path) -> None:
    for argument, said in (("-", "stdin"), (str(tmp_path), str(tmp_path))):
        answer = felixctl("apply", "-f", argument, stdin="# a chart with everything turned off\n---\n")
        assert (answer.code, answer.err) == (1, f"error: {said}: there is no document in it\n")


@pytest.mark.parametrize("size", [130_000, 200_000])
def test_an_object_that_etcd_does_not_take_is_refused_with_what_helps(
    felixctl: Felixctl, store: Etcd, size: int
) -> None:
    nets = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32" for i in range(size)]
    large = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "large"}}
    answer = felixctl("apply", "-f", "-", stdin=json.dumps({**large, "spec": {"nets": nets}}))
    assert answer.code == 1
    assert "it takes values of 1.5 MB at the most (--max-request-bytes): make several objects of this one" in answer.err


def test_a_kind_that_we_do_not_hold_is_listed_and_skipped(felixctl: Felixctl, store: Etcd) -> None:
    text = f"{POLICY}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: nginx}}\n"

    usual, strict = (felixctl("apply", "-f", "-", *flags, stdin=text) for flags in ((), ("--strict",)))

    assert (usual.code, strict.code) == (0, 2)
    assert usual.lines[-1].startswith("Deployment nginx (apps/v1) skipped: stdin:6 (document 2)")
    assert body_at(store, POLICY_KEY)["kind"] == "NetworkPolicy"


def test_a_slip_in_the_version_is_an_error_and_not_skipped(felixctl: Felixctl, store: Etcd) -> None:
    answer = felixctl("apply", "-f", "-", stdin=POLICY.replace("/v3", "/v33"))

    assert answer.code == 1
    assert "NetworkPolicy web: apiVersion: 'projectcalico.org/v33' is no version" in answer.err


@pytest.mark.parametrize(
    ("version", "kind", "said"),
    [
        (
            "projectcalico.org/v3",
            "NetworkPolcy",
            "kind: there is no kind 'NetworkPolcy' in projectcalico.org/v3; did you",
        ),
        ("projectcalico.org/v3", "networkpolicy", "did you mean NetworkPolicy?"),
        (
            "projectcalico.og/v3",
            "NetworkPolicy",
            "'projectcalico.og/v3' has no NetworkPolicy; did you mean projectcalico",
        ),
    ],
)
def test_a_slip_in_kind_or_group_is_an_error_and_not_skipped(
    felixctl: Felixctl, store: Etcd, version: str, kind: str, said: str
) -> None:
    text = POLICY.replace("projectcalico.org/v3", version).replace("kind: NetworkPolicy", f"kind: {kind}")
    answer = felixctl("apply", "-f", "-", stdin=text)
    assert answer.code == 1
    assert said in answer.err
    others = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n"
    assert felixctl("apply", "-f", "-", stdin=others).code == 0, "what is another project's is skipped"


def test_a_word_of_two_kinds_shows_both_each_in_its_own_namespace(felixctl: Felixctl, store: Etcd) -> None:
    calico = (
        "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: a}, spec: {peerIP: 192.0.2.1, asNumber: 1}}"
    )
    metallb = "{apiVersion: metallb.io/v1beta2, kind: BGPPeer, metadata: {name: b, namespace: metallb-system}, spec: "
    spec = "{myASN: 64500, peerASN: 64501, peerAddress: 192.0.2.2}}"
    felixctl("apply", "-f", "-", stdin=f"{calico}\n---\n{metallb}{spec}\n")
    names = ["bgppeer.projectcalico.org/a", "bgppeer.metallb.io/metallb-system/b"]
    assert felixctl("get", "bgppeers", "-o", "name").lines == names
    assert felixctl("get", "bgppeers", "-o", "name", "-n", "other").lines == names[:1]
    assert "There is no l2advertisements.\n" in felixctl("get", "l2advertisements").err
    assert "There is no pods in namespace default.\n" in felixctl("get", "pods").err


def test_what_is_not_found_is_named_with_a_namespace_only_where_it_has_one(felixctl: Felixctl, store: Etcd) -> None:
    assert felixctl("get", "gnp", "none").err == "error: GlobalNetworkPolicy none is not found\n"
    assert felixctl("get", "svc", "none").err == "error: Service default/none is not found\n"


def test_unknown_fields_and_what_others_wrote_survive(felixctl: Felixctl, store: Etcd) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "svc", "namespace": "default", "ownerReferences": [{"name": "x"}], "labels": {"a": "b"}},
        "spec": {"ports": [{"port": 80}], "ofTheFuture": {"deep": [1]}},
        "status": {"conditions": [{"type": "Ready"}]},
    }
    store.put(SERVICE_KEY, body)

    printed = felixctl("get", "svc", "svc", "-o", "yaml").out
    answer = felixctl("apply", "-f", "-", stdin=printed.replace("port: 80", "port: 81"))

    assert answer.lines == ["Service default/svc configured"]
    after = body_at(store, SERVICE_KEY)
    assert after["spec"] == {"ports": [{"port": 81}], "ofTheFuture": {"deep": [1]}}
    assert after["status"] == body["status"]
    assert after["metadata"]["ownerReferences"] == [{"name": "x"}]
    assert after["metadata"]["labels"] == {"a": "b"}


def test_what_we_decided_is_shown_and_never_written_as_a_wish(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=SERVICE)
    store.put("/felixpy/status/core/v1/services/default/svc", {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}})

    table, printed = felixctl("get", "svc"), felixctl("get", "svc", "svc", "-o", "yaml").out
    again = felixctl("apply", "-f", "-", stdin=printed)

    assert "198.51.100.1" in table.lines[1]
    assert "198.51.100.1" in printed
    assert again.lines == ["Service default/svc unchanged"]
    assert "status" not in body_at(store, SERVICE_KEY)


def test_labels_taken_out_of_the_file_are_taken_off(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=SERVICE.replace("name: svc", "name: svc, labels: {a: b}"))
    assert body_at(store, SERVICE_KEY)["metadata"]["labels"] == {"a": "b"}

    felixctl("apply", "-f", "-", stdin=SERVICE)

    assert "labels" not in body_at(store, SERVICE_KEY)["metadata"]


def test_an_object_that_changed_since_it_was_read_is_not_overwritten(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=SERVICE)
    printed = felixctl("get", "svc", "svc", "-o", "yaml").out
    felixctl("apply", "-f", "-", stdin=SERVICE.replace("80", "8080"))

    answer = felixctl("apply", "-f", "-", stdin=printed)

    assert answer.code == 1
    assert "metadata.resourceVersion: is " in answer.err
    assert body_at(store, SERVICE_KEY)["spec"]["ports"] == [{"port": 8080}]


def test_a_policy_is_where_the_clusters_calico_looks_for_it(felixctl: Felixctl, store: Etcd) -> None:
    prefixed = POLICY_KEY.replace("/web", "/default.web")
    for version, key in (("", POLICY_KEY), ("v3.32.1", POLICY_KEY), ("v4.0.0", POLICY_KEY), ("v3.31.7", prefixed)):
        store.delete_prefix("/")
        store.put(CLUSTER_KEY, {"spec": {"calicoVersion": version}})

        felixctl("apply", "-f", "-", stdin=POLICY)

        assert list(store.get_prefix(POLICIES)) == [key], version
        assert felixctl("get", "np", "web", "-o", "name").out == "networkpolicy.projectcalico.org/default/web\n"


@pytest.mark.parametrize("annotations", [{}, {"projectcalico.org/metadata": '{"name":"web"}'}])
def test_a_policy_that_older_calico_put_is_changed_there(
    felixctl: Felixctl, store: Etcd, annotations: dict[str, str]
) -> None:
    key = POLICY_KEY.replace("/web", "/default.web")
    metadata = {"name": "default.web", "annotations": annotations}
    store.put(key, {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": metadata})

    answer = felixctl("apply", "-f", "-", stdin=POLICY)

    assert answer.lines == ["NetworkPolicy default/web configured"]
    assert list(store.get_prefix("/calico/")) == [key]


def test_a_policy_that_was_typed_with_the_prefix_is_another_one(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=POLICY.replace("name: web", "name: default.web"))

    answer = felixctl("apply", "-f", "-", stdin=POLICY)

    assert answer.lines == ["NetworkPolicy default/web created"]
    assert len(store.get_prefix(POLICIES)) == 2


def test_a_policy_belongs_to_its_tier_in_every_way_that_calico_looks(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=POLICY)

    stored = body_at(store, POLICY_KEY)
    assert stored["spec"]["tier"] == "default"
    assert stored["metadata"]["labels"] == {"projectcalico.org/tier": "default"}


def test_a_workload_endpoint_has_the_labels_by_which_policies_of_its_namespace_select(
    felixctl: Felixctl, store: Etcd
) -> None:
    endpoint = """\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-a-eth0, namespace: shop, labels: {app: a, projectcalico.org/namespace: other}}
spec: {orchestrator: k8s, node: n1, pod: a, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.1/32]}
"""
    felixctl("apply", "-f", "-", stdin=endpoint)

    labels = body_at(store, f"{CALICO}/workloadendpoints/shop/n1-k8s-a-eth0")["metadata"]["labels"]
    assert labels == {"app": "a", "projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "k8s"}


def test_a_pools_cidr_and_block_size_stay(felixctl: Felixctl, store: Etcd) -> None:
    pool = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p}, spec: {cidr: 10.0.0.0/16%s}}"
    felixctl("apply", "-f", "-", stdin=pool % "")

    answer = felixctl("apply", "-f", "-", stdin=pool % ", blockSize: 24")

    assert answer.code == 1
    assert "IPPool p: spec.blockSize: cannot change from 26 to 24" in answer.err


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a}, spec: {cidr: 10.0.0.0/16}}",
            "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: b}, spec: {cidr: 10.0.128.0/20}}",
            "IPPool b: spec.cidr: 10.0.128.0/20 overlaps 10.0.0.0/16 of IPPool a",
        ),
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.0/28]}]",
            "address-pools: [{name: b, protocol: layer2, addresses: [198.51.100.0/28, 192.0.2.9-192.0.2.20]}]",
            "spec.addresses[1]: 192.0.2.9-192.0.2.20 overlaps 192.0.2.0/28 of IPAddressPool metallb-system/a",
        ),
    ],
)
def test_pools_that_share_addresses(felixctl: Felixctl, store: Etcd, first: str, second: str, said: str) -> None:
    together = felixctl("apply", "--dry-run", "-f", "-", stdin=f"{first}\n---\n{second}")
    assert felixctl("apply", "-f", "-", stdin=first).code == 0

    after = felixctl("apply", "-f", "-", stdin=second)

    assert (together.code, after.code) == (1, 1)
    assert said in together.err
    assert said in after.err
    assert felixctl("apply", "-f", "-", stdin=first).code == 0


def test_a_later_version_of_metallbs_config_map_takes_away_what_it_no_longer_says(
    felixctl: Felixctl, store: Etcd
) -> None:
    config = """
apiVersion: v1
kind: ConfigMap
metadata: {name: config, namespace: metallb-system}
data:
  config: |
    address-pools:
    - {name: POOL, protocol: layer2, addresses: [192.0.2.0/28]}
"""
    by_hand = (
        "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: own, namespace: metallb-system},"
        " spec: {addresses: [198.51.100.0/28]}}"
    )
    felixctl("apply", "-f", "-", stdin=f"{config.replace('POOL', 'old')}\n---\n{by_hand}")

    answer = felixctl("apply", "-f", "-", stdin=config.replace("POOL", "new"))

    assert answer.lines == [
        "IPAddressPool metallb-system/new created",
        "L2Advertisement metallb-system/new created",
        "IPAddressPool metallb-system/old deleted",
        "L2Advertisement metallb-system/old deleted",
    ]
    assert felixctl("get", "ipaddresspool", "-o", "name").lines == [
        "ipaddresspool.metallb.io/metallb-system/new",
        "ipaddresspool.metallb.io/metallb-system/own",
    ]


def test_an_object_written_twice(felixctl: Felixctl, store: Etcd) -> None:
    same = felixctl("apply", "-f", "-", stdin=f"{SERVICE}---\n{SERVICE}")
    other = felixctl("apply", "-f", "-", stdin=f"{SERVICE}---\n{SERVICE.replace('80', '81')}---\n{POLICY}")

    assert (same.code, same.lines) == (0, ["Service default/svc created"])
    assert "warning: stdin:6 (document 2): Service default/svc: is written twice" in same.err
    assert (other.code, other.lines) == (1, ["NetworkPolicy default/web created"])
    assert "they differ: neither is taken" in other.err


def test_many_objects_in_a_few_transactions(felixctl: Felixctl, store: Etcd) -> None:
    names = [f"p{index:03}" for index in range(130)]
    before = store.revision

    answer = felixctl("apply", "-f", "-", stdin="---\n".join(POLICY.replace("web}", f"{name}}}") for name in names))

    assert answer.lines == [f"NetworkPolicy default/{name} created" for name in names]
    assert store.revision - before == 3


def test_an_object_too_large_for_etcd_is_refused_by_itself(felixctl: Felixctl, store: Etcd) -> None:
    nets = ", ".join(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(120_000))
    head = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: large}"
    large = f"{head}, spec: {{nets: [{nets}]}}}}\n"

    answer = felixctl("apply", "-f", "-", stdin=f"{large}---\n{SERVICE}")

    assert (answer.code, answer.lines) == (1, ["GlobalNetworkSet large refused", "Service default/svc created"])
    assert "GlobalNetworkSet large: " in answer.err
    assert "too large" in answer.err


def test_dry_run_and_diff_change_nothing(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=POLICY)
    before = store.get_prefix("/")
    text = f"{POLICY.replace('Allow', 'Deny')}---\n{SERVICE}"

    dry, diff = felixctl("apply", "--dry-run", "-f", "-", stdin=text), felixctl("diff", "-f", "-", stdin=text)

    assert dry.lines == ["NetworkPolicy default/web configured (dry run)", "Service default/svc created (dry run)"]
    assert diff.code == 1
    assert "-  - action: Allow" in diff.lines
    assert "+  - action: Deny" in diff.lines
    assert store.get_prefix("/") == before
    assert (felixctl("diff", "-f", "-", stdin=POLICY).code, felixctl("diff", "-f", "-", stdin=POLICY).out) == (0, "")


def test_diff_shows_no_secret(felixctl: Felixctl, store: Etcd) -> None:
    secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {password: %s}}"
    felixctl("apply", "-f", "-", stdin=secret % "hunter2")

    diff = felixctl("diff", "-f", "-", stdin=secret % "hunter3")

    assert [line for line in diff.lines if "password" in line] == [
        "-  password: '*** (before)'",
        "+  password: '*** (after)'",
    ]


def test_get_by_name_kind_and_revision(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=POLICY)
    then = store.revision
    felixctl("apply", "-f", "-", stdin=POLICY.replace("Allow", "Deny"))

    now, before = (felixctl("get", "networkpolicy", "web", "-o", "json", *at) for at in ((), ("--revision", str(then))))

    assert json.loads(now.out)["spec"]["ingress"] == [{"action": "Deny"}]
    assert json.loads(before.out)["spec"]["ingress"] == [{"action": "Allow"}]
    assert json.loads(now.out)["metadata"]["name"] == "web"
    assert felixctl("get", "np,svc", "-o", "name").lines == ["networkpolicy.projectcalico.org/default/web"]
    assert felixctl("get", "np").lines[0].split() == ["NAME", "TIER", "ORDER", "SELECTOR"]
    assert felixctl("get", "np", "-A").lines[1].split() == ["default", "web", "default", "-", "app", "==", "'web'"]
    missing = felixctl("get", "np", "no", "web")
    assert (missing.code, missing.err) == (1, "error: NetworkPolicy default/no is not found\n")


def test_a_value_that_is_no_object_is_named_and_the_others_are_shown(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=SERVICE)
    store.put(SERVICE_KEY.replace("svc", "broken"), "{not json")

    answer = felixctl("get", "svc")

    assert answer.code == 0
    assert "services/default/broken is no JSON object" in answer.err
    assert answer.lines[1].startswith("svc")


def test_delete_by_name_and_by_file(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=f"{POLICY}---\n{SERVICE}")

    by_name, by_file = felixctl("delete", "np", "web"), felixctl("delete", "-f", "-", stdin=SERVICE)
    again = felixctl("delete", "-f", "-", stdin=SERVICE)

    assert (by_name.out, by_file.out) == ("NetworkPolicy default/web deleted\n", "Service default/svc deleted\n")
    assert (again.code, again.err) == (1, "error: Service default/svc is not found\n")
    assert felixctl("delete", "svc", "svc", "--ignore-not-found").code == 0
    assert store.get_prefix("/") == {}


def test_a_tier_with_policies_stays(felixctl: Felixctl, store: Etcd) -> None:
    tier = "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}}"
    policy = POLICY.replace("name: web", "name: security.web").replace("spec: {", "spec: {tier: security, ")
    felixctl("apply", "-f", "-", stdin=f"{tier}\n---\n{policy}")

    refused = felixctl("delete", "tier", "security")
    felixctl("delete", "np", "security.web")

    assert refused.err == "error: Tier security: it has policies: NetworkPolicy default/security.web\n"
    assert felixctl("delete", "tier", "security").out == "Tier security deleted\n"


def test_what_every_agent_relies_on_stays(felixctl: Felixctl, store: Etcd) -> None:
    tiers, information = (f"/calico/resources/v3/projectcalico.org/{one}" for one in ("tiers", "clusterinformations"))
    for key, kind in ((f"{tiers}/default", "Tier"), (f"{information}/default", "ClusterInformation")):
        store.put(
            key, {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "default"}, "spec": {}}
        )

    for kind, why in (("tier", "it is built in"), ("clusterinformation", "to lock it set datastoreReady to false")):
        refused = felixctl("delete", kind, "default")
        assert (refused.code, why in refused.err) == (1, True)

    assert len(store.get_prefix("/calico/")) == 2


REFERRING = """
{apiVersion: metallb.io/v1beta2, kind: BGPPeer, metadata: {name: tor, namespace: m},
 spec: {myASN: 64512, peerASN: 65000, peerAddress: 192.0.2.1, bfdProfile: fast, passwordSecret: {name: key}}}
---
{apiVersion: metallb.io/v1beta1, kind: BGPAdvertisement, metadata: {name: all, namespace: m},
 spec: {communities: [gold, 65000:1]}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: up},
 spec: {peerIP: 192.0.2.2, asNumber: 65000, filters: [some]}}
"""
REFERRED = """
{apiVersion: metallb.io/v1beta1, kind: BFDProfile, metadata: {name: fast, namespace: m}}
---
{apiVersion: metallb.io/v1beta1, kind: Community, metadata: {name: names, namespace: other},
 spec: {communities: [{name: gold, value: 65000:2}]}}
---
{apiVersion: projectcalico.org/v3, kind: BGPFilter, metadata: {name: some}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: m}, type: kubernetes.io/basic-auth,
 stringData: {password: x}}
"""


def test_what_an_object_names_and_is_not_there_is_said_and_stops_nothing(felixctl: Felixctl, store: Etcd) -> None:
    alone = felixctl("apply", "-f", "-", stdin=REFERRING)
    assert alone.code == 0
    for words in (
        "spec.bfdProfile: there is no BFDProfile m/fast: nobody gets a session by this object until there is",
        "spec.passwordSecret: there is no Secret m/key: nobody gets a session",
        "spec.communities[0]: no Community gives 'gold' a number: nothing is announced by this object",
        "spec.filters[0]: there is no BGPFilter some: nobody gets a session",
    ):
        assert words in alone.err
    together = felixctl("apply", "-f", "-", stdin=f"{REFERRING}---{REFERRED}")
    assert (together.code, together.err) == (0, "")


def test_what_others_need_goes_only_with_them_or_is_named(felixctl: Felixctl, store: Etcd) -> None:
    felixctl("apply", "-f", "-", stdin=f"{REFERRING}---{REFERRED}")

    refused = felixctl("delete", "bfdprofile", "fast", "-n", "m")
    community = felixctl("delete", "community", "names", "-n", "other")
    together = felixctl(
        "delete",
        "-f",
        "-",
        stdin=f"{REFERRED}---{REFERRING}",
    )

    assert (refused.code, refused.err) == (1, "error: BFDProfile m/fast: it is in use: BGPPeer m/tor\n")
    assert community.code == 0
    assert "Community other/names: is missed now, as felixctl bgp will say: BGPAdvertisement m/all" in community.err
    assert "in use" not in together.err
    assert "missed" not in together.err
    assert store.get_prefix("/") == {}


def test_exit_codes_when_etcd_cannot_be_used() -> None:
    unnamed = run("get", "np")
    refused = run("--etcd", "http://127.0.0.1:1", "get", "np")
    unknown = run("--etcd", "http://no-such-host.invalid:2379", "apply", "-f", "-", stdin=POLICY)
    wrong = run("aply")

    assert (unnamed.code, refused.code, unknown.code, wrong.code) == (2, 3, 3, 2)
    assert "no etcd is named" in unnamed.err
    assert "etcd: the connection is refused: http://127.0.0.1:1" in refused.err
    assert "the name does not resolve" in unknown.err
    assert "Did you mean apply?" in wrong.err


def test_the_machines_own_etcd(tmp_path: Path) -> None:
    answer = run("--etcd", "local", "get", "np", environment={"FELIXPY_RUN_DIR": str(tmp_path)})

    assert answer.code == 3
    assert f"unix:{tmp_path}/etcd/client.sock:0" in answer.err


def test_calicoctls_environment_is_read(store: Etcd) -> None:
    assert run("get", "np", environment={"ETCD_ENDPOINTS": store.url}).code == 0


def test_nothing_is_coloured_where_there_is_no_terminal(felixctl: Felixctl, store: Etcd) -> None:
    answers = felixctl("apply", "-f", "-", stdin=POLICY + "---\nkind: x\n"), felixctl("get", "np"), felixctl("get", "x")

    assert "\x1b" not in "".join(answer.out + answer.err for answer in answers)


VIPS = """\
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: vips, namespace: metallb-system}
spec: {addresses: [192.0.2.0/24]}
"""


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pods}, spec: {cidr: 192.0.2.0/25}}",
            "overlaps 192.0.2.0/25 of IPPool pods",
        ),
        (
            "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: lb},"
            " spec: {cidr: 192.0.2.0/25, allowedUses: [LoadBalancer]}}",
            "overlaps 192.0.2.0/25 of IPPool lb",
        ),
        (
            "{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default},"
            " spec: {serviceClusterIPs: [{cidr: 192.0.0.0/16}]}}",
            "overlaps 192.0.0.0/16 of BGPConfiguration default",
        ),
        (
            "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1},"
            " spec: {bgp: {ipv4Address: 192.0.2.7/24}}}",
            "overlaps 192.0.2.7 of Node n1",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: dns},"
            " spec: {clusterIP: 192.0.2.53, ports: [{port: 53}]}}",
            "overlaps 192.0.2.53 of Service default/dns",
        ),
    ],
)
def test_a_pool_of_service_addresses_excludes_what_others_have(
    felixctl: Felixctl, store: Etcd, other: str, said: str
) -> None:
    assert felixctl("apply", "-f", "-", stdin=other).code == 0
    refused = felixctl("apply", "-f", "-", stdin=VIPS)
    assert refused.code == 1
    assert f"IPAddressPool metallb-system/vips: spec.addresses[0]: 192.0.2.0/24 {said}" in refused.err
    together = felixctl("apply", "-f", "-", stdin=f"{other}\n---\n{VIPS}")
    assert "192.0.2.0/24" in together.err, "in one file as well"


def test_what_moves_when_a_pool_is_deleted_is_said_before(felixctl: Felixctl, store: Etcd) -> None:
    cluster = (
        "{apiVersion: projectcalico.org/v3, kind: ClusterInformation, metadata: {name: default},"
        " spec: {clusterGUID: c, datastoreReady: true}}"
    )
    service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, ports: [{port: 80}]}}"
    other = VIPS.replace("vips", "other").replace("192.0.2.0", "198.51.100.0")
    text = "\n---\n".join((cluster, VIPS, other, service))
    assert felixctl("apply", "-f", "-", stdin=text).code == 0
    pool = felixctl("diff", "--delete", "-f", "-", stdin=other)
    assert "Service default/web: 198.51.100.0 → 192.0.2.0" in pool.lines
    gone = felixctl("diff", "--delete", "-f", "-", stdin=service)
    assert "Service default/web: 198.51.100.0 → none" in gone.lines


def test_ranges_that_come_after_a_pool_are_refused_and_nodes_are_not(felixctl: Felixctl, store: Etcd) -> None:
    assert felixctl("apply", "-f", "-", stdin=VIPS).code == 0
    pods = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p}, spec: {cidr: 192.0.0.0/16}}"
    refused = felixctl("apply", "-f", "-", stdin=pods)
    assert "IPPool p: spec.cidr: 192.0.0.0/16 overlaps 192.0.2.0/24 of IPAddressPool metallb-system/vips" in refused.err
    node = (
        "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1}, spec: {bgp: {ipv4Address: 192.0.2.7/24}}}"
    )
    assert felixctl("apply", "-f", "-", stdin=node).code == 0


@pytest.mark.parametrize(("spec", "fits"), [
    ("{aggregationLength: 24}", True),
    ("{aggregationLength: 23}", False),
    ("{ipAddressPools: [vips], aggregationLength: 16}", False),
    ("{ipAddressPools: [others], aggregationLength: 16}", True),
    ("{ipAddressPoolSelectors: [{matchLabels: {tier: public}}], aggregationLength: 16}", True),
    ("{aggregationLengthV6: 64}", True),
])  # fmt: skip
def test_no_aggregate_is_wider_than_its_pool(felixctl: Felixctl, store: Etcd, spec: str, fits: bool) -> None:
    done = felixctl("apply", "-f", "-", stdin=f"{widened(spec)}\n---\n{VIPS}")
    assert (done.code == 0, TOO_WIDE in done.err) == (fits, not fits)


@pytest.mark.parametrize("pool_first", [True, False])
def test_the_later_of_an_aggregate_and_its_pool_is_refused(felixctl: Felixctl, store: Etcd, pool_first: bool) -> None:
    first, then = (VIPS, widened("{aggregationLength: 8}")) if pool_first else (widened("{aggregationLength: 8}"), VIPS)
    assert felixctl("apply", "-f", "-", stdin=first).code == 0
    refused = felixctl("apply", "-f", "-", stdin=then)
    assert (refused.code, TOO_WIDE in refused.err) == (1, True)


def advertisement(name: str, spec: str) -> str:
    metadata = f"{{name: {name}, namespace: metallb-system}}"
    return f"{{apiVersion: metallb.io/v1beta1, kind: BGPAdvertisement, metadata: {metadata}, spec: {spec}}}"


def node(name: str, rack: str) -> str:
    return f"{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: {name}, labels: {{rack: {rack}}}}}}}"


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        ("{localPref: 200}", True),
        ("{localPref: 200, peers: [tor]}", True),
        ("{localPref: 200, nodeSelectors: [{matchLabels: {rack: a}}]}", True),
        ("{localPref: 100}", False),
        ("{localPref: 200, aggregationLength: 24}", False),
        ("{localPref: 200, nodeSelectors: [{matchLabels: {rack: b}}]}", False),
        ("{localPref: 200, ipAddressPools: [others]}", False),
        ("{localPref: 200, serviceSelectors: [{matchLabels: {a: b}}]}", False),
    ],
)
def test_two_advertisements_of_one_path_agree_on_its_preference(
    felixctl: Felixctl, store: Etcd, second: str, refused: bool
) -> None:
    first = advertisement("first", "{localPref: 100, nodeSelectors: [{matchLabels: {rack: a}}]}")
    texts = (VIPS, node("n1", "a"), node("n2", "b"), first)
    assert felixctl("apply", "-f", "-", stdin="\n---\n".join(texts)).code == 0
    said = felixctl("apply", "-f", "-", stdin=advertisement("second", second))
    words = "spec.localPref: is 200, and BGPAdvertisement metallb-system/first says 100 for the same paths of"
    assert (words in said.err, said.code) == (refused, int(refused))


TOO_WIDE = "BGPAdvertisement metallb-system/wide aggregates to /"


def widened(spec: str) -> str:
    meta = "{name: wide, namespace: metallb-system}"
    return f"{{apiVersion: metallb.io/v1beta1, kind: BGPAdvertisement, metadata: {meta}, spec: {spec}}}"


def test_diff_tells_of_a_change_that_it_does_not_show(felixctl: Callable[..., Answer]) -> None:
    peer = """\
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.0.0.1, password: PASSWORD}
"""
    assert felixctl("apply", "-f", "-", stdin=peer.replace("PASSWORD", "first")).code == 0
    said = felixctl("diff", "-f", "-", stdin=peer.replace("PASSWORD", "second"))
    assert said.code == 1
    assert said.lines == [
        "BGPPeer metallb-system/tor: what is not shown of it would be another",
        "No pair of endpoints fares otherwise.",
    ]
    assert felixctl("diff", "-f", "-", stdin=peer.replace("PASSWORD", "first")).out == ""


def test_a_file_that_breaks_off_says_that_the_rest_of_it_is_not_read(felixctl: Callable[..., Answer]) -> None:
    one = "apiVersion: v1\nkind: Namespace\nmetadata: {name: NAME}\n---\n"
    said = felixctl("apply", "-f", "-", stdin=f"{one.replace('NAME', 'a')}: : :\n---\n{one.replace('NAME', 'b')}")
    assert (said.code, said.lines) == (1, ["Namespace a created"])
    assert said.err.endswith(": it is read no further\n")
