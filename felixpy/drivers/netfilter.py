"""Chains and sets of one network namespace by the back end that was chosen, and what becomes of the others' leftovers.

In → out: a Choice → a driver. What the other back ends left behind is removed once the chosen one stands, never before.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from felixpy.dataplane.iptables.names import PREFIX
from felixpy.dataplane.nftables import TABLE
from felixpy.dataplane.objects import Counts, Key, Op, Outcome, Seen
from felixpy.drivers.backend import (
    PROGRAM_TIMEOUT_S,
    BackendSetting,
    BackendUnavailable,
    Choice,
    choose_backend,
    find_programs,
    find_usual,
    takes_reports,
    try_backend,
)
from felixpy.drivers.iptables import IptablesDriver, Variant
from felixpy.drivers.netlink.ipset import IpsetClient
from felixpy.drivers.netlink.nft.counters import NftCounters
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import in_namespace

_LEGACY_TABLES = (Path("/proc/thread-self/net/ip_tables_names"), Path("/proc/thread-self/net/ip6_tables_names"))
"""Empty or missing where nobody ever used the legacy variant, whose programs would make tables by looking."""
_log = logging.getLogger(__name__)


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
