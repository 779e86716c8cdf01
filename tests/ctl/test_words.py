"""How people name things to felixctl: kinds and names in every form that is common, and what is nobody's name here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib.metadata import version

import pytest

from tests.ctl.conftest import FELIXCTL, Answer
from tests.support.etcd import Etcd

Felixctl = Callable[..., Answer]
SEVERAL = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}
---
{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: p, namespace: m},
 spec: {addresses: [192.0.2.0/28]}}
"""
STATUS_KEY = "/felixpy/status/metallb.io/v1beta1/servicel2statuses/m/web.n1"


@pytest.fixture
def filled(felixctl: Felixctl) -> Felixctl:
    felixctl("apply", "-f", "-", stdin=SEVERAL)
    return felixctl


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["svc/web", "ns/shop"], ["service.core/default/web", "namespace.core/shop"]),
        (["svc/shop/web", "svc/web"], ["service.core/shop/web", "service.core/default/web"]),
        (["svc", "shop/web"], ["service.core/shop/web"]),
        (["svc", "shop/web", "-n", "shop"], ["service.core/shop/web"]),
        (
            ["service.core/shop/web", "ipaddresspool.metallb.io/m/p"],
            ["service.core/shop/web", "ipaddresspool.metallb.io/m/p"],
        ),
        (["svc/web", "-n", "shop"], ["service.core/shop/web"]),
    ],
)
def test_kind_and_name_in_one_word(filled: Felixctl, words: list[str], shown: list[str]) -> None:
    answer = filled("get", *words, "-o", "name")
    assert (answer.code, answer.lines, answer.err) == (0, shown, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["svc/web", "web"], "'web' beside 'svc/web': give KIND NAME..., or KIND/NAME..."),
        (["svc/"], "names nothing"),
        (["svc", "a/b/c"], "names nothing"),
        (["ns", "a/shop"], "belongs to no namespace"),
        (["svc", "shop/web", "-n", "default"], "'shop/web' is not in namespace default"),
        (["svc/web", "pdo/x"], "there is no kind 'pdo'"),
    ],
)
def test_words_that_contradict_each_other(filled: Felixctl, words: list[str], said: str) -> None:
    answer = filled("get", *words)
    assert (answer.code, said in answer.err) == (2, True), answer.err


def test_what_get_names_delete_takes(filled: Felixctl, store: Etcd) -> None:
    names = filled("get", "svc,ns,ipaddresspools", "-A", "-o", "name").lines
    deleted = filled("delete", *names)
    assert (deleted.code, len(deleted.lines)) == (0, 4), deleted.err
    assert store.get_prefix("/") == {}


def test_what_lives_in_a_namespace_of_its_own_is_deleted_there_but_not_in_two_at_once(filled: Felixctl) -> None:
    assert filled("delete", "ipaddresspool", "p").out == "IPAddressPool m/p deleted\n"
    assert filled("delete", "ipaddresspool", "p").err == "error: IPAddressPool p is not found\n"
    for space, addresses in (("a", "192.0.2.16/28"), ("b", "192.0.2.32/28")):
        filled("apply", "-f", "-", stdin=_pool(space, addresses))
    refused = filled("delete", "ipaddresspool", "p")
    assert "say which: ipaddresspool.metallb.io/a/p or ipaddresspool.metallb.io/b/p" in refused.err
    assert filled("delete", "ipaddresspool", "b/p").out == "IPAddressPool b/p deleted\n"


