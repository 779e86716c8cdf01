"""How the agent is told what to do: command line, environment, file; the first of them that says something wins.

In: arguments and environment; out: Settings, or a ConfigError that names the setting. Reads the configuration file and
nothing else. The file is TOML with the long flags' names as keys (`etcd = "http://..."`).
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from felixpy.addresses import Prefix, parse_prefix
from felixpy.agent.listener import Listener
from felixpy.calc.node_address import AddressRule, parse_rule
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from felixpy.drivers.backend import BackendSetting
from felixpy.resources.kinds import NAME_LIMIT, is_object_name

DEFAULT_RUN_DIR = Path("/run/felixpy")
DEFAULT_STATE_DIR = Path("/var/lib/felixpy")
DEFAULT_SECRETS_DIR = Path("/etc/felixpy/secrets")
LOCAL_ETCD = "local"
_PREFIX = "FELIXPY_"
_OF_A_SERVICE = re.compile(r"_SERVICE_(HOST|PORT)|_PORT($|_\d)")


class ConfigError(Exception):
    """A setting is missing or wrong; the text names it."""


DRAIN_MOST_S = 86400
"""A day."""
RUN_DIR_MOST_BYTES = 89
"""With the longest name of a socket in it, what a socket's address can hold (unix(7)); the CNI plugin takes no more."""
WITH_ETCD_MOST_BYTES = 88
"""The same with `/etcd/client.sock:0`, which is an etcd's of our own."""
LOG_LEVELS = ("debug", "info", "warning", "error")


class Role(StrEnum):
    """What a process does; all of them unless told otherwise."""

    AGENT = "agent"
    BGP = "bgp"
    CONTROLLERS = "controllers"


class Beside(StrEnum):
    """Whether another process of the node has the agent role, where this one has not."""

    AUTO = "auto"
    """Where one has run before."""
    APART = "apart"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Settings:
    """`etcd` None means an etcd of our own (`--etcd local`). `default_pools` are made where there is no pool at all.

    A node that becomes excluded from external load balancers goes on for a while, at layer 2 for those who know it
    (`layer2_drain_s`), by BGP with GRACEFUL_SHUTDOWN (`bgp_drain_s`; RFC 8326 §4.1). Node ports are those of all its
    addresses, of those in `node_port_addresses`, or of those that its Node names (`primary_node_ports`).
    """

    node: str
    etcd: EtcdSettings | None
    roles: frozenset[Role]
    run_dir: Path
    state_dir: Path
    state_file: Path
    default_pools: tuple[Prefix, ...] = ()
    node_address: tuple[AddressRule, ...] = ()
    node_port_addresses: tuple[Prefix, ...] | None = None
    primary_node_ports: bool = False
    gobgpd: str = ""
    nexthop_objects: bool = True
    secrets_dir: Path = DEFAULT_SECRETS_DIR
    backend: BackendSetting = BackendSetting.AUTO
    log_level: str = "INFO"
    metrics: Listener | None = None
    beside: Beside = Beside.AUTO
    kubernetes: str = ""
    layer2_drain_s: float = 60.0
    bgp_drain_s: float = 10.0


PRIMARY = "primary"
"""Of --node-port-addresses, as of kube-proxy's: the addresses of the node's Node, and no others."""

