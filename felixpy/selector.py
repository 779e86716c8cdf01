"""Label selectors: text → syntax tree → canonical text, and a predicate over labels.

    expr    := and { "||" and } ;  and := unary { "&&" unary } ;  unary := { "!" } primary
    primary := "(" expr ")" | "all()" | "global()" | "has(" label ")" | label operator operand
    operator: == != contains, starts with, ends with (one word or two), in, not in (notin)

An absent label satisfies `!=` and `not in`, and none of the others. The empty text is `all()`.
Source: the grammar of Calico's selectors (libcalico-go/lib/selector); one canonical text per meaning-preserving form,
so that equal selectors share an IP set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import assert_never

LABEL_LIMIT = 512
"""Longest label name, in characters (libcalico-go/lib/selector/tokenizer)."""
NESTING_LIMIT = 100
"""Of brackets: whoever reads, renders or compiles a selector goes down as deep as they are."""
_SHOWN = 200
"""Characters of a selector in what is said of it."""

Labels = Mapping[str, str]
Predicate = Callable[[Labels], bool]


class Operator(StrEnum):
    """How a label is compared with a text."""

    EQUALS = "=="
    DIFFERS = "!="
    CONTAINS = "contains"
    STARTS_WITH = "starts with"
    ENDS_WITH = "ends with"


@dataclass(frozen=True, slots=True)
class All:
    """Matches everything."""


@dataclass(frozen=True, slots=True)
class Global:
    """Matches what has no namespace."""


@dataclass(frozen=True, slots=True)
class Has:
    """The label is there."""

    label: str


@dataclass(frozen=True, slots=True)
class Compare:
    """The label's value stands in this relation to `value`."""

    label: str
    operator: Operator
    value: str


