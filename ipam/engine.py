"""The allocator of one owner: plans from what it knows, commits in one transaction, learns from a refusal and retries.

In: requests, and what a watch reports; out: assignments and receipts. What is asked for while a commit is under way
goes into the next one together. The usual assignment is one transaction and no read. A caller's own writes ride along.
Decides nothing about addresses: the plans do. Holds nothing that is lost by dying: every transaction is complete.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from .addresses import Prefix, format_address
from .assigning import plan_assign
from .block import Release
from .cache import Cache
from .codec import Malformed
from .draft import CONFIG_KEYS, Draft, NeedKeys, render_value
from .model import (
    POOLS_PREFIX,
    RESERVATIONS_PREFIX,
    Assignment,
    Block,
    Owner,
    Pool,
    affinities_prefix,
    block_key,
    iter_holding,
)
from .releasing import Receipt, plan_claim_block, plan_release_addresses, plan_release_block, plan_release_handle
from .request import AddressRefused, Conflict, ExpectationFailed, IpamError, PoolExhausted, Request, Write
from .store import MAX_OPERATIONS, Store

MAX_ATTEMPTS = 100
"""How often a transaction is tried that others keep overtaking (datastoreRetries)."""

MAX_READS = 4096
"""How often a plan may ask for more keys: enough for the largest pool, every block of which has to be read."""

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.1
"""Between two attempts, a random time below a bound that doubles from the first to the longest."""

RESCAN_AFTER = timedelta(seconds=10)
"""How old knowledge of others' blocks may be before "there is no address" is said of it."""

