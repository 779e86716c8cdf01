"""The metadata that every kind has. Source: k8s.io/apimachinery/pkg/apis/meta/v1 (ObjectMeta)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from felixpy.ctl.validate.fields import DnsLabel, LabelKey, Labels, LabelValue, ObjectName
from felixpy.ctl.validate.shape import Fault, Shape

ANNOTATIONS_LIMIT_BYTES = 256 * 1024


class Metadata(Shape):
    anything_else = True

    name: ObjectName
    namespace: DnsLabel | None = None
    labels: Labels = {}
    annotations: dict[LabelKey, str] = {}
    uid: str | None = None
    resourceVersion: str | None = None
    creationTimestamp: str | None = None

    def faults(self) -> Iterator[Fault]:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in self.annotations.items())
        if size > ANNOTATIONS_LIMIT_BYTES:
            yield Fault(("annotations",), f"have {size} bytes; the most is {ANNOTATIONS_LIMIT_BYTES}")


class Resource(Shape):
    """What all kinds have beside their own fields."""

    apiVersion: str
    kind: str
    metadata: Metadata


class Requirement(Shape):
    """One expression of a LabelSelector."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[LabelValue] = []

    def faults(self) -> Iterator[Fault]:
        if self.operator in ("In", "NotIn") and not self.values:
            yield Fault(("values",), f"are needed by {self.operator}", ("operator", "values"))
        elif self.operator in ("Exists", "DoesNotExist") and self.values:
            yield Fault(("values",), f"cannot stand beside {self.operator}", ("operator", "values"))


class LabelSelector(Shape):
    matchLabels: Labels = {}
    matchExpressions: list[Requirement] = []
