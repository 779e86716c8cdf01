"""YAML as people mean it: no surprises in scalars, every field's line, and text that is no YAML named by its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felixpy.ctl.manifests import Source
from felixpy.ctl.reading.yaml_text import YamlError, parse_documents
from felixpy.ctl.showing.output import render_json, render_yaml


def parsed(text: str) -> list[Any]:
    return [document.body for document in parse_documents(text, "f.yaml")]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("22:30", "22:30"),
        ("2001-01-01", "2001-01-01"),
        ("0755", "0755"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("true", True),
        ("12", 12),
        ("0x1F", 31),
        ("1.10", 1.1),
        ("1e3", 1000.0),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::/64", "fd00::/64"),
        ('"12"', "12"),
    ],
)
def test_scalars(typed: str, meant: object) -> None:
    assert parsed(f"a: {typed}") == [{"a": meant}]


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 20, "1e999", "18446744073709551616"])
def test_a_number_that_no_reader_takes_stays_text(number: str) -> None:
    assert parsed(f"a: {number}\nb: 1\n") == parsed(f'{{"a": {number}, "b": 1}}') == [{"a": number, "b": 1}]


def test_the_numbers_of_64_bits_and_no_other_words() -> None:
    assert parsed('{"a": 18446744073709551615, "b": -9223372036854775808, "c": NaN}') == [
        {"a": (1 << 64) - 1, "b": -(1 << 63), "c": "NaN"}
    ]


def test_null_is_absent() -> None:
    assert parsed("a:\nb: ~\nc: null\nd: {e: }\n") == [{"d": {}}]
    assert parsed('{"a": null, "b": {"c": null}}') == [{"b": {}}]


def test_documents_are_counted_and_empty_ones_left_out() -> None:
    documents = list(parse_documents("---\na: 1\n---\n---\n# nothing\n---\nb:\n  c: [1, {d: 2}]\n", "f.yaml"))

    assert [document.source for document in documents] == [Source("f.yaml", 1, 2), Source("f.yaml", 4, 7)]
    assert [documents[1].line_of(path) for path in ((), ("b",), ("b", "c", 1, "d"), ("b", "none"))] == [7, 7, 8, 7]


def test_anchors_and_merge_keys() -> None:
    assert parsed("base: &b {x: 1, y: 2}\nmade: {<<: *b, y: 3}\n") == [
        {"base": {"x": 1, "y": 2}, "made": {"x": 1, "y": 3}}
    ]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1,\n", "f.yaml:3:1: "),
        ("a: 1\na: 2\n", "f.yaml:2:1: the key 'a' is given twice"),
        ('{"a": 1, "a": 2}', "f.yaml: the key 'a' is given twice"),
        ("a: 1\n---\n- b\n", "f.yaml:3 (document 2): a document must be a mapping, not a list"),
        ("a: !!python/object:os.system x\n", "f.yaml:1:4: the tag 'os.system' has no meaning here"),
        ("a: &x [*x]\n", "f.yaml:1:4: an alias contains itself"),
        ("? [a]\n: b\n", "f.yaml:1:3: a key must be text"),
        (BOMB, "f.yaml:1 (document 1): aliases unfold to more than"),
    ],
)
def test_what_is_no_yaml_is_named_by_its_place(text: str, said: str) -> None:
    with pytest.raises(YamlError) as error:
        parsed(text)

    assert str(error.value).startswith(said)


def test_json_values_may_follow_one_another() -> None:
    """As `jq -c` and a concatenation of files write them; each knows its line."""
    text = '{"a": 1}\n\n{"b":\n 2} {"c": 3}\n'
    documents = list(parse_documents(text, "f.json"))
    assert [document.body for document in documents] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert [str(document.source) for document in documents] == [
        "f.json:1 (document 1)", "f.json:3 (document 2)", "f.json:4 (document 3)",
    ]  # fmt: skip


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)
SCALAR_LIKE = st.sampled_from(["on", "1e3", "0o17", "0x1f", "1.", ".5", "+1", "~", "null", "true", "2001-01-01", "1_0"])


@given(st.dictionaries(st.text(min_size=1), VALUES | SCALAR_LIKE, min_size=1, max_size=4))
def test_what_is_printed_reads_back_as_the_same_values(body: dict[str, Any]) -> None:
    assert parsed(render_yaml(body)) == [body]
    assert parsed(render_json(body)) == [body]
