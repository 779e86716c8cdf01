"""How the API server is reached: from inside a pod, or by a kubeconfig.

In: `in-cluster` or a path; out: an Access, or an AccessError that names the file and the field. Reads files, and the
environment of a pod; speaks with nobody. A token that lies in a file is read anew for each use: kubelet changes it.
Source: client-go/rest (InClusterConfig), client-go/tools/clientcmd/api/v1 (Config).
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

IN_CLUSTER = "in-cluster"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class AccessError(Exception):
    """The API server cannot be reached by what was given; the text names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Access:
    """`token` is a bearer token, or `token_file` where one lies; neither where the client certificate is all."""

    url: str
    tls: ssl.SSLContext | None
    token: str = ""
    token_file: Path | None = None

    def read_token(self) -> str:
        """The token as it is now; "" for none.

        Raises  OSError when its file cannot be read.
        """
        return self.token_file.read_text().strip() if self.token_file is not None else self.token


def read_access(given: str, environment: Mapping[str, str], account: Path = ACCOUNT) -> Access:
    """The way that `given` names.

    Raises  AccessError.
    """
    return _in_cluster(environment, account) if given == IN_CLUSTER else _kubeconfig(Path(given))


def _in_cluster(environment: Mapping[str, str], account: Path) -> Access:
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise AccessError("in-cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: is this a pod?")
    token = account / "token"
    if not token.exists():
        raise AccessError(f"in-cluster: {token} is not there: has the pod a service account?")
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Access(url, _trust(str(account / "ca.crt"), None), token_file=token)


def _kubeconfig(path: Path) -> Access:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise AccessError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise AccessError(f"{path}: is no kubeconfig")
    context = _named(path, config, "contexts", "context", config.get("current-context"))
    cluster = _named(path, config, "clusters", "cluster", context.get("cluster"))
    user = _named(path, config, "users", "user", context.get("user"))
    for way in ("exec", "auth-provider", "username"):
        if way in user:
            raise AccessError(f"{path}: users: {way} is not supported; a token or a client certificate is")
    url = str(cluster.get("server", ""))
    if not url.startswith(("https://", "http://")):
        raise AccessError(f"{path}: clusters: server: {url!r} is no URL")
    token_file = user.get("tokenFile")
    return Access(
        url.rstrip("/"),
        _tls(path, cluster, user) if url.startswith("https://") else None,
        str(user.get("token", "")),
        path.parent / token_file if token_file else None,
    )


def _named(path: Path, config: Mapping[str, Any], plural: str, single: str, name: object) -> Mapping[str, Any]:
    for one in config.get(plural) or ():
        if isinstance(one, dict) and one.get("name") == name and isinstance(one.get(single), dict):
            return dict(one[single])
    raise AccessError(f"{path}: {plural}: there is none named {name!r}")


def _tls(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    place = path.parent
    try:
        authority = cluster.get("certificate-authority")
        data = cluster.get("certificate-authority-data")
        inline = base64.b64decode(data).decode() if data else None
        context = _trust(str(place / authority) if authority else None, inline)
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if user.get("client-certificate") or user.get("client-certificate-data"):
            with ExitStack() as stack:
                certificate = _credential(user, "client-certificate", place, stack)
                context.load_cert_chain(certificate, _credential(user, "client-key", place, stack))
    except (OSError, ValueError) as error:
        raise AccessError(f"{path}: {error}") from None
    return context


def _credential(user: Mapping[str, Any], name: str, place: Path, stack: ExitStack) -> Path:
    """Where a certificate or key lies; OpenSSL reads files only, so one that is given inline gets one in memory."""
    data = user.get(f"{name}-data")
    if not data:
        return place / str(user.get(name, ""))
    file = stack.enter_context(os.fdopen(os.memfd_create(name), "wb"))
    file.write(base64.b64decode(data))
    file.flush()
    return Path(f"/proc/self/fd/{file.fileno()}")


def _trust(file: str | None, data: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file, cadata=data)
    except (OSError, ValueError) as error:
        raise AccessError(f"the API server's CA {file or ''}: {error}") from None
