"""JSON metadata of a dataclass. The declaration of a field says how the field is written, read and checked.

A field whose type is in ``_SCHEMAS`` needs nothing more. Other fields get ``metadata=stored(...)``. Fields of type
``np.ndarray`` are not metadata: they are tensors of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**53}
TOKENS: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 2**24}
NUMBER: dict[str, Any] = {"type": "number", "minimum": -1e300, "maximum": 1e300}
ANY_OBJECT: dict[str, Any] = {"type": "object"}


def object_schema(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Schema of an object that must have all ``properties``."""
    return {"type": "object", "properties": properties, "required": sorted(properties), **more}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Schema of a value that may also be null."""
    return {**schema, "type": [schema["type"], "null"]}


_SCHEMAS = {"str": TEXT, "bool": FLAG, "int": COUNT, "float": NUMBER}
_SCHEMAS |= {f"{name} | None": nullable(schema) for name, schema in _SCHEMAS.items()}


def stored(
    schema: dict[str, Any],
    write: Callable[[Any], Any] = lambda value: value,
    read: Callable[[Any], Any] = lambda value: value,
) -> dict[str, Any]:
    """``metadata`` of a dataclass field: its JSON schema, and functions from its value to JSON and back."""
    return {"schema": schema, "write": write, "read": read}


def stored_object(cls: type) -> dict[str, Any]:
    """``metadata`` of a field whose value is an instance of the dataclass ``cls``."""
    schema = object_schema(properties_of(cls), additionalProperties=False)
    return stored(schema, dataclasses.asdict, lambda value: cls(**value))


def stored_objects(cls: type) -> dict[str, Any]:
    """``metadata`` of a field whose value is a tuple of instances of the dataclass ``cls``."""
    one = stored_object(cls)
    schema = {"type": "array", "items": one["schema"]}
    return stored(schema, lambda items: [one["write"](i) for i in items], lambda items: tuple(map(one["read"], items)))


def _fields(cls: type) -> Iterator[tuple[str, dict[str, Any]]]:
    for field in dataclasses.fields(cls):
        if field.type != "np.ndarray":
            yield field.name, dict(field.metadata) or stored(_SCHEMAS[str(field.type)])


def properties_of(cls: type) -> dict[str, Any]:
    """{field: JSON schema} of a dataclass."""
    return {name: form["schema"] for name, form in _fields(cls)}


def write_fields(instance: Any) -> dict[str, Any]:
    """{field: JSON value} of an instance."""
    return {name: form["write"](getattr(instance, name)) for name, form in _fields(type(instance))}


def read_fields(cls: type, metadata: dict[str, Any]) -> dict[str, Any]:
    """{field: value}, the arguments of ``cls``. The metadata must match the schema."""
    return {name: form["read"](metadata[name]) for name, form in _fields(cls)}
