"""The CNI verbs: what happens between a request and its answer.

Imperative. In → out: wire.Request and the pod's network namespace → wire.Answer; on the way, addresses and endpoint
through the Backend, and the kernel through the Wirer. Calls that concern one pod interface follow each other, others
run side by side. An ADD that fails takes back what it made, and nothing else. A DEL ends the pod's traffic before it
gives back the address, and what it cannot finish without the datastore is kept for later.
Must never choose names or addresses. Source: CNI specification 1.1.0 sections 2 and 4.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from felixpy.addresses import Address, format_address, host_prefix
from felixpy.cni import wire
from felixpy.cni.backend import Admitted, Backend
from felixpy.cni.endpoint import Identity, derive_endpoint
from felixpy.cni.errors import CniError, Code, render_error
from felixpy.cni.failures import as_cni_error, may_yet_be, within
from felixpy.cni.locks import NamedLocks
from felixpy.cni.netconf import PreviousResult, find_version
from felixpy.cni.pending import PendingDeletes
from felixpy.cni.plan import (
    INTERFACE_PREFIX,
    Attachment,
    Call,
    Claim,
    PodFacts,
    Verb,
    derive_claim,
    derive_link,
    derive_wiring,
    parse_call,
    parse_owner,
)
from felixpy.cni.repeats import Repeats
from felixpy.cni.result import AddResult, render_result
from felixpy.cni.timing import Stage, Timing, Timings
from felixpy.cni.wire import Answer, Request
from felixpy.cni.wirer import Wirer, is_network_namespace, is_own_namespace, read_place
from felixpy.dataplane.pod import PodLink
from felixpy.resources.kinds import Name

log = logging.getLogger(__name__)

NO_ANSWER = "the datastore does not answer"
POD_PAUSE_S = 0.1
"""How soon a Pod is looked for again that is not in the datastore yet."""
READY_PAUSE_S = 0.02
"""How soon it is asked again whether ADDs can be served."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each part of a call may take, in seconds; their sum stays below the shim's patience (60 s)."""

    ready_s: float = 5.0
    pod_s: float = 5.0
    describe_s: float = 10.0
    admit_s: float = 12.0
    programmed_s: float = 10.0
    withdraw_s: float = 5.0


