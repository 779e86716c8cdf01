"""Which netfilter back end a host supports, why that one, and what becomes of the other's leftovers.

In → out: what the operator asked for, and what a trial in the kernel says → a Choice, with the reason in words. What
the other back ends left behind is removed once the chosen one stands, never before.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from felixpy.dataplane.iptables.names import PREFIX
from felixpy.dataplane.nftables import TABLE
from felixpy.dataplane.objects import BaseHook, Chain, Counts, Key, Op, Outcome, Put, Seen
from felixpy.dataplane.rules import REPORT_GROUP, REPORTS_PER_S, Accept, Report, Rule
from felixpy.dataplane.sets import VERSIONS, Version
from felixpy.drivers.iptables import IptablesDriver, Programs, Variant, shorten
from felixpy.drivers.netlink.ipset import IpsetClient
from felixpy.drivers.netlink.nft.counters import NftCounters
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import in_namespace

PROBE_TABLE = "felixpy-probe"
PROGRAM_TIMEOUT_S = 20
_LEGACY_TABLES = (Path("/proc/thread-self/net/ip_tables_names"), Path("/proc/thread-self/net/ip6_tables_names"))
"""Empty or missing where nobody ever used the legacy variant, whose programs would make tables by looking."""
_TRIAL_BEGIN = f"*filter\n:{PREFIX}trial - [0:0]\n-A {PREFIX}trial {{}}\nCOMMIT\n"
_TRIAL_REPORT = f"-m limit --limit {REPORTS_PER_S}/sec -j NFLOG --nflog-group {REPORT_GROUP} --nflog-prefix trial"
_TRIAL_END = f"*filter\n:{PREFIX}trial - [0:0]\n-X {PREFIX}trial\nCOMMIT\n"
_log = logging.getLogger(__name__)


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


class NetfilterDriver:
    """The chosen back end. After the first apply without a failure, what the others left is removed, once."""

    def __init__(self, choice: Choice, table: str = TABLE) -> None:
        self.choice = choice
        self.takes_reports = takes_reports(choice.backend)
        self._driver = _make_driver(choice.backend, table)
        self._counters: NftCounters | None = None
        self._stands = False
        self._others = [
            other
            for other in (BackendSetting.NFTABLES, BackendSetting.IPTABLES_NFT, BackendSetting.IPTABLES_LEGACY)
            if other is not choice.backend
        ]
        self._table = table
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def has_events(self) -> bool:
        """Whether the kernel tells of changes that others make."""
        return isinstance(self._driver, NftDriver)

    @property
    def shares_tables(self) -> bool:
        """Whether other programs have rules in the same tables."""
        return isinstance(self._driver, IptablesDriver)

    def is_touched(self) -> bool:
        """Whether somebody else may have changed our chains, where the kernel tells of no change."""
        return isinstance(self._driver, IptablesDriver) and self._driver.is_touched()

    @property
    def port_ids(self) -> frozenset[int]:
        """By which the kernel names us as the cause of an event."""
        return frozenset({self._driver.port_id}) if isinstance(self._driver, NftDriver) else frozenset()

    def close(self) -> None:
        """Gives descriptors back; the kernel stays as it is."""
        self._driver.close()
        if self._counters is not None:
            self._counters.close()
        os.close(self._namespace)

    def read_counts(self, chains: Iterable[str]) -> Mapping[str, Counts]:
        """What passed these chains; may be called in a thread, one at a time. Raises  OSError."""
        if isinstance(self._driver, IptablesDriver):
            return self._driver.read_counts(chains)
        if self._counters is None:
            self._counters = in_namespace(self._namespace, lambda: NftCounters(self._table))
        return self._counters.read(chains)

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """What is ours in the chosen back end.

        Raises  OSError.
        """
        return self._driver.read(wanted)

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order.

        Raises  OSError when the back end does not answer.
        """
        outcomes = self._driver.apply(ops)
        if not self._stands and all(outcome.error is None for outcome in outcomes):
            self._stands = True
            in_namespace(self._namespace, self._remove_leftovers)
        return outcomes

    def _remove_leftovers(self) -> None:
        """What another back end left, as far as it can be reached; it may never have been there."""
        for other in self._others:
            try:
                if _has_leftovers(other, self._table):
                    _destroy(other, self._table)
                    _log.info("what %s had is removed, now that %s stands", other, self.choice.backend)
            except (OSError, BackendUnavailable) as error:
                _log.warning("what %s had cannot be removed: %s", other, error)
        if isinstance(self._driver, NftDriver):
            _destroy_sets()


def open_netfilter(setting: BackendSetting, table: str = TABLE) -> NetfilterDriver:
    """The back end for what was asked; says in the log which one it is, and why.

    Raises  BackendUnavailable.
    """
    choice = choose_backend(setting, find_usual(), try_backend)
    _log.info("packet rules by %s: %s", choice.backend, choice.reason)
    return NetfilterDriver(choice, table)


def remove_all(table: str = TABLE) -> Iterator[BackendSetting]:
    """Takes everything of ours out of every back end that has some; which those were.

    Raises  OSError.
    """
    for backend in (BackendSetting.NFTABLES, BackendSetting.IPTABLES_NFT, BackendSetting.IPTABLES_LEGACY):
        if _has_leftovers(backend, table):
            _destroy(backend, table)
            yield backend
    _destroy_sets()


def _destroy(backend: BackendSetting, table: str) -> None:
    driver = _make_driver(backend, table)
    try:
        if isinstance(driver, IptablesDriver):
            driver.destroy(keep_sets=True)
        else:
            driver.destroy()
    finally:
        driver.close()


def _destroy_sets() -> None:
    """The sets that a variant of iptables left; a kernel without ipset has none."""
    with IpsetClient() as sets:
        try:
            left = sets.read(PREFIX)
        except OSError:
            return
        for it in left:
            try:
                sets.destroy(it.name)
            except OSError as error:
                _log.warning("ipset destroy %s: %s", it.name, error)


def _make_driver(backend: BackendSetting, table: str) -> NftDriver | IptablesDriver:
    """Raises  BackendUnavailable, OSError."""
    if backend is BackendSetting.NFTABLES:
        return NftDriver(table)
    programs = find_programs(Variant.NFT if backend is BackendSetting.IPTABLES_NFT else Variant.LEGACY)
    if programs is None:
        raise BackendUnavailable(f"{backend}: not installed")
    return IptablesDriver(programs)


def _has_leftovers(backend: BackendSetting, table: str) -> bool:
    """Whether a back end holds anything of ours; asking creates nothing, not even an empty table."""
    match backend:
        case BackendSetting.NFTABLES:
            try:
                with NftDriver(table) as driver:
                    return driver.read() != Seen()
            except OSError:
                return False
        case BackendSetting.IPTABLES_LEGACY:
            if not any(path.exists() and path.read_text() for path in _LEGACY_TABLES):
                return False
            return _saves_ours(Variant.LEGACY)
        case _:
            return _saves_ours(Variant.NFT)


def _saves_ours(variant: Variant) -> bool:
    programs = find_programs(variant)
    if programs is None:
        return False
    for program in programs.save.values():
        try:
            done = subprocess.run([program], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if f"\n:{PREFIX}" in done.stdout:
            return True
    return False
