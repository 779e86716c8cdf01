"""Installation into a runtime's directories."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from felixpy.cni.install import CONFLIST, PLUGIN, install, main, render_conflist
from tests.cni.conftest import ROOT

TEMPLATE = ROOT / "deploy" / CONFLIST


def types(conflist: bytes) -> list[str]:
    return [plugin["type"] for plugin in json.loads(conflist)["plugins"]]


def test_plugins_that_the_node_lacks_are_left_out() -> None:
    template = TEMPLATE.read_bytes()
    assert types(render_conflist(template, "/run/x", frozenset())) == [PLUGIN]
    assert types(render_conflist(template, "/run/x", frozenset({"portmap"}))) == [PLUGIN, "portmap"]
    assert json.loads(render_conflist(template, "/run/x", frozenset()))["plugins"][0]["runDir"] == "/run/x"


@pytest.mark.parametrize("template", [b"", b"[]", b"{}", b'{"plugins": [{"type": "other"}]}', b'{"plugins": [{}]}'])
def test_a_template_that_is_none_writes_nothing(tmp_path: Path, template: bytes) -> None:
    (tmp_path / "template").write_bytes(template)
    (tmp_path / "binary").write_bytes(b"x")
    with pytest.raises(ValueError):
        install(tmp_path / "binary", tmp_path / "template", tmp_path / "bin", tmp_path / "conf", "/run/x")
    assert not (tmp_path / "bin").exists()
    assert not (tmp_path / "conf").exists()


def test_it_replaces_what_is_there_as_a_whole(tmp_path: Path, shim: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / PLUGIN).write_bytes(b"old")
    options = ["--binary", str(shim), "--conflist", str(TEMPLATE)]
    options += ["--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "conf"), "--run-dir", "/run/x"]
    for _ in range(2):
        done = CliRunner().invoke(main, options)
        assert done.exit_code == 0, done.output
    assert f"{tmp_path}/bin has no plugin portmap, which was left out: ports that containers publish" in done.output
    (tmp_path / "bin" / "portmap").touch()
    (tmp_path / "bin" / "bandwidth").touch()
    assert "left out" not in CliRunner().invoke(main, options).output
    assert (tmp_path / "bin" / PLUGIN).read_bytes() == shim.read_bytes()
    assert stat.S_IMODE((tmp_path / "bin" / PLUGIN).stat().st_mode) == 0o755
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {PLUGIN, CONFLIST, "portmap", "bandwidth"}


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    options = ["--binary", str(tmp_path / "none"), "--conflist", str(TEMPLATE)]
    options += ["--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "conf")]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 1
    assert "none" in done.output