_FLAGS: Mapping[str, str] = {
    "etcd": "where etcd is: URL[,URL...], or `local` for one of our own on this machine",
    "node": "this node's name in the cluster",
    "roles": "agent,bgp,controllers or some of them",
    "agent": "for the bgp role alone: `apart`, in a process of its own, or `none` of ours (auto: whether one has run)",
    "run-dir": f"where sockets and locks live ({DEFAULT_RUN_DIR})",
    "state-file": "what this node remembers of its cluster (cluster.json in /var/lib/felixpy, or in RUN-DIR)",
    "default-pool": "CIDR[,CIDR]: make an IPPool of each where the cluster has none",
    "node-address": "this node's address: ADDRESS[,ADDRESS], interface=PATTERN, cidr=CIDR, can-reach=ADDRESS, default",
    "secrets-dir": f"where BGP passwords are that no Secret in etcd has, as NAME/KEY ({DEFAULT_SECRETS_DIR})",
    "node-port-addresses": "CIDR[,CIDR] or `primary`: which of the node's addresses have node ports (all but loopback)",
    "gobgpd": "the gobgpd program to run (found by itself); `none` where somebody else runs it",
    "nexthops": "auto, or `none`: routes name gateways themselves, not nexthop objects (auto: what the kernel has)",
    "backend": f"packet rules by {', '.join(BackendSetting)} (auto: what the host supports, nftables first)",
    "kubernetes": "import from the Kubernetes API: `in-cluster`, or the path of a kubeconfig (controllers role)",
    "metrics": "[HOST]:PORT of /metrics, /liveness and /readiness (where FelixConfiguration says, for the agent role)",
    "layer2-drain": "seconds that an excluded node goes on answering those who know it (60; the same on all nodes)",
    "bgp-drain": "seconds that an excluded node announces with GRACEFUL_SHUTDOWN before it withdraws (10)",
    "log-level": f"{', '.join(LOG_LEVELS)} (info)",
    "etcd-ca-file": "CA that signs etcd's certificates (PEM)",
    "etcd-cert-file": "our client certificate (PEM)",
    "etcd-key-file": "its key (PEM)",
    "etcd-username": "user, where etcd asks for one",
    "etcd-password": "its password",
}


