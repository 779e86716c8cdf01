"""FRR's zebra, bgpd and bfdd in a namespace: a router that sends advertisements, and answers BFD where it should."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.netns import Namespace
from tests.support.process import Daemon


class Frr:
    """Asked with vtysh; `directory` holds the sockets, which FRR's own user has to reach."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace, self.directory = namespace, directory

    def sessions(self) -> dict[str, int]:
        """By the neighbour's name, how many sessions there have been by now; of those that have one."""
        argv = ("vtysh", "--vty_socket", self.directory, "-c", "show bgp neighbors json")
        found = json.loads(self.namespace.run(*argv))
        return {name: one["connectionsEstablished"] for name, one in found.items() if one["bgpState"] == "Established"}

    def router_ids(self) -> set[str]:
        """Who its neighbours say they are; of those that have a session."""
        argv = ("vtysh", "--vty_socket", self.directory, "-c", "show bgp neighbors json")
        found = json.loads(self.namespace.run(*argv, timeout_s=10))
        return {one["remoteRouterId"] for one in found.values() if one["bgpState"] == "Established"}

    def told_by(self, asn: int, stale: bool = True) -> set[str]:
        """The prefixes whose AS path is this AS alone, with those, or not, that are kept of a session that ended."""
        found: set[str] = set()
        for family in ("ipv4", "ipv6"):
            argv = ("vtysh", "--vty_socket", self.directory, "-c", f"show bgp {family} unicast json")
            routes = json.loads(self.namespace.run(*argv))["routes"]
            best = {prefix: paths[0] for prefix, paths in routes.items() if paths[0]["path"] == str(asn)}
            found |= {prefix for prefix, path in best.items() if stale or not path.get("stale")}
        return found


@contextmanager
def running_frr(namespace: Namespace, bgpd_conf: str, bfdd_conf: str = "") -> Iterator[Frr]:
    """FRR with this configuration of bgpd, and of bfdd where there is one."""
    directory = Path(tempfile.mkdtemp(prefix="frr"))
    daemons: list[Daemon] = []
    try:
        shutil.chown(directory, "frr", "frr")
        for name, text in {"zebra": "", **({"bfdd": bfdd_conf} if bfdd_conf else {}), "bgpd": bgpd_conf}.items():
            (directory / f"{name}.conf").write_text(text)
            argv = [f"/usr/lib/frr/{name}", "-f", str(directory / f"{name}.conf"), "-P", "0"]
            argv += ["-i", str(directory / f"{name}.pid")]
            argv += ["-z", str(directory / "zserv.api"), "--vty_socket", str(directory)]
            if name == "bfdd":
                argv += ["--bfdctl", str(directory / "bfdd.sock")]
            daemons.append(Daemon(argv, directory / f"{name}.log", netns=namespace.name).start())
            daemons[-1].wait_ready((directory / f"{name}.vty").exists)
        yield Frr(namespace, directory)
    finally:
        for daemon in daemons:
            daemon.kill()
        shutil.rmtree(directory, ignore_errors=True)
