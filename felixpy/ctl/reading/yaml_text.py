"""YAML and JSON text to documents, with the place of every field.

Owns    the scalar rules: YAML 1.2's, so `on`, `yes`, `22:30` and dates stay the text that was typed. Null means absent,
        as in Kubernetes. A number that no reader of JSON takes (of more than 64 bits, infinite) stays text, so that its
        field is refused and no other. A key given twice, an alias into itself and an alias bomb are refused.
In, out text → Documents in order; `YamlError` names file, line and column.
Source  YAML 1.2 §10.3.2 (core schema); libyaml's parser does the reading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import yaml

from felixpy.ctl.manifests import Document, Json, Path, Source, describe

_NO_SPACE = re.compile(r"\S")

INTEGERS = range(-(1 << 63), 1 << 64)
"""What every reader of JSON takes, signed or not."""
MAX_NODES = 2_000_000
"""Values in one document after its aliases are spelled out; far above what etcd takes (1.5 MB a key)."""

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """The text is no YAML: `place` is file, line and column, as far as they are known."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}")
        self.place = place
        self.why = why


class _Loader12(_Loader):  # type: ignore[misc]
    """libyaml's composer with the core schema's scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)|[0-9]+\.[0-9]*)$", "-+.0123456789"),
    ("merge", r"^<<$", "<"),
):
    _Loader12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def parse_documents(text: str, file: str) -> Iterator[Document]:
    """The documents of a file; empty ones are left out.

    Raises  YamlError where the text stops making sense; the documents before it have been given.
    """
    if text.lstrip().startswith(("{", "[")) and (stream := _try_json(text, file)) is not None:
        for number, (value, line) in enumerate(stream, 1):
            yield from _document(value, Source(file, number, line), None)
        return
    loader = _Loader12(text)
    try:
        number = 0
        while loader.check_node():
            node = loader.get_node()
            number += 1
            source = Source(file, number, node.start_mark.line + 1)
            if _count(node, file, {}, ()) > MAX_NODES:
                raise YamlError(str(source), f"aliases unfold to more than {MAX_NODES} values")
            yield from _document(_construct(node, file), source, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise YamlError(place, f"{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise YamlError(file, str(error)) from None
    except RecursionError:
        raise YamlError(file, "values are nested too deeply") from None
    finally:
        loader.dispose()


def _document(value: Json, source: Source, node: yaml.Node | None) -> Iterator[Document]:
    if value is None:
        return
    if not isinstance(value, dict):
        raise YamlError(str(source), f"a document must be a mapping, not {describe(value)}")
    yield Document(value, source, partial(_line_of, node))


def _try_json(text: str, file: str) -> list[tuple[Json, int]] | None:
    """Values one after the other, as jq and kubectl write them, each with its line; None: it may be YAML in braces."""
    decoder = json.JSONDecoder(
        object_pairs_hook=partial(_unique, file),
        parse_int=_integer,
        parse_float=_finite,
        parse_constant=str,
    )
    values: list[tuple[Json, int]] = []
    end, line = 0, 1
    try:
        while (start := _NO_SPACE.search(text, end)) is not None:
            line += text.count("\n", end, start.start())
            value, end = decoder.raw_decode(text, start.start())
            values.append((_without_null(value), line))
            line += text.count("\n", start.start(), end)
    except (json.JSONDecodeError, RecursionError):
        return None
    return values


def _unique(file: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise YamlError(file, f"the key {next(k for k in keys if keys.count(k) > 1)!r} is given twice")
    return result


def _without_null(value: Any) -> Json:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    scalar: Json = value
    return scalar


def _count(node: yaml.Node, file: str, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Values below `node`, aliases counted as often as they are used."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    here = id(node)
    if here in above:
        raise YamlError(_place(node, file), "an alias contains itself")
    if here not in known:
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[here] = 1 + sum(_count(child, file, known, (*above, here)) for child in children)
    return known[here]


def _construct(node: yaml.Node, file: str) -> Json:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, file)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, file) for item in node.value]
    merged: dict[str, Json] = {}
    own: dict[str, Json] = {}
    for key_node, value_node in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for item in reversed(sources):
                value = _construct(item, file)
                merged.update(value if isinstance(value, dict) else {})
            continue
        key = _key(key_node, file)
        if key in own:
            raise YamlError(_place(key_node, file), f"the key {key!r} is given twice")
        own[key] = _construct(value_node, file)
    return {key: value for key, value in {**merged, **own}.items() if value is not None}


def _key(node: yaml.Node, file: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(_place(node, file), "a key must be text")
    return str(node.value)


def _scalar(node: yaml.ScalarNode, file: str) -> Json:
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "bool":
            return text.lower() == "true"
        case "null":
            return None
        case "int":
            return _integer(text)
        case "float":
            return _finite(text)
        case "str" | "timestamp" | "value":
            return text
        case other:
            raise YamlError(_place(node, file), f"the tag {other!r} has no meaning here")


def _integer(text: str) -> int | str:
    try:
        number = int(text, 0)
    except ValueError:  # more digits than Python reads
        return text
    return number if number in INTEGERS else text


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _place(node: yaml.Node, file: str) -> str:
    return f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _line_of(node: yaml.Node | None, path: Path) -> int:
    """Line of the field at `path`, or of the nearest thing above it that was written."""
    if node is None:
        return 0
    line = int(node.start_mark.line) + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == part), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
