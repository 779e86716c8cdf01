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


def install(binary: Path, template: Path, bin_dir: Path, conf_dir: Path, run_dir: str) -> None:
    """Installs both, or replaces what is there.

    Raises  OSError, and ValueError for an unusable template (then nothing is written).
    """
    available = frozenset(entry.name for entry in bin_dir.iterdir()) if bin_dir.exists() else frozenset()
    conflist, program = render_conflist(template.read_bytes(), run_dir, available), binary.read_bytes()
    bin_dir.mkdir(parents=True, exist_ok=True)
    conf_dir.mkdir(parents=True, exist_ok=True)
    _write_whole(bin_dir / PLUGIN, program, 0o755)
    _write_whole(conf_dir / CONFLIST, conflist, 0o644)


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
        install(binary, conflist, bin_dir, conf_dir, run_dir)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