class Verbs:
    """The verbs of one node's agent. `pending` holds the DELs that were kept while the agent was away."""

    def __init__(self, node: str, backend: Backend, pending: PendingDeletes, limits: Limits | None = None) -> None:
        self._node = node
        self._place = read_place()
        self._backend = backend
        self._pending = pending
        self._limits = limits or Limits()
        self._locks = NamedLocks()
        self._wirer = Wirer()
        self._kept = asyncio.Event()
        self._doubtful: set[str] = set()
        self._repeats = Repeats()
        self.timings = Timings()

    async def answer(self, request: Request, netns: int | None) -> Answer:
        """What the shim is to print; every failure becomes a CNI error."""
        timing = Timing()
        try:
            call = parse_call(request, self._node)
            output = await self._run(call, request, netns, timing)
        except Exception as error:
            failure = as_cni_error(error)
            self.timings.note(request.command if request.command in tuple(Verb) else "", timing, failure.code)
            subject = f"{request.command} {request.container_id} {request.ifname}".strip()
            news = self._repeats.is_news(subject, str(failure), time.monotonic())
            log.log(logging.WARNING if news else logging.DEBUG, "%r: code %d: %s", subject, failure.code, failure)
            return Answer(1, render_error(failure, find_version(request.config)))
        self.timings.note(call.verb, timing)
        return Answer(0, output)

    async def collect(self, attachment: Attachment) -> bool:
        """Deletes an attachment whose device is missing; whether that was still so. Raises as a DEL fails."""
        async with self._locks.hold(attachment.host_device):
            if attachment.owner in (await self._wirer.list_links(attachment.host_device)).values():
                return False
            await self._delete(attachment, Timing())
            return True

    async def replay_pending(self) -> int:
        """Does the DELs that were kept; how many remain, because they cannot be done now."""
        remaining, why = 0, "they are done once more, as the datastore was away"
        for name in self._pending.list_names():
            attachment = self._read_pending(name)
            if attachment is None:
                continue
            try:
                async with self._locks.hold(attachment.host_device):
                    if self._read_pending(name):  # an ADD may have done it since
                        await self._delete(attachment, Timing())
                remaining += self._pending.has(name)
            except Exception as error:
                remaining += 1
                why = str(as_cni_error(error))
        if remaining and self._repeats.is_news("kept DELs", why, time.monotonic()):
            log.info("%d kept DELs have to wait: %s", remaining, why)
        return remaining

    async def wait_kept(self, most_s: float) -> None:
        """Returns once a DEL has been kept here, and after `most_s` in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._kept.wait()
        self._kept.clear()

    async def serve_retired(self) -> None:
        """Frees the devices of pods that are gone; never returns."""
        await self._wirer.serve_retired()

    def close(self) -> None:
        """Waits for no kernel work; what is under way ends by itself."""
        self._wirer.close()

    async def _run(self, call: Call, request: Request, netns: int | None, timing: Timing) -> bytes:
        attachment = call.attachment
        if attachment is None:
            return await (self._collect(call) if call.verb is Verb.GC else self._status())
        if call.verb is not Verb.ADD:
            attachment = self._backend.recall(attachment)
        async with self._locks.hold(attachment.host_device):
            match call.verb:
                case Verb.ADD:
                    await self._finish_pending(attachment)
                    return await self._add(call, attachment, request, netns, timing)
                case Verb.CHECK:
                    return await self._check(call, attachment, netns)
                case _:
                    return await self._delete_or_keep(attachment, request, timing)

    async def _add(
        self, call: Call, attachment: Attachment, request: Request, netns: int | None, timing: Timing
    ) -> bytes:
        await self._wait_ready()
        timing.queued()
        if netns is None:
            raise CniError(Code.UNKNOWN_CONTAINER, f"network namespace {call.netns} cannot be opened")
        if not is_network_namespace(netns):
            raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS is no network namespace", call.netns)
        if is_own_namespace(netns):
            raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS is the node's own network namespace", call.netns)
        facts = await timing.of(Stage.POD, self._describe_pod(call, attachment))
        claim, link = derive_claim(call, attachment, facts), derive_link(call, attachment, facts)
        forwarding = call.conf.allow_ip_forwarding
        bare = derive_wiring(link, (), versions=claim.versions, forwarding=forwarding)
        made, admitted = await asyncio.gather(
            timing.of(Stage.LINK, self._wirer.make(bare, netns)),
            timing.of(Stage.ADDRESS, self._admit(claim, link, facts)),
            return_exceptions=True,
        )
        if isinstance(made, BaseException):
            created = isinstance(admitted, Admitted) and admitted.created
            await self._undo(attachment, request, link=False, admitted=created)
            raise made
        if isinstance(admitted, BaseException):
            await self._undo(attachment, request, link=made, admitted=False, doubtful=may_yet_be(admitted))
            raise admitted
        wiring = derive_wiring(link, admitted.addresses, forwarding=forwarding)
        outcomes = await asyncio.gather(
            timing.of(Stage.WIRING, self._wirer.finish(wiring, netns, made=made and wiring.routes == bare.routes)),
            timing.of(Stage.PROGRAMMED, self._wait_programmed(attachment.endpoint, admitted.revision)),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None:
                await self._undo(attachment, request, link=made, admitted=admitted.created)
                raise outcome
        addresses = ", ".join(map(format_address, admitted.addresses))
        log.info("ADD %s: %s on %s in %s", attachment.endpoint, addresses, link.host_device, timing)
        before = call.conf.previous.text if call.conf.previous else b""
        return render_result(AddResult(wiring, call.netns, call.conf.dns), call.conf.version, before)

    async def _delete(self, attachment: Attachment, timing: Timing) -> None:
        """The link goes before the address, so that whoever gets the address next is the only one to have it."""
        timing.queued()
        await timing.of(Stage.RETIRED, self._retire(attachment))
        if unready := await self._backend.find_unready():
            raise CniError(Code.TRY_AGAIN, unready.message, unready.details)
        async with within(self._limits.withdraw_s, NO_ANSWER):
            await timing.of(Stage.RELEASED, self._backend.withdraw(attachment))
        self._forget(wire.pending_name(attachment.container_id, attachment.ifname))
        log.info("DEL %s of container %s in %s", attachment.endpoint, attachment.container_id, timing)

    async def _delete_or_keep(self, attachment: Attachment, request: Request, timing: Timing) -> bytes:
        """A runtime can do nothing about a datastore that is away: the pod's traffic has ended, the rest is kept."""
        try:
            await self._delete(attachment, timing)
        except Exception as error:
            failure = as_cni_error(error)
            if failure.code is not Code.TRY_AGAIN:
                raise
            try:
                self._keep(attachment, request)
            except OSError as refused:
                words = f"{failure.message}, and the DEL cannot be kept for later"
                raise CniError(Code.TRY_AGAIN, words, str(refused)) from None
            log.warning("DEL %s is finished later: %s", attachment.endpoint, failure)
        return b""

    async def _check(self, call: Call, attachment: Attachment, netns: int | None) -> bytes:
        addresses = await self._backend.find(attachment)
        if addresses is None:
            raise CniError(Code.NOT_AS_WIRED, f"there is no endpoint {attachment.endpoint} of this container")
        if netns is None:
            raise CniError(Code.UNKNOWN_CONTAINER, f"network namespace {call.netns} cannot be opened")
        link = derive_link(call, attachment, await self._describe(attachment))
        wiring = derive_wiring(link, addresses)
        problems = list(await self._wirer.check(wiring, netns))
        if call.conf.previous:
            problems += _differences(call.conf.previous, addresses, (link.host_device, link.pod_device))
        if problems:
            raise CniError(Code.NOT_AS_WIRED, "the pod is not wired as it should be", "; ".join(problems))
        await self._wait_programmed(attachment.endpoint, 0)
        return b""

    async def _collect(self, call: Call) -> bytes:
        """Deletes the network's attachments on this node that the runtime does not know."""
        valid, network = call.conf.valid_attachments, call.conf.name
        if valid is None:
            raise CniError(Code.INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
        failures: list[str] = []
        for attachment, device in (await self._list_held(network)).items():
            if (attachment.container_id, attachment.ifname) not in valid:
                try:
                    await self._collect_one(attachment, device)
                except Exception as error:
                    failures.append(f"{attachment.owner}: {as_cni_error(error)}")
        if failures:
            raise CniError(Code.TRY_AGAIN, "not all of what is stale could be deleted", "; ".join(failures))
        return b""

    async def _collect_one(self, attachment: Attachment, device: str) -> None:
        async with self._locks.hold(device):
            await self._wirer.retire(device, attachment.owner)
            await self._delete(attachment, Timing())

    async def _status(self) -> bytes:
        if problem := self._backend.find_limited() or await self._backend.find_unready():
            raise problem
        return b""

    async def _list_held(self, network: str) -> Mapping[Attachment, str]:
        """The node's attachments of a network and their node ends: those with an endpoint, and those with a link."""
        every = (one.attachment for one in self._backend.list_recorded())
        recorded = [item for item in every if item.network == network]
        held = {item: item.host_device for item in recorded}
        owners = {item.owner for item in recorded}
        for device, owner in (await self._wirer.list_links(INTERFACE_PREFIX)).items():
            attachment = parse_owner(owner, self._node)
            if attachment and attachment.network == network and owner not in owners:
                held[attachment] = device
        return held

    async def _wait_ready(self) -> None:
        """A start of the agent, or an election of the datastore's leader, fails no ADD."""
        end = asyncio.get_running_loop().time() + self._limits.ready_s
        while unready := await self._backend.find_unready():
            if asyncio.get_running_loop().time() >= end:
                raise CniError(Code.TRY_AGAIN, unready.message, unready.details)
            await asyncio.sleep(READY_PAUSE_S)

    async def _describe_pod(self, call: Call, attachment: Attachment) -> PodFacts:
        """What is known of the pod; where the network says that pods have a Pod, there has to be one."""
        end = asyncio.get_running_loop().time() + self._limits.pod_s
        while True:
            facts = await self._describe(attachment, call.args.uid)
            if facts.known or not call.conf.needs_pod:
                return facts
            if asyncio.get_running_loop().time() >= end:
                wanted = f"the datastore has no Pod {attachment.namespace}/{attachment.pod}"
                raise CniError(Code.TRY_AGAIN, wanted, f"uid {call.args.uid}" if call.args.uid else "")
            await asyncio.sleep(POD_PAUSE_S)

    async def _describe(self, attachment: Attachment, uid: str = "") -> PodFacts:
        async with within(self._limits.describe_s, NO_ANSWER):
            return await self._backend.describe(attachment, uid)

    async def _admit(self, claim: Claim, link: PodLink, facts: PodFacts) -> Admitted:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        identity = Identity(str(uuid.uuid4()), now, self._place)
        async with within(self._limits.admit_s, NO_ANSWER):
            return await self._backend.admit(
                claim, lambda addresses: derive_endpoint(claim, link, facts, addresses, identity)
            )

    async def _wait_programmed(self, endpoint: Name, revision: int) -> None:
        async with within(self._limits.programmed_s, f"route and policy of {endpoint} are not in the kernel"):
            await self._backend.wait_programmed(endpoint, revision)

    async def _undo(
        self, attachment: Attachment, request: Request, *, link: bool, admitted: bool, doubtful: bool = False
    ) -> None:
        """Takes back what this ADD made; what cannot go now, or may yet be made, is what a kept DEL is for."""
        try:
            if link:
                await self._wirer.retire(attachment.host_device, attachment.owner)
            if admitted:
                async with within(self._limits.withdraw_s, NO_ANSWER):
                    await self._backend.withdraw(attachment)
        except Exception as error:
            log.warning("ADD %s is taken back later: %s", attachment.endpoint, as_cni_error(error))
            doubtful = True
        if doubtful and (link or admitted):
            self._doubtful.add(wire.pending_name(attachment.container_id, attachment.ifname))
            self._keep(attachment, replace(request, command=Verb.DEL))

    def _keep(self, attachment: Attachment, request: Request) -> None:
        self._pending.keep(wire.pending_name(attachment.container_id, attachment.ifname), request)
        self._kept.set()

    def _forget(self, name: str) -> None:
        """A kept DEL is done; one that follows an ADD of unknown end is done once more, later.

        The datastore may still be at that ADD: what it was sent before it answered again, it does in any order.
        """
        if name in self._doubtful:
            self._doubtful.discard(name)
        else:
            self._pending.remove(name)

    async def _retire(self, attachment: Attachment) -> None:
        """Without the CNI_ARGS of its ADD a pod's device has another name, and its alias tells whose it is."""
        if await self._wirer.retire(attachment.host_device, attachment.owner) or attachment.pod:
            return
        for device, owner in (await self._wirer.list_links(INTERFACE_PREFIX)).items():
            if owner == attachment.owner:
                await self._wirer.retire(device, owner)

    async def _finish_pending(self, attachment: Attachment) -> None:
        """A DEL of this very interface that was kept comes before its next ADD, and never after it.

        What an ADD of unknown end still brings is this one's own: it is the same container's.
        """
        name = wire.pending_name(attachment.container_id, attachment.ifname)
        if earlier := self._read_pending(name):
            await self._delete(earlier, Timing())
            self._pending.remove(name)

    def _read_pending(self, name: str) -> Attachment | None:
        try:
            request = self._pending.read(name)
            if request is None:
                return None
            call = parse_call(request, self._node)
            if call.verb is not Verb.DEL:
                raise wire.WireError("it is no DEL")
        except (wire.WireError, CniError) as error:
            log.warning("the kept DEL %s cannot be read and is dropped: %s", name, error)
            self._pending.remove(name)
            return None
        return self._backend.recall(call.attachment) if call.attachment else None


def _differences(previous: PreviousResult, addresses: Iterable[Address], devices: Iterable[str]) -> Iterable[str]:
    """Where the result of the ADD, as the runtime keeps it, is not what the datastore says of our `devices`."""
    ours = ("", *devices)
    told = {prefix for prefix, device in previous.addresses if device in ours}
    held = {host_prefix(address) for address in addresses}
    yield from (f"prevResult has {prefix}, which is not assigned" for prefix in told - held)
    yield from (f"prevResult lacks {prefix}" for prefix in held - told)
    if previous.devices:
        yield from (f"prevResult lacks device {device}" for device in ours[1:] if device not in previous.devices)
