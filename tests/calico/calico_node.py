"""A node of Calico's own: its startup, Felix, confd with its templates, BIRD 1.6, and its CNI plugins.

The templates are those of the Go module. Calico's BIRD is 1.6 with one attribute more, `krt_tunnel`; Debian's has it
not, so that the copies of the templates say there what would go by which tunnel, and nothing else is changed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.agent.node import Json
from tests.support.netns import Namespace
from tests.support.packets import NameServer
from tests.support.process import Daemon

PROGRAM = Path("build/calico").absolute()
BIRD = Path("build/bird").absolute()
PORT = 8080
AGAIN = 'trap "kill \\$pid; exit" TERM; while :; do "$0" "$@" & pid=$!; wait $pid; sleep 0.5; done'


class CalicoNode:
    """Nothing runs before `start`; its namespace's devices are the caller's."""

    def __init__(self, name: str, namespace: Namespace, etcd: str) -> None:
        self.name, self.namespace = name, namespace
        self.directory = tempfile.TemporaryDirectory(prefix="calico-node")
        self.place = Path(self.directory.name)
        namespace.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.environment = {
            "NODENAME": name,
            "DATASTORE_TYPE": "etcdv3",
            "ETCD_ENDPOINTS": etcd,
            "IP": "autodetect",
            "IP6": "autodetect",
            "NO_DEFAULT_POOLS": "true",
            "CALICO_NODENAME_FILE": str(self.place / "nodename"),
            "CALICO_SHUTDOWN_TIMESTAMP_FILE": str(self.place / "shutdown"),
            "CALICO_DISABLE_FILE_LOGGING": "true",
            "CALICO_NETWORKING_BACKEND": "none-but-ours",
            "FELIX_FELIXHOSTNAME": name,
            "FELIX_DATASTORETYPE": "etcdv3",
            "FELIX_ETCDENDPOINTS": etcd,
            "FELIX_LOGFILEPATH": "none",
            "FELIX_LOGSEVERITYFILE": "none",
            "FELIX_LOGSEVERITYSYS": "none",
            "FELIX_LOGSEVERITYSCREEN": "Info",
            "FELIX_USAGEREPORTINGENABLED": "false",
            "FELIX_HEALTHENABLED": "true",
            "FELIX_BPFENABLED": "false",
            "FELIX_XDPENABLED": "false",
            "FELIX_IPTABLESLOCKFILEPATH": str(self.place / "xtables.lock"),
            "GOMAXPROCS": "1",
        }
        self.felix = self.daemon("felix")
        self.tunnels = self.daemon("tunnels")
        self.confd = self.daemon("confd", str(self.place / "confd"))
        self.birds = {version: self.bird(version) for version in (4, 6)}

    def daemon(self, *words: str) -> Daemon:
        """One that is started again when it ends, as Calico's image does: so it takes up what it cannot change."""
        argv = ["sh", "-c", AGAIN, str(PROGRAM), *words]
        return Daemon(argv, self.place / f"{words[0]}.log", netns=self.namespace.name, env=self.environment)

    def bird(self, version: int) -> Daemon:
        argv: list[str | Path] = [self.program(version), "-f", "-R", "-s", self.control(version)]
        argv += ["-c", self.place / "config" / f"{word(version)}.cfg", "-P", self.place / f"{word(version)}.pid"]
        return Daemon(argv, self.place / f"{word(version)}.log", netns=self.namespace.name)

    def program(self, version: int) -> Path:
        return BIRD / "usr/sbin" / word(version)

    def control(self, version: int) -> Path:
        return self.place / f"{word(version)}.ctl"

    def start(self) -> CalicoNode:
        """Registers the node, then runs what runs on it."""
        self.namespace.run(PROGRAM, "begin", env=self.environment, timeout_s=60)
        self.felix.start()
        self.tunnels.start()
        self.put_templates(self.place / "confd")
        self.confd.start()
        config = self.place / "config"
        self.confd.wait_ready(lambda: all((config / f"{name}.cfg").exists() for name in FILES), within_s=30)
        for version, bird in self.birds.items():
            bird.start().wait_ready(lambda version=version: self.control(version).exists())  # type: ignore[misc]
        return self

    def put_templates(self, there: Path) -> None:
        """confd's directory with the module's templates; what it writes goes below ours, and reloads our BIRD."""
        shutil.copytree(find_module() / "confd/etc/calico/confd", there, copy_function=shutil.copyfile)
        (self.place / "config").mkdir()
        for path in (there / "conf.d").iterdir():
            text = path.read_text().replace("/etc/calico/confd/config", str(self.place / "config"))
            version = 6 if "bird6" in path.name else 4
            text = re.sub(r'check_cmd = "bird6? ', f'check_cmd = "{self.program(version)} ', text)
            client = BIRD / "usr/sbin" / f"birdc{version if version == 6 else ''}"
            text = re.sub(
                r"reload_cmd = .*", f'reload_cmd = "{client} -s {self.control(version)} configure || true"', text
            )
            path.chmod(0o644)
            path.write_text(text)
        for path in (there / "templates").iterdir():
            path.chmod(0o644)
            path.write_text(re.sub(r"krt_tunnel = ([^;]*);", r'print "tunnel ", \1, " for ", net;', path.read_text()))

    def birdc(self, version: int, *words: str) -> str:
        """What BIRD says."""
        client = BIRD / "usr/sbin" / f"birdc{version if version == 6 else ''}"
        return self.namespace.run(client, "-s", self.control(version), *words)

    def config(self, name: str) -> str:
        """A file that confd wrote."""
        return (self.place / "config" / f"{name}.cfg").read_text()

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """What runs on it."""
        return (*self.birds.values(), self.confd, self.tunnels, self.felix)

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.stop()
        self.directory.cleanup()

    def __enter__(self) -> CalicoNode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            for daemon in self.daemons:
                print(daemon.tail(60))
        self.close()


