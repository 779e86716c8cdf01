"""Network namespaces of a test: made with a name of their own, linked by veths, removed with all that runs in them.

Processes enter by nsenter, which becomes them: no mount namespace, and the pid seen is the process's own.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.support.wait import eventually

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

COMMAND_S = 60.0
"""How long a command that ends by itself may take."""


def unique_name(prefix: str) -> str:
    """`prefix` with this process's id and a number: at most 15 characters (a device's limit) for prefixes up to 5."""
    return f"{prefix}{os.getpid()}{_letters(next(_numbers))}"


def _letters(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 26)
        digits = chr(ord("a") + digit) + digits
        if number == 0:
            return digits


class CommandFailed(AssertionError):
    """A command in a namespace ended with another code than 0, or not in time; the text holds what it printed."""


class Namespace:
    """A network namespace under /run/netns. `Namespace(name)` takes one that exists; `create` makes it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name

    @classmethod
    def create(cls, prefix: str = "t", *, name: str | None = None) -> Namespace:
        """A new namespace with its loopback up; called `name`, else by `prefix` and a unique ending."""
        namespace = cls(name or unique_name(prefix))
        while name is None and namespace.exists:  # a killed run left it, whose process had the number of this one
            namespace = cls(unique_name(prefix))
        subprocess.run(["ip", "netns", "add", namespace.name], check=True)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def enter_argv(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` as a command that runs in here."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, argv)]

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        timeout_s: float = COMMAND_S,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Runs a command to its end; its standard output.

        Raises  CommandFailed when `check` and the code is not 0, and when it does not end in time.
        """
        words = f"{self.name}: {' '.join(map(str, argv))}"
        try:
            done = subprocess.run(
                self.enter_argv(argv),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env={**os.environ, **(env or {})},
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{words}: not done after {timeout_s} s") from None
        if check and done.returncode:
            raise CommandFailed(f"{words}: {done.stdout}{done.stderr}".strip())
        return done.stdout

    def succeeds(self, *argv: str | Path, timeout_s: float = COMMAND_S) -> bool:
        """Whether the command ends with code 0 in time."""
        try:
            done = subprocess.run(self.enter_argv(argv), capture_output=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def popen(self, *argv: str | Path, **options: object) -> subprocess.Popen[str]:
        """A process in here that goes on; the caller ends it, or `delete` does."""
        return subprocess.Popen(self.enter_argv(argv), text=True, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]

    def ip(self, *arguments: str) -> str:
        """`ip ARGUMENTS` in here."""
        done = subprocess.run(["ip", "-n", self.name, *arguments], capture_output=True, text=True, timeout=COMMAND_S)
        if done.returncode:
            raise CommandFailed(f"ip -n {self.name} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def add_address(self, device: str, *prefixes: str) -> None:
        """Gives `device` addresses and sets it up; IPv6 without duplicate address detection."""
        for prefix in prefixes:
            self.ip("address", "add", prefix, "dev", device, *(["nodad"] if ":" in prefix else []))
        self.ip("link", "set", device, "up")

    def sysctl(self, **values: int | str) -> None:
        """Sets sysctls under net/; a double underscore stands for a slash (`ipv4__ip_forward=1`)."""
        with self.entered():
            for name, value in values.items():
                Path("/proc/sys/net", name.replace("__", "/")).write_text(str(value))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread works in here inside the block; a socket made there stays in here."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            with self.path.open("rb") as there:
                _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(own)
        finally:
            os.close(own)

    def pids(self) -> list[int]:
        """Processes in here."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=COMMAND_S)
        return [int(word) for word in done.stdout.split()]

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def delete(self) -> None:
        """Ends every process in here, then the namespace and its devices; nothing when it is gone already."""
        for _ in range(50):
            pids = self.pids() if self.exists else []
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, timeout=COMMAND_S)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.delete()


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def link_namespaces(
    left: Namespace,
    left_device: str,
    right: Namespace,
    right_device: str,
    *,
    left_addresses: Sequence[str] = (),
    right_addresses: Sequence[str] = (),
) -> None:
    """A veth pair between two namespaces, both ends up and in use, with the given addresses (`10.0.0.1/24`)."""
    left.ip("link", "add", left_device, "type", "veth", "peer", "name", right_device, "netns", right.name)
    left.ip("link", "set", left_device, "up")
    right.ip("link", "set", right_device, "up")
    left.add_address(left_device, *left_addresses)
    right.add_address(right_device, *right_addresses)
    # IPv6 does not use a device before the kernel's link watch has seen its carrier, up to a second later.
    eventually(lambda: "state UP" in left.ip("link", "show", left_device))
    eventually(lambda: "state UP" in right.ip("link", "show", right_device))


def add_bridge(namespace: Namespace, name: str, ports: Sequence[str], addresses: Sequence[str] = ()) -> None:
    """A bridge in `namespace` over devices that are in it, up at once (no spanning tree, no forward delay)."""
    namespace.ip("link", "add", name, "type", "bridge", "forward_delay", "0")
    for port in ports:
        namespace.ip("link", "set", port, "master", name, "up")
    namespace.add_address(name, *addresses)
