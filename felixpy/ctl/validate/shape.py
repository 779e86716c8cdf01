"""How a kind's fields are described, and how a body is held against the description.

Owns    `Shape`, the base of every description: types as strict as JSON's, unknown fields let through (and warned of),
        and rules between fields (`faults`). All errors of an object come at once, each with its path.
Never   changes a body: what was written is what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from felixpy.ctl.manifests import Json, Path, Problem, Severity
from felixpy.ctl.yaml_text import describe


class Fault(NamedTuple):
    """A rule between fields that does not hold; `path` is relative to the shape that has the rule."""

    path: Path
    message: str


class Shape(BaseModel):
    """The fields of a mapping, named as they are written; `faults` says what must hold between them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    anything_else: ClassVar[bool] = False
    """Whether fields that are not named here are expected, so that nobody is warned of them."""

    def faults(self) -> Iterator[Fault]:
        """What is wrong between fields; asked only where each of them is right by itself."""
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
        for details in error.errors(include_url=False):
            where = tuple(part for part in details["loc"] if part != "[key]")
            problems.append(Problem((*path, *where), _explain(details)))
    return [*problems, *_strangers(shape, body, path)]


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
