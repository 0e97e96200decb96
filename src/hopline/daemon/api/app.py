"""The doors' apps: `admin_app` does all, `view_app` only shows, `token_app` does what the caller's token allows."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hopline.config import shown
from hopline.daemon.api import openapi
from hopline.daemon.api.answers import JSON, answer, refusal, refused
from hopline.daemon.api.body import carried
from hopline.daemon.api.operations import OPERATIONS, Operation
from hopline.daemon.api.parameters import given
from hopline.daemon.api.resources import Asked
from hopline.daemon.api.room import Room
from hopline.daemon.asker import asker
from hopline.daemon.peer import asker_of
from hopline.daemon.protocol import ServiceProtocol
from hopline.daemon.tokens import Token, known

Handler = Callable[[Request], Awaitable[Response]]

_DESCRIPTION = "/openapi.json"


def admin_app(service: ServiceProtocol, room: Room | None = None) -> ASGIApp:
    """Return the app that may do everything; the doors of one daemon with this right share a `room`."""
    return _app(service, room or Room(), OPERATIONS)


def view_app(
    service: ServiceProtocol, room: Room | None = None, hint: str = "use the admin socket, as root"
) -> ASGIApp:
    """Return the app that changes nothing; `hint` says who can."""
    shows = [operation for operation in OPERATIONS if operation.view]
    inner = _app(service, room or Room(), shows)
    shown_by = {(operation.method, operation.path) for operation in shows if operation.method != "GET"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD") or (scope["method"], scope["path"]) in shown_by:
            await inner(scope, receive, send)
        else:
            await refusal("forbidden", "this door only shows", hint=hint)(scope, receive, send)

    return app


def token_app(
    service: ServiceProtocol,
    tokens: Callable[[], Sequence[Token]],
    room: Room | None = None,
    view_room: Room | None = None,
) -> ASGIApp:
    """Return the app for callers with a token (RFC 6750); `tokens` returns those that are valid now."""
    by_right = {
        "admin": admin_app(service, room),
        "view": view_app(service, view_room, "use a token marked admin"),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        token = _offered(scope, tokens())
        if token is None:
            hint = "send the header `Authorization: Bearer TOKEN` with a token of --token-file"
            challenge = {"WWW-Authenticate": 'Bearer realm="hopline"'}
            response = refusal("unauthorized", "no valid token", "Authorization", hint, **challenge)
            await response(scope, receive, send)
        else:
            scope["state"] = {**scope.get("state", {}), "token": token.name}
            await by_right[token.right](scope, receive, send)

    return app


def _offered(scope: Scope, tokens: Sequence[Token]) -> Token | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].strip().partition(b" ")
    return known(tokens, token.strip()) if scheme.lower() == b"bearer" else None


def _app(service: ServiceProtocol, room: Room, operations: Sequence[Operation]) -> ASGIApp:
    by_path: dict[str, dict[str, Handler]] = {_DESCRIPTION: {"GET": _description}}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = _handler(service, room, operation)
    routes = [Route(path, _dispatch(handlers), methods=list(handlers)) for path, handlers in by_path.items()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    # a path with a slash too many is a mistake to name, not a redirect to follow
    app.router.redirect_slashes = False
    return app


async def _description(request: Request) -> Response:
    given(request, (), "")
    return Response(openapi.text(), media_type=JSON)


def _handler(service: ServiceProtocol, room: Room, operation: Operation) -> Handler:
    async def handle(request: Request) -> Response:
        values = given(request, operation.parameters, operation.example)
        body = await carried(request, operation.body, room)
        return answer(await operation.handler(Asked(service, room, values, body)))

    return handle


def _dispatch(handlers: dict[str, Handler]) -> Handler:
    async def handle(request: Request) -> Response:
        # Starlette adds HEAD to every GET route; it sends no body, so it is answered by GET's handler
        method = "GET" if request.method == "HEAD" else request.method
        try:
            if method != "GET":
                asker.set(await asker_of(request.scope))
            return await handlers[method](request)
        except Exception as error:
            return refused(error, f"{request.method} {request.scope['path']}")

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        detail = f"{request.method} is not possible on {shown(request.scope['path'])}"
        response = refusal("invalid_input", detail, "method")
        response.status_code = status
        response.headers.update(getattr(error, "headers", None) or {})
        return response
    return refusal("not_found", f"{shown(request.scope['path'])}: no such resource")
