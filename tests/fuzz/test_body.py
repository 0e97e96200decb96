"""daemon/api: whatever is asked, the answer is one that the description allows, and nothing is done that it forbids.

An input is a request: its method and target in the first line, the media type in the second, then the body. The oracle
is the description that the daemon serves (OpenAPI), read by a validator of JSON Schema that is not ours, and RFC 8259.
"""

import asyncio
import json
import logging
import re
from urllib.parse import parse_qsl, unquote

import jsonschema_rs
import pytest

from front_double import NEIGHBOUR_MAC, ServiceDouble
from fuzz.fuzzing import Target, search, vary
from hopline.config import Backend, Decap, Forward, Interface, Service
from hopline.daemon.api import admin_app, openapi
from hopline.daemon.api.answers import JSON
from hopline.daemon.api.operations import OPERATIONS, Operation
from hopline.daemon.api.parameters import Parameter

REFUSALS = {400: "invalid_input", 404: "not_found", 405: "invalid_input", 409: "refused"}
CHANGES_NOTHING = {"/intent/diff"}
LONGEST = 700  # of what is said of one value

ENTRY = f'{{"to":"10.10.3.5","dev":"enp0s9","src_mac":null,"dst_mac":"{NEIGHBOUR_MAC}"}}'
VIA = '{"to": "2001:db8::/64", "via": "fe80::1", "dev": "\\u0065np0s3"}'
DOCUMENT = f'{{"interface":[{{"name":"lo","mode":"auto"}}],"forward":[{ENTRY},{VIA}]}}'
CSV = f"to,dev,dst_mac\n10.0.0.1,enp0s9,{NEIGHBOUR_MAC}\n"
REQUESTS = (
    ("GET /status", ""),
    ("GET /interfaces/enp0s9", ""),
    ("POST /interfaces?replace=false", '{"name":"enp0s3","mode":"native","bypass_policy":true}'),
    ("PATCH /interfaces/enp0s9", '{"mode":"generic"}'),
    ("DELETE /interfaces/enp0s9", ""),
    ("GET /forwards?to=10.10.3.0/24&origin=operator&limit=3", ""),
    ("POST /forwards", ENTRY),
    ("POST /forwards", f"[{ENTRY},{VIA}]"),
    ("PUT /forwards", f" [ {ENTRY} ,\n{VIA}]\n"),
    ("DELETE /forwards?to=10.10.3.9&to=10.10.3.9", ""),
    ("GET /forwards/get?address=10.0.0.1&in=enp0s9", ""),
    ("POST /forwards/flush", '{"origin":"learned"}'),
    ("PUT /intent?merge=true&dry_run=false&confirm_within=5.5&revision=0&limit=9", DOCUMENT),
    ("POST /intent/diff?limit=1000", DOCUMENT),
    ("POST /forwards/load?limit=1", CSV),
    ("POST /history/0/rollback?dry_run=true", ""),
    ("POST /intent/confirm", ""),
    ("POST /services", '{"name":"dns","vip":"10.9.0.2","port":53,"protocol":"udp","backend":[{"address":"10.0.0.1"}]}'),
    ("GET /services?stats=true&flows=false", ""),
    ("GET /services/web?ring=true", ""),
    ("PATCH /services/web", '{"idle":60,"local":null,"check":"tcp://:8080","port":"80-81"}'),
    ("DELETE /services/web", ""),
    ("POST /services/web/backends", '{"address":"10.0.0.3","weight":7,"via":"10.0.0.1"}'),
    ("POST /services/web/backends", '[{"address":"10.0.0.3"},{"address":"2001:db8::3"}]'),
    ("PATCH /services/web/backends/10.0.0.2", '{"weight":0,"dst_mac":null}'),
    ("DELETE /services/web/backends/10.0.0.2?grace=1.5", ""),
    ("POST /services/web/backends/10.0.0.2/drain", ""),
    ("GET /services/web/drained?address=10.0.0.2&since=9", ""),
    ("POST /decaps", '{"local":"10.0.0.1","from":"10.1.0.0/16","encap":"gue","gue_port":7000}'),
    ("DELETE /decaps?local=10.0.0.1&from=any&encap=ipip", ""),
    ("POST /explain", '{"in":"enp0s3","dst":"10.0.0.1","protocol":"tcp","dport":80,"flags":"SA","ttl":3,"vlan":7}'),
    ("POST /explain", f'{{"hex":"{"ab" * 14}0800","length":60}}'),
    ("POST /explain/batch", f'{{"in":null,"frames":["{"q" * 20}"],"lengths":[90]}}'),
)  # fmt: skip
WORDS = (
    b'"vip":', b'"port":', b'"weight":', b'"backend":[', b'"from":', b'"ring":251', b'"drained":true', b'"10.9.0.1"',
    b"/services/web", b"/backends/10.0.0.2", b"/drain", b"/decaps", b"?grace=1", b"&since=2", b'"any"', b"80-81",
    b'"to":', b'"dev":', b'"via":', b'"name":', b'"mode":', b'"bypass_policy":', b'"origin":', b'"forward":[',
    b"null", b'"10.0.0.1"', b'"10.0.0.0/8"', b'"::1"', b'"fe80::1%a"', b'"enp0s9"', b'"native"', b'"learned"',
    b"true", b"[]", b"&to=", b"&limit=", b"&limit=1e3", b"?replace=true", b"%00", b"%2e%2e/", b"%ff", b"+", b"#",
    b";", b"&&", b"=", b"/forwards", b"/interfaces/", b"/intent", b"//", b"PUT ", b"POST ", b"PATCH ", b"DELETE ",
    b"HEAD ", b"OPTIONS ", b"application/json", b"text/csv", b"; charset=latin1", b"multipart/form-data", b"9" * 30,
    b"-0", b"1e999", b"NaN", b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b"\xff", b"\xef\xbb\xbf", b"\0", b"\n", b"\\n",
    b"{", b"}", b"[" * 2000, b'{"a":' * 2000, b",", b'"', b"\\", b"\xe2\x80\xa8", b"1", b"-1", b"0.5", b"/32",
    b'"to":"10.0.0.2",',
)  # fmt: skip


