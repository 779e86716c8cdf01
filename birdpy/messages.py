"""Protobuf message types built at run time from a table of field numbers, for etcd and GoBGP alike.

In: `{"Message": {"field": (number, "type")}}`; out: message classes by name. No generated code, so no tie between a
generator's version and the runtime's. Types: a scalar (`uint64`, `bytes`, `string`, ...), another message or enum-free
int32; prefix `repeated ` for lists, `oneof NAME ` for a member of the union NAME, `map KEY VALUE` is not needed here.
Source: google/protobuf/descriptor.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

_SCALARS = {
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "fixed64": FieldDescriptorProto.TYPE_FIXED64,
    "fixed32": FieldDescriptorProto.TYPE_FIXED32,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "sint32": FieldDescriptorProto.TYPE_SINT32,
    "sint64": FieldDescriptorProto.TYPE_SINT64,
}

Table = Mapping[str, Mapping[str, tuple[int, str]]]


def build_messages(package: str, table: Table) -> dict[str, Any]:
    """Message classes for `table`, in a descriptor pool of their own.

    Raises  KeyError when a field names a message that is not in the table.
    """
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for message_name, fields in table.items():
        message = file.message_type.add(name=message_name)
        unions: list[str] = []
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind.startswith("repeated "):
                field.label = FieldDescriptorProto.LABEL_REPEATED
                kind = kind.removeprefix("repeated ")
            elif kind.startswith("oneof "):
                _, union, kind = kind.split(" ")
                if union not in unions:
                    unions.append(union)
                    message.oneof_decl.add(name=union)
                field.oneof_index = unions.index(union)
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                if kind not in table:
                    raise KeyError(f"{message_name}.{field_name}: no message {kind!r}")
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}
