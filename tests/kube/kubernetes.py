"""A real kube-apiserver in a namespace, spoken to with kubectl.

`make kube` builds it from the module that program/go.mod names. It shares an etcd with felixpy, as on a machine of a
small cluster. Roles count (RBAC); felixpy comes with a token of its ServiceAccount, as in a pod. Nothing else of
Kubernetes runs: what its controllers and kubelet would write, a test writes.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.etcd import Etcd
from tests.support.netns import Namespace
from tests.support.process import Daemon

BUILT = Path("build/kube").absolute()
MODULES = BUILT / "modules"
"""Links to the sources of what was built: the definitions of custom resources lie there."""
PORT = 6443

Json = dict[str, Any]


class Refused(AssertionError):
    """What kubectl said when it did not succeed."""


class Kubernetes:
    """Listens on 127.0.0.1 in `namespace` while started; its files are below `directory`."""

    def __init__(self, namespace: Namespace, etcd: Etcd, directory: Path) -> None:
        self.namespace, self.directory = namespace, directory
        self.admin = directory / "admin.conf"
        self._certificate = directory / "certificates" / "apiserver.crt"
        key, tokens = directory / "accounts.key", directory / "tokens.csv"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens.write_text("admin,admin,admin,system:masters\n")
        self._write_config(self.admin, "admin")
        self.api = Daemon(
            [
                BUILT / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd.port}", f"--secure-port={PORT}",
                "--bind-address=127.0.0.1", f"--cert-dir={self._certificate.parent}", f"--token-auth-file={tokens}",
                f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--service-cluster-ip-range=10.96.0.0/16,fd96::/112", "--endpoint-reconciler-type=none",
                "--advertise-address=192.0.2.1",
            ],
            directory / "api.log",
            netns=namespace.name,
        )  # fmt: skip

    def _write_config(self, path: Path, token: str) -> None:
        """A kubeconfig that trusts the certificate which the API server makes for itself."""
        cluster = {"server": f"https://127.0.0.1:{PORT}", "certificate-authority": str(self._certificate)}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                }
            )
        )

    def start(self) -> Kubernetes:
        self.api.start().wait_ready(lambda: self.kubectl("get", "--raw", "/readyz"), 60)
        return self

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Runs kubectl as the administrator.

        Raises  Refused with what it says.
        """
        argv = self.namespace.enter_argv(["kubectl", f"--kubeconfig={self.admin}", *arguments])
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=60, env={"HOME": str(self.directory)}
        )
        if done.returncode:
            raise Refused(f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, text: str) -> None:
        """`kubectl apply` of some YAML."""
        self.kubectl("apply", "-f", "-", stdin=text)

    def define(self, *files: Path) -> None:
        """Makes custom resources known, as their projects publish them."""
        for file in files:
            self.kubectl("apply", "--server-side", "-f", file)
        names = [f"crd/{yaml.safe_load(file.read_text())['metadata']['name']}" for file in files]
        self.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")

    def get(self, *what: str) -> Any:
        """One object, or the items of a list."""
        found = json.loads(self.kubectl("get", *what, "-o", "json"))
        return found["items"] if found["kind"] == "List" else found

    def config_for(self, account: str, namespace: str) -> Path:
        """The kubeconfig of a ServiceAccount, with a token as a pod gets it."""
        path = self.directory / f"{account}.conf"
        self._write_config(path, self.kubectl("create", "token", account, f"--namespace={namespace}").strip())
        return path

    def close(self) -> None:
        self.api.stop()
