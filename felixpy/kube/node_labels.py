"""Labels of the API's Nodes on Calico's Nodes, so that selectors of pools, peers and policies find them.

In: Nodes of the API and of the datastore; out: Calico's Node with the labels of both and a reference to the API's,
every other field as it was, and an annotation that tells which labels came from here. A Node that had such labels goes
when the API's goes, once its agent does not live. Source: kube-controllers/pkg/controllers/node (labels.go: the
annotation's name; controller.go: the reference).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NoReturn

import msgspec

from felixpy.controllers.leader import check_fence
from felixpy.datastore.follow import follow
from felixpy.datastore.model import Event, Expect, KeyValue, Store, Write
from felixpy.kube.client import Json
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kinds import BY_TYPE, CALICO, HOLDERS_PREFIX, Name

ANNOTATION = "projectcalico.org/kube-labels"
_NODES = BY_TYPE[CALICO, "Node"]
_HOLDERS = HOLDERS_PREFIX.encode()
_ROLES = ("agent", "bgp")
"""Those of a process that runs a node."""

_log = logging.getLogger(__name__)


class NodeLabels:
    """A Reader of the API's Nodes; `serve` follows the datastore's and writes."""

    def __init__(self, store: Store, fence: Expect) -> None:
        self._store = store
        self._fence = fence
        self._wanted: dict[str, Mapping[str, str]] | None = None
        self._nodes: dict[str, KeyValue] = {}
        self._due: set[str] = set()
        self._changed = asyncio.Event()

    def listed(self, objects: list[Json]) -> None:
        self._wanted = {body["metadata"]["name"]: body["metadata"].get("labels") or {} for body in objects}
        self._note(*self._nodes)

    def changed(self, body: Json) -> None:
        if self._wanted is not None:
            self._wanted[body["metadata"]["name"]] = body["metadata"].get("labels") or {}
        self._note(body["metadata"]["name"])

    def deleted(self, body: Json) -> None:
        if self._wanted is not None:
            self._wanted.pop(body["metadata"]["name"], None)
        self._note(body["metadata"]["name"])

    def _note(self, *names: str) -> None:
        self._due.update(names)
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Writes until cancelled.

        Raises  LeadershipLost; DatastoreError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._write())
        raise AssertionError("following never ends")

    async def _follow(self) -> NoReturn:
        async with aclosing(follow(self._store, [_NODES.prefix.encode(), _HOLDERS], "labels of nodes")) as turns:
            async for turn in turns:
                if turn.anew:
                    self._nodes.clear()
                for event in turn.events:
                    self._take(event)
        raise AssertionError("following never ends")

    def _take(self, event: Event) -> None:
        """A Node is so now, or an agent is gone."""
        if event.key.startswith(_HOLDERS):
            if event.value is None:
                self._note(event.key.removeprefix(_HOLDERS).partition(b"/")[0].decode("utf-8", "replace"))
            return
        name = _name(event.key)
        self._nodes.pop(name, None)
        if event.value is not None:
            self._nodes[name] = KeyValue(event.key, event.value, event.mod_revision)
        self._note(name)

    async def _write(self) -> NoReturn:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._due and self._wanted is not None:
                await self._settle(self._due.pop(), self._wanted)

    async def _settle(self, name: str, wanted: Mapping[str, Mapping[str, str]]) -> None:
        """One Node; a refusal means that a newer one is on its way by the watch."""
        pair = self._nodes.get(name)
        if pair is None:
            return
        labelled = with_labels(pair.value, wanted.get(name))
        if labelled is None and await self._lives(name):
            labelled = with_labels(pair.value, {})
        if labelled == pair.value:
            return
        conditions = [self._fence, Expect(pair.key, pair.mod_revision)]
        if labelled is None:
            conditions += [Expect(f"{HOLDERS_PREFIX}{name}/{role}".encode(), 0) for role in _ROLES]
        result = await self._store.transact(conditions, [Write(pair.key, labelled)])
        if not result.succeeded:
            check_fence(self._fence, result.current[0])
        elif labelled is None:
            _log.info("the Node %s is removed: the API has it no longer, and its agent is gone", name)

    async def _lives(self, name: str) -> bool:
        return bool((await self._store.snapshot([f"{HOLDERS_PREFIX}{name}/".encode()])).items)


def with_labels(value: bytes, labels: Mapping[str, str] | None) -> bytes | None:
    """A Node with these labels of the API and its own; None where the API has it no longer, and once had it.

    It refers to the API's Node, by which Calico's kube-controllers and calicoctl know whose it is. The same bytes where
    nothing is to change, or the value cannot be read.
    """
    try:
        document: dict[str, Any] = msgspec.json.decode(value, type=dict[str, Any])
        metadata = dict(document.get("metadata") or {})
        annotations = dict(metadata.get("annotations") or {})
        before = msgspec.json.decode(annotations.get(ANNOTATION, "{}"), type=dict[str, str])
    except (*UNREADABLE, TypeError, ValueError):
        return value
    if labels is None:
        return None if ANNOTATION in annotations else value
    held: dict[str, str] = metadata.get("labels") or {}
    own = {key: text for key, text in held.items() if before.get(key) != text}
    merged = {**own, **labels}
    spec = with_reference(document.get("spec") or {}, str(metadata.get("name")))
    same = merged == held and before == labels and spec == document.get("spec")
    if same and (ANNOTATION in annotations or not labels):
        return value
    annotations[ANNOTATION] = msgspec.json.encode(labels, order="sorted").decode()
    metadata |= {"labels": merged, "annotations": annotations}
    return msgspec.json.encode({**document, "metadata": metadata, "spec": spec})


def with_reference(spec: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A Node's spec that refers to a Node of Kubernetes: to the one of this name, where it names none."""
    said = spec.get("orchRefs")
    references = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    if not any(one.get("orchestrator") == "k8s" for one in references):
        references.append({"nodeName": name, "orchestrator": "k8s"})
    return {**spec, "orchRefs": references}


def _name(key: bytes) -> str:
    name = _NODES.parse_name(key.decode("utf-8", "replace"))
    return (name or Name("", "")).name
