"""How a kind's fields are described, and how a body is held against the description.

Owns    `Shape`, the base of every description: types as strict as JSON's, unknown fields let through (and warned of),
        and rules between fields (`faults`). All errors of an object come at once, each with its path.
Never   changes a body: what was written is what is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from felixpy.ctl.manifests import Json, Path, Problem, Severity, describe


class Fault(NamedTuple):
    """A rule between fields that does not hold; `path` is relative to the shape that has the rule.

    Nothing is said while one of the fields that it `needs` is wrong by itself.
    """

    path: Path
    message: str
    needs: tuple[str, ...] = ()


class Shape(BaseModel):
    """The fields of a mapping, named as they are written; `faults` says what must hold between them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    anything_else: ClassVar[bool] = False
    """Whether fields that are not named here are expected, so that nobody is warned of them."""

    def faults(self) -> Iterator[Fault]:
        """What is wrong between fields; those that are wrong by themselves are left out, and lists are without them."""
        return iter(())

    @model_validator(mode="after")
    def _no_faults(self) -> Self:
        found = [
            InitErrorDetails(
                type=PydanticCustomError("fault", "{message}", {"message": fault.message}), loc=fault.path, input=None
            )
            for fault in self.faults()
        ]
        if found:
            raise ValidationError.from_exception_data(type(self).__name__, found)
        return self


def check_shape(shape: type[Shape], body: Json, path: Path = ()) -> list[Problem]:
    """Every problem of `body`, errors first."""
    problems: list[Problem] = []
    try:
        shape.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems += [Problem((*path, *_place(details)), _explain(details)) for details in found]
        known = {(problem.path, problem.message) for problem in problems}
        for fault_path, message in faults_beside(shape, body, {_place(details) for details in found}):
            if ((*path, *fault_path), message) not in known:
                problems.append(Problem((*path, *fault_path), message))
    return [*problems, *_strangers(shape, body, path)]


def _place(details: ErrorDetails) -> Path:
    return tuple(part for part in details["loc"] if part != "[key]")


def faults_beside(shape: type[Shape], body: Json, wrong: Collection[Path]) -> Iterator[tuple[Path, str]]:
    """The rules between fields that do not hold in what is right of `body`; `wrong` are the places that are not."""
    yield from _Rest(wrong).faults(shape, body, ())


class _Rest:
    """What is left of a body without what is wrong in it."""

    def __init__(self, wrong: Collection[Path]) -> None:
        self._wrong = frozenset(wrong)
        self._places: dict[Path, list[int]] = {}

    def faults(self, shape: type[Shape], body: Json, path: Path) -> Iterator[tuple[Path, str]]:
        """Of a mapping and of all in it; none of one that is no mapping."""
        if not isinstance(body, dict):
            return
        for name, info in shape.model_fields.items():
            key = info.alias or name
            inner, value = _shape_in(info.annotation), body.get(key)
            if inner is not None:
                for place, one in enumerate(value) if isinstance(value, list) else ((None, value),):
                    below = (*path, key) if place is None else (*path, key, place)
                    yield from self.faults(inner, one, below)
        for fault in self._of(shape, body, path):
            if not any((*path, field) in self._wrong for field in fault.needs):
                yield self._original((*path, *fault.path)), fault.message

    def _of(self, shape: type[Shape], body: Mapping[str, Json], path: Path) -> list[Fault]:
        try:
            return list(self._build(shape, body, path).faults())
        except (AttributeError, TypeError, ValueError):
            return []  # a rule that looks at a field which is not there, or is wrong

    def _build(self, shape: type[Shape], body: Mapping[str, Json], path: Path) -> Shape:
        fields = {
            name: self._value(_shape_in(info.annotation), body[key], (*path, key))
            for name, info in shape.model_fields.items()
            if (key := info.alias or name) in body and (*path, key) not in self._wrong
        }
        return shape.model_construct(None, **fields)

    def _value(self, inner: type[Shape] | None, value: Json, path: Path) -> object:
        if isinstance(value, list):
            kept = [place for place in range(len(value)) if (*path, place) not in self._wrong]
            self._places[path] = kept
            return [self._value(inner, value[place], (*path, place)) for place in kept]
        if inner is not None and isinstance(value, dict):
            return self._build(inner, value, path)
        return value

    def _original(self, path: Path) -> Path:
        """A place in what is left, as it is in the whole."""
        found: Path = ()
        for part in path:
            kept = self._places.get(found)
            found = (*found, kept[part] if kept is not None and isinstance(part, int) else part)
        return found


def _explain(details: ErrorDetails) -> str:
    given, context = details["input"], details.get("ctx", {})
    quotes = ": put it in quotes" if isinstance(given, bool | int | float) else ""
    match details["type"]:
        case "fault":
            return str(context["message"])
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is needed"
        case "string_type":
            return f"must be text, not {describe(given)}{quotes}"
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {describe(given)}"
        case "float_type":
            return f"must be a number, not {describe(given)}"
        case "bool_type":
            return f"must be true or false, not {describe(given)}"
        case "list_type":
            return f"must be a list, not {describe(given)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be a mapping, not {describe(given)}"
        case "literal_error":
            expected = str(context["expected"]).replace("'", "")
            return f"{describe(given)} is not {expected}"
        case "greater_than_equal":
            return f"is {given}; the least is {context['ge']}"
        case "less_than_equal":
            return f"is {given}; the most is {context['le']}"
        case "too_long":
            return f"has {context['actual_length']} entries; the most is {context['max_length']}"
        case "too_short":
            return f"has {context['actual_length']} entries; the least is {context['min_length']}"
        case "extra_forbidden":
            return "is not known, and what has it would hold for more than is meant"
        case "string_too_short":
            return "is empty"
        case _:
            return details["msg"]


def _strangers(shape: type[Shape], body: Json, path: Path) -> Iterator[Problem]:
    """Fields that no one reads: kept, but most often slips of the pen."""
    if not isinstance(body, dict):
        return
    known = {info.alias or name: info.annotation for name, info in shape.model_fields.items()}
    for key, value in body.items():
        if key not in known:
            if not shape.anything_else:
                near = get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                yield Problem((*path, key), f"is not a field that anything reads{hint}", Severity.WARNING)
            continue
        inner = _shape_in(known[key])
        if inner is None:
            continue
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _strangers(inner, item, (*path, key, index))
        elif isinstance(value, Mapping):
            yield from _strangers(inner, value, (*path, key))


def _shape_in(annotation: object) -> type[Shape] | None:
    """The shape that a field's type is, or is a list of."""
    if isinstance(annotation, type) and issubclass(annotation, Shape):
        return annotation
    return next((found for part in get_args(annotation) if (found := _shape_in(part)) is not None), None)
