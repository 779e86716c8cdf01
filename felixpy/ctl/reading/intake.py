"""Documents to resources: which kind each is, which name it has, and which are none of ours.

In, out Documents → Intake: the resources in the order written, the documents that were skipped (another project's
        kinds), and what is wrong with the rest. Lists are unpacked; MetalLB's old ConfigMap becomes its new kinds.
Never   looks into `spec`: that is validate's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TypeAlias

from felixpy.ctl.manifests import (
    DEFAULT_NAMESPACE,
    Body,
    Document,
    Json,
    Manifest,
    Path,
    Problem,
    Report,
    Severity,
    Source,
    describe,
)
from felixpy.ctl.reading import metallb
from felixpy.ctl.reading.yaml_text import YamlError, parse_documents
from felixpy.resources.kinds import BY_TYPE, KINDS, KindInfo, Name

_ALIASES = {"crd.projectcalico.org/v1": "projectcalico.org/v3"}
_ALIKE = 0.89
"""How alike a misspelled kind is (difflib): as IPPools to IPPool, and not as the BFDConfiguration of others to ours."""
_OLDER = {("metallb.io/v1beta1", "BGPPeer"): "metallb.io/v1beta2"}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document of a kind that we do not hold."""

    kind: str
    api_version: str
    name: str
    source: Source

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.api_version})"


Finding: TypeAlias = Manifest | Skipped | Report | Name


