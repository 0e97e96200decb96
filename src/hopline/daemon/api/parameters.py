"""What stands in a request's path and query, read strictly by the same rows that describe it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from hopline.config import (
    MODES,
    canonical_address,
    canonical_destination,
    canonical_host,
    device_name,
    service_name,
    shown,
)
from hopline.config.decap import accepted_source
from hopline.errors import InvalidInput

Schema = dict[str, Any]

# patterns that let pass all that the checks of `hopline.config` let pass, and as little else as is cheap to say
ADDRESS: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f:.]{2,45}$"}
DESTINATION: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f:.]{2,45}(/(0|[1-9][0-9]{0,2}))?$"}
MAC: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"}
DEVICE: Schema = {"type": "string", "minLength": 1, "maxLength": 15, "pattern": "^[^/:\\s]+$"}
SERVICE: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,63}$"}
SOURCE: Schema = {"type": "string", "pattern": "^(any|[0-9A-Fa-f:.]{2,45}(/(0|[1-9][0-9]{0,2}))?)$"}
MODE: Schema = {"type": "string", "enum": list(MODES)}

_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?", re.ASCII)
_NUMBER_MOST = (1 << 63) - 1


@dataclass(frozen=True)
class Parameter:
    """One value in a path or a query: `read` returns it, or raises InvalidInput."""

    name: str
    says: str
    schema: Schema
    read: Callable[[str], Any]
    place: Literal["query", "path"] = "query"
    required: bool = False
    many: bool = False  # may be repeated; the value is a list
    default: Any = None


def flag(name: str, says: str) -> Parameter:
    """Return a parameter that is true or false, and false unless told."""

    def read(text: str) -> bool:
        if text not in ("true", "false"):
            raise InvalidInput(name, f"{shown(text)} is neither true nor false", "give true or false")
        return text == "true"

    return Parameter(name, says, {"type": "boolean", "default": False}, read, default=False)


def number(
    name: str,
    says: str,
    least: int,
    most: int = _NUMBER_MOST,
    default: int | None = None,
    place: Literal["query", "path"] = "query",
) -> Parameter:
    """Return a parameter that is a whole number."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 19 and least <= int(text) <= most:
            return int(text)
        raise InvalidInput(name, f"{shown(text)} is not a whole number in range", f"give {least} to {most}")

    schema: Schema = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(name, says, schema, read, place, required=place == "path", default=default)


def seconds(name: str, says: str, least: float, most: float, default: float | None = None) -> Parameter:
    """Return a parameter that is a time in seconds."""

    def read(text: str) -> float:
        if _DECIMAL.fullmatch(text) and least <= float(text) <= most:
            return float(text)
        raise InvalidInput(name, f"{shown(text)} is not a time in range", f"give {least:g} to {most:g} seconds")

    schema: Schema = {"type": "number", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(name, says, schema, read, default=default)


def choice(name: str, says: str, *names: str, default: str | None = None) -> Parameter:
    """Return a parameter that is one of some words."""

    def read(text: str) -> str:
        if text not in names:
            raise InvalidInput(name, f"{shown(text)} is none of these", f"give {' or '.join(names)}")
        return text

    schema: Schema = {"type": "string", "enum": list(names)}
    if default is not None:
        schema["default"] = default
    return Parameter(name, says, schema, read, default=default)


def destination(required: bool = False, many: bool = False) -> Parameter:
    """Return the parameter `to`."""
    says = "A destination: an address, or a prefix."
    return Parameter("to", says, DESTINATION, canonical_destination, required=required, many=many)


def address(name: str, says: str) -> Parameter:
    """Return a parameter that is one address, which must be given."""
    return Parameter(name, says, ADDRESS, lambda text: canonical_address(text, name), required=True)


def service(name: str, says: str) -> Parameter:
    """Return a part of the path that names a service."""
    return Parameter(name, says, SERVICE, lambda text: service_name(text, name), "path", required=True)


def host(name: str, says: str, place: Literal["query", "path"] = "query") -> Parameter:
    """Return a parameter that is one host's address, which must be given."""
    return Parameter(name, says, ADDRESS, lambda text: canonical_host(text, name), place, required=True)


def source(name: str, says: str) -> Parameter:
    """Return a parameter that says whose outer headers are accepted, which must be given."""
    return Parameter(name, says, SOURCE, lambda text: accepted_source(text, name), required=True)


def device(name: str, says: str, place: Literal["query", "path"] = "query") -> Parameter:
    """Return a parameter that names a device."""
    return Parameter(name, says, DEVICE, lambda text: device_name(text, name), place, required=place == "path")


def given(request: Request, parameters: Sequence[Parameter], example: str) -> dict[str, Any]:
    """Return the value of each parameter; InvalidInput if one is wrong, missing, given twice, or not one of these."""
    query = request.query_params
    names = [parameter.name for parameter in parameters if parameter.place == "query"]
    for name, _ in query.multi_items():
        if name not in names:
            hint = f"this resource has {', '.join(names) or 'none'}"
            raise InvalidInput(shown(name), "not a parameter of this resource", hint)
    values: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        texts = [request.path_params[name]] if parameter.place == "path" else query.getlist(name)
        if len(texts) > 1 and not parameter.many:
            raise InvalidInput(name, "given twice", "give it once")
        if not texts and parameter.required:
            raise InvalidInput(name, "missing", f"give it, as in {example}")
        if parameter.many:
            values[name] = list(dict.fromkeys(parameter.read(text) for text in texts))
        else:
            values[name] = parameter.read(texts[0]) if texts else parameter.default
    return values
