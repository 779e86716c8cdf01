"""Allocators and Calico nodes at the same pool at once, dying at any step, and the book of who was told what.

What is judged is judged by plain JSON and by the audit; whoever died leaves what its handles hold unsure, nothing else.
"""

import asyncio
import ipaddress
import json
import random
from dataclasses import dataclass, field

from ipam.addresses import format_address, parse_address
from ipam.audit import Problem, audit
from ipam.block import Release
from ipam.engine import Allocator
from ipam.model import BLOCKS_PREFIX, HANDLES_PREFIX, node_owner
from ipam.request import AddressRefused, BlockInUse, PoolExhausted
from tests.ipam.calico_writer import CalicoWriter, Lost
from tests.ipam.cluster import pod

POOL, BLOCK_LENGTH = ipaddress.ip_network("10.0.0.0/27"), 30
CIDRS = [str(cidr) for cidr in POOL.subnets(new_prefix=BLOCK_LENGTH)]

UNFINISHED = {Problem.CLAIM_UNCONFIRMED, Problem.CLAIM_STALE}
"""What a Calico node leaves that was overtaken while it gave up, or took, a block: it makes it good at the next use."""
CRASHED = UNFINISHED | {Problem.CLAIM_MISSING, Problem.NO_ADDRESS, Problem.COUNT_WRONG}
"""What it leaves that died between two keys."""


class Died(Exception):
    """The process ended here."""


@dataclass
class Mortal:
    """A store for an allocator that dies before or after a commit; `forgets` are keys that it does not compare."""

    store: object
    rng: random.Random
    deaths: float = 0.0
    forgets: str = "\0"

    async def read(self, keys):
        return await self.store.read(keys)

    async def list(self, prefix):
        return await self.store.list(prefix)

    async def commit(self, expect, writes):
        fate = self.rng.random()
        if fate < self.deaths / 2:
            raise Died
        kept = {key: revision for key, revision in expect.items() if not key.startswith(self.forgets)}
        result = await self.store.commit(kept, writes)
        if fate < self.deaths:
            raise Died
        return result


@dataclass
class Book:
    """What handles were asked for, and what each was told that it holds; nothing is certain of the `unsure`."""

    asked: list = field(default_factory=list)
    held: dict = field(default_factory=dict)
    unsure: set = field(default_factory=set)
    troubles: list = field(default_factory=list)

    def told(self, handle, addresses):
        """A handle has these, beside what it had."""
        if handle in self.unsure:
            return
        for other, others in self.held.items():
            for address in others & set(addresses) if other != handle else ():
                self.troubles.append(f"{address} is {other}'s, and {handle} was given it")
        self.held.setdefault(handle, set()).update(addresses)

    def doubt(self, handle):
        self.held.pop(handle, None)
        self.unsure.add(handle)


