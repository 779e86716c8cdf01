"""Which netfilter back end a host supports, and why that one: found by trial.

In → out: what the operator asked for, and what a trial in the kernel says → a Choice, with the reason in words. A trial
leaves nothing behind. The driver that comes of it is `netfilter.py`'s.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from felixpy.dataplane.iptables.names import PREFIX
from felixpy.dataplane.objects import BaseHook, Chain, Put
from felixpy.dataplane.rules import REPORT_GROUP, REPORTS_PER_S, Accept, Report, Rule
from felixpy.dataplane.sets import VERSIONS, Version
from felixpy.drivers.iptables import Programs, Variant, shorten
from felixpy.drivers.netlink.ipset import IpsetClient
from felixpy.drivers.netlink.nft.driver import NftDriver

PROBE_TABLE = "felixpy-probe"
PROGRAM_TIMEOUT_S = 20
_TRIAL_BEGIN = f"*filter\n:{PREFIX}trial - [0:0]\n-A {PREFIX}trial {{}}\nCOMMIT\n"
_TRIAL_REPORT = f"-m limit --limit {REPORTS_PER_S}/sec -j NFLOG --nflog-group {REPORT_GROUP} --nflog-prefix trial"
_TRIAL_END = f"*filter\n:{PREFIX}trial - [0:0]\n-X {PREFIX}trial\nCOMMIT\n"


class BackendSetting(StrEnum):
    """What the operator may ask for."""

    AUTO = "auto"
    NFTABLES = "nftables"
    IPTABLES = "iptables"
    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"


class BackendUnavailable(Exception):
    """No back end that was asked for works on this host; the text says what each one lacks."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The back end (never AUTO or plain IPTABLES), and why it is that one."""

    backend: BackendSetting
    reason: str


Trial = Callable[[BackendSetting], str]
"""Whether a back end works here: "" where it does, else why not."""


def choose_backend(setting: BackendSetting, usual: Variant | None, trial: Trial) -> Choice:
    """nftables where the kernel takes it; else iptables, first in the variant that the host itself uses (`usual`).

    Nothing is tried after the first that works.

    Raises  BackendUnavailable.
    """
    lacking: list[str] = []
    for candidate in _candidates(setting, usual):
        lack = trial(candidate)
        if not lack:
            asked = "asked for" if setting is candidate else "; ".join(lacking) or "it works here"
            return Choice(candidate, asked)
        lacking.append(f"no {candidate}: {lack}")
    raise BackendUnavailable("; ".join(lacking))


def _candidates(setting: BackendSetting, usual: Variant | None) -> Sequence[BackendSetting]:
    iptables = (BackendSetting.IPTABLES_NFT, BackendSetting.IPTABLES_LEGACY)
    if usual is Variant.LEGACY:
        iptables = (BackendSetting.IPTABLES_LEGACY, BackendSetting.IPTABLES_NFT)
    match setting:
        case BackendSetting.AUTO:
            return (BackendSetting.NFTABLES, *iptables)
        case BackendSetting.IPTABLES:
            return iptables
        case _:
            return (setting,)


def try_backend(backend: BackendSetting) -> str:
    """Puts a trial chain into the kernel of this network namespace and takes it out again; why it cannot, or ""."""
    match backend:
        case BackendSetting.NFTABLES:
            return _try_nftables()
        case BackendSetting.IPTABLES_NFT:
            return _try_ipset() or _try_iptables(Variant.NFT)
        case _:
            return _try_ipset() or _try_iptables(Variant.LEGACY)


def takes_reports(backend: BackendSetting) -> bool:
    """Whether the kernel can tell of packets (NFLOG): some are built without."""
    match backend:
        case BackendSetting.NFTABLES:
            return not _try_nftables((Rule(Report("trial")),))
        case BackendSetting.IPTABLES_NFT:
            return not _try_iptables(Variant.NFT, _TRIAL_REPORT)
        case _:
            return not _try_iptables(Variant.LEGACY, _TRIAL_REPORT)


def find_usual() -> Variant | None:
    """Which variant plain `iptables` is on this host."""
    return _variant_of(shutil.which("iptables-save") or "")


def find_programs(variant: Variant) -> Programs | None:
    """The programs of a variant: by the names that say it, else the plain ones where they are of it."""
    save: dict[Version, str] = {}
    restore: dict[Version, str] = {}
    for version in VERSIONS:
        base = "iptables" if version == 4 else "ip6tables"
        for prefix in (f"{base}-{variant}", base):
            paths = shutil.which(f"{prefix}-save"), shutil.which(f"{prefix}-restore")
            if paths[0] and paths[1] and _variant_of(paths[0]) is variant:
                save[version], restore[version] = paths[0], paths[1]
                break
        else:
            return None
    return Programs(variant, save, restore)


def _variant_of(program: str) -> Variant | None:
    if not program:
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Variant.NFT if "nf_tables" in done.stdout else Variant.LEGACY if done.returncode == 0 else None


def _try_nftables(rules: tuple[Rule, ...] = (Rule(Accept(), (), "trial"),)) -> str:
    chain = Chain("trial", rules, BaseHook("filter", "forward", 0))
    try:
        with NftDriver(PROBE_TABLE) as driver:
            (outcome,) = driver.apply((Put(chain),))
            if outcome.error is None:
                driver.destroy()
            return f"the kernel does not take it ({outcome.error})" if outcome.error else ""
    except OSError as error:
        return f"the kernel does not take it ({error.strerror})"


def _try_ipset() -> str:
    try:
        with IpsetClient() as sets:
            sets.read(PROBE_TABLE)
    except OSError as error:
        return f"the kernel has no ipset ({error.strerror})"
    return ""


def _try_iptables(variant: Variant, trial: str = "-m comment --comment trial -j RETURN") -> str:
    programs = find_programs(variant)
    if programs is None:
        return "not installed"
    for program in programs.restore.values():
        for text in (_TRIAL_BEGIN.format(trial), _TRIAL_END):
            try:
                done = subprocess.run(
                    [program, "--noflush"], input=text, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if done.returncode:
                return f"{Path(program).name} does not work ({shorten(done.stderr)})"
    return ""