def _validator(schema: dict) -> jsonschema_rs.Validator:
    document = openapi.document()
    return jsonschema_rs.validator_for({**schema, "components": document["components"]})


def _schemas(operation: Operation) -> tuple[dict, dict[str, dict]]:
    said = openapi.document()["paths"][operation.path][operation.method.lower()]
    answer = said["responses"]["200"]["content"][JSON]["schema"]
    carries = said.get("requestBody", {"content": {}})["content"]
    return answer, {media_type: content["schema"] for media_type, content in carries.items()}


ERROR = _validator({"$ref": "#/components/schemas/ErrorBody"})
SCHEMAS = {each.name: _schemas(each) for each in OPERATIONS}
ANSWERS = {name: _validator(answer) for name, (answer, _) in SCHEMAS.items()}
CARRIED = {name: _validator(bodies[JSON]) for name, (_, bodies) in SCHEMAS.items() if JSON in bodies}
PATHS = {each.name: re.compile(re.sub(r"{\w+}", "([^/]+)", each.path)) for each in OPERATIONS}
loop = asyncio.new_event_loop()


class _Faults(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(f"a fault of hopline's own: {record.exc_info}") from record.exc_info[1]


def check(data: bytes) -> None:
    """The whole oracle."""
    line, _, rest = data.partition(b"\n")
    media_type, _, body = rest.partition(b"\n")
    method, _, target = line.partition(b" ")
    # the rest does not get through HTTP
    if not (method.isalpha() and method.isupper() and re.fullmatch(rb"/[!-~]*", target)) or not media_type.isascii():
        return
    if re.search(rb"[\0-\x08\x0a-\x1f\x7f]", media_type):
        return
    service = ServiceDouble()
    service.entries["10.10.3.9"] = Forward("10.10.3.9", via="10.10.3.1")
    service.wanted["enp0s9"] = Interface("enp0s9")
    service.services_by_name["web"] = Service("web", "10.9.0.1", "80", "tcp", backend=(Backend("10.0.0.2"),))
    service.decap_entries["10.0.0.1 ipip from any"] = Decap("10.0.0.1", "any")
    before = state(service)
    status, answer = loop.run_until_complete(asked(service, method.decode(), target.decode(), media_type, body))
    if method == b"HEAD":
        return
    path, _, query = target.decode().partition("?")
    if status != 200:
        check_refusal(status, answer)
        assert state(service) == before
        return
    operation = operation_of(method.decode(), unquote(path))
    if operation is None:
        assert path == "/openapi.json"
        return
    ANSWERS[operation.name].validate(answer)
    check_parameters(operation, path, query)
    if operation.name in CARRIED:
        CARRIED[operation.name].validate(strictly(body))
    else:
        assert operation.body is not None or not body
    if method == b"GET" or operation.path in CHANGES_NOTHING or "dry_run=true" in query:
        assert state(service) == before


def operation_of(method: str, path: str) -> Operation | None:
    """What is asked for; a path that is one word for word is not one with a name in it."""
    found = [each for each in OPERATIONS if each.method == method and PATHS[each.name].fullmatch(path)]
    return min(found, key=lambda each: each.path != path, default=None)


def state(service: ServiceDouble) -> tuple:
    balance = dict(service.services_by_name), dict(service.decap_entries)
    return dict(service.entries), dict(service.wanted), *balance, len(service.past), service.detached


async def asked(service, method: str, target: str, media_type: bytes, body: bytes) -> tuple[int, object]:
    """What the app answers, as a server would ask it."""
    path, _, query = target.partition("?")
    headers = [(b"host", b"x"), (b"content-length", str(len(body)).encode())]
    headers += [(b"content-type", media_type)] if media_type else []
    scope = {"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": unquote(path),
             "raw_path": path.encode(), "query_string": query.encode(), "headers": headers, "state": {}}  # fmt: skip
    sent: list[dict] = []
    pieces = [{"type": "http.request", "body": body[i : i + 50], "more_body": True} for i in range(0, len(body), 50)]
    coming = iter([*pieces, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive():
        return next(coming, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message)

    log, faults = logging.getLogger("hopline.api"), _Faults()
    log.addHandler(faults)
    try:
        await admin_app(service)(scope, receive, send)
    finally:
        log.removeHandler(faults)
    assert dict(sent[0]["headers"])[b"content-type"] == b"application/json"
    return sent[0]["status"], json.loads(b"".join(message["body"] for message in sent[1:]) or b"null")


def check_refusal(status: int, answer: dict) -> None:
    """The form, and that every line of it says what is wrong, and what would do."""
    ERROR.validate(answer)
    assert answer["error"] == REFUSALS[status], (status, answer)
    for problem in answer.get("errors", [answer]):
        for name in ("field", "detail", "hint"):
            text = problem[name]
            assert len(text) < LONGEST, answer
            assert text.isprintable(), answer
        assert problem["detail"], answer
        assert status != 400 or problem["field"], answer
        assert status != 400 or problem["hint"], answer


def check_parameters(operation: Operation, path: str, query: str) -> None:
    """Each value is one that the description allows, and none is there that it does not name."""
    known = {each.name: each for each in operation.parameters}
    texts = PATHS[operation.name].fullmatch(unquote(path)).groups()
    inside = dict(zip(re.findall(r"{(\w+)}", operation.path), texts, strict=True))
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=False)
    names = [name for name, _ in pairs]
    for name, text in [*pairs, *inside.items()]:
        assert known[name].many or names.count(name) <= 1, query
        jsonschema_rs.validator_for(known[name].schema).validate(typed(known[name], text))
    assert all(each.name in {*names, *inside} for each in operation.parameters if each.required)


def typed(parameter: Parameter, text: str) -> object:
    """A parameter's text as the value that its schema is about."""
    kind = parameter.schema.get("type")
    if kind == "boolean":
        return {"true": True, "false": False}[text]
    return {"integer": int, "number": float}.get(kind, str)(text)


def strictly(body: bytes) -> object:
    """RFC 8259 in UTF-8, no name twice."""
    return json.loads(body.removeprefix(b"\xef\xbb\xbf").decode(), object_pairs_hook=_once, parse_constant=_no)


def _once(pairs: list[tuple]) -> dict:
    assert len(dict(pairs)) == len(pairs), "a name given twice"
    return dict(pairs)


def _no(text: str) -> None:
    raise ValueError(text)


TARGET = Target(
    check,
    [f"{line}\n{'text/csv' if 'load' in line else 'application/json'}\n{body}".encode() for line, body in REQUESTS],
    WORDS,
    modules=("hopline.daemon.api", "hopline.document", "hopline.spelling", "hopline.config"),
)


def test_mutations():
    vary(TARGET, 400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search(tmp_path):
    search(TARGET, "fuzz.test_body", tmp_path, runs=100_000)