FILES = tuple(f"{word}{part}" for word in ("bird", "bird6") for part in ("", "_aggr", "_ipam"))


def word(version: int) -> str:
    """BIRD 1.6 is two programs."""
    return "bird6" if version == 6 else "bird"


def find_module() -> Path:
    """Where Go keeps Calico's source."""
    argv = ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/projectcalico/calico"]
    done = subprocess.run(argv, cwd="tests/calico/program", capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


class CalicoPod:
    """A pod that Calico's plugins wired; `name` in `default`, or in the Kubernetes namespace of `variables`."""

    def __init__(self, node: CalicoNode, name: str) -> None:
        self.node, self.name = node, name
        self.namespace = Namespace.create("p")
        plugins = node.place / "plugins"
        plugins.mkdir(exist_ok=True)
        for plugin in ("calico", "calico-ipam"):
            if not (plugins / plugin).exists():
                (plugins / plugin).symlink_to(PROGRAM)
        self.plugins = plugins
        self.addresses: list[str] = []

    def configuration(self) -> Json:
        """The network's, as Calico's manifests have it for etcd."""
        return {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "calico",
            "log_level": "warning",
            "log_file_path": str(self.node.place / "cni.log"),
            "datastore_type": "etcdv3",
            "etcd_endpoints": self.node.environment["ETCD_ENDPOINTS"],
            "nodename": self.node.name,
            "nodename_file": str(self.node.place / "nodename"),
            "ipam_lock_file": str(self.node.place / "ipam.lock"),
            "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
        }

    def call(self, verb: str) -> Json:
        """The plugin called as a runtime does."""
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"c{self.name}",
            "CNI_NETNS": str(self.namespace.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugins),
        }
        text = json.dumps(self.configuration())
        done = self.node.namespace.run(self.plugins / "calico", stdin=text, env=variables, timeout_s=60, check=False)
        return dict(json.loads(done or "{}"))

    def add(self) -> CalicoPod:
        said = self.call("ADD")
        self.addresses = [one["address"].partition("/")[0] for one in said.get("ips", ())]
        assert len(self.addresses) == 2, said
        self.server = NameServer(self.namespace, self.name, PORT)
        return self

    def delete(self) -> None:
        assert "code" not in self.call("DEL")

    def close(self) -> None:
        self.server.stop()
        self.namespace.delete()
