"""Whether a value is of the object that its key names. Pure.

One that is not would be read as what it is not: a policy without rules, which denies. What is not said is not checked.
"""

from __future__ import annotations

from felixpy.resources.documents import ObjectDoc
from felixpy.resources.kinds import KindInfo, Name
from felixpy.resources.scalars import FieldError

_TYPED_PREFIX = "default."
"""Of policies of the tier `default`: in the key, in the value, in both or neither, as releases of Calico differ."""


def check_identity(doc: ObjectDoc, info: KindInfo, name: Name) -> None:
    """Raises  FieldError where kind, group, name or namespace are not those of the key."""
    if doc.kind and doc.kind != info.kind:
        raise FieldError("kind", f"is {doc.kind!r}, at the key of a {info.kind}")
    group = doc.api_version.rpartition("/")[0] or "core"
    if doc.api_version and group != info.group:
        raise FieldError("apiVersion", f"is {doc.api_version!r}, at the key of {info.api_version}")
    said, namespace = doc.metadata.name, doc.metadata.namespace
    if said and said != name.name and said.removeprefix(_TYPED_PREFIX) != name.name.removeprefix(_TYPED_PREFIX):
        raise FieldError("metadata.name", f"is {said!r}, at the key of {name.name!r}")
    if info.namespaced and namespace and namespace != name.namespace:
        raise FieldError("metadata.namespace", f"is {namespace!r}, at a key in {name.namespace!r}")