def _pool(namespace: str, addresses: str) -> str:
    body = {"metadata": {"name": "p", "namespace": namespace}, "spec": {"addresses": [addresses]}}
    return json.dumps({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", **body})


def test_what_nodes_alone_write_is_named_like_the_rest(filled: Felixctl, store: Etcd) -> None:
    store.put(STATUS_KEY, {"metadata": {"name": "web.n1", "namespace": "m"}, "status": {"node": "n1"}})
    assert filled("get", "servicel2status/web.n1").lines[1].split()[:3] == ["m", "web.n1", "n1"]
    assert filled("get", "servicel2statuses,ns", "-o", "name").lines == [
        "servicel2status.metallb.io/m/web.n1",
        "namespace.core/shop",
    ]
    missing = filled("get", "servicel2status", "none")
    assert (missing.code, missing.err) == (1, "error: ServiceL2Status none is not found\n")
    assert "nodes write each ServiceL2Status" in filled("delete", "servicel2status", "web.n1").err


@pytest.mark.parametrize(
    ("word", "said"),
    [("create", "felixctl apply -f FILE"), ("replace", "felixctl apply -f FILE"), ("node", "felixctl status")],
)
def test_a_word_of_calicoctl_or_kubectl_is_not_taken_for_one_that_is_spelt_alike(
    filled: Felixctl, word: str, said: str
) -> None:
    answer = filled(word, "x")
    assert (answer.code, said in answer.err, "Did you mean" in answer.err) == (2, True, False), answer.err


def test_etcd_may_be_named_behind_the_command(store: Etcd) -> None:
    clean = {key: value for key, value in os.environ.items() if "ETCD" not in key}
    for words in (["get", "ns"], ["ipam", "show"], ["ipam", "--etcd", store.url, "check"]):
        named = words if "--etcd" in words else [*words, "--etcd", store.url]
        done = subprocess.run([FELIXCTL, *named], capture_output=True, text=True, timeout=60, env=clean, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["get", "svc", "-A"], ["get", "svc", "-A", "-o", "yaml"], ["apply", "-f", "-"], ["--help"]]
)
def test_a_full_disk_is_said_in_words(filled: Felixctl, store: Etcd, words: list[str]) -> None:
    environment = {**os.environ, "FELIXPY_ETCD": store.url}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [FELIXCTL, *words], input=SEVERAL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
            env=environment, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "error: what this command says cannot be written: No space left on device\n",
    )


def test_a_shell_completes_kinds(store: Etcd) -> None:
    asked = {"_FELIXCTL_COMPLETE": "bash_complete", "COMP_WORDS": "felixctl get svc,ippo", "COMP_CWORD": "2"}
    done = subprocess.run(
        [FELIXCTL], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["plain,svc,ippool", "plain,svc,ippools"]


def test_programs_say_their_version() -> None:
    said = {
        subprocess.run([FELIXCTL.with_name(name), flag], capture_output=True, text=True, timeout=60, check=True).stdout
        for name, flag in (("felixctl", "--version"), ("felixctl", "version"), ("felixpy", "--version"))
    }
    assert {line.split()[-1] for line in said} == {version("felixpy")}


def test_a_list_without_items_is_an_error_and_not_another_projects_kind(felixctl: Felixctl) -> None:
    for items, words in (("", "items: is needed"), (", items: 3", "items: must be a list, not the number 3")):
        answer = felixctl("apply", "-f", "-", stdin=f"{{apiVersion: v1, kind: List{items}}}")
        assert (answer.code, words in answer.err) == (1, True), answer.err


def test_a_node_that_is_none_is_named_as_such(felixctl: Felixctl, store: Etcd) -> None:
    store.put("/calico/resources/v3/projectcalico.org/nodes/n1", {"metadata": {"name": "n1"}, "spec": {}})
    asked = (["status", "n9"], ["bgp", "routes", "n9"], ["flows", "--node", "n9"])
    said = [felixctl(*words, "--timeout", "0.3") for words in asked]
    assert [one.code for one in said] == [1, 1, 1]
    assert all("n9: there is no such node; there are: n1" in one.err for one in said), said
    assert "n1: no answer" in felixctl("status", "n1", "--timeout", "0.3").err


def test_what_is_no_object_can_be_deleted_by_its_name(felixctl: Felixctl, store: Etcd) -> None:
    key = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.broken"
    store.put(key, "{not json")
    store.put(f"{key}-too", "{not json")
    assert felixctl("get", "gnp", "default.broken").err.count("is no JSON object") == 1
    deleted = felixctl("delete", "gnp", "broken")
    assert (deleted.code, f"what was at {key} was no JSON object" in deleted.out) == (0, True), deleted
    assert felixctl("delete", "gnp", "broken").code == 1
    assert store.get(f"{key}-too") == "{not json", "whose name only begins like it stays"
    store.put(key, "{not json")
    policy = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "default.broken"},
    }
    assert felixctl("apply", "-f", "-", stdin=json.dumps({**policy, "spec": {"selector": "all()"}})).code == 0
    assert felixctl("get", "gnp", "default.broken", "-o", "name").code == 0
