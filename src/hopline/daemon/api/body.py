"""What a request carries: read with limits of size and time, decoded, and checked as a whole."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.requests import Request

from hopline.config import (
    Backend,
    BackendChange,
    Decap,
    Forward,
    Intent,
    Interface,
    Service,
    ServiceChange,
    checked_backend,
    checked_change,
    checked_decap,
    checked_forward,
    checked_forwards,
    checked_interface,
    checked_service,
    shown,
)
from hopline.daemon.api.answers import JSON
from hopline.daemon.api.room import MIB, Room
from hopline.document import BulkReader, json, read_json
from hopline.document.values import repeated, typed
from hopline.errors import InvalidInput, InvalidInputs, Problems
from hopline.explain import Batch, Question, checked_batch, checked_question
from hopline.intent import Wanted

BODY_MOST = 64 * MIB  # bytes of a body in general
DOCUMENT_MOST = 256 * MIB  # bytes of a whole intent; a million forwards with MAC addresses are about 100
EXPLAIN_MOST = 4 * MIB  # bytes of frames to explain; who only looks may send them
UPLOAD_MOST = 512 * MIB  # bytes of a bulk upload, which is not held
BODY_SECONDS = 60.0  # for a whole body; a client that has stopped sending does not hold its memory for ever
UPLOAD_SECONDS = 600.0
IN_A_THREAD = 64 * 1024  # bytes of JSON above which decoding would hold up the event loop, and the lease with it
FED_AT_ONCE = MIB  # bytes given to the reader of an upload

_CURL_SAYS = "application/x-www-form-urlencoded"  # of whatever its -d sends, unless it is told

_DESCRIBED = "GET /openapi.json says what it may be"

UPLOADS: dict[str, Literal["csv", "jsonl"]] = {"text/csv": "csv", "application/x-ndjson": "jsonl"}
_PLACE = re.compile(r"forward\[(\d+)\]")
_MEDIA_TYPE = re.compile(r"\s*([\w.+-]+/[\w.+-]+)\s*(?:;.*)?", re.ASCII)


class InterfaceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What PATCH may change; None leaves a setting as it is."""

    mode: Literal["auto", "native", "generic"] | None = None
    bypass_policy: bool | None = None


