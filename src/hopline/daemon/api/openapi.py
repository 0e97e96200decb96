"""The description of the API that it serves: OpenAPI 3.1, made of the table of operations and the types it names."""

from functools import cache
from typing import Any

import msgspec

from hopline import __version__
from hopline.config import Backend, BackendChange, Decap, Forward, Interface, Service, ServiceChange
from hopline.config.backend import WEIGHT_MOST
from hopline.config.health import LONGEST as LONGEST_CHECK
from hopline.config.numbers import RING_LEAST, RING_MOST
from hopline.config.service import BACKENDS_MOST, IDLE_MOST, SEED_MOST
from hopline.daemon.api.answers import JSON, ErrorBody
from hopline.daemon.api.body import Flush, InterfaceChange
from hopline.daemon.api.operations import OPERATIONS, Operation
from hopline.daemon.api.parameters import (
    ADDRESS,
    DESTINATION,
    DEVICE,
    MAC,
    SERVICE,
    SOURCE,
    Parameter,
    Schema,
)
from hopline.daemon.encode import encoder
from hopline.explain import BATCH_FRAMES, Batch, Question
from hopline.features.probe import FLAGS, LONGEST, LONGEST_FRAME, SHORTEST_FRAME

_REFERENCE = "#/components/schemas/{name}"
_REFUSALS = {
    400: "A value is wrong, or a parameter or field is not one of these.",
    401: "Over TCP: no valid token.",
    403: "This door, or this token, only shows.",
    404: "What was named does not exist.",
    409: "Refused: it is right in itself, but something stands against it, or the kernel said no.",
    500: "A fault of Hopline's own.",
    503: "Too much of one kind is under way.",
}
_SPEAKS = {str(status): {"$ref": f"#/components/responses/{status}"} for status in _REFUSALS}

_NULL: Schema = {"type": "null"}
_STRING: Schema = {"type": "string"}
_PROTOCOL: Schema = {"type": "string", "pattern": "^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ii][Cc][Mm][Pp]|[0-9]{1,3})$"}
_FLAGS: Schema = {"type": "string", "pattern": f"^[{''.join(FLAGS)}{''.join(FLAGS).lower()}]+$"}
_FRAME: Schema = {"type": "string", "contentEncoding": "base64"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL], "default": None}


def _whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


_PORT = {"anyOf": [_whole(1, 65535), {"type": "string", "pattern": "^(any|[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?)$"}]}
_SERVICE: dict[str, Schema] = {
    "vip": ADDRESS,
    "port": _PORT,
    "gue_port": _whole(1, 65535),
    "local": {"anyOf": [DESTINATION, _NULL]},
    "ring": _whole(RING_LEAST, RING_MOST),
    "seed": _whole(0, SEED_MOST),
    "idle": _whole(1, IDLE_MOST),
    "own_dev": {"anyOf": [DEVICE, _NULL]},
    "check": {"type": "string", "maxLength": LONGEST_CHECK, "pattern": "^([A-Za-z]{3,5}|[A-Za-z]{3,5}://[!-~]*)$"},
    "interval": {"type": "number", "minimum": 0.1, "maximum": 3600},
    "rise": _whole(1, 100),
    "fall": _whole(1, 100),
    "expect": {"type": "string", "pattern": "^[0-9, -]+$"},
}
_BACKEND: dict[str, Schema] = {
    "weight": _whole(0, WEIGHT_MOST),
    "via": {"anyOf": [ADDRESS, _NULL]},
    "dst_mac": {"anyOf": [MAC, _NULL]},
    "dev": {"anyOf": [DEVICE, _NULL]},
}


def _default(kind: type[msgspec.Struct], name: str) -> Schema:
    """Return what a schema says of a field's default; nothing where it has none."""
    default = next(field.default for field in msgspec.structs.fields(kind) if field.name == name)
    return {} if default is msgspec.NODEFAULT else {"default": default}


