"""Which back end is chosen and why; what is tried leaves nothing behind."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from felixpy.drivers.backend import BackendSetting, BackendUnavailable, choose_backend, try_backend
from felixpy.drivers.iptables import Variant
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace

NFTABLES, NFT, LEGACY = BackendSetting.NFTABLES, BackendSetting.IPTABLES_NFT, BackendSetting.IPTABLES_LEGACY
AUTO, IPTABLES = BackendSetting.AUTO, BackendSetting.IPTABLES


@pytest.mark.parametrize(
    ("setting", "usual", "lacks", "chosen", "reason"),
    [
        (AUTO, Variant.NFT, {}, NFTABLES, "it works here"),
        (AUTO, Variant.NFT, {NFTABLES: "too old"}, NFT, "no nftables: too old"),
        (AUTO, Variant.LEGACY, {NFTABLES: "too old"}, LEGACY, "no nftables: too old"),
        (AUTO, None, {NFTABLES: "x", NFT: "y"}, LEGACY, "no nftables: x; no iptables-nft: y"),
        (IPTABLES, Variant.LEGACY, {}, LEGACY, "it works here"),
        (IPTABLES, Variant.LEGACY, {LEGACY: "x"}, NFT, "no iptables-legacy: x"),
        (NFT, Variant.LEGACY, {}, NFT, "asked for"),
    ],
)
def test_the_first_that_works_is_chosen(
    setting: BackendSetting,
    usual: Variant | None,
    lacks: Mapping[BackendSetting, str],
    chosen: BackendSetting,
    reason: str,
) -> None:
    choice = choose_backend(setting, usual, lambda one: lacks.get(one, ""))
    assert (choice.backend, choice.reason) == (chosen, reason)


def test_nothing_is_tried_after_what_works() -> None:
    tried: list[BackendSetting] = []

    def trial(backend: BackendSetting) -> str:
        tried.append(backend)
        return "" if backend is NFT else "no"

    choose_backend(AUTO, None, trial)
    assert tried == [NFTABLES, NFT]


def test_without_any_each_lack_is_said() -> None:
    with pytest.raises(BackendUnavailable, match="no iptables-legacy: a; no iptables-nft: a"):
        choose_backend(IPTABLES, Variant.LEGACY, lambda _: "a")


def test_a_trial_leaves_nothing_of_ours(namespace: Namespace) -> None:
    for backend in (NFTABLES, NFT, LEGACY):
        assert in_namespace(namespace.path, lambda backend=backend: try_backend(backend)) == ""  # type: ignore[misc]
    shown = namespace.run("nft", "list", "ruleset") + namespace.run("iptables-legacy-save")
    assert "felixpy" not in shown
    assert "fpx" not in shown


def test_a_kernel_that_refuses_is_quoted(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert in_namespace(namespace.path, lambda: try_backend(LEGACY)) == "not installed"