class Flush(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries to forget; the operator's are deleted by name."""

    origin: Literal["operator", "learned"]


@dataclass(frozen=True)
class Body:
    """What an operation takes: `kind` describes it, `read` returns it checked."""

    kind: Any
    read: "Callable[[bytes], Any] | None"  # None: an upload, read as it comes
    most: int = BODY_MOST
    media_types: tuple[str, ...] = (JSON,)


async def carried(request: Request, body: Body | None, room: Room) -> Any:
    """Return what a request carries; InvalidInput if that is not what the operation takes, Busy if there is no room."""
    if body is None:
        headers = request.headers
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise InvalidInput("body", "not expected here", "leave it out")
        return None
    media_type = _media_type(request, body.media_types)
    if body.read is None:
        return await _uploaded(request, UPLOADS[media_type], room)
    with room.body(_announced(request, body.most)):
        data = await _whole(request, body.most)
        if len(data) <= IN_A_THREAD:
            return body.read(data)
        async with room.decoding:
            return await asyncio.to_thread(body.read, data)


def _announced(request: Request, most: int) -> int:
    """Return how many bytes a body may come to: what its header says, or the limit."""
    text = request.headers.get("content-length")
    if text is None:
        return most
    # h11 has checked that it is a number
    if (size := int(text)) > most:
        raise _too_large(most)
    return size


def _too_large(most: int) -> InvalidInput:
    return InvalidInput("body", f"larger than {most} bytes", f"send at most {most // MIB} MiB a request")


async def _whole(request: Request, most: int) -> bytes:
    """Read the whole body; InvalidInput when it is too large, before more than that is held, or too slow."""
    parts: list[bytes] = []
    size = 0
    async for part in _parts(request, BODY_SECONDS):
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


async def _parts(request: Request, limit: float) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    deadline = asyncio.get_running_loop().time() + limit
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                part = await anext(stream, None)
        except TimeoutError:
            raise InvalidInput("body", f"not complete after {limit:g} s", "send it faster") from None
        if part is None:
            return
        yield part


@dataclass(frozen=True)
class Upload:
    """What an upload wants, and where in it each entry stands."""

    wanted: Wanted
    line_of: Callable[[int], int | None]  # place of an entry → its line

    def located(self, error: InvalidInput) -> InvalidInput:
        """Return what is wrong with this upload, with lines."""
        if isinstance(error, InvalidInputs):
            return InvalidInputs([self.located(problem) for problem in error.problems], error.count)
        place = _PLACE.match(error.field)
        line = self.line_of(int(place[1])) if place and error.line is None else error.line
        return InvalidInput(error.field, error.detail, error.hint, line=line, key=error.key)


async def _uploaded(request: Request, form: Literal["csv", "jsonl"], room: Room) -> Upload:
    """Read an upload as it comes, in a thread; only its entries are held."""
    with room.upload():
        reader = BulkReader(form)
        held, size = bytearray(), 0
        async for part in _parts(request, UPLOAD_SECONDS):
            held += part
            size += len(part)
            if size > UPLOAD_MOST:
                raise _too_large(UPLOAD_MOST)
            if len(held) >= FED_AT_ONCE:
                await asyncio.to_thread(reader.feed, bytes(held))
                held.clear()
        if held:
            await asyncio.to_thread(reader.feed, bytes(held))
        return Upload(Wanted({"forward": await asyncio.to_thread(reader.finish)}), reader.line_of)


def _media_type(request: Request, accepted: tuple[str, ...]) -> str:
    """Return the body's media type; one that is not said is the first that is accepted, but for uploads."""
    text = request.headers.get("content-type")
    if accepted == (JSON,) and text in (None, _CURL_SAYS):
        return JSON
    found = _MEDIA_TYPE.fullmatch(text or "")
    name = found[1].lower() if found else ""
    if name not in accepted:
        detail = f"{shown(text)} is not taken here" if text else "missing"
        raise InvalidInput("Content-Type", detail, f"say {' or '.join(accepted)}")
    return name


def decode(body: bytes, kind: Any, name: str = "") -> Any:
    """Decode JSON into `kind`; InvalidInput names the field that is wrong, or given twice, after `name`."""
    try:
        value = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _ill_typed(json.objects(body, "body"), kind, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise json.refusal(str(error), body, "body") from None
    except RecursionError:
        raise InvalidInput("body", "nested too deeply", _DESCRIBED) from None
    if not isinstance(value, list):
        _check_once(json.objects(body, "body"), name)
    elif value and isinstance(value[0], msgspec.Struct) and json.repeats(body, type(value[0]), value):
        for place, entry in enumerate(json.objects(body, "body")):
            _check_once(entry, f"{name}[{place}].")
    return value


def _ill_typed(given: Any, kind: Any, found: str) -> InvalidInput:
    """Return what is wrong with an object that is no `kind`, as the document says it."""
    try:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            typed(kind, "body", given)
    except InvalidInput as error:
        return error if error.field else InvalidInput("body", error.detail, error.hint)
    return InvalidInput("body", shown(found), _DESCRIBED)


def _check_once(given: Any, where: str) -> None:
    for name in repeated(given, where):
        raise InvalidInput(name, "given twice", "give each field once")


def _interface(body: bytes) -> Interface:
    return checked_interface(decode(body, Interface))


def _interface_change(body: bytes) -> InterfaceChange:
    change: InterfaceChange = decode(body, InterfaceChange)
    if change.mode is None and change.bypass_policy is None:
        raise InvalidInput("body", "changes nothing", "give mode or bypass_policy")
    return change


def _flush(body: bytes) -> Flush:
    flush: Flush = decode(body, Flush)
    if flush.origin != "learned":
        raise InvalidInput("origin", "only learned entries can be flushed", "delete operator entries by name")
    return flush


def _forwards(body: bytes) -> list[Forward]:
    if body.lstrip()[:1] != b"[":
        return [checked_forward(decode(body, Forward))]
    try:
        entries: list[Forward] = decode(body, list[Forward], "forward")
    except InvalidInput:
        # slower, and only now: all that is wrong, not the first alone
        raise _wrong_list(body, "forward", lambda data: checked_forward(decode(data, Forward))) from None
    if not entries:
        raise InvalidInput("body", "an empty list", "give at least one forward")
    return checked_forwards(entries)


def _wrong_list(body: bytes, name: str, read: Callable[[bytes], object]) -> InvalidInput:
    problems = Problems()
    for place, entry in enumerate(decode(body, list[msgspec.Raw], name)):
        try:
            read(bytes(entry))
        except InvalidInput as error:
            whole = error.field == "body"
            where = f"{name}[{place}]"
            problems.add(InvalidInput(where, error.detail, error.hint) if whole else error.within(f"{where}."))
    try:
        problems.refuse()
    except InvalidInput as error:
        return error
    raise AssertionError("a list that did not decode has entries that do")


def _service(body: bytes) -> Service:
    return checked_service(decode(body, Service))


def _service_change(body: bytes) -> ServiceChange:
    change: ServiceChange = checked_change(decode(body, ServiceChange))
    return change


def _backends(body: bytes) -> list[Backend]:
    def read(data: bytes) -> Backend:
        return checked_backend(decode(data, Backend))

    if body.lstrip()[:1] != b"[":
        return [read(body)]
    try:
        backends = [checked_backend(each) for each in decode(body, list[Backend], "backend")]
    except InvalidInput:
        raise _wrong_list(body, "backend", read) from None
    if not backends:
        raise InvalidInput("body", "an empty list", "give at least one backend")
    places: dict[str, int] = {}
    for place, backend in enumerate(backends):
        first = places.setdefault(backend.address, place)
        if first != place:
            detail = f"{backend.address} is also backend[{first}]"
            raise InvalidInput(f"backend[{place}].address", detail, "give each backend once")
    return backends


def _backend_change(body: bytes) -> BackendChange:
    change: BackendChange = checked_change(decode(body, BackendChange))
    return change


def _decap(body: bytes) -> Decap:
    return checked_decap(decode(body, Decap))


def _question(body: bytes) -> Question:
    return checked_question(decode(body, Question))


def _batch(body: bytes) -> Batch:
    return checked_batch(decode(body, Batch))


INTERFACE = Body(Interface, _interface)
INTERFACE_CHANGE = Body(InterfaceChange, _interface_change)
FORWARDS = Body(Forward | list[Forward], _forwards)
SERVICE = Body(Service, _service)
SERVICE_CHANGE = Body(ServiceChange, _service_change)
BACKENDS = Body(Backend | list[Backend], _backends)
BACKEND_CHANGE = Body(BackendChange, _backend_change)
DECAP = Body(Decap, _decap)
FLUSH = Body(Flush, _flush)
DOCUMENT = Body(Intent, read_json, DOCUMENT_MOST)
UPLOAD = Body(str, None, UPLOAD_MOST, tuple(UPLOADS))
QUESTION = Body(Question, _question, EXPLAIN_MOST)
BATCH = Body(Batch, _batch, EXPLAIN_MOST)