@dataclass(frozen=True, slots=True)
class Intake:
    """What a set of documents comes to; `config_maps` are MetalLB's, whose objects are among the manifests."""

    manifests: tuple[Manifest, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    reports: tuple[Report, ...] = ()
    config_maps: tuple[Name, ...] = ()


def take_in(documents: Iterable[Document], namespace: str = "") -> Intake:
    """Recognises each document; `namespace` stands in where a namespaced one has none."""
    manifests: list[Manifest] = []
    skipped: list[Skipped] = []
    reports: list[Report] = []
    config_maps: list[Name] = []
    for document in documents:
        for found in _recognise(document, namespace):
            match found:
                case Name():
                    config_maps.append(found)
                case Manifest():
                    manifests.append(found)
                case Skipped():
                    skipped.append(found)
                case Report():
                    reports.append(found)
    unique, doubles = _without_doubles(manifests)
    return Intake(unique, tuple(skipped), (*reports, *doubles), tuple(config_maps))


def _recognise(document: Document, namespace: str) -> Iterator[Finding]:
    body, source = document.body, document.source
    if metallb.is_config(body):
        yield from _converted(metallb.convert_config(body), document, (), namespace)
        return
    kind, version = body.get("kind"), body.get("apiVersion")
    version = _ALIASES.get(version, version) if isinstance(version, str) else version
    missing = [field for field, value in (("apiVersion", version), ("kind", kind)) if not isinstance(value, str)]
    if missing or not isinstance(kind, str) or not isinstance(version, str):
        for field in missing:
            said = f"must be text, not {describe(body[field])}" if field in body else "is needed"
            yield Report(_subject(body), _at(document, (field,)), Problem((field,), said))
        return
    if isinstance(body.get("items"), list) and kind.endswith("List"):
        yield from _unpacked(document, kind, version, namespace)
    elif kind == "List" and version == "v1":
        said = f"must be a list, not {describe(body['items'])}" if "items" in body else "is needed"
        yield Report(_subject(body), _at(document, ("items",)), Problem(("items",), said))
    elif kind == "ConfigMap" and version == "v1" and (config := _old_config(body)) is not None:
        yield from _from_config_map(document, config, namespace)
    elif (version, kind) == ("metallb.io/v1beta1", "AddressPool"):
        given = namespace or metallb.NAMESPACE
        yield from _converted(metallb.convert_address_pool(body, _namespace_in(body) or given), document, (), namespace)
    elif (info := BY_TYPE.get((_OLDER.get((version, kind), version), kind))) is not None:
        yield from _named(document, info, namespace)
    elif (slip := _find_slip(version, kind)) is not None:
        yield Report(_subject(body), _at(document, (slip.path[0],)), slip)
    elif held := _held_versions(version, kind):
        problem = Problem(("apiVersion",), f"{version!r} is no version of {kind} that we hold; {' or '.join(held)} is")
        yield Report(_subject(body), _at(document, ("apiVersion",)), problem)
    else:
        yield Skipped(kind, version, _name_in(body) or "(no name)", source)


def _find_slip(version: str, kind: str) -> Problem | None:
    """What is meant by nearly the name of a kind of ours, or of its API group: to skip it would leave it out."""
    group = version.rpartition("/")[0]
    named = {info.kind.lower(): info.kind for info in KINDS if _group_of(info) == group}
    if named and kind not in named.values() and (near := get_close_matches(kind.lower(), named, 1, _ALIKE)):
        return Problem(("kind",), f"there is no kind {kind!r} in {version}; did you mean {named[near[0]]}?")
    groups = {_group_of(info) for info in KINDS if info.kind == kind}
    if group not in groups and (near := get_close_matches(group, groups, 1, _ALIKE)):
        return Problem(("apiVersion",), f"{version!r} has no {kind}; did you mean {near[0]}?")
    return None


def _group_of(info: KindInfo) -> str:
    """As it is written; "" for the core group."""
    return info.api_version.rpartition("/")[0]


def _held_versions(version: str, kind: str) -> list[str]:
    """Versions of this kind in the same API group: the one given is then a slip, not another project's kind."""
    group = version.rpartition("/")[0]
    return [info.api_version for info in KINDS if info.kind == kind and _group_of(info) == group]


def _unpacked(document: Document, kind: str, version: str, namespace: str) -> Iterator[Finding]:
    items = document.body.get("items")
    for index, item in enumerate(items if isinstance(items, list) else []):
        path: Path = ("items", index)
        source = _at(document, path)
        if not isinstance(item, dict):
            yield Report(kind, source, Problem(path, f"must be a mapping, not {describe(item)}"))
            continue
        inner: Body = item if kind == "List" else {"apiVersion": version, "kind": kind.removesuffix("List"), **item}
        yield from _recognise(Document(inner, source, partial(_line_below, document, path)), namespace)


def _line_below(document: Document, prefix: Path, path: Path) -> int:
    return document.line_of((*prefix, *path))


def _named(document: Document, info: KindInfo, namespace: str) -> Iterator[Manifest | Report]:
    body = document.body
    metadata = body.get("metadata")
    subject = f"{info.kind} {_name_in(body)}".strip()
    if not isinstance(metadata, dict):
        said = "is needed" if metadata is None else f"must be a mapping, not {describe(metadata)}"
        yield Report(subject, document.source, Problem(("metadata",), said))
        return
    if not isinstance(name := metadata.get("name"), str) or not name:
        hint = " (generateName is not supported)" if "generateName" in metadata else ""
        said = f"must be text, not {describe(name)}: put it in quotes" if name not in (None, "") else "is needed"
        yield Report(subject, document.source, Problem(("metadata", "name"), said + hint))
        return
    given = metadata.get("namespace")
    if given is not None and not isinstance(given, str):
        said = f"must be text, not {describe(given)}"
        yield Report(subject, document.source, Problem(("metadata", "namespace"), said))
        return
    if not info.namespaced:
        if given:
            said = f"{info.kind} belongs to no namespace; it is ignored"
            yield Report(subject, document.source, Problem(("metadata", "namespace"), said, Severity.WARNING))
        yield Manifest(info, Name("", name), body, document.source, document.line_of)
        return
    fallback = metallb.NAMESPACE if info.group == "metallb.io" else DEFAULT_NAMESPACE
    yield Manifest(info, Name(given or namespace or fallback, name), body, document.source, document.line_of)


def _old_config(body: Body) -> str | None:
    """The text of MetalLB's configuration in a ConfigMap; None when it holds something else."""
    data = body.get("data")
    text = data.get("config") if isinstance(data, dict) else None
    if not isinstance(text, str):
        return None
    return text if any(f"{field}:" in text for field in metallb.TOP_FIELDS) else None


def _from_config_map(document: Document, text: str, namespace: str) -> Iterator[Finding]:
    path: Path = ("data", "config")
    given = _namespace_in(document.body) or namespace or metallb.NAMESPACE
    name = _name_in(document.body)
    try:
        for inner in parse_documents(text, "data.config"):
            converted = metallb.labelled(metallb.convert_config(inner.body, given), name)
            yield from _converted(converted, document, path, given)
            if not converted.problems:
                yield Name(given, name)
    except YamlError as error:
        yield Report(_subject(document.body), _at(document, path), Problem(path, str(error)))


def _converted(converted: metallb.Converted, document: Document, prefix: Path, namespace: str) -> Iterator[Finding]:
    subject = _subject(document.body) or "MetalLB configuration"
    for problem in converted.problems:
        path = (*prefix, *problem.path)
        yield Report(subject, _at(document, path), Problem(path, problem.message))
    for body in converted.bodies:
        yield from _recognise(Document(body, document.source), namespace)


def _without_doubles(manifests: list[Manifest]) -> tuple[tuple[Manifest, ...], list[Report]]:
    """An object written twice is taken once where both say the same, and not at all where they differ."""
    by_key: dict[str, list[Manifest]] = defaultdict(list)
    for manifest in manifests:
        by_key[manifest.info.key(manifest.name)].append(manifest)
    unique: list[Manifest] = []
    reports: list[Report] = []
    for first, *others in by_key.values():
        differing = [other for other in others if other.body != first.body]
        if not differing:
            unique.append(first)
        for other in others:
            said = f"is written twice, first at {first.source}"
            message = f"{said}, and they differ: neither is taken" if differing else f"{said}; both say the same"
            severity = Severity.ERROR if differing else Severity.WARNING
            reports.append(Report(str(other), other.source, Problem((), message, severity)))
    return tuple(unique), reports


def _at(document: Document, path: Path) -> Source:
    source = document.source
    return Source(source.file, source.document, document.line_of(path) or source.line)


def _subject(body: Body) -> str:
    kind = body.get("kind")
    return f"{kind} {_name_in(body)}".strip() if isinstance(kind, str) else _name_in(body)


def _metadata_text(body: Body, field: str) -> str:
    metadata = body.get("metadata")
    value: Json = metadata.get(field) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def _name_in(body: Body) -> str:
    return _metadata_text(body, "name")


def _namespace_in(body: Body) -> str:
    return _metadata_text(body, "namespace")
