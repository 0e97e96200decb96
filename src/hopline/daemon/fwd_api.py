"""The seed's JSON API: one request body in, one answer out; `fwd_http` carries them.

    {"action": "QueryForward", "traceId": T}
        → {"code": 200, "traceId": T, "Tables": [{"Ip", "Iface", "SrcMac", "DstMac", "Origin"}, …]}
    {"action": "UpdateForward", "traceId": T, "ip", "iface", "srcMac", "dstMac"} → {"code": 200, "traceId": T}
    {"action": "DeleteForward", "traceId": T, "ip"} → {"code": 200, "traceId": T}

Every failure is `{"code": 500, "traceId": T, "errors": [{"code": C, "msg": …}]}` with a C of `Code`. It knows only IPv4
hosts, as the seed did; an entry whose next hop is not resolved yet has no MAC address to show and is left out.
"""

import json
import logging
import math
from collections import Counter
from enum import IntEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Any, NoReturn

import msgspec

from hopline.config import Forward, canonical_destination, canonical_mac, shown
from hopline.daemon.encode import encoded_list
from hopline.daemon.protocol import ForwardRow, ServiceProtocol
from hopline.errors import HoplineError, InvalidInput

BODY_MOST = 1024 * 1024  # bytes

_log = logging.getLogger("hopline.fwd_api")


class Code(IntEnum):
    """The seed's error codes."""

    READ = 1000
    FORMAT = 1100
    ACTION = 1101
    UPDATE = 1200
    QUERY = 1201


_TEXT = {
    Code.READ: "read request body error",
    Code.FORMAT: "json format error",
    Code.ACTION: "not support action error",
    Code.UPDATE: "update error",
    Code.QUERY: "query error",
}


class Failure(Exception):
    """A request that cannot be served, as the answer will say it."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


class TableRow(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry as the seed shows it: Ip, Iface, SrcMac, DstMac, and Origin, which the seed lacks."""

    ip: str
    iface: int
    src_mac: str
    dst_mac: str
    origin: str


class FwdApi:
    """The three actions over a service."""

    def __init__(self, service: ServiceProtocol) -> None:
        self._service = service

    async def answer(self, body: bytes, refusal: str | None = None) -> bytes:
        """Return the answer to one request; `refusal` is why this client has no right to any action, if it has none."""
        trace_id = None
        try:
            request = parse(body)
            trace_id = request.get("traceId")
            result = await self._act(request, refusal)
            return b'{"code":200,"traceId":' + _encoded(trace_id) + result + b"}"
        except Failure as failure:
            if trace_id is None:
                trace_id = _readable_trace_id(body)
            return failed(failure, trace_id)

    async def _act(self, request: dict[str, Any], refusal: str | None) -> bytes:
        """Return what the answer has beside code and traceId, each with a comma before it."""
        action = request.get("action")
        actions = {"QueryForward": self._query, "UpdateForward": self._update, "DeleteForward": self._delete}
        if not isinstance(action, str) or action not in actions:
            what = "action is missing" if action is None else f"{_named(action)} is no action"
            raise Failure(Code.ACTION, f"{what}: use {', '.join(actions)}")
        code = Code.QUERY if action == "QueryForward" else Code.UPDATE
        if refusal is not None:
            raise Failure(code, refusal)
        try:
            return await actions[action](request)
        except InvalidInput as error:
            # the place in a list, and the document's field names, mean nothing to this API's users
            raise Failure(code, f"{_SEED_FIELD.get(error.field, error.field)}: {_told(error)}") from None
        except HoplineError as error:
            raise Failure(code, str(error)) from None
        except Failure:
            raise
        except Exception:
            _log.exception("%s", action)
            raise Failure(code, "a fault of hopline's own: the daemon's log has it, please report it") from None

    async def _query(self, request: dict[str, Any]) -> bytes:
        rows = await self._service.forwards(None, None, None)
        indexes: dict[str, int | None] = {}
        for dev in {row.dev for row in rows if row.dev is not None}:
            indexes[dev] = self._service.interface_index(dev)
        table = [row for row in (_table_row(row, indexes) for row in rows) if row is not None]
        return b',"Tables":' + await encoded_list(table)

    async def _update(self, request: dict[str, Any]) -> bytes:
        to = _host(request)
        iface = _field(request, "iface", int)
        dev = self._service.interface_name(iface) if 0 < iface < 1 << 31 else None
        if dev is None:
            raise Failure(Code.UPDATE, f"iface: {_named(iface)} is no interface: `ip link` shows the indexes")
        src_mac = canonical_mac(_field(request, "srcMac", str), "src_mac")
        dst_mac = canonical_mac(_field(request, "dstMac", str), "dst_mac")
        forward = Forward(to=to, dev=dev, src_mac=src_mac, dst_mac=dst_mac)
        await self._service.forward_put([forward], True)
        return b""

    async def _delete(self, request: dict[str, Any]) -> bytes:
        await self._service.forward_del([_host(request)])
        return b""


