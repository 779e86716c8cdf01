"""Reads what doctor judges: the host that it runs on, the members of etcd, the datastore. Changes nothing.

In: sockets, /proc, the programs of the host; out: HostFacts, EtcdFacts. What cannot be read counts as absent, but for
etcd, whose silence is what is looked for. nftables is tried with a chain that is taken out at once, as the agent does.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

from felixpy.ctl.doctor.cluster import EtcdFacts
from felixpy.ctl.doctor.firewalls import parse_dropping_chains
from felixpy.ctl.doctor.host import PLUGIN, HostFacts, Listener
from felixpy.datastore.settings import Endpoint, EtcdSettings
from felixpy.drivers.backend import BackendSetting, try_backend

TIMEOUT_S = 5.0
CONF_DIR, BIN_DIR = Path("/etc/cni/net.d"), Path("/opt/cni/bin")
_PROC_SYS, _PROC_NET = Path("/proc/sys"), Path("/proc/thread-self/net")
_LISTEN = "0A"
_SIOCGIFMTU = 0x8921
_SAVES = ("iptables-nft-save", "ip6tables-nft-save")
_LEGACY_SAVES = {"ip_tables_names": "iptables-legacy-save", "ip6_tables_names": "ip6tables-legacy-save"}
"""By the file that is empty or missing where nobody ever used them: they would make tables by looking."""
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_ADVERTISED = re.compile(r"^default .*\bdev (\S+) proto ra\b", re.MULTILINE)
_METRIC = re.compile(r"^(etcd_mvcc_db_total_size_in_bytes|etcd_server_quota_backend_bytes)\s+(\S+)", re.MULTILINE)


def read_host(conf_dir: Path = CONF_DIR, bin_dir: Path = BIN_DIR, *, layer2: bool = False) -> HostFacts:
    """This machine, as the network namespace that we are in sees it."""
    devices = dict(_read_devices())
    return HostFacts(
        sysctls=dict(_read_sysctls(devices)),
        devices=devices,
        conflists=tuple(_read_conflists(conf_dir)),
        saved={name: text for name in _saves() if (text := _run(name))},
        dropping=tuple(_read_dropping()),
        nft_tables=tuple(line.split()[-1] for line in _run("nft", "list", "tables").splitlines() if line.split()),
        listeners=tuple(_read_listeners(179)),
        gobgpd=_version_of(_run("gobgpd", "--version")),
        lacking=_try_netfilter() if os.geteuid() == 0 else {},
        plugin_there=(bin_dir / PLUGIN).exists(),
        uplink_mtu=devices.get(_uplink(), 0),
        advertised=frozenset(_ADVERTISED.findall(_run("ip", "-6", "route", "show", "default"))),
        layer2=layer2,
    )


def _read_dropping() -> Iterator[str]:
    """Chains that drop what they do not accept of what is forwarded, and that do not speak of pods' devices."""
    for chain in parse_dropping_chains(_run("nft", "list", "chains")):
        if "cali" not in _run("nft", "list", "chain", *chain.split()):
            yield chain


def _try_netfilter() -> dict[str, str]:
    """Why each back end does not work, as far as one has to look: iptables, which leaves tables, if need be."""
    lacking = {str(BackendSetting.NFTABLES): try_backend(BackendSetting.NFTABLES)}
    if lacking[BackendSetting.NFTABLES]:
        others = (BackendSetting.IPTABLES_NFT, BackendSetting.IPTABLES_LEGACY)
        lacking.update((str(one), try_backend(one)) for one in others)
    return lacking


def _saves() -> Iterator[str]:
    yield from _SAVES
    for name, program in _LEGACY_SAVES.items():
        try:
            used = (_PROC_NET / name).read_text().strip()
        except OSError:
            continue
        if used:
            yield program


