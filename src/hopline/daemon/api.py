"""The API over HTTP: resources are the nouns, fields are the document's.

    GET    /status
    GET    /interfaces            POST /interfaces[?replace=true]     an Interface
    GET    /interfaces/NAME       PATCH /interfaces/NAME {"mode", "bypass_policy"}    DELETE /interfaces/NAME
    GET    /forwards?to=&origin=&limit=
    POST   /forwards              add: one Forward or a list, all or nothing; an existing destination is refused
    PUT    /forwards              the same, and replaces
    DELETE /forwards?to=&to=      all or nothing
    GET    /forwards/get?address=&in=       POST /forwards/flush {"origin": "learned"}
    GET    /next-hops             POST /detach

An error is `{error, field, detail, hint}`: 400 invalid_input, 404 not_found, 409 refused or kernel, 403 on the view
socket, 500 internal, which is always a bug of ours. Two apps: `admin_app` does all, `view_app` only GET.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hopline.config import (
    Forward,
    Interface,
    Mode,
    Origin,
    canonical_address,
    canonical_destination,
    checked_forwards,
    checked_interface,
    device_name,
    shown,
)
from hopline.daemon.encode import encoded_list, encoder
from hopline.daemon.protocol import ServiceProtocol
from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound

BODY_MOST = 64 * 1024 * 1024  # bytes; a million forwards with MAC addresses are about 100, so load those in parts
BODY_SECONDS = 60.0  # for a whole body; a client that has stopped sending does not hold its memory for ever
IN_A_THREAD = 64 * 1024  # bytes of JSON above which decoding would hold up the event loop, and the lease with it

_log = logging.getLogger("hopline.api")
T = TypeVar("T")


class ErrorBody(msgspec.Struct, frozen=True):
    """What every failure answers; `error` is a name of `_STATUS`."""

    error: str
    detail: str
    field: str = ""
    hint: str = ""


class InterfaceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What PATCH may change; None leaves a setting as it is."""

    mode: Mode | None = None
    bypass_policy: bool | None = None


