"""The selector grammar: what is taken, what is refused and where, and that text and tree say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felixpy.selector import (
    NESTING_LIMIT,
    All,
    And,
    Compare,
    Global,
    Has,
    In,
    Not,
    Operator,
    Or,
    Selector,
    compile_selector,
    necessary_restrictions,
    parse_selector,
    render_selector,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", "all()"),
        ("  ", "all()"),
        ("a=='b'&&has(c)", 'a == "b" && has(c)'),
        ("!(a in {'y','x','x'} || b not in {\"q\"})", '!(a in {"x", "y"} || b not in {"q"})'),
        (
            "a starts with 'x' && b endswith 'y' && c contains 'z'",
            'a starts with "x" && b ends with "y" && c contains "z"',
        ),
        ("has == 'x'", 'has == "x"'),
        ("in in {'b'}", 'in in {"b"}'),
        ("a notin {}", "a not in {}"),
        ("!!has(x)", "has(x)"),
        ("global()", "global()"),
        ("a == 'say \"hi\"'", "a == 'say \"hi\"'"),
        ("projectcalico.org/namespace == 'x'", 'projectcalico.org/namespace == "x"'),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert render_selector(parse_selector(text)) == canonical


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a = 'b'", "position 3"),
        ("a == b", "position 6"),
        ("(a == 'b'", "position 10"),
        ("a == 'b' c", "position 10"),
        ("a in {'b'", "position 10"),
        ("a in {'b',}", "position 11"),
        ("a == 'b", "position 6"),
        ("has()", "position"),
        ("&& a == 'b'", "position 1"),
        ("a\n== 'b'", "position 2"),
        ("x" * 513 + " == 'b'", "512 characters"),
    ],
)
def test_refused_with_the_place(text: str, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        parse_selector(text)


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("a != 'x'", {}, True),
        ("a not in {'x'}", {}, True),
        ("a == 'x'", {}, False),
        ("a in {'x'}", {}, False),
        ("a contains ''", {}, False),
        ("a contains ''", {"a": "q"}, True),
        ("a starts with 'ab'", {"a": "abc"}, True),
        ("a ends with 'bc'", {"a": "abc"}, True),
        ("global()", {}, True),
        ("global()", {"projectcalico.org/namespace": "n"}, False),
        ("!has(a) || a == 'x' && b == 'y'", {"a": "x"}, False),
        ("all()", {}, True),
    ],
)
def test_matching(text: str, labels: dict[str, str], matches: bool) -> None:
    assert compile_selector(parse_selector(text))(labels) is matches


label_names = st.sampled_from(("a", "b", "c.d/e-f_g"))
values = st.sampled_from(("x", "y", "it's", 'a "b"', ""))
leaves: st.SearchStrategy[Selector] = st.one_of(
    st.just(All()),
    st.just(Global()),
    st.builds(Has, label_names),
    st.builds(Compare, label_names, st.sampled_from(Operator), values),
    st.builds(In, label_names, st.sets(values).map(lambda one: tuple(sorted(one))), st.booleans()),
)
selectors = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.filter(lambda one: not isinstance(one, Not)).map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda many: And(tuple(many))),
        st.lists(inner, min_size=2, max_size=3).map(lambda many: Or(tuple(many))),
    ),
    max_leaves=8,
)
label_sets = st.dictionaries(label_names, values)


@given(selectors, label_sets)
def test_text_and_tree_mean_the_same(selector: Selector, labels: dict[str, str]) -> None:
    again = parse_selector(render_selector(selector))
    assert compile_selector(again)(labels) == compile_selector(selector)(labels)


@given(selectors, label_sets)
def test_every_match_meets_every_restriction(selector: Selector, labels: dict[str, str]) -> None:
    if compile_selector(selector)(labels):
        for restriction in necessary_restrictions(selector):
            assert any(label in labels and value in (None, labels[label]) for label, value in restriction)


def test_brackets_are_not_nested_without_end() -> None:
    def nested(depth: int) -> str:
        return "has(a) && (" * depth + "has(b)" + ")" * depth

    selector = parse_selector(nested(NESTING_LIMIT))
    assert parse_selector(render_selector(selector)) == selector
    assert compile_selector(selector)({"a": "", "b": ""})
    assert parse_selector("!" * 10_000 + "has(a)") == Has("a")
    with pytest.raises(ValueError, match="nested deeper than 100") as raised:
        parse_selector(nested(10_000))
    assert len(str(raised.value)) < 400