# what the checks refuse and the types let pass, as far as it is cheap to say
_NARROWER: dict[type, dict[str, Schema]] = {
    Interface: {"name": DEVICE},
    Forward: {
        "to": DESTINATION,
        "dev": {"anyOf": [DEVICE, _NULL], "default": None},
        "src_mac": {"anyOf": [MAC, _NULL], "default": None},
        "dst_mac": {"anyOf": [MAC, _NULL], "default": None},
        "via": {"anyOf": [ADDRESS, _NULL], "default": None},
    },
    Service: {
        **{name: {**schema, **_default(Service, name)} for name, schema in _SERVICE.items()},
        "name": SERVICE,
        "quic": {"const": False, "default": False},
        "backend": {
            "type": "array",
            "items": {"$ref": _REFERENCE.format(name="Backend")},
            "maxItems": BACKENDS_MOST,
            "default": [],
        },
    },
    ServiceChange: _SERVICE,
    Backend: {**{name: {**schema, **_default(Backend, name)} for name, schema in _BACKEND.items()}, "address": ADDRESS},
    BackendChange: _BACKEND,
    Decap: {"local": ADDRESS, "from": SOURCE, "gue_port": {**_whole(1, 65535), **_default(Decap, "gue_port")}},
    Flush: {"origin": {"const": "learned"}},
    Question: {
        "in": _or_null(DEVICE),
        "hex": _or_null({"type": "string", "pattern": "^[0-9A-Fa-fx:\\s-]*$"}),
        "length": _or_null(_whole(SHORTEST_FRAME, LONGEST_FRAME)),
        "src": _or_null(ADDRESS),
        "dst": _or_null(ADDRESS),
        "protocol": _or_null(_PROTOCOL),
        "sport": _or_null(_whole(0, 65535)),
        "dport": _or_null(_whole(0, 65535)),
        "flags": _or_null(_FLAGS),
        "ttl": _or_null(_whole(0, 255)),
        "size": _or_null(_whole(20, LONGEST)),
        "vlan": _or_null(_whole(0, 4094)),
    },
    Batch: {
        "in": _or_null(DEVICE),
        "frames": {"type": "array", "items": _FRAME, "minItems": 1, "maxItems": BATCH_FRAMES},
        "lengths": _or_null({"type": "array", "items": _whole(SHORTEST_FRAME, LONGEST_FRAME)}),
    },
}
_MORE: dict[type, Schema] = {
    Forward: {
        "anyOf": [
            {"required": ["dev", "dst_mac"], "properties": {"dev": _STRING, "dst_mac": _STRING, "via": _NULL}},
            {"required": ["via"], "properties": {"via": _STRING, "src_mac": _NULL, "dst_mac": _NULL}},
        ],
    },
    InterfaceChange: {"minProperties": 1},
    ServiceChange: {"minProperties": 1},
    BackendChange: {"minProperties": 1},
    Backend: {
        "anyOf": [
            {"properties": {"via": _NULL, "dst_mac": _NULL, "dev": _NULL}},
            {"required": ["via"], "properties": {"via": _STRING, "dst_mac": _NULL}},
            {"required": ["dst_mac", "dev"], "properties": {"via": _NULL, "dst_mac": _STRING, "dev": _STRING}},
        ],
    },
    Question: {
        "anyOf": [
            {"required": ["hex"], "properties": {"hex": _STRING}},
            {"required": ["dst"], "properties": {"dst": _STRING, "hex": _NULL, "length": _NULL}},
        ],
    },
}


@cache
def text() -> bytes:
    """Return the description as JSON."""
    return encoder.encode(document())


def document() -> dict[str, Any]:
    """Return the description."""
    bodies = [operation.body.kind for operation in OPERATIONS if operation.body is not None]
    kinds = [*(operation.answer for operation in OPERATIONS), *bodies, ErrorBody]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    taken = iter(schemas[len(OPERATIONS) :])
    paths: dict[str, Any] = {}
    for operation, answer in zip(OPERATIONS, schemas, strict=False):
        body = None if operation.body is None else next(taken)
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, answer, body)
    paths["/openapi.json"] = {"get": _itself()}
    for kind, fields in _NARROWER.items():
        components[kind.__name__]["properties"].update(fields)
    for kind, more in _MORE.items():
        components[kind.__name__].update(more)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hopline", "version": __version__, "description": "A programmable next hop for Linux."},
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {
            "schemas": components,
            "responses": {str(status): _refusal(says) for status, says in _REFUSALS.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, answer: Schema, body: Schema | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {"200": {"description": "Done.", "content": {JSON: {"schema": answer}}}, **_SPEAKS},
    }
    if operation.body is not None and body is not None:
        content = {media_type: {"schema": body} for media_type in operation.body.media_types}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: Schema = parameter.schema
    if parameter.many:
        schema = {"type": "array", "items": schema, "minItems": 1}
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.says,
        "required": parameter.required,
        "schema": schema,
    }


def _itself() -> dict[str, Any]:
    content = {JSON: {"schema": {"type": "object"}}}
    return {
        "operationId": "openapi",
        "summary": "Show this description.",
        "responses": {"200": {"description": "Done.", "content": content}, **_SPEAKS},
    }


def _refusal(says: str) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name=ErrorBody.__name__)}
    return {"description": says, "content": {JSON: {"schema": schema}}}
