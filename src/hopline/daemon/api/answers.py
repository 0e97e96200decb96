"""What the API says when something was done, and when it was not."""

import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Literal

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from hopline.daemon.api.room import Busy, Room
from hopline.daemon.encode import ROWS_AT_ONCE, encoded_parts, encoder
from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound

JSON = "application/json"
_log = logging.getLogger("hopline.api")

ErrorName = Literal[
    "invalid_input", "unauthorized", "forbidden", "not_found", "refused", "kernel", "busy", "internal"
]  # fmt: skip
STATUS: Mapping[ErrorName, int] = {
    "invalid_input": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "refused": 409,
    "kernel": 409,
    "busy": 503,
    "internal": 500,
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong value; `line` of the upload (from 1) and `key` of the entry where they are known."""

    field: str
    detail: str
    hint: str
    line: int | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What every failure answers; of several wrong values it is the first, and `errors` has as many as are listed."""

    error: ErrorName
    field: str = ""
    detail: str
    hint: str = ""
    line: int | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType = msgspec.UNSET
    errors: list[Problem] | msgspec.UnsetType = msgspec.UNSET
    count: int | msgspec.UnsetType = msgspec.UNSET


class Changed(msgspec.Struct, frozen=True):
    """How many entries a request entered, removed or forgot."""

    changed: int


def answer(value: Any) -> Response:
    """Return a value as JSON; a handler that makes its own response has its way."""
    return value if isinstance(value, Response) else Response(encoder.encode(value), media_type=JSON)


async def rows_answer(made: Awaitable[list[Any]], room: Room, at_once: int = ROWS_AT_ONCE) -> Response:
    """Return a list, in parts if it is long, so that it is never held as text in full."""
    async with room.making:
        rows = await made
    if len(rows) <= at_once:
        return answer(rows)
    return parts_answer(_list(rows, at_once), room)


def parts_answer(parts: AsyncIterator[bytes], room: Room) -> Response:
    """Return JSON that is made as it is taken."""
    return StreamingResponse(room.answer(parts), media_type=JSON)


async def _list(rows: list[Any], at_once: int) -> AsyncIterator[bytes]:
    yield b"["
    async for part in encoded_parts(rows, at_once):
        yield part
    yield b"]"


def refusal(error: ErrorName, detail: str, field: str = "", hint: str = "", **headers: str) -> Response:
    """Return one failure."""
    body = ErrorBody(error=error, field=field, detail=detail, hint=hint)
    return Response(encoder.encode(body), STATUS[error], headers, media_type=JSON)


def refused(error: Exception, what: str) -> Response:
    """Return what an exception means to the one who asked; what is nobody's fault but ours is logged with `what`."""
    match error:
        case InvalidInput():
            return _invalid(error)
        case NotFound():
            return refusal("not_found", str(error))
        case KernelError():
            return refusal("kernel", str(error))
        case Busy():
            return refusal("busy", str(error))
        case HoplineError():
            return refusal("refused", str(error))
        case ClientDisconnect():
            return Response(status_code=400)  # nobody is left to read it
    _log.error("%s", what, exc_info=error)
    return refusal("internal", "a fault of hopline's own", hint="the daemon's log has it: please report it")


def _invalid(error: InvalidInput) -> Response:
    problems = [_problem(problem) for problem in error.problems]
    first = problems[0]
    several = error.count > 1
    body = ErrorBody(
        error="invalid_input",
        field=first.field,
        detail=first.detail,
        hint=first.hint,
        line=first.line,
        key=first.key,
        errors=problems if several else msgspec.UNSET,
        count=error.count if several else msgspec.UNSET,
    )
    return Response(encoder.encode(body), STATUS["invalid_input"], media_type=JSON)


def _problem(error: InvalidInput) -> Problem:
    return Problem(
        field=error.field,
        detail=error.detail,
        hint=error.hint,
        line=msgspec.UNSET if error.line is None else error.line,
        key=msgspec.UNSET if error.key is None else error.key,
    )