def _read_devices() -> Iterator[tuple[str, int]]:
    """Every device with its mtu (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(one, _SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
            except OSError:
                continue
            yield name, struct.unpack("16si12x", answer)[1]


def _read_sysctls(devices: dict[str, int]) -> Iterator[tuple[str, str]]:
    paths = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
    paths += [f"net/ipv4/conf/all/{word}" for word in ("rp_filter", "arp_ignore", "arp_announce")]
    paths += [f"net/ipv4/conf/{name}/rp_filter" for name in devices]
    paths += [f"net/ipv6/conf/{name}/accept_ra" for name in devices]
    paths += [f"net/netfilter/nf_conntrack_{word}" for word in ("max", "count")]
    for path in paths:
        try:
            yield path, (_PROC_SYS / path).read_text().strip()
        except OSError:
            continue


def _read_conflists(conf_dir: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """In the order in which a runtime takes them (libcni: by name)."""
    try:
        files = sorted(one for one in conf_dir.iterdir() if one.suffix in (".conflist", ".conf", ".json"))
    except OSError:
        return
    for file in files:
        try:
            body = json.loads(file.read_bytes())
            plugins = body.get("plugins", [body])
            yield file.name, tuple(str(one.get("type", "")) for one in plugins)
        except (OSError, ValueError, AttributeError):
            yield file.name, ()


def _run(*argv: str) -> str:
    """What a program of the host prints; nothing where there is none, or it fails."""
    program = shutil.which(argv[0])
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *argv[1:]], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version_of(text: str) -> tuple[int, ...]:
    found = _VERSION.search(text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def _read_listeners(port: int) -> Iterator[Listener]:
    for name in ("tcp", "tcp6"):
        try:
            rows = (_PROC_NET / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield Listener(port, _program_of(fields[9]))


def _program_of(inode: str) -> str:
    """The program that has a socket open; "" where that cannot be told."""
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(one) == wanted for one in (process / "fd").iterdir()):
                return (process / "comm").read_text().strip()
        except OSError:
            continue
    return ""


def _uplink() -> str:
    """The device of the IPv4 default route."""
    try:
        rows = [row.split() for row in (_PROC_NET / "route").read_text().splitlines()[1:]]
    except OSError:
        return ""
    return next((row[0] for row in rows if row[1] == "00000000" and row[7] == "00000000"), "")


def read_member(endpoint: Endpoint, settings: EtcdSettings) -> EtcdFacts:
    """One member of etcd, over HTTP: health, clock, space, version."""
    try:
        connection = _connect(endpoint, settings)
    except (OSError, ssl.SSLError) as error:
        return EtcdFacts(str(endpoint), error=str(error))
    try:
        start = time.monotonic()
        healthy, date = _get(connection, "/health")
        read_ms = (time.monotonic() - start) * 1000
        metrics, _ = _get(connection, "/metrics")
        version, _ = _get(connection, "/version")
    except (OSError, http.client.HTTPException) as error:
        return EtcdFacts(str(endpoint), error=str(error) or type(error).__name__)
    finally:
        connection.close()
    figures = {name: float(figure) for name, figure in _METRIC.findall(metrics)}
    return EtcdFacts(
        endpoint=str(endpoint),
        healthy=_field(healthy, "health") in ("true", ""),
        read_ms=read_ms,
        skew_s=_skew(date),
        used_bytes=int(figures.get("etcd_mvcc_db_total_size_in_bytes", 0)),
        quota_bytes=int(figures.get("etcd_server_quota_backend_bytes", 0)),
        version=_field(version, "etcdserver"),
    )


def _connect(endpoint: Endpoint, settings: EtcdSettings) -> http.client.HTTPConnection:
    if endpoint.path:
        made = http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(TIMEOUT_S)
        made.sock.connect(endpoint.path)
        return made
    if not endpoint.tls:
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=TIMEOUT_S)
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    if settings.cert is not None and settings.key is not None:
        context.load_cert_chain(settings.cert, settings.key)
    return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=TIMEOUT_S, context=context)


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[str, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.read().decode("utf-8", "replace"), answer.getheader("Date") or ""


def _field(text: str, name: str) -> str:
    try:
        return str(json.loads(text).get(name, ""))
    except (ValueError, AttributeError):
        return ""


def _skew(date: str) -> float:
    """How far ahead of ours the other clock is; it tells whole seconds only, so less than two is none."""
    try:
        ahead = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0
    return ahead if abs(ahead) > 2 else 0.0