class Flush(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries to forget; the operator's are deleted by name."""

    origin: Origin


class Changed(msgspec.Struct, frozen=True):
    """How many entries a request entered, removed or forgot."""

    changed: int


_STATUS = {"invalid_input": 400, "forbidden": 403, "not_found": 404, "refused": 409, "kernel": 409, "internal": 500}


class Resources:
    """The handlers; each decodes, checks, asks the service once, and encodes."""

    def __init__(self, service: ServiceProtocol) -> None:
        self._service = service

    async def status(self, request: Request) -> Response:
        """GET /status."""
        _only(request)
        return _answer(await self._service.status())

    async def interfaces(self, request: Request) -> Response:
        """GET /interfaces."""
        _only(request)
        return _answer(await self._service.interfaces())

    async def interface(self, request: Request) -> Response:
        """GET /interfaces/NAME."""
        _only(request)
        name = request.path_params["name"]
        for state in await self._service.interfaces():
            if state.name == name:
                return _answer(state)
        raise NotFound(f"interface {shown(name)}: not one of Hopline's: `hopline interface add {shown(name)}` first")

    async def interface_add(self, request: Request) -> Response:
        """POST /interfaces."""
        _only(request, "replace")
        interface = checked_interface(await _decoded(request, Interface))
        return _answer(await self._service.interface_add(interface, _flag(request, "replace")))

    async def interface_set(self, request: Request) -> Response:
        """PATCH /interfaces/NAME."""
        _only(request)
        change = await _decoded(request, InterfaceChange)
        if change.mode is None and change.bypass_policy is None:
            raise InvalidInput("body", "changes nothing", "give mode or bypass_policy")
        name = device_name(request.path_params["name"], "name")
        return _answer(await self._service.interface_set(name, change.mode, change.bypass_policy))

    async def interface_del(self, request: Request) -> Response:
        """DELETE /interfaces/NAME."""
        _only(request)
        await self._service.interface_del(device_name(request.path_params["name"], "name"))
        return _answer(Changed(1))

    async def forwards(self, request: Request) -> Response:
        """GET /forwards."""
        _only(request, "to", "origin", "limit")
        to = request.query_params.get("to")
        rows = await self._service.forwards(
            None if to is None else canonical_destination(to), _origin(request), _limit(request)
        )
        return Response(await encoded_list(rows), media_type="application/json")

    async def forward_add(self, request: Request) -> Response:
        """POST /forwards."""
        return await self._forward_put(request, replace=False)

    async def forward_replace(self, request: Request) -> Response:
        """PUT /forwards."""
        return await self._forward_put(request, replace=True)

    async def _forward_put(self, request: Request, replace: bool) -> Response:
        _only(request)
        body = await _body(request)
        forwards = await _off_loop(len(body), _decode_forwards, body)
        await self._service.forward_put(forwards, replace)
        return _answer(Changed(len(forwards)))

    async def forward_del(self, request: Request) -> Response:
        """DELETE /forwards."""
        _only(request, "to")
        given = request.query_params.getlist("to")
        if not given:
            raise InvalidInput("to", "missing", "name at least one destination: DELETE /forwards?to=10.10.3.5")
        destinations = list(dict.fromkeys(canonical_destination(to) for to in given))
        await self._service.forward_del(destinations)
        return _answer(Changed(len(destinations)))

    async def forward_get(self, request: Request) -> Response:
        """GET /forwards/get."""
        _only(request, "address", "in")
        address = request.query_params.get("address")
        if address is None:
            raise InvalidInput("address", "missing", "GET /forwards/get?address=10.10.3.5")
        in_dev = request.query_params.get("in")
        checked = None if in_dev is None else device_name(in_dev, "in")
        return _answer(await self._service.forward_get(canonical_address(address), checked))

    async def forward_flush(self, request: Request) -> Response:
        """POST /forwards/flush."""
        _only(request)
        flush = await _decoded(request, Flush)
        if flush.origin != "learned":
            raise InvalidInput("origin", "only learned entries can be flushed", "delete operator entries by name")
        return _answer(Changed(await self._service.forward_flush()))

    async def next_hops(self, request: Request) -> Response:
        """GET /next-hops."""
        _only(request)
        return _answer(await self._service.next_hops())

    async def detach(self, request: Request) -> Response:
        """POST /detach."""
        _only(request)
        await self._service.detach()
        return _answer(Changed(1))


def admin_app(service: ServiceProtocol) -> ASGIApp:
    """Return the app that may do everything."""
    resources = Resources(service)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/status", resources.status),
        ("GET", "/interfaces", resources.interfaces),
        ("POST", "/interfaces", resources.interface_add),
        ("GET", "/interfaces/{name}", resources.interface),
        ("PATCH", "/interfaces/{name}", resources.interface_set),
        ("DELETE", "/interfaces/{name}", resources.interface_del),
        ("GET", "/forwards", resources.forwards),
        ("POST", "/forwards", resources.forward_add),
        ("PUT", "/forwards", resources.forward_replace),
        ("DELETE", "/forwards", resources.forward_del),
        ("GET", "/forwards/get", resources.forward_get),
        ("POST", "/forwards/flush", resources.forward_flush),
        ("GET", "/next-hops", resources.next_hops),
        ("POST", "/detach", resources.detach),
    ]
    by_path: dict[str, dict[str, Callable[[Request], Awaitable[Response]]]] = {}
    for method, path, handler in table:
        by_path.setdefault(path, {})[method] = handler
    routes = [Route(path, _dispatch(handlers), methods=list(handlers)) for path, handlers in by_path.items()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    # a path with a slash too many is a mistake to name, not a redirect to follow
    app.router.redirect_slashes = False
    return app


def view_app(service: ServiceProtocol) -> ASGIApp:
    """Return the app of the view socket: the same resources, GET only."""
    inner = admin_app(service)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "GET":
            detail = "the view socket only shows"
            await _refusal("forbidden", detail, hint="use the admin socket, as root")(scope, receive, send)
        else:
            await inner(scope, receive, send)

    return app


def _dispatch(handlers: dict[str, Callable[[Request], Awaitable[Response]]]) -> Callable[..., Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        # Starlette adds HEAD to every GET route; it sends no body, so it is answered by GET's handler
        handler = handlers["GET" if request.method == "HEAD" else request.method]
        try:
            return await handler(request)
        except InvalidInput as error:
            return _refusal("invalid_input", error.detail, error.field, error.hint)
        except NotFound as error:
            return _refusal("not_found", str(error))
        except KernelError as error:
            return _refusal("kernel", str(error))
        except HoplineError as error:
            return _refusal("refused", str(error))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        except Exception:
            _log.exception("%s %s", request.method, request.url.path)
            return _refusal("internal", "a fault of hopline's own", hint="the daemon's log has it: please report it")

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        body = ErrorBody("invalid_input", f"{request.method} is not possible on {shown(request.url.path)}", "method")
        headers = getattr(error, "headers", None)
        return Response(encoder.encode(body), status, headers, media_type="application/json")
    return _refusal("not_found", f"{shown(request.url.path)}: no such resource")


def _refusal(error: str, detail: str, field: str = "", hint: str = "") -> Response:
    body = encoder.encode(ErrorBody(error, detail, field, hint))
    return Response(body, _STATUS[error], media_type="application/json")


def _answer(value: Any) -> Response:
    return Response(encoder.encode(value), media_type="application/json")


async def _body(request: Request) -> bytes:
    """Read the whole body; InvalidInput when it is too large, before more than that is held, or too slow."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > BODY_MOST:
                    hint = f"send at most {BODY_MOST >> 20} MiB a request"
                    raise InvalidInput("body", f"larger than {BODY_MOST} bytes", hint)
                parts.append(part)
    except TimeoutError:
        raise InvalidInput("body", f"not complete after {BODY_SECONDS:g} s", "send it faster") from None
    return b"".join(parts)


async def _decoded(request: Request, kind: type[T]) -> T:
    return decode(await _body(request), kind)


def decode(body: bytes, kind: Any, name: str = "") -> Any:
    """Decode JSON into `kind`; InvalidInput names the field that is wrong, after `name`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        detail, _, place = str(error).partition(" - at `$")
        field = f"{name}{place.rstrip('`')}".lstrip(".") or "body"
        raise InvalidInput(field, detail[:1].lower() + detail[1:]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("body", f"not JSON: {str(error).lower()}") from None
    except RecursionError:
        raise InvalidInput("body", "nested too deeply") from None


def _decode_forwards(body: bytes) -> list[Forward]:
    if body.lstrip()[:1] == b"[":
        entries: list[Forward] = decode(body, list[Forward], "forward")
    else:
        entries = [decode(body, Forward)]
    if not entries:
        raise InvalidInput("body", "an empty list", "give at least one forward")
    try:
        return checked_forwards(entries)
    except InvalidInput as error:
        if len(entries) > 1:
            raise
        raise InvalidInput(error.field.removeprefix("forward[0]."), error.detail, error.hint) from None


async def _off_loop(size: int, function: Callable[[bytes], T], body: bytes) -> T:
    return await asyncio.to_thread(function, body) if size > IN_A_THREAD else function(body)


def _only(request: Request, *names: str) -> None:
    """Refuse query parameters that the resource does not have, and repeats of those that it has once."""
    for name, _ in request.query_params.multi_items():
        if name not in names:
            hint = f"this resource has {', '.join(names) or 'none'}"
            raise InvalidInput(shown(name), "not a parameter of this resource", hint)
        if request.method != "DELETE" and len(request.query_params.getlist(name)) > 1:
            raise InvalidInput(name, "given twice", "give it once")


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidInput(name, f"{shown(text)} is neither true nor false", "give true or false")
    return text == "true"


def _origin(request: Request) -> Origin | None:
    text = request.query_params.get("origin")
    if text == "operator" or text == "learned":
        return text  # type: ignore[return-value]
    if text is not None:
        raise InvalidInput("origin", f"{shown(text)} is not an origin", "give operator or learned")
    return None


def _limit(request: Request) -> int | None:
    text = request.query_params.get("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        raise InvalidInput("limit", f"{shown(text)} is not a number of entries", "give 1 to 999999999")
    return int(text)
