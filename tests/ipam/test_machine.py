"""Any history of nodes, lagging watches, crashes and a Calico node beside them: no address twice, none lost."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipam.addresses import format_address, parse_prefix
from ipam.audit import Problem
from ipam.block import Release, held_by
from ipam.model import node_owner
from ipam.request import AddressRefused, BlockInUse, PoolExhausted
from ipam.store import Fault, StoreFailure
from tests.ipam.calico_writer import CalicoWriter, Lost, TwinKeys
from tests.ipam.cluster import Cluster, pod, texts

NODES = ("n1", "n2", "n3")
BLOCKS = tuple(f"10.0.0.{4 * number}/30" for number in range(4))
FAULTS = st.sampled_from([None, None, None, *Fault])


class Machine(RuleBasedStateMachine):
    """Sixteen addresses in four blocks; `held` is what each holder was told that it has."""

    def __init__(self):
        super().__init__()
        self.cluster = Cluster()
        self.nodes = {}
        self.seen = dict.fromkeys(NODES, 0)
        self.held = {}
        self.unsure = set()
        self.stale = []
        self.terms = {}
        self.calico_held = {}
        self.calico_unsure = set()
        self.steps = []
        self.calico = CalicoWriter(TwinKeys(self.cluster.store), "c1", "10.0.0.0/28", 30, lambda: self.cluster.now)

    @initialize(
        strict=st.booleans(),
        cooldown_s=st.sampled_from([0, 30]),
        limit=st.sampled_from([0, 2]),
        follow=st.booleans(),
        alone=st.booleans(),
    )
    def begin(self, strict, cooldown_s, limit, follow, alone):
        self.cooldown_s, self.limit, self.follow, self.alone = cooldown_s, limit, follow, alone
        self.cluster.pool(cidr="10.0.0.0/28", blockSize=30)
        self.cluster.config(strict_affinity=strict, max_blocks=limit, cooldown_s=cooldown_s)

    def node(self, name):
        if name not in self.nodes:
            self.nodes[name] = self.cluster.node(name)
            if self.follow:
                for key, found in self.cluster.store.values.items():
                    self.nodes[name].observe(key, found.value, found.mod_revision)
                self.seen[name] = len(self.cluster.store.log)
                self.nodes[name].follow()
        return self.nodes[name]

    def run(self, name, fault, verb):
        self.cluster.store.fault = fault
        try:
            return asyncio.run(verb(self.node(name)))
        except StoreFailure:
            del self.nodes[name]
            raise
        finally:
            self.cluster.store.fault = None

    @rule(name=st.sampled_from(NODES), handle=st.integers(0, 9), count=st.integers(1, 3), fault=FAULTS)
    def assign(self, name, handle, count, fault):
        handle = f"{name}-{handle}"
        try:
            got = self.run(name, fault, lambda node: node.assign(pod(handle, v4=count)))
        except PoolExhausted:
            return
        except StoreFailure:
            self.unsure.add(handle)
            return
        if handle not in self.unsure:
            assert set(self.held.get(handle, ())) <= set(texts(got))
        assert len(got.addresses) >= count
        self.held[handle] = texts(got)
        self.unsure.discard(handle)

    @rule(name=st.sampled_from(NODES), handle=st.integers(0, 9), last=st.integers(0, 15), fault=FAULTS)
    def assign_fixed(self, name, handle, last, fault, whole=""):
        handle = whole or f"{name}-{handle}"
        address = f"10.0.0.{last}"
        try:
            got = self.run(name, fault, lambda node: node.assign(pod(handle, addresses=[address])))
        except AddressRefused:
            return
        except StoreFailure:
            self.unsure.add(handle)
            return
        assert address in texts(got)
        self.held[handle] = texts(got)
        self.unsure.discard(handle)

    @rule(handle=st.integers(0, 9), owner=st.sampled_from(NODES), by=st.sampled_from(NODES), fault=FAULTS)
    def release(self, handle, owner, by, fault):
        handle = f"{owner}-{handle}"
        try:
            self.run(by, fault, lambda node: node.release(handle))
        except StoreFailure:
            self.unsure.add(handle)
            return
        self.held.pop(handle, None)
        self.unsure.discard(handle)
        self.terms[handle] = self.terms.get(handle, 0) + 1

    @rule(name=st.sampled_from(NODES), handles=st.lists(st.integers(0, 9), min_size=2, max_size=5, unique=True))
    def assign_at_once(self, name, handles):
        async def verb(node):
            return await asyncio.gather(
                *(node.assign(pod(f"{name}-{each}")) for each in handles), return_exceptions=True
            )

        for each, got in zip(handles, self.run(name, None, verb), strict=True):
            assert not isinstance(got, Exception) or isinstance(got, PoolExhausted)
            if not isinstance(got, PoolExhausted):
                self.held[f"{name}-{each}"] = texts(got)
                self.unsure.discard(f"{name}-{each}")

    @rule(which=st.integers(0, 99))
    def suspect(self, which):
        """Someone notes what a handle holds, to release it later, maybe too late."""
        known = sorted(self.held.keys() - self.unsure)
        handle = known[which % len(known)] if known else ""
        for cidr in BLOCKS if known else ():
            block = self.cluster.block(cidr)
            for ordinal in held_by(block, handle) if block else ():
                release = Release(block.cidr.nth(ordinal), handle, block.sequence_of[ordinal])
                self.stale.append((release, self.terms.setdefault(handle, 0)))

    @rule(which=st.integers(0, 99), by=st.sampled_from(NODES), anew=st.booleans())
    def collect(self, which, by, anew):
        """What is suspect is released, at times after the very same address was given to the very same handle anew."""
        if not self.stale:
            return
        release, term = self.stale.pop(which % len(self.stale))
        handle, address = release.handle_id, format_address(release.address)
        if anew and handle not in self.unsure:
            self.release(handle[-1], handle[:2], by, None)
            self.assign_fixed(by, 0, release.address[-1], None, handle)
        receipt = self.run(by, None, lambda node: node.release_addresses([release]))
        if receipt.released:
            assert term == self.terms[handle], "it was released and given out again since"
            self.held[handle].remove(address)
            if not self.held[handle]:
                del self.held[handle]

    @rule(cidr=st.sampled_from(BLOCKS), owner=st.sampled_from(NODES), by=st.sampled_from(NODES), empty=st.booleans())
    def give_up_block(self, cidr, owner, by, empty):
        """A node is gone, or somebody thinks so; or a pool is."""
        try:
            self.run(by, None, lambda node: node.release_block(parse_prefix(cidr), node_owner(owner), empty))
        except BlockInUse:
            return

    @rule(name=st.sampled_from(NODES), count=st.integers(1, 6))
    def hear(self, name, count):
        start = self.seen[name]
        for change in self.cluster.store.log[start : start + count]:
            self.node(name).observe(change.key, change.value, change.mod_revision)
        self.seen[name] = min(start + count, len(self.cluster.store.log))

    @rule(name=st.sampled_from(NODES))
    def restart(self, name):
        self.nodes.pop(name, None)

    @rule(seconds=st.sampled_from([1, 31, 61]))
    def wait(self, seconds):
        self.cluster.wait(seconds=seconds)

    @rule(cidr=st.sampled_from(BLOCKS), host=st.sampled_from([*NODES, "c1"]))
    def calico_gives_up(self, cidr, host):
        if not self.alone:
            self.steps.append((None, self.calico.give_up(cidr, host)))

    @rule(number=st.integers(0, 9))
    def calico_assigns(self, number):
        handle = f"c1-{number}"
        if {handle}.isdisjoint([*self.calico_held, *self.calico_unsure]) and not self.alone and self.cooldown_s == 0:
            self.calico_unsure.add(handle)
            self.steps.append((("assign", handle), self.calico.assign(handle)))

    @rule(number=st.integers(0, 9))
    def calico_releases(self, number):
        handle = f"c1-{number}"
        if handle in self.calico_held:
            del self.calico_held[handle]
            self.calico_unsure.add(handle)
            self.steps.append((("release", handle), self.calico.release(handle)))

    @rule(which=st.integers(0, 99), count=st.integers(1, 12))
    def calico_goes_on(self, which, count):
        for _ in range(count if self.steps else 0):
            what, step = self.steps[which % len(self.steps)]
            try:
                next(step)
            except Lost:
                self.steps.remove((what, step))
                return
            except StopIteration as end:
                self.steps.remove((what, step))
                if what and what[0] == "assign" and end.value is not None:
                    self.calico_held[what[1]] = [end.value]
                if what:
                    self.calico_unsure.discard(what[1])
                return

    @rule(which=st.integers(0, 99))
    def calico_crashes(self, which):
        if self.steps:
            del self.steps[which % len(self.steps)]

    def allocated(self):
        found = {}
        for cidr in BLOCKS:
            block = self.cluster.block(cidr)
            for ordinal in range(4 if block else 0):
                attribute = block.attribute_of(ordinal)
                if attribute is not None and attribute.released_at is None:
                    found[format_address(block.cidr.nth(ordinal))] = attribute.holder
        return found

    @invariant()
    def everyone_has_what_they_were_given_alone(self):
        allocated = self.allocated()
        for handle, addresses in [*self.held.items(), *self.calico_held.items()]:
            if handle not in self.unsure:
                assert {allocated.get(address) for address in addresses} == {handle}
        known = {*self.held, *self.unsure, *self.calico_held, *self.calico_unsure}
        assert set(allocated.values()) <= known

    @invariant()
    def without_calico_nothing_is_ever_wrong(self):
        assert not getattr(self, "alone", False) or self.cluster.audit().is_clean

    def teardown(self):
        """When all is over and everyone gives back what they had, nothing is left but what Calico's crashes leave."""
        if not hasattr(self, "cooldown_s"):
            return
        self.steps.clear()
        handles = [*self.held, *self.unsure, *self.calico_held, *self.calico_unsure]
        for handle in handles:
            self.run("n1", None, lambda node, handle=handle: node.release(handle))
        assert self.allocated() == {}
        left = {finding.problem for finding in self.cluster.audit().findings}
        assert left <= {Problem.CLAIM_STALE, Problem.CLAIM_UNCONFIRMED, Problem.CLAIM_MISSING}
        self.cluster.wait(seconds=61)
        for number in range(16):
            try:
                self.run("n1", None, lambda node, number=number: node.assign(pod(f"last-{number}")))
            except PoolExhausted:
                break
        assert len(self.allocated()) >= (8 if self.limit else 16)


Machine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, database=None)
TestMachine = Machine.TestCase
