"""What the CNI server needs of the agent: addresses and endpoints in one transaction, and the wait for the kernel.

In: claims; out: addresses held and an endpoint stored, both or neither. The address and the WorkloadEndpoint travel in
one etcd transaction, so no crash leaves one without the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import msgspec

from felixpy.addresses import Address, parse_address
from felixpy.agent.kernel.dataplane import Dataplane
from felixpy.agent.node.facts import NodeFacts, matches
from felixpy.agent.pods.facts import read_pod_facts
from felixpy.agent.pods.follower import PodFollower
from felixpy.agent.pods.own_objects import ENDPOINTS, NAMESPACES, PODS, PROFILES, OwnObjects
from felixpy.agent.routing.underlay import Underlay
from felixpy.cni.backend import Admitted, MakeEndpoint
from felixpy.cni.endpoint import EndpointWrite, parse_follower, parse_recorded
from felixpy.cni.errors import CniError, Code
from felixpy.cni.leaks import Recorded
from felixpy.cni.plan import Attachment, Claim, PodFacts
from felixpy.datastore.model import Event, Expect, KeyValue, Store
from felixpy.datastore.model import Write as StoreWrite
from felixpy.datastore.syncer import Phase, SyncState
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import Name
from ipam.addresses import Address as IpamAddress
from ipam.engine import Allocator
from ipam.model import Assignment
from ipam.request import (
    AddressRefused,
    Conflict,
    ExpectationFailed,
    IpamError,
    PoolExhausted,
    Request,
    Write,
    pod_owner,
)

_log = logging.getLogger(__name__)

ADMIT_ATTEMPTS = 5
"""How often an endpoint that changes under our hands is looked at again."""


class _EndpointSpec(msgspec.Struct, rename="camel"):
    container_id: str = msgspec.field(default="", name="containerID")
    ip_networks: list[str] = []


class _StoredEndpoint(msgspec.Struct):
    spec: _EndpointSpec


class AgentBackend:
    """One node's answers to its CNI server (felixpy.cni.backend.Backend)."""

    def __init__(
        self,
        node: str,
        store: Store,
        allocator: Allocator,
        dataplane: Dataplane,
        facts: NodeFacts,
        now: Callable[[], datetime],
    ) -> None:
        self._node = node
        self._store = store
        self._allocator = allocator
        self._dataplane = dataplane
        self._facts = facts
        self._now = now
        self._own = OwnObjects(node)
        self.follower = PodFollower(self._own, store, self.find_unready)
        self.underlay = Underlay()
        self._frozen = self._unavailable = ""

    def observe(self, event: Event) -> None:
        """Takes an event of any key, before it is decoded."""
        self._own.observe(event)
        self.follower.observe(event)

    def datastore_state(self, state: SyncState) -> None:
        """The datastore can be used, or why not; while it is tried again, it still cannot."""
        self._frozen = str(state.reason or state.phase) if state.phase is Phase.FROZEN else ""
        if state.phase is Phase.UNAVAILABLE:
            self._unavailable = state.detail or str(state.reason or state.phase)
        elif state.phase is not Phase.CONNECTING:
            self._unavailable = ""

    async def find_unready(self) -> CniError | None:
        """Why no ADD can be served now, or None."""
        if self._frozen:
            return CniError(Code.NOT_AVAILABLE, "the agent does not obey the datastore", self._frozen)
        if self._unavailable:
            return CniError(Code.NOT_AVAILABLE, "the datastore cannot be used", self._unavailable)
        if not self._dataplane.started:
            return CniError(Code.NOT_AVAILABLE, "the agent has not read the datastore yet")
        return None

    def find_limited(self) -> CniError | None:
        """Why pods that are there may have less than they should, or None."""
        why = self._dataplane.find_base_failure()
        return CniError(Code.LIMITED_CONNECTIVITY, "not all packet rules are in the kernel", why) if why else None

    def pod_mtu(self) -> int:
        """The mtu of this node's pods, in bytes; 0 where it is not known.

        Raises  OSError when the host's devices cannot be read.
        """
        return self._facts.derive_pod_mtu(self.underlay.mtu(self._facts.addresses, self._facts.mtu_pattern))

    def list_followers(self) -> frozenset[str]:
        """The devices of this node's pods whose mtu is the node's."""
        found = (parse_follower(pair.value) for pair in self._own.endpoints.values())
        return frozenset(device for device in found if device)

    async def describe(self, attachment: Attachment, uid: str = "") -> PodFacts:
        """What the datastore says of the pod and its namespace; nothing of a container that is no pod."""
        try:
            mtu = self.pod_mtu()
        except OSError as error:
            raise CniError(Code.TRY_AGAIN, "the host's devices cannot be read", str(error)) from None
        if not attachment.pod:
            return PodFacts(mtu=mtu)
        pod_key = PODS.key(Name(attachment.namespace, attachment.pod)).encode()
        namespace_key = NAMESPACES.key(Name("", attachment.namespace)).encode()
        pod_pair, namespace_pair = self._own.get(pod_key), self._own.get(namespace_key)
        facts = read_pod_facts(pod_pair, namespace_pair, uid=uid, mtu=mtu)
        if facts.known:
            return facts
        pod_pair, namespace_pair = await self._store.get_many([pod_key, namespace_key])
        facts = read_pod_facts(pod_pair, namespace_pair, uid=uid, mtu=mtu)
        return facts if self._own.has_pods else replace(facts, known=True)

    async def admit(self, claim: Claim, make_endpoint: MakeEndpoint) -> Admitted:
        """Addresses and endpoint in one transaction; what the attachment holds already, it keeps."""
        attachment = claim.attachment
        key = ENDPOINTS.key(attachment.endpoint)
        expected = 0
        for _ in range(ADMIT_ATTEMPTS):
            try:
                return await self._assign(claim, make_endpoint, key, expected)
            except ExpectationFailed:
                pair = await self._store.get(key.encode())
                stored = _decode(pair, _StoredEndpoint)
                if pair is not None and stored is not None and stored.spec.container_id == attachment.container_id:
                    return Admitted(_addresses(stored), pair.mod_revision, created=False)
                expected = pair.mod_revision if pair is not None else 0
            except (PoolExhausted, AddressRefused) as error:
                raise CniError(Code.NO_ADDRESS, "no address can be given", str(error)) from None
            except Conflict as error:
                raise CniError(Code.TRY_AGAIN, "the address pools are busy", str(error)) from None
            except IpamError as error:
                raise CniError(Code.INTERNAL, "addresses cannot be managed", str(error)) from None
        raise CniError(Code.TRY_AGAIN, f"the endpoint {attachment.endpoint} keeps changing")

    async def _assign(self, claim: Claim, make_endpoint: MakeEndpoint, key: str, expected: int) -> Admitted:
        attachment = claim.attachment
        if not claim.managed:
            return await self._store_unmanaged(claim.addresses, make_endpoint, key, expected)
        request = Request(
            handle_id=attachment.handle,
            owner=pod_owner(self._node, attachment.endpoint.namespace, attachment.pod, self._now()),
            v4=int(4 in claim.versions),
            v6=int(6 in claim.versions),
            addresses=tuple(IpamAddress(address) for address in claim.addresses),
            pools=(*claim.ipv4_pools, *claim.ipv6_pools),
            selects=lambda pool: matches(pool.namespace_selector, claim.namespace_labels),
        )
        written: list[EndpointWrite] = []

        def endpoint(assignment: Assignment) -> Sequence[Write]:
            written[:] = [make_endpoint(_held(assignment))]
            return [Write(key, written[0].value, expected)]

        assignment = await self._allocator.assign(request, endpoint)
        if written[0].profile:
            await self._ensure_profile(written[0])
        return Admitted(_held(assignment), assignment.revision, created=True)

    async def _store_unmanaged(
        self, addresses: tuple[Address, ...], make_endpoint: MakeEndpoint, key: str, expected: int
    ) -> Admitted:
        written = make_endpoint(addresses)
        stored = StoreWrite(key.encode(), written.value)
        done = await self._store.transact([Expect(stored.key, expected)], [stored])
        if not done.succeeded:
            raise ExpectationFailed(key)
        if written.profile:
            await self._ensure_profile(written)
        return Admitted(addresses, done.revision, created=True)

    async def _ensure_profile(self, write: EndpointWrite) -> None:
        """Makes the network's profile where there is none; one that somebody has written stays."""
        if self._dataplane.graph.policy.profile(write.profile) is None:
            key = PROFILES.key(Name("", write.profile)).encode()
            await self._store.transact([Expect(key, 0)], [StoreWrite(key, write.profile_value)])

    async def find(self, attachment: Attachment) -> tuple[Address, ...] | None:
        """The addresses of the attachment's stored endpoint; None when there is none, or another container's."""
        stored = _decode(await self._store.get(ENDPOINTS.key(attachment.endpoint).encode()), _StoredEndpoint)
        if stored is None or stored.spec.container_id != attachment.container_id:
            return None
        return _addresses(stored)

    def recall(self, attachment: Attachment) -> Attachment:
        """The attachment as its endpoint tells of it, where the call does not say which pod it is; else as it is."""
        if attachment.pod or ENDPOINTS.key(attachment.endpoint).encode() in self._own.endpoints:
            return attachment
        recorded = (one.attachment for one in self.list_recorded())
        return next((one for one in recorded if one.owner == attachment.owner), attachment)

    async def withdraw(self, attachment: Attachment) -> None:
        """Deletes the endpoint if it is still this container's, and releases every address under the handle."""
        key = ENDPOINTS.key(attachment.endpoint)
        known = self._own.endpoints.get(key.encode())
        for _ in range(ADMIT_ATTEMPTS):
            pair = known or await self._store.get(key.encode())
            known = None
            stored = _decode(pair, _StoredEndpoint)
            own = pair is not None and (stored is None or stored.spec.container_id == attachment.container_id)
            writes = [Write(key, None, pair.mod_revision)] if pair is not None and own else []
            try:
                await self._allocator.release(attachment.handle, writes)
            except ExpectationFailed:
                continue
            except IpamError as error:
                raise CniError(Code.TRY_AGAIN, "the addresses cannot be released now", str(error)) from None
            return
        raise CniError(Code.TRY_AGAIN, f"the endpoint {attachment.endpoint} keeps changing")

    async def wait_programmed(self, endpoint: Name, revision: int) -> None:
        """Returns when route and policy of the endpoint, as of `revision` or later, are in the kernel."""
        await self._dataplane.wait_programmed(endpoint, revision)

    def list_recorded(self) -> Sequence[Recorded]:
        """Every attachment of this node that has an endpoint."""
        found = (parse_recorded(pair.value) for pair in self._own.endpoints.values())
        return [one for one in found if one is not None and one.attachment.node == self._node]

    def list_addresses(self) -> frozenset[IpamAddress]:
        """The addresses of all endpoints of this node, whoever wrote them."""
        stored = (_decode(pair, _StoredEndpoint) for pair in self._own.endpoints.values())
        return frozenset(IpamAddress(address) for one in stored if one is not None for address in _addresses(one))


T = TypeVar("T")


def _decode(pair: KeyValue | None, shape: type[T]) -> T | None:
    """The value as `shape`; None when it is absent or something else."""
    return decode_or_none(pair.value, shape) if pair is not None else None


def _addresses(stored: _StoredEndpoint) -> tuple[Address, ...]:
    return tuple(parse_address(text.partition("/")[0]) for text in stored.spec.ip_networks)


def _held(assignment: Assignment) -> tuple[Address, ...]:
    """The assigned addresses, IPv4 first."""
    addresses = sorted((one.address for one in assignment.addresses), key=lambda one: (len(one), one))
    return tuple(Address(address) for address in addresses)
