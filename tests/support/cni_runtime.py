"""A container runtime's part of CNI, written from the specification's text: which plugin is run when, and with what.

In: a network configuration list, plugins' directories, the node's namespace; out: the last plugin's results.
Source: CNI specification 1.1.0, sections 1 to 3 (configuration, protocol, execution) and 5 (results); CONVENTIONS.md.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.netns import Namespace

Json = dict[str, Any]
OWN_FIELDS = ("capabilities",)
"""Fields of a plugin's configuration that are the runtime's, and not passed on (section 3, derived configuration)."""


INTERFACE_FIELDS, ROUTE_FIELDS = {"name", "mac", "sandbox"}, {"dst", "gw"}
NEW_INTERFACE_FIELDS, NEW_ROUTE_FIELDS = {"mtu", "socketPath", "pciID"}, {"mtu", "advmss", "priority", "table", "scope"}
"""Those that came with 1.1.0."""


class PluginFailed(Exception):
    """A plugin ended with another status than 0; `error` is what it printed."""

    def __init__(self, plugin: str, verb: str, error: Json) -> None:
        super().__init__(f"{verb} of {plugin}: {error}")
        self.plugin, self.error = plugin, error


@dataclass(frozen=True)
class Attached:
    """What the runtime keeps of an ADD: all that it needs for CHECK and DEL."""

    netns: str
    args: str
    capabilities: Mapping[str, object]
    result: Json


@dataclass
class CniRuntime:
    """One network on one node. `calls` are the plugins run so far, as (verb, plugin, configuration)."""

    conflist: Json
    plugin_dirs: Sequence[Path]
    node: Namespace
    cache: dict[tuple[str, str], Attached] = field(default_factory=dict)
    calls: list[tuple[str, str, Json]] = field(default_factory=list)

    @property
    def plugins(self) -> list[Json]:
        return list(self.conflist["plugins"])

    def add(
        self, container: str, netns: Namespace, ifname: str = "eth0", args: str = "", **capabilities: object
    ) -> Json:
        """Each plugin in turn gets the result of the one before; the last one's is kept. A failure is undone by DEL."""
        result: Json | None = None
        try:
            for plugin in self.plugins:
                conf = self._derive(plugin, capabilities, result)
                result = self._run(plugin, "ADD", conf, container, str(netns.path), ifname, args)
        except PluginFailed:
            self._delete(container, ifname, Attached(str(netns.path), args, capabilities, {}))
            raise
        assert result is not None
        self.cache[container, ifname] = Attached(str(netns.path), args, capabilities, result)
        return result

    def check(self, container: str, ifname: str = "eth0", passing_over: Sequence[str] = ()) -> None:
        """Each plugin in the order of ADD, with the kept result."""
        kept = self.cache[container, ifname]
        for plugin in (plugin for plugin in self.plugins if plugin["type"] not in passing_over):
            conf = self._derive(plugin, kept.capabilities, kept.result)
            assert self._run(plugin, "CHECK", conf, container, kept.netns, ifname, kept.args) is None

    def delete(self, container: str, ifname: str = "eth0", *, with_netns: bool = True) -> None:
        """In reverse; may be called again, and after the namespace is gone."""
        kept = self.cache.pop((container, ifname), Attached("", "", {}, {}))
        self._delete(container, ifname, kept if with_netns else Attached("", kept.args, kept.capabilities, kept.result))

    def _delete(self, container: str, ifname: str, kept: Attached) -> None:
        for plugin in reversed(self.plugins):
            conf = self._derive(plugin, kept.capabilities, kept.result or None)
            self._run(plugin, "DEL", conf, container, kept.netns, ifname, kept.args)

    def collect(self, *valid: tuple[str, str]) -> None:
        """GC: every plugin learns which attachments are still wanted."""
        wanted = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        for plugin in self.plugins:
            conf = self._derive(plugin, {}, None) | {"cni.dev/valid-attachments": wanted}
            assert self._run(plugin, "GC", conf) is None

    def status(self) -> None:
        """Whether every plugin can take an ADD."""
        for plugin in self.plugins:
            assert self._run(plugin, "STATUS", self._derive(plugin, {}, None)) is None

    def _derive(self, plugin: Json, capabilities: Mapping[str, object], previous: Json | None) -> Json:
        """A plugin's own configuration, made of the list's (section 3)."""
        conf = {name: value for name, value in plugin.items() if name not in OWN_FIELDS}
        conf |= {"name": self.conflist["name"], "cniVersion": self.conflist["cniVersion"]}
        declared = [name for name, offered in plugin.get("capabilities", {}).items() if offered]
        asked = {name: capabilities[name] for name in declared if name in capabilities}
        if asked:
            conf["runtimeConfig"] = asked
        if previous is not None:
            conf["prevResult"] = previous
        return conf

    def _run(
        self,
        plugin: Json,
        verb: str,
        conf: Json,
        container: str = "",
        netns: str = "",
        ifname: str = "",
        args: str = "",
    ) -> Json | None:
        name = str(plugin["type"])
        self.calls.append((verb, name, conf))
        binary = next(found for place in self.plugin_dirs if (found := place / name).exists())
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": ":".join(map(str, self.plugin_dirs)),
        }
        done = subprocess.run(
            self.node.enter_argv([binary]),
            input=json.dumps(conf),
            env={"PATH": os.environ["PATH"], **{key: value for key, value in variables.items() if value}},
            capture_output=True,
            text=True,
            timeout=90,
        )
        printed = json.loads(done.stdout) if done.stdout.strip() else None
        if done.returncode:
            check_error(printed, self.conflist["cniVersion"] if "runDir" in plugin else None)
            raise PluginFailed(name, verb, printed or {})
        if verb == "ADD":
            check_result(printed, self.conflist["cniVersion"])
        return printed if isinstance(printed, dict) else None


def check_error(error: object, version: str | None) -> None:
    """Section 5, error; older plugins leave the version out (None)."""
    assert isinstance(error, dict), error
    assert set(error) <= {"cniVersion", "code", "msg", "details"}, error
    assert error.get("cniVersion") == version or not version
    assert isinstance(error["code"], int)
    assert error["code"] > 0
    assert isinstance(error["msg"], str)
    assert error["msg"]
    assert isinstance(error.get("details", ""), str)


def check_result(result: object, version: str) -> None:
    """Section 5, success; up to 0.4.0 each address says its family."""
    assert isinstance(result, dict), result
    assert set(result) <= {"cniVersion", "interfaces", "ips", "routes", "dns"}, result
    assert result["cniVersion"] == version
    for interface in result["interfaces"]:
        assert set(interface) <= {"name", "mac", "sandbox"} | (
            {"mtu", "socketPath", "pciID"} if version == "1.1.0" else set()
        )
        assert interface["name"]
    for ip in result["ips"]:
        old = version in ("0.3.0", "0.3.1", "0.4.0")
        assert set(ip) <= {"address", "gateway", "interface"} | ({"version"} if old else set())
        assert "/" in ip["address"]
        if old:
            assert ip["version"] == ("6" if ":" in ip["address"] else "4")
        assert result["interfaces"][ip["interface"]]["sandbox"], "an address is of an interface of the container"
    for route in result.get("routes", ()):
        assert set(route) <= {"dst", "gw"} | (
            {"mtu", "advmss", "priority", "table", "scope"} if version == "1.1.0" else set()
        )
        assert "/" in route["dst"]
    assert set(result.get("dns", {})) <= {"nameservers", "domain", "search", "options"}