@dataclass(frozen=True, slots=True)
class In:
    """The label's value is (or, negated, is not) one of `values`: sorted, without repetition."""

    label: str
    values: tuple[str, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """The operand does not match."""

    operand: Selector


@dataclass(frozen=True, slots=True)
class And:
    """All operands match; there are at least two."""

    operands: tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some operand matches; there are at least two."""

    operands: tuple[Selector, ...]


Selector = All | Global | Has | Compare | In | Not | And | Or

NAMESPACE_LABEL = "projectcalico.org/namespace"

_TOKEN = re.compile(
    r"""[ \t]*(?:
      (?P<text>'[^']*'|"[^"]*")
    | (?P<call>all|global)[ \t]*\([ \t]*\)
    | (?P<has>has)[ \t]*\([ \t]*(?P<haslabel>[A-Za-z0-9_./-]+)[ \t]*\)
    | (?P<op>==|!=|&&|\|\||[!(){},])
    | (?P<word>[A-Za-z0-9_./-]+)
    )""",
    re.VERBOSE,
)
_WORD_OPERATORS = {
    "contains": Operator.CONTAINS,
    "startswith": Operator.STARTS_WITH,
    "endswith": Operator.ENDS_WITH,
}


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        end = len(text.rstrip(" \t"))
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                blank = len(text[position:]) - len(text[position:].lstrip(" \t"))
                raise self.error(position + blank, "unexpected character")
            kind = match.lastgroup or ""
            kind = "has" if kind == "haslabel" else kind
            value = match["haslabel"] if kind == "has" else match[kind]
            self.tokens.append((kind, value, match.start(kind)))
            position = match.end()
        self.at = 0
        self.depth = 0

    def error(self, position: int, why: str) -> ValueError:
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}…"
        return ValueError(f"selector {text!r}: {why} at position {position + 1}")

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at][:2] if self.at < len(self.tokens) else ("end", "")

    def position(self) -> int:
        return self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)

    def take(self, kind: str, value: str | None = None) -> str | None:
        have, text = self.peek()
        if have != kind or (value is not None and text != value):
            return None
        self.at += 1
        return text

    def expect(self, kind: str, what: str, value: str | None = None) -> str:
        text = self.take(kind, value)
        if text is None:
            raise self.error(self.position(), f"expected {what}")
        return text

    def either(self) -> Selector:
        operands = [self.both()]
        while self.take("op", "||"):
            operands.append(self.both())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def both(self) -> Selector:
        operands = [self.unary()]
        while self.take("op", "&&"):
            operands.append(self.unary())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def unary(self) -> Selector:
        negated = False
        while self.take("op", "!"):
            negated = not negated
        operand = self.primary()
        if not negated:
            return operand
        return operand.operand if isinstance(operand, Not) else Not(operand)

    def primary(self) -> Selector:
        if self.take("op", "("):
            self.depth += 1
            if self.depth > NESTING_LIMIT:
                raise self.error(self.position(), f"nested deeper than {NESTING_LIMIT}")
            inner = self.either()
            self.expect("op", "')'", ")")
            self.depth -= 1
            return inner
        call = self.take("call")
        if call:
            return All() if call == "all" else Global()
        has = self.take("has")
        if has is not None:
            return Has(self.check_label(has))
        return self.comparison(self.check_label(self.expect("word", "a label, 'has(', 'all()' or '('")))

    def check_label(self, label: str) -> str:
        if len(label) > LABEL_LIMIT:
            raise self.error(self.position(), f"label longer than {LABEL_LIMIT} characters")
        return label

    def comparison(self, label: str) -> Selector:
        for operator in (Operator.EQUALS, Operator.DIFFERS):
            if self.take("op", operator.value):
                return Compare(label, operator, self.literal())
        word = self.take("word")
        if word in {"starts", "ends"}:
            self.expect("word", "'with'", "with")
            word += "with"
        if word in _WORD_OPERATORS:
            return Compare(label, _WORD_OPERATORS[word], self.literal())
        if word == "in":
            return In(label, self.literals())
        if word == "notin" or (word == "not" and self.take("word", "in")):
            return In(label, self.literals(), negate=True)
        raise self.error(self.position(), "expected ==, !=, in, not in, contains, starts with or ends with")

    def literal(self) -> str:
        return self.expect("text", "a quoted text")[1:-1]

    def literals(self) -> tuple[str, ...]:
        self.expect("op", "'{'", "{")
        values: set[str] = set()
        if not self.take("op", "}"):
            values.add(self.literal())
            while self.take("op", ","):
                values.add(self.literal())
            self.expect("op", "'}' or ','", "}")
        return tuple(sorted(values))


@lru_cache(maxsize=16384)
def parse_selector(text: str) -> Selector:
    """The tree of a selector; the empty text is all().

    Raises  ValueError naming the position of what is wrong.
    """
    if not text.strip(" \t"):
        return All()
    parser = _Parser(text)
    tree = parser.either()
    if parser.peek()[0] != "end":
        raise parser.error(parser.position(), "expected '&&', '||' or the end")
    return tree


def render_selector(selector: Selector) -> str:
    """The canonical text, which parses to an equal tree."""
    match selector:
        case All():
            return "all()"
        case Global():
            return "global()"
        case Has(label):
            return f"has({label})"
        case Compare(label, operator, value):
            return f"{label} {operator} {_quote_text(value)}"
        case In(label, values, negate):
            listed = ", ".join(_quote_text(value) for value in values)
            return f"{label} {'not in' if negate else 'in'} {{{listed}}}"
        case Not(operand):
            return f"!{_render_operand(operand, (And, Or))}"
        case And(operands):
            return " && ".join(_render_operand(operand, (And, Or)) for operand in operands)
        case Or(operands):
            return " || ".join(_render_operand(operand, (Or,)) for operand in operands)
        case _:
            assert_never(selector)


def _render_operand(selector: Selector, wrap: tuple[type, ...]) -> str:
    text = render_selector(selector)
    return f"({text})" if isinstance(selector, wrap) else text


def _quote_text(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


def conjunction(*selectors: Selector) -> Selector:
    """The selector that matches what all of `selectors` match; all() is left out."""
    parts: list[Selector] = []
    for selector in selectors:
        if isinstance(selector, And):
            parts.extend(selector.operands)
        elif not isinstance(selector, All):
            parts.append(selector)
    if not parts:
        return All()
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def compile_selector(selector: Selector) -> Predicate:
    """A function from labels to whether they match."""
    match selector:
        case All():
            return lambda labels: True
        case Global():
            return lambda labels: NAMESPACE_LABEL not in labels
        case Has(label):
            return lambda labels: label in labels
        case Compare(label, operator, value):
            return _compile_compare(label, operator, value)
        case In(label, values, negate):
            allowed = frozenset(values)
            if negate:
                return lambda labels: labels.get(label) not in allowed
            return lambda labels: labels.get(label) in allowed
        case Not(operand):
            inner = compile_selector(operand)
            return lambda labels: not inner(labels)
        case And(operands):
            every = tuple(compile_selector(operand) for operand in operands)
            if len(every) == 2:
                first, second = every
                return lambda labels: first(labels) and second(labels)
            return lambda labels: all(predicate(labels) for predicate in every)
        case Or(operands):
            some = tuple(compile_selector(operand) for operand in operands)
            return lambda labels: any(predicate(labels) for predicate in some)
        case _:
            assert_never(selector)


def _compile_compare(label: str, operator: Operator, value: str) -> Predicate:
    match operator:
        case Operator.EQUALS:
            return lambda labels: labels.get(label) == value
        case Operator.DIFFERS:
            return lambda labels: labels.get(label) != value
        case Operator.CONTAINS:
            return lambda labels: value in labels[label] if label in labels else False
        case Operator.STARTS_WITH:
            return lambda labels: labels[label].startswith(value) if label in labels else False
        case Operator.ENDS_WITH:
            return lambda labels: labels[label].endswith(value) if label in labels else False
        case _:
            assert_never(operator)


Restriction = tuple[tuple[str, str | None], ...]
"""Alternatives (label, value or None for any value), one of which everything that matches must have."""


def necessary_restrictions(selector: Selector) -> tuple[Restriction, ...]:
    """Every restriction that a match implies, each on its own sufficient to narrow a search; () when there is none."""
    match selector:
        case Has(label):
            return (((label, None),),)
        case Compare(label, Operator.EQUALS, value):
            return (((label, value),),)
        case Compare(label, Operator.CONTAINS | Operator.STARTS_WITH | Operator.ENDS_WITH):
            return (((label, None),),)
        case In(label, values, False):
            return (tuple((label, value) for value in values),)
        case And(operands):
            return tuple(one for operand in operands for one in necessary_restrictions(operand))
        case Or(operands):
            alternatives = [necessary_restrictions(operand) for operand in operands]
            if not all(alternatives):
                return ()
            return (tuple(dict.fromkeys(pair for options in alternatives for pair in min(options, key=len))),)
        case _:
            return ()


def prefix_labels(selector: Selector, prefix: str) -> Selector:
    """The selector with `prefix` before each label name; all() and global() become the (lack of) a namespace.

    This is how a namespaceSelector is asked of an endpoint, whose namespace's labels it inherits under `pcns.`.
    """
    match selector:
        case All():
            return Has(NAMESPACE_LABEL)
        case Global():
            return Not(Has(NAMESPACE_LABEL))
        case Has(label):
            return Has(prefix + label)
        case Compare(label, operator, value):
            return Compare(prefix + label, operator, value)
        case In(label, values, negate):
            return In(prefix + label, values, negate)
        case Not(operand):
            return Not(prefix_labels(operand, prefix))
        case And(operands):
            return And(tuple(prefix_labels(operand, prefix) for operand in operands))
        case Or(operands):
            return Or(tuple(prefix_labels(operand, prefix) for operand in operands))
        case _:
            assert_never(selector)
