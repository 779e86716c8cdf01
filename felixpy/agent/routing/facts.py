"""What BGP needs to know of this host: passwords in files, its devices' subnets and routers. Each only where asked for.

In: the keys of passwords that no Secret has; a directory with a folder per Secret and a file per key, as Kubernetes
mounts Secrets; the kernel's addresses. Out: HostFacts. Never logs what is in a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.link_routers import LinkRouters
from felixpy.addresses import Prefix, mask_address
from felixpy.calc.bgp.scene import HostFacts
from felixpy.calc.bgp.speaker import BgpPlan
from felixpy.drivers.netlink.socket import NetlinkError
from felixpy.resources.bgp_types import SecretKey

_log = logging.getLogger(__name__)

POLL_S = 5.0
"""How soon a password in a file that changed is used."""
PASSWORD_FILE_BYTES_MOST = 4096

ReadSubnets = Callable[[], Mapping[str, frozenset[Prefix]]]


class HostReader:
    """The facts that the last plan asked for."""

    def __init__(self, directory: Path, read_subnets: ReadSubnets, routers: LinkRouters) -> None:
        self._directory = directory
        self._read_subnets = read_subnets
        self._routers = routers
        self._files: frozenset[SecretKey] = frozenset()
        self._links = False
        self.facts = HostFacts()

    @property
    def polls(self) -> bool:
        """Whether there are files to look at from time to time."""
        return bool(self._files)

    @property
    def wants_links(self) -> bool:
        """Whether a change of addresses matters."""
        return self._links

    def serve(self, plan: BgpPlan) -> bool:
        """Reads what a plan asks for; whether that is other than what it was made with."""
        self._files, self._links = plan.password_files, plan.needs_links
        self._routers.want(plan.listens_on)
        return self.read()

    def read(self) -> bool:
        """Reads everything asked for again; whether anything is different."""
        texts = {key: text for key in self._files if (text := _read_password(self._directory, key)) is not None}
        found = HostFacts(texts, self._subnets() if self._links else {}, self._routers.routers)
        if found == self.facts:
            return False
        self.facts = found
        return True

    def _subnets(self) -> Mapping[str, tuple[BgpPrefix, ...]]:
        try:
            found = self._read_subnets()
        except NetlinkError as error:
            _log.warning("the subnets of this node's devices cannot be read: %s", error)
            return self.facts.links
        return {
            name: tuple(sorted(BgpPrefix(mask_address(one.address, one.length), one.length) for one in subnets))
            for name, subnets in found.items()
        }


def _read_password(directory: Path, key: SecretKey) -> str | None:
    """The first line's worth; None where there is no such file, or its name leads elsewhere."""
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in (key.name, key.key)):
        return None
    try:
        with open(directory / key.name / key.key, "rb") as file:
            return file.read(PASSWORD_FILE_BYTES_MOST).decode().rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return None
