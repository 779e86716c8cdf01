"""Puts the plugin and its network configuration where the container runtime looks for them.

Imperative. In → out: build/felixpy-cni and a conflist → files in the runtime's directories, each whole or not there.
The configuration comes last, since a runtime uses it the moment that it appears. Run by the DaemonSet's init container
and by hand: `python -m felixpy.cni.install --help`. Source: CNI specification 1.1.0 section 1, cri-o and containerd.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

PLUGIN = "felixpy-cni"
CONFLIST = "10-felixpy.conflist"
_WITHOUT = {
    "portmap": "ports that containers publish (hostPort) lead nowhere",
    "bandwidth": "limits of pods' bandwidth are not enforced",
}


def render_conflist(template: bytes, run_dir: str, available: frozenset[str]) -> bytes:
    """The template with our run directory, without the chained plugins that are not `available` on the node.

    Raises  ValueError when the template is no network configuration list that has our plugin.
    """
    try:
        conf = msgspec.json.decode(template, type=dict[str, Any])
        plugins = msgspec.convert(conf.get("plugins"), list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise ValueError(f"no network configuration list: {error}") from None
    if not any(plugin.get("type") == PLUGIN for plugin in plugins):
        raise ValueError(f"no plugin of type {PLUGIN}")
    conf["plugins"] = [
        {**plugin, "runDir": run_dir} if plugin["type"] == PLUGIN else plugin
        for plugin in plugins
        if plugin.get("type") == PLUGIN or plugin.get("type") in available
    ]
    return msgspec.json.format(msgspec.json.encode(conf), indent=2) + b"\n"


def find_lacking(template: bytes, available: frozenset[str]) -> tuple[str, ...]:
    """The chained plugins of a usable template that the node has not."""
    plugins = msgspec.json.decode(template, type=dict[str, Any])["plugins"]
    return tuple(name for one in plugins if (name := one.get("type")) and name not in {PLUGIN, *available})


def install(binary: Path, template: Path, bin_dir: Path, conf_dir: Path, run_dir: str) -> tuple[str, ...]:
    """Installs both, or replaces what is there; the chained plugins that were left out, as the node has not got them.

    Raises  OSError, and ValueError for an unusable template (then nothing is written).
    """
    available = frozenset(entry.name for entry in bin_dir.iterdir()) if bin_dir.exists() else frozenset()
    text, program = template.read_bytes(), binary.read_bytes()
    conflist = render_conflist(text, run_dir, available)
    bin_dir.mkdir(parents=True, exist_ok=True)
    conf_dir.mkdir(parents=True, exist_ok=True)
    _write_whole(bin_dir / PLUGIN, program, 0o755)
    _write_whole(conf_dir / CONFLIST, conflist, 0o644)
    return find_lacking(text, available)


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@click.command(help=__doc__.partition("\n")[0])
@click.option("--binary", type=click.Path(path_type=Path), default=Path("build", PLUGIN), show_default=True)
@click.option("--conflist", type=click.Path(path_type=Path), default=Path("deploy", CONFLIST), show_default=True)
@click.option("--bin-dir", type=click.Path(path_type=Path), default=Path("/opt/cni/bin"), show_default=True)
@click.option("--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True)
@click.option("--run-dir", default="/run/felixpy", show_default=True, help="the agent's, as the host sees it")
def main(binary: Path, conflist: Path, bin_dir: Path, conf_dir: Path, run_dir: str) -> None:
    try:
        lacking = install(binary, conflist, bin_dir, conf_dir, run_dir)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{bin_dir / PLUGIN} and {conf_dir / CONFLIST} are in place")
    for name in lacking:
        without = _WITHOUT.get(name, "what it does is not done")
        click.echo(f"warning: {bin_dir} has no plugin {name}, which was left out: {without}", err=True)


if __name__ == "__main__":
    main()
