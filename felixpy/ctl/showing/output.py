"""Objects as text: YAML that reads back as the same values (in YAML 1.1 and 1.2 alike), and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from felixpy.ctl.manifests import Body

_Dumper: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Quoting(_Dumper):  # type: ignore[misc]
    """Quotes what either version would take for a number."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Quoting.add_implicit_resolver(
    "tag:felixpy,2025:number",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+.0123456789"),
)


def render_yaml(body: Body) -> str:
    """One document, fields in the order given."""
    text: str = yaml.dump(dict(body), Dumper=_Quoting, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return text


def render_json(body: Body) -> str:
    """Indented, as Kubernetes' tools print it."""
    return json.dumps(body, indent=4, ensure_ascii=False)


def render_body(body: Body, form: str) -> str:
    """As `form` says, json or yaml; without a line's end, for whoever prints it."""
    return render_json(body) if form == "json" else render_yaml(body).rstrip("\n")
