"""etcd keys and values ↔ resources: the only place that knows where things lie in etcd.

In: a key and its bytes; out: a Ref and a typed value, or Broken with the field that is wrong. One object's fault
never touches another's. Endpoints of other nodes are kept to what rules read; equal labels, profiles and names share
one object. Source: libcalico-go/lib/backend/model; docs/architecture.md for the keys under /felixpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.resources import documents as docs
from felixpy.resources import (
    routing,
    services,
)
from felixpy.resources.endpoints import POD_ANNOTATION, digest_uid
from felixpy.resources.identity import check_identity
from felixpy.resources.kinds import ANSWERING_PREFIX, BY_TYPE, CALICO, GRANTS_PREFIX, IPAM_PREFIX, KINDS, KindInfo, Name
from felixpy.resources.readers import READERS, Reader
from felixpy.resources.resource import Broken, Resource
from felixpy.resources.scalars import (
    FieldError,
    read_interface,
    read_labels,
    read_mac,
    read_named_ports,
    read_nats,
    read_prefixes,
)
from felixpy.resources.tables import Decoded, Ref, Table
from felixpy.resources.types import (
    BlockAffinity,
    FelixConfiguration,
    LabelPairs,
    Pod,
    WorkloadEndpoint,
)

INTERN_LIMIT = 200_000
"""Label sets remembered for sharing; past it the memory is started anew, so that churn cannot fill it."""


class _Route(NamedTuple):
    """How keys with one prefix are read: the table, how the rest of the key names it, the decoder and the reader."""

    table: Table
    info: KindInfo
    decoder: msgspec.json.Decoder[Any]
    reader: Reader


class Decoder:
    """Reads values for the agent of `node`; remembers labels and names only to share them."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._shared: dict[Any, Any] = {}
        self._endpoint = msgspec.json.Decoder(docs.EndpointDoc)
        self._block = msgspec.json.Decoder(docs.BlockDoc)
        self._affinity = msgspec.json.Decoder(docs.AffinityDoc)
        self._grant = msgspec.json.Decoder(docs.GrantDoc)
        self._port_grant = msgspec.json.Decoder(docs.PortGrantDoc)
        self._answering = msgspec.json.Decoder(docs.AnsweringDoc)
        self._workloads = BY_TYPE[CALICO, "WorkloadEndpoint"]
        self._routes: dict[str, _Route] = {}
        for info in KINDS:
            entry = READERS.get((info.group, info.kind))
            if entry is not None:
                table, shape, reader = entry
                self._routes[info.prefix] = _Route(table, info, msgspec.json.Decoder(shape), reader)

    def decode(self, key: bytes, value: bytes | None) -> Decoded | Broken | None:
        """What a change of `key` means; None for a key that the agent does not read."""
        text = key.decode("utf-8", "replace")
        if text.startswith(self._workloads.prefix):
            return self._decode_workload(text, value)
        if text.startswith(IPAM_PREFIX):
            return self._decode_ipam(text, value)
        if text.startswith(GRANTS_PREFIX):
            return self._decode_grant(text, value)
        if text.startswith(ANSWERING_PREFIX):
            ref = Ref(Table.ANSWERING, Name("", text.removeprefix(ANSWERING_PREFIX)))
            return self._finish(text, ref, value, self._answering, services.read_answering)
        route = self._routes.get(text[: text.rindex("/") + 1]) or self._routes.get(
            text[: text.rindex("/", 0, text.rindex("/")) + 1]
        )
        if route is None:
            return None
        name = route.info.parse_name(text)
        if name is None:
            return Broken(text, "", "the key has another shape than keys of its kind")

        def read(doc: docs.ObjectDoc) -> Resource | None:
            check_identity(doc, route.info, name)
            return self._shared_labels(route.reader(doc, name))

        return self._finish(text, Ref(route.table, name), value, route.decoder, read)

    def _finish(
        self,
        key: str,
        ref: Ref,
        value: bytes | None,
        decoder: msgspec.json.Decoder[Any],
        read: Callable[[Any], Resource | None],
    ) -> Decoded | Broken:
        if value is None:
            return Decoded(ref, None)
        try:
            return Decoded(ref, read(decoder.decode(value)))
        except FieldError as error:
            return Broken(key, error.field, error.why)
        except msgspec.ValidationError as error:
            return _misshapen(key, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Broken(key, "", f"not JSON: {error}")
        except RecursionError:
            return Broken(key, "", "nested too deeply")
        except (
            Exception
        ) as error:  # whatever a reader did not foresee must end here: the value would come back for ever
            return Broken(key, "", f"{type(error).__name__}: {error}")

    def ref_of(self, key: str) -> Ref | None:
        """The identity that a key stands for, without its value; None for keys that are not read."""
        decoded = self.decode(key.encode(), None)
        return decoded.ref if isinstance(decoded, Decoded) else None

    def _share(self, value: Any) -> Any:
        return self._shared.setdefault(value, value)

    def _shared_labels(self, value: Resource | None) -> Resource | None:
        """Pods are as many as endpoints, and their labels repeat as much."""
        if not isinstance(value, Pod):
            return value
        self._bound_shared()
        labels: LabelPairs = self._share(value.labels)
        return replace(value, labels=labels)

    def _bound_shared(self) -> None:
        if len(self._shared) > INTERN_LIMIT:
            self._shared.clear()

    def _decode_workload(self, key: str, value: bytes | None) -> Decoded | Broken:
        namespace, _, last = key.removeprefix(self._workloads.prefix).partition("/")
        if not last or "/" in last:
            return Broken(key, "", "the key has another shape than keys of its kind")
        self._bound_shared()
        name = Name(self._share(namespace), last)

        def read(doc: docs.EndpointDoc) -> WorkloadEndpoint:
            check_identity(doc, self._workloads, name)
            return self._read_workload(doc)

        return self._finish(key, Ref(Table.WORKLOAD, name), value, self._endpoint, read)

    def _read_workload(self, doc: docs.EndpointDoc) -> WorkloadEndpoint:
        spec = doc.spec
        addresses = []
        for index, text in enumerate(spec.ip_networks):
            try:
                addresses.append(parse_address(text.partition("/")[0]))
            except ValueError as error:
                raise FieldError(f"spec.ipNetworks[{index}]", str(error)) from None
        labels: LabelPairs = self._share(read_labels(doc.metadata.labels))
        profiles: tuple[str, ...] = self._share(tuple(spec.profiles))
        ports = read_named_ports("spec.ports", spec.ports) if spec.ports else ()
        floating = read_nats("spec.ipNATs", spec.nats) if spec.nats else ()
        pod_uid = digest_uid((doc.metadata.annotations or {}).get(POD_ANNOTATION, ""))
        if spec.node != self.node:
            of_pod = spec.orchestrator == "k8s"
            return WorkloadEndpoint(
                self._share(spec.node),
                "",
                tuple(addresses),
                labels,
                profiles,
                ports,
                workload=spec.pod if of_pod else "",
                orchestrator="k8s" if of_pod else "",
                floating=floating,
                pod_uid=pod_uid,
            )
        if not spec.interface_name:
            raise FieldError("spec.interfaceName", "is missing")
        return WorkloadEndpoint(
            self._share(spec.node),
            read_interface("spec.interfaceName", spec.interface_name),
            tuple(addresses),
            labels,
            profiles,
            ports,
            read_mac("spec.mac", spec.mac),
            spec.pod or spec.workload,
            spec.orchestrator,
            spec.container_id,
            floating,
            pod_uid,
            read_prefixes("spec.allowSpoofedSourcePrefixes", spec.spoofed) if spec.spoofed else (),
        )

    def _decode_ipam(self, key: str, value: bytes | None) -> Decoded | Broken | None:
        parts = key.removeprefix(IPAM_PREFIX).split("/")
        if len(parts) == 4 and parts[0] == "assignment" and parts[2] == "block":
            try:
                cidr = parse_block_name(parts[3])
            except ValueError as error:
                return Broken(key, "", str(error))
            ref = Ref(Table.BLOCK, Name("", parts[3]))
            return self._finish(key, ref, value, self._block, lambda doc: routing.read_block(doc, cidr))
        if len(parts) == 5 and parts[0] == "host" and parts[3] == "block":
            ref = Ref(Table.AFFINITY, Name(parts[1], parts[4]))
            return self._finish(key, ref, value, self._affinity, _read_affinity)
        return None

    def _decode_grant(self, key: str, value: bytes | None) -> Decoded | Broken | None:
        parts = key.removeprefix(GRANTS_PREFIX).split("/")
        match parts:
            case ["addresses", text]:
                return self._finish(key, Ref(Table.GRANT, Name("", text)), value, self._grant, services.read_grant)
            case ["ports", text]:
                ref = Ref(Table.PORT_GRANT, Name("", text))
                return self._finish(key, ref, value, self._port_grant, services.read_port_grant)
            case _:
                return None


def faults_of(key: bytes, decoded: Decoded | Broken | None) -> tuple[Broken, ...]:
    """All that is wrong with a value: as a whole, or in fields that count as missing by themselves."""
    if isinstance(decoded, Broken):
        return (decoded,)
    if decoded is not None and isinstance(decoded.value, FelixConfiguration):
        return tuple(
            Broken(key.decode("utf-8", "replace"), field, why, in_part=True) for field, why in decoded.value.passed_over
        )
    return ()


def _misshapen(key: str, said: str) -> Broken:
    """What msgspec says of a value that is not of its shape, with the field that it is about."""
    why, _, path = said.partition(" - at `$")
    field = path.strip("`.")
    before, named, missing = why.partition("missing required field `")
    if named and before == "Object ":
        field, why = f"{field}.{missing.strip('`')}".strip("."), "is missing"
    return Broken(key, field, why)


def _read_affinity(doc: docs.AffinityDoc) -> BlockAffinity | None:
    return None if doc.deleted else BlockAffinity(doc.state)


def parse_block_name(text: str) -> Prefix:
    """A CIDR as it stands in IPAM keys (`10.0.0.0-26`).

    Raises  ValueError when it is none.
    """
    return parse_prefix(text.replace("-", "/"))
