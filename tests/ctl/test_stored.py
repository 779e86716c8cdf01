"""What is shown of an object, and what becomes of it when it is applied again as it was shown."""

from __future__ import annotations

import pytest

from felixpy.ctl.manifests import Body, Manifest
from felixpy.ctl.reading.intake import take_in
from felixpy.ctl.reading.yaml_text import parse_documents
from felixpy.ctl.stored import HIDDEN, Stamp, find_hidden, parse_body, shown_body, stored_body
from felixpy.resources.kinds import Name

PEER = """\
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{name: tor, namespace: m}}
spec: {{myASN: 64512, peerASN: 65000, peerAddress: 10.0.0.1, password: {password}}}
"""
STAMP = Stamp("2026-01-01T00:00:00Z", "u")


def manifest(password: str) -> Manifest:
    (found,) = take_in(parse_documents(PEER.format(password=f"'{password}'"), "f.yaml")).manifests
    return found


def stored(password: str, existing: Body | None = None) -> Body:
    return stored_body(manifest(password), Name("m", "tor"), existing, {}, STAMP)


def test_a_password_in_an_object_that_is_no_secret_is_not_shown_and_stays() -> None:
    info, first = manifest("open-sesame").info, stored("open-sesame")
    shown = shown_body(info, first, {}, 7)
    assert "open-sesame" not in repr(shown)
    assert stored(HIDDEN, first)["spec"] == first["spec"], "applied again as it was shown"
    assert list(find_hidden(info, stored(HIDDEN, first))) == []
    assert [problem.path for problem in find_hidden(info, stored(HIDDEN))] == [("spec", "password")]
    changed = stored("another", first)["spec"]
    assert isinstance(changed, dict)
    assert changed["password"] == "another"


@pytest.mark.parametrize(
    "value", [b"", b"[1]", b'{"x":"\xff"}', b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"], ids=range(4)
)
def test_what_is_no_object_is_named_and_not_the_end_of_a_list(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_body(value)