class Hammer:
    """`step` calls what accesses the datastore for a Calico node; `pause` lets the others run; `values` reads all.

    `begin` is called with each new allocator; `again` is how often a handle is given one more address, maybe while it
    is being released.
    """

    def __init__(
        self,
        seed,
        *,
        store,
        keys,
        clock,
        step,
        pause,
        values,
        begin=None,
        deaths=0.0,
        forgets="\0",
        again=0.0,
        strict=False,
    ):
        self.rng = random.Random(seed)
        self.store = Mortal(store, random.Random(seed + 1), deaths, forgets)
        self.keys, self.clock, self.step, self.pause, self.values = keys, clock, step, pause, values
        self.deaths, self.again, self.strict = deaths, again, strict
        self.begin = begin
        self.book = Book()
        self.nodes = {}
        self.deceased = 0

    def node(self, name):
        if name not in self.nodes:
            self.nodes[name] = Allocator(
                self.store, node_owner(name), now=self.clock, rng=random.Random(1), sleep=self.nap
            )
            if self.begin:
                self.begin(self.nodes[name])
        return self.nodes[name]

    async def nap(self, _seconds):
        await self.pause()

    def observe(self, key, value, revision):
        for node in self.nodes.values():
            node.observe(key, value, revision)

    async def run(self, turns, nodes=("n1", "n2", "n3"), hosts=("c1", "c2", "c3")):
        theirs = (CalicoWriter(self.keys, host, str(POOL), BLOCK_LENGTH, self.clock, self.strict) for host in hosts)
        people = [*(self.be_ours(name, turns) for name in nodes), *(self.be_theirs(each, turns) for each in theirs)]
        await asyncio.gather(*people)
        await self.judge()

    def choose(self, mine):
        """A verb, and a handle for it: mostly one of those that this one has made, at times anybody's newest."""
        known = mine if self.rng.random() < 0.7 else self.book.asked[-6:]
        verb = self.rng.choice(["assign", "assign", "assign_address", "release", "release", "release_address", "block"])
        if known and verb == "assign" and self.rng.random() < self.again:
            return verb, self.rng.choice(known)
        if verb.startswith("assign") or not known:
            self.book.asked.append(f"h{len(self.book.asked)}")
            return verb if verb.startswith("assign") else "assign", self.book.asked[-1]
        return verb, self.rng.choice(known)

    def address(self):
        return str(POOL[self.rng.randrange(POOL.num_addresses)])

    def find(self, handle):
        """An address of a handle with its sequence number, as it was a moment ago."""
        for cidr in CIDRS:
            block, _ = self.keys.get(BLOCKS_PREFIX + f"ipv4/block/{cidr.replace('/', '-')}")
            for ordinal, index in enumerate(block["allocations"] if block else ()):
                if index is not None and block["attributes"][index].get("handle_id") == handle:
                    address = str(ipaddress.ip_network(cidr)[ordinal])
                    return address, block["sequenceNumberForAllocation"].get(str(ordinal), 0)
        return None

    async def be_ours(self, name, turns):
        mine = []
        for _ in range(turns):
            await self.pause()
            verb, handle = self.choose(mine)
            try:
                if verb in ("assign", "assign_address"):
                    mine.append(handle)
                    fixed = [self.address()] if verb == "assign_address" else []
                    count = self.rng.choice([1, 1, 2])
                    got = await self.node(name).assign(pod(handle, 0 if fixed else count, addresses=fixed))
                    self.book.told(handle, [format_address(each.address) for each in got.addresses])
                elif verb == "release":
                    self.book.doubt(handle)
                    await self.node(name).release(handle)
                elif verb == "release_address" and (found := self.find(handle)):
                    self.book.doubt(handle)
                    address, sequence = found
                    await self.pause()
                    await self.node(name).release_addresses([Release(parse_address(address), handle, sequence)])
                elif verb == "block":
                    blocks = self.node(name).own_blocks()
                    if blocks:
                        await self.node(name).release_block(self.rng.choice(blocks).cidr)
            except (PoolExhausted, AddressRefused, BlockInUse):
                pass
            except Died:
                self.deceased += 1
                self.book.doubt(handle)
                self.nodes.pop(name, None)

    async def be_theirs(self, writer, turns):
        mine = []
        for _ in range(turns):
            await self.pause()
            verb, handle = self.choose(mine)
            if verb == "assign":
                mine.append(handle)
                address = await self.play(handle, writer.assign(handle))
                if address is not None:
                    self.book.told(handle, [address])
            elif verb == "assign_address":
                mine.append(handle)
                work = writer.retry(writer.assign_address, self.address(), handle, BLOCK_LENGTH)
                address = await self.play(handle, work)
                if address is not None:
                    self.book.told(handle, [address])
            elif verb == "release":
                self.book.doubt(handle)
                await self.play(handle, writer.release(handle))
            elif verb == "release_address" and (found := self.find(handle)):
                self.book.doubt(handle)
                address, sequence = found
                await self.play(handle, writer.retry(writer.release_address, address, handle, sequence, BLOCK_LENGTH))
            elif verb == "block":
                host = self.rng.choice(["n1", "n2", "n3", "c1", "c2", "c3"])
                only_empty = self.rng.random() < 0.7
                await self.play("", writer.give_up(self.rng.choice(CIDRS), host, None, only_empty))

    async def play(self, handle, verb):
        """Goes through a Calico node's verb, unless it dies on the way."""
        while True:
            await self.pause()
            if self.rng.random() < self.deaths / 10:
                self.deceased += 1
                self.book.doubt(handle)
                return None
            try:
                done, value = await self.step(advance, verb)
            except Lost:
                return None
            if done:
                return value

    async def judge(self):
        """Nothing may be held twice, lost, or left but what a death explains; in the end all can be had anew."""
        values = await self.values()
        self.expect(audit(values), CRASHED if self.deceased else UNFINISHED)
        allocated = allocations(values)
        for handle, addresses in self.book.held.items():
            for address in addresses:
                if allocated.get(address) != handle:
                    self.trouble(f"{handle} was told {address}, which {allocated.get(address)} has")
        self.store.deaths = 0.0
        names = {key.removeprefix(HANDLES_PREFIX) for key in values if key.startswith(HANDLES_PREFIX)}
        for handle in sorted({*self.book.held, *self.book.unsure, *names, *allocated.values()} - {""}):
            await self.node("last").release(handle)
        values = await self.values()
        self.expect(audit(values), UNFINISHED | ({Problem.CLAIM_MISSING} if self.deceased else set()))
        if allocations(values):
            self.trouble(f"still allocated: {allocations(values)}")
        if any(key.startswith(HANDLES_PREFIX) for key in values):
            self.trouble("handles are left")

    def expect(self, found, allowed):
        for finding in found.findings:
            if finding.problem not in allowed:
                self.trouble(f"{finding.problem}: {finding.subject} {finding.detail}")

    def trouble(self, text):
        self.book.troubles.append(text)


def advance(verb):
    """One step of a Calico node's verb: whether that was the last, and then what came of it."""
    try:
        next(verb)
    except StopIteration as end:
        return True, end.value
    return False, None


def allocations(values):
    """Each address that somebody has, and the handle; not those that rest."""
    found = {}
    for key, value in values.items():
        if key.startswith(BLOCKS_PREFIX):
            block = json.loads(value)
            for ordinal, index in enumerate(block["allocations"]):
                attribute = {} if index is None else block["attributes"][index]
                if "handle_id" in attribute:
                    found[str(ipaddress.ip_network(block["cidr"])[ordinal])] = attribute["handle_id"]
    return found