Also = Callable[[Assignment], Sequence[Write]]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A job's part of a draft: its result once that is committed, and the caller's writes with it."""

    draft: Draft
    result: object
    writes: Sequence[Write] = ()


@dataclass(slots=True, eq=False)
class _Job:
    """One caller who waits: `plan` adds to a draft what was asked for."""

    plan: Callable[[Draft], _Planned]
    done: asyncio.Future[object]
    doubted: bool = False


@dataclass(slots=True)
class Counters:
    """What the allocator has done so far."""

    commits: int = 0
    conflicts: int = 0
    reads: int = 0
    jobs: int = 0


@dataclass(slots=True)
class _Batch:
    """Jobs that share a commit, in order, with the draft of all of them."""

    draft: Draft
    planned: dict[_Job, _Planned] = field(default_factory=dict)
    writes: dict[str, Write] = field(default_factory=dict)

    def admits(self, planned: _Planned) -> bool:
        """Whether one more job fits: into a transaction's limits, and beside the other callers' keys."""
        keys = [write.key for write in planned.writes]
        if any(key in self.writes for key in keys):
            return False
        expected = planned.draft.relied.union(planned.draft.changes, self.writes, keys)
        return len(expected) <= MAX_OPERATIONS or not self.planned

    def jobs_writing(self, key: str) -> list[_Job]:
        """The jobs whose own writes include a key."""
        return [job for job, planned in self.planned.items() if any(write.key == key for write in planned.writes)]

    def add(self, job: _Job, planned: _Planned) -> None:
        """Takes a job in."""
        self.draft = planned.draft
        self.planned[job] = planned
        self.writes.update({write.key: write for write in planned.writes})


class _Outdated(Exception):
    """A request is about to be refused for what may no longer be so; the keys say what to look at again."""

    def __init__(self, keys: Sequence[str] = (), scan: bool = False) -> None:
        super().__init__()
        self.keys = keys
        self.scan = scan


def _select_all(_pool: Pool) -> bool:
    return True


class Allocator:
    """Addresses for one owner. `selects` is the node's part of the pools' selectors; `now` is the clock, in UTC.

    Errors of the store reach the callers whose work was in the transaction. Its outcome is then unknown, and asking
    again is right: what took place is found by its handle.
    """

    def __init__(
        self,
        store: Store,
        owner: Owner,
        *,
        now: Callable[[], datetime],
        rng: random.Random,
        selects: Callable[[Pool], bool] = _select_all,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counters = Counters()
        self.selects = selects
        self._store = store
        self._cache = Cache(owner)
        self._now = now
        self._rng = rng
        self._sleep = sleep
        self._loaded = False
        self._scanned_at: datetime | None = None
        self._lost: tuple[str, ...] = ()
        self._waiting: list[_Job] = []
        self._worker: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Reads pools, configuration, and the owner's blocks. Done by the first request if not before."""
        own_prefix = affinities_prefix(self._cache.owner)
        for prefix in (POOLS_PREFIX, RESERVATIONS_PREFIX, own_prefix):
            await self._list(prefix)
        keys = [*CONFIG_KEYS, *(block_key(cidr) for cidr in self._cache.own)]
        for start in range(0, len(keys), MAX_OPERATIONS):
            await self._read(NeedKeys(keys[start : start + MAX_OPERATIONS]))
        self._loaded = True

    def observe(self, key: str, value: bytes | None, mod_revision: int) -> None:
        """Takes a change that a watch reports, of any key below the IPAM, pool and reservation prefixes."""
        self._cache.observe(key, value, mod_revision)

    def follow(self) -> None:
        """Whatever exists (but handles) has been observed, and changes will be: a claim then takes no read."""
        if not self._cache.complete:
            self._cache.assume_complete()
            self._loaded = True

    async def assign(self, request: Request, also: Also | None = None) -> Assignment:
        """All that is asked for, or nothing; with the writes that `also` makes of the assignment, or nothing.

        Raises  PoolExhausted, AddressRefused, Unreadable: not as things stand. ExpectationFailed: look again.
                Conflict, and the store's own errors: try again.
        """

        def plan(draft: Draft) -> _Planned:
            draft, assignment = plan_assign(draft, request, self.selects)
            return _Planned(draft, assignment, also(assignment) if also else ())

        result = await self._submit(plan)
        assert isinstance(result, Assignment)
        return result

    async def release(self, handle_id: str, also: Sequence[Write] = (), only_empty: bool = False) -> Receipt:
        """Gives back every address of a handle; none is no error. Raises as `assign`, but for the pools' errors.

        With `only_empty` the handle alone goes, and only if it holds no address.
        """
        return await self._release(lambda draft: plan_release_handle(draft, handle_id, only_empty), also)

    async def exchange(self, releases: Sequence[Release], request: Request | None, also: Sequence[Write]) -> int:
        """Gives back some addresses and takes others, with the caller's writes, all or nothing; the revision.

        Raises as `assign`, and ExpectationFailed where an address is not held as its release says.
        """

        def plan(draft: Draft) -> _Planned:
            receipt: Receipt | None = None
            if releases:
                draft, receipt = plan_release_addresses(draft, releases)
            if receipt is not None and receipt.refused:
                raise ExpectationFailed(format_address(next(iter(receipt.refused))))
            assignment = Assignment("", ())
            if request is not None:
                draft, assignment = plan_assign(draft, request, self.selects)
            return _Planned(draft, assignment, also)

        result = await self._submit(plan)
        assert isinstance(result, Assignment)
        return result.revision

    async def release_addresses(self, releases: Sequence[Release], also: Sequence[Write] = ()) -> Receipt:
        """Gives back single addresses, each only if its handle and sequence number are still those given."""
        return await self._release(lambda draft: plan_release_addresses(draft, releases), also)

    async def release_block(
        self, cidr: Prefix, owner: Owner | None = None, only_empty: bool = True, also: Sequence[Write] = ()
    ) -> None:
        """Gives up the claim of an owner (this one unless said) to a block. Raises BlockInUse."""

        def plan(draft: Draft) -> _Planned:
            return _Planned(plan_release_block(draft, cidr, owner or draft.owner, only_empty), None, also)

        await self._submit(plan)

    async def claim(self, cidr: Prefix) -> None:
        """Makes a block the owner's, or its claim good where Calico left it half made. Raises BlockInUse."""
        await self._submit(lambda draft: _Planned(plan_claim_block(draft, cidr), None))

    def own_blocks(self) -> tuple[Block, ...]:
        """The owner's blocks as last known."""
        entries = (self._cache.entries.get(block_key(cidr)) for cidr in self._cache.own)
        blocks = (entry.value for entry in entries if entry is not None)
        return tuple(block for block in blocks if isinstance(block, Block) and block.is_owned_by(self._cache.owner))

    def broken(self) -> Mapping[str, Malformed]:
        """Keys that cannot be read, and why: to be reported."""
        return self._cache.broken()

    async def _release(self, plan: Callable[[Draft], tuple[Draft, Receipt]], also: Sequence[Write]) -> Receipt:
        result = await self._submit(lambda draft: _Planned(*plan(draft), also))
        assert isinstance(result, Receipt)
        return result

    async def _submit(self, plan: Callable[[Draft], _Planned]) -> object:
        job = _Job(plan, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self.counters.jobs += 1
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await job.done

    async def _work(self) -> None:
        while self._waiting:
            jobs, self._waiting = self._waiting, []
            try:
                left = await self._serve(jobs)
            except Exception as error:
                _fail(jobs, error)
            else:
                self._waiting = [*left, *self._waiting]
            self._cache.drop_passing()

    async def _serve(self, jobs: list[_Job]) -> list[_Job]:
        """Serves as many jobs as one transaction takes; returns the others. On a store's error only these fail."""
        if not self._loaded:
            await self.load()
        for attempt in range(MAX_ATTEMPTS):
            undone = [job for job in jobs if not job.done.done()]
            batch, left = await self._plan(undone, guesses=self._cache.complete and not attempt)
            if not batch.planned:
                return left
            if revision := await self._commit(batch):
                for job, planned in batch.planned.items():
                    if not job.done.done():
                        job.done.set_result(_at(planned.result, revision))
                return left
            if attempt:
                bound = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
                await self._sleep(self._rng.uniform(0, bound))
        _fail(jobs, Conflict(f"{MAX_ATTEMPTS} attempts were overtaken by others, the last at {', '.join(self._lost)}"))
        return []

    async def _plan(self, jobs: list[_Job], guesses: bool) -> tuple[_Batch, list[_Job]]:
        fresh_claims = False
        for _ in range(MAX_READS):
            batch = _Batch(Draft(self._cache, self._now(), fresh_claims, guesses))
            try:
                left = self._plan_all(batch, jobs)
            except NeedKeys as need:
                fresh_claims = fresh_claims or need.claims
                await self._read(need)
            except _Outdated as outdated:
                await self._look_again(outdated)
            else:
                return batch, left
        raise Conflict(f"no plan after {MAX_READS} reads")

    def _plan_all(self, batch: _Batch, jobs: list[_Job]) -> list[_Job]:
        for place, job in enumerate(jobs):
            if job.done.done():
                continue
            try:
                planned = job.plan(batch.draft)
            except IpamError as error:
                self._doubt(job, error)
                job.done.set_exception(error)
            else:
                if not batch.admits(planned):
                    return jobs[place:]
                batch.add(job, planned)
        return []

    def _doubt(self, job: _Job, error: IpamError) -> None:
        """Raises _Outdated unless what the error rests on has been read for this job, or of late."""
        if job.doubted:
            return
        job.doubted = True
        if isinstance(error, AddressRefused):
            raise _Outdated([block_key(cidr) for cidr in iter_holding(error.address)]) from None
        if isinstance(error, PoolExhausted) and (
            self._scanned_at is None or self._now() - self._scanned_at >= RESCAN_AFTER
        ):
            raise _Outdated(scan=True) from None

    async def _look_again(self, outdated: _Outdated) -> None:
        if outdated.scan:
            self._scanned_at = self._now()
            if not self._cache.complete:
                self._cache.forget_others()
        for key in outdated.keys:
            self._cache.forget(key)
        await self.load()

    async def _read(self, need: NeedKeys) -> None:
        if need.claims:
            await self._list(affinities_prefix(self._cache.owner))
        if need.keys:
            self.counters.reads += 1
            for key, found in (await self._store.read(need.keys)).items():
                self._cache.learn(key, found)
            if need.scan:
                self._cache.drop_full(need.keys)

    async def _list(self, prefix: str) -> None:
        self.counters.reads += 1
        listed = await self._store.list(prefix)
        self._cache.retain(prefix, listed)
        for key, found in listed.items():
            self._cache.learn(key, found)

    async def _commit(self, batch: _Batch) -> int:
        """Commits; returns the revision, or 0 when something had changed."""
        expect = batch.draft.expectations()
        final = batch.draft.final()
        writes = {key: render_value(value) for key, value in final.items() if value is not None or expect[key]}
        for write in batch.writes.values():
            writes[write.key] = write.value
            if write.expect is not None:
                expect[write.key] = write.expect
        self.counters.commits += 1
        try:
            result = await self._store.commit(expect, writes)
        except BaseException:
            for key in final:
                self._cache.forget(key)
            self._loaded = False
            raise
        if result.succeeded:
            for key, value in final.items():
                self._cache.put(key, value, 0 if value is None else result.revision, result.revision)
            return result.revision
        self.counters.conflicts += 1
        current = {key: result.current.get(key) for key in expect}
        self._lost = tuple(key for key, found in current.items() if expect[key] != (found.mod_revision if found else 0))
        for key, found in current.items():
            if key not in batch.writes:
                self._cache.learn(key, found, result.revision)
            elif key in self._lost:
                _fail(batch.jobs_writing(key), ExpectationFailed(key))
        return 0


def _at(result: object, revision: int) -> object:
    return replace(result, revision=revision) if isinstance(result, Assignment) else result


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