_SEED_FIELD = {"to": "ip", "dev": "iface", "src_mac": "srcMac", "dst_mac": "dstMac"}


def failed(failure: Failure, trace_id: Any = None) -> bytes:
    """Return the answer that says `failure`."""
    error = {"code": int(failure.code), "msg": f"{_TEXT[failure.code]}: {failure.reason}"}
    return _encoded({"code": 500, "traceId": trace_id, "errors": [error]})


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`; Failure FORMAT for all that RFC 8259 forbids or leaves open."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except Failure:
        raise
    except UnicodeDecodeError as error:
        raise Failure(Code.FORMAT, f"byte {error.start} is not UTF-8: send UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Failure(Code.FORMAT, f"{error.msg.lower()} at {where}: send one JSON object") from None
    except RecursionError:
        raise Failure(Code.FORMAT, "nested too deeply: send one flat JSON object") from None
    except ValueError:
        raise Failure(Code.FORMAT, "a number has too many digits: send one that fits its field") from None
    if not isinstance(value, dict):
        raise Failure(Code.FORMAT, f"{_named(value)} is not an object: send one JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name in value if times[name] > 1)
        raise Failure(Code.FORMAT, f"the name {shown(twice)} occurs twice: give each once")
    return value


def _no_constant(text: str) -> NoReturn:
    raise Failure(Code.FORMAT, f"{text} is not JSON: give a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Failure(Code.FORMAT, f"{shown(text)} is out of a number's range: give a smaller one")
    return number


def _readable_trace_id(body: bytes) -> Any:
    """Return the traceId of a request that was refused as a whole, where it can be told; else None."""
    try:
        value = json.loads(body.decode("utf-8"))
        trace_id = value["traceId"]
        json.dumps(trace_id, allow_nan=False)
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None
    return trace_id


def _field(request: dict[str, Any], name: str, kind: type) -> Any:
    if name not in request:
        raise Failure(Code.UPDATE, f"{name}: missing: give it")
    value = request[name]
    # bool is an int to Python, not to JSON
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "an interface's index, a number" if kind is int else "text"
        raise Failure(Code.UPDATE, f"{name}: {_named(value)} has the wrong type: give {wanted}")
    return value


def _host(request: dict[str, Any]) -> str:
    text = _field(request, "ip", str)
    try:
        IPv4Address(text)
    except AddressValueError:
        hint = "give one as 10.10.3.5; prefixes and IPv6 go by `hopline forward`"
        raise Failure(Code.UPDATE, f"ip: {shown(text)} is not an IPv4 address: {hint}") from None
    return canonical_destination(text, "to")


def _table_row(row: ForwardRow, indexes: dict[str, int | None]) -> TableRow | None:
    index = None if row.dev is None else indexes[row.dev]
    if index is None or row.dst_mac is None or row.src_mac is None or "/" in row.to or ":" in row.to:
        return None
    return TableRow(row.to, index, row.src_mac, row.dst_mac, row.origin)


def _told(error: InvalidInput) -> str:
    return f"{error.detail}: {error.hint}" if error.hint else error.detail


def _named(value: Any) -> str:
    """Return a short name of a JSON value for an error's text."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return shown(json.dumps(value)) if not isinstance(value, int) or abs(value) < 1 << 64 else "a number that large"


def _encoded(value: Any) -> bytes:
    # ASCII, so that a traceId with half a surrogate pair goes back as it came
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