class _Version(argparse.Action):
    """Prints the version; what knows it is slow to load."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('felixpy')}")
        parser.exit()


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str], program: str) -> Settings:
    """Settings from everything that was said.

    Raises  ConfigError, naming the setting; SystemExit after --help or an unknown flag.
    """
    parser = argparse.ArgumentParser(prog=program, description="The node agent of felixpy.", allow_abbrev=False)
    for flag, words in _FLAGS.items():
        parser.add_argument(f"--{flag}", help=words)
    parser.add_argument("--config", help="a TOML file with any of these settings", metavar="FILE")
    parser.add_argument("--version", action=_Version, nargs=0, help="the version, and nothing else")
    given = vars(parser.parse_args(arguments))
    from_file = _read_file(given["config"] or environment.get("FELIXPY_CONFIG", ""))

    def value(flag: str, default: str = "") -> str:
        name = flag.replace("-", "_")
        return given[name] or environment.get(f"{_PREFIX}{name.upper()}") or from_file.get(flag) or default

    node = value("node")
    if not node:
        raise ConfigError("--node is not given: the node's name in the cluster")
    if not is_object_name(node):
        raise ConfigError(f"--node: {node!r} is no name: lower-case letters, digits, '-' and '.', at most {NAME_LIMIT}")
    etcd = _etcd(value)
    run_dir = _run_dir(value("run-dir", str(DEFAULT_RUN_DIR)), RUN_DIR_MOST_BYTES if etcd else WITH_ETCD_MOST_BYTES)
    return Settings(
        node=node,
        etcd=etcd,
        roles=_roles(value("roles"), program),
        run_dir=run_dir,
        state_dir=_state_dir(run_dir),
        state_file=Path(value("state-file", str(_state_dir(run_dir) / "cluster.json"))),
        default_pools=tuple(_cidr("default-pool", text) for text in value("default-pool").split(",") if text),
        node_address=tuple(_address_rule(text) for text in value("node-address").split(",") if text),
        node_port_addresses=_node_port_addresses(value("node-port-addresses")),
        primary_node_ports=value("node-port-addresses") == PRIMARY,
        gobgpd=value("gobgpd"),
        nexthop_objects=_nexthop_objects(value("nexthops", "auto")),
        secrets_dir=Path(value("secrets-dir", str(DEFAULT_SECRETS_DIR))),
        backend=_backend(value("backend", BackendSetting.AUTO)),
        log_level=_log_level(value("log-level", "info")),
        metrics=_listener(value("metrics")),
        beside=_beside(value("agent", Beside.AUTO)),
        kubernetes=value("kubernetes"),
        layer2_drain_s=_seconds("layer2-drain", value("layer2-drain", "60")),
        bgp_drain_s=_seconds("bgp-drain", value("bgp-drain", "10")),
    )


def _node_port_addresses(text: str) -> tuple[Prefix, ...] | None:
    """None for all; none are known yet of those that a Node names."""
    if not text:
        return None
    if text == PRIMARY:
        return ()
    return tuple(_cidr("node-port-addresses", one) for one in text.split(",") if one)


def unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """What in the environment looks like a setting and is none, in words; Kubernetes names Services there, too."""
    known = [flag.replace("-", "_").upper() for flag in (*_FLAGS, "config")]
    for name in sorted(environment):
        said = name.removeprefix(_PREFIX)
        if said != name and said not in known and not _OF_A_SERVICE.search(name):
            near = get_close_matches(said, known, 1)
            yield f"{name} is no setting" + (f"; did you mean {_PREFIX}{near[0]}?" if near else "")


def _run_dir(text: str, most: int) -> Path:
    path = Path(text).absolute()
    if (size := len(bytes(path))) > most:
        raise ConfigError(f"--run-dir: {path} has {size} bytes; sockets leave room for {most}")
    return path


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ConfigError(f"--log-level: {text!r} is none of {', '.join(LOG_LEVELS)}")
    return text.upper()


def _state_dir(run_dir: Path) -> Path:
    """What must outlive a reboot lies on disk, unless the node has a directory of its own for everything."""
    return DEFAULT_STATE_DIR if run_dir == DEFAULT_RUN_DIR else run_dir


def _read_file(path: str) -> Mapping[str, str]:
    if not path:
        return {}
    try:
        content = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from None
    for key, entry in content.items():
        if key not in _FLAGS:
            raise ConfigError(f"--config {path}: there is no setting {key!r}")
        if not isinstance(entry, str):
            raise ConfigError(f"--config {path}: {key} is not a text")
    return content


def _etcd(value: Callable[[str], str]) -> EtcdSettings | None:
    text = value("etcd")
    if not text:
        raise ConfigError("--etcd is not given: URL[,URL...], or `local` for an etcd of our own")
    if text == LOCAL_ETCD:
        return None
    try:
        endpoints = parse_endpoints(text)
    except ValueError as error:
        raise ConfigError(f"--etcd: {error}") from None

    def path(flag: str) -> Path | None:
        return Path(value(flag)) if value(flag) else None

    return EtcdSettings(
        endpoints,
        ca=path("etcd-ca-file"),
        cert=path("etcd-cert-file"),
        key=path("etcd-key-file"),
        username=value("etcd-username"),
        password=value("etcd-password"),
    )


def _roles(text: str, program: str) -> frozenset[Role]:
    if not text:
        return frozenset({Role.BGP}) if program == "birdpy" else frozenset(Role)
    try:
        return frozenset(Role(word.strip()) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--roles: {error}; there are {', '.join(Role)}") from None


def _backend(text: str) -> BackendSetting:
    try:
        return BackendSetting(text)
    except ValueError as error:
        raise ConfigError(f"--backend: {error}; there are {', '.join(BackendSetting)}") from None


def _beside(text: str) -> Beside:
    try:
        return Beside(text)
    except ValueError as error:
        raise ConfigError(f"--agent: {error}; there are {', '.join(Beside)}") from None


def _nexthop_objects(text: str) -> bool:
    if text not in ("auto", "none"):
        raise ConfigError(f"--nexthops: {text!r} is neither auto nor none")
    return text == "auto"


def _listener(text: str) -> Listener | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise ConfigError(f"--metrics: {text!r} is not [HOST]:PORT")
    return Listener(host.removeprefix("[").removesuffix("]"), int(port))


def _seconds(flag: str, text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        raise ConfigError(f"--{flag}: {text!r} is no number of seconds") from None
    if not 0 <= seconds <= DRAIN_MOST_S:
        raise ConfigError(f"--{flag}: {text!r} is not between 0 and {DRAIN_MOST_S} seconds")
    return seconds


def _address_rule(text: str) -> AddressRule:
    try:
        return parse_rule(text)
    except ValueError as error:
        raise ConfigError(f"--node-address: {error}") from None


def _cidr(flag: str, text: str) -> Prefix:
    try:
        return parse_prefix(text.strip())
    except ValueError as error:
        raise ConfigError(f"--{flag}: {error}") from None
