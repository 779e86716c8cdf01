"""What the CNI server asks of the agent: addresses, endpoints, and whether the kernel has caught up.

A Protocol and its values; no code. The agent implements it over IPAM and the datastore, tests over a dictionary.
Every method may raise CniError with the code that the runtime is to see; DatastoreError counts as TRY_AGAIN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from felixpy.addresses import Address
from felixpy.cni.endpoint import EndpointWrite
from felixpy.cni.errors import CniError
from felixpy.cni.leaks import Recorded
from felixpy.cni.plan import Attachment, Claim, PodFacts
from felixpy.resources.kinds import Name

MakeEndpoint = Callable[[tuple[Address, ...]], EndpointWrite]
"""The endpoint to store once the addresses are chosen; pure, and may be called again when a transaction is retried."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An attachment that holds `addresses` (IPv4 first) and whose endpoint is stored, as of `revision`.

    `created` is false when it held them before the call, which a failing caller must then leave alone.
    """

    addresses: tuple[Address, ...]
    revision: int
    created: bool


class Backend(Protocol):
    """The agent, to the CNI server."""

    async def find_unready(self) -> CniError | None:
        """Why no ADD can be served now (code NOT_AVAILABLE), or None."""

    def find_limited(self) -> CniError | None:
        """Why pods that are there may have less than they should (code LIMITED_CONNECTIVITY), or None."""

    async def describe(self, attachment: Attachment, uid: str = "") -> PodFacts:
        """What is known of the pod now; one of another `uid` is another pod."""

    async def admit(self, claim: Claim, make_endpoint: MakeEndpoint) -> Admitted:
        """Gives the attachment its addresses and stores its endpoint, both or neither.

        An attachment that holds addresses already (by its handle) keeps them. An endpoint of another container under
        the same name is replaced.

        Raises  CniError NO_ADDRESS when the pools have none, or an asked one is taken.
        """

    async def find(self, attachment: Attachment) -> tuple[Address, ...] | None:
        """The addresses that the attachment's stored endpoint has; None when there is none, or another container's."""

    def recall(self, attachment: Attachment) -> Attachment:
        """The attachment as its endpoint tells of it, where the call does not say which pod it is; else as it is."""

    async def withdraw(self, attachment: Attachment) -> None:
        """Deletes the endpoint if it is still this container's, and releases every address under the handle.

        What is not there is not missed.
        """

    async def wait_programmed(self, endpoint: Name, revision: int) -> None:
        """Returns when route and policy of the endpoint, as of `revision` or later, are in the kernel.

        May wait for ever: the caller sets the limit.

        Raises  CniError when it is known that they will not be.
        """

    def list_recorded(self) -> Sequence[Recorded]:
        """Every attachment of this node that has an endpoint (`endpoint.parse_recorded`)."""
