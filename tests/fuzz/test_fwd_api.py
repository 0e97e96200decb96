"""daemon/fwd_api.py: whatever a body says, the answer is of the seed's form, and only what is right is entered.

The oracle reads each body by itself, strictly: it knows which requests must be done, and with what effect.
"""

import asyncio
import json
import logging
import re
from ipaddress import IPv4Address, IPv4Network

import pytest

from front_double import DEVICES, NEIGHBOUR_MAC, OWN_MAC, ServiceDouble
from fuzz.fuzzing import Target, search, vary
from hopline.config import Forward
from hopline.daemon.fwd_api import FwdApi

ENTRY = Forward(to="10.10.3.9", dev="enp0s9", src_mac=OWN_MAC, dst_mac=NEIGHBOUR_MAC)
NAMES = {number: name for name, number in DEVICES.items()}
CODES = {
    1000: "read request body error",
    1100: "json format error",
    1101: "not support action error",
    1200: "update error",
    1201: "query error",
}
NOT_FORWARDED = [IPv4Network(text) for text in ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")]
LONGEST_MESSAGE = 900  # a value is shown with 64 characters, and one that cannot be printed takes up to ten

MACS = f'"srcMac":"{OWN_MAC}","dstMac":"{NEIGHBOUR_MAC}"'
UPDATE = f'{{"action":"UpdateForward","traceId":"t","ip":"10.10.3.10","iface":4,{MACS}}}'
MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", re.ASCII)
SEEDS = (
    '{"action":"QueryForward","traceId":"e3e98256"}',
    UPDATE,
    UPDATE.replace("10.10.3.10", ENTRY.to).replace(OWN_MAC, OWN_MAC.upper()).replace(",", " ,\n"),
    '{"action":"DeleteForward","traceId":[1,{"a":null}],"ip":"10.10.3.9"}',
    '{"action":"\\u0051ueryForward","traceId":"\\ud800","more":[1.5e3,-0,true]}',
    '{"traceId":7,"action":7}',
    "[]",
    '{"a":1,"a":2,"traceId":1}',
)
WORDS = (
    b'"action":', b'"traceId":', b'"ip":', b'"iface":', b'"srcMac":', b'"dstMac":', b'"UpdateForward"', b"4", b"1",
    b'"DeleteForward"', b'"QueryForward"', b'"10.10.3.9"', b'"10.0.0.01"', b'"224.0.0.1"', b'"::1"', b'"10.0.0.0/8"',
    OWN_MAC.encode(), b'"ff:ff:ff:ff:ff:ff"', b'"01:00:5e:00:00:01"', b"\\u0000", b"\\ud800", b"\\u2028", b"null",
    b"NaN", b"Infinity", b"1e999", b"-1", b"4.0", b"9" * 40, b"1" * 5000, b"true", b"[" * 2000, b'{"a":' * 2000, b"{",
    b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\0", b"\n", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b" ",
)  # fmt: skip


class Wrong(Exception):
    """What the oracle says of a request that must be refused, with the code."""


def strictly(body: bytes) -> dict:
    """RFC 8259, an object, no name twice, numbers that a double can hold."""
    try:
        found = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Wrong(1100) from None
    if not isinstance(found, dict):
        raise Wrong(1100)
    return found


def _once(pairs):
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def _no(text):
    raise ValueError(text)


def _finite(text):
    if abs(float(text)) == float("inf"):
        raise ValueError(text)
    return float(text)


def expected(request: dict) -> tuple[str, dict[str, Forward]]:
    """The action, and the entries after it, of a service that had ENTRY alone."""
    have = {ENTRY.to: ENTRY}
    match request.get("action"):
        case "QueryForward":
            return "query", have
        case "DeleteForward" if _address(request.get("ip")) in have:
            return "delete", {}
        case "UpdateForward":
            ip, iface, macs = _address(request.get("ip")), request.get("iface"), []
            if type(iface) is not int or iface not in NAMES:
                raise Wrong(1200)
            for name in ("srcMac", "dstMac"):
                mac = request.get(name)
                if not isinstance(mac, str) or not MAC.fullmatch(mac.lower()) or not mac.strip("0:"):
                    raise Wrong(1200)
                macs.append(mac.lower())
            return "update", {**have, ip: Forward(to=ip, dev=NAMES[iface], src_mac=macs[0], dst_mac=macs[1])}
        case "DeleteForward":
            raise Wrong(1200)
    raise Wrong(1101)


def _address(text) -> str:
    if not isinstance(text, str) or not re.fullmatch(r"(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){3}", text, re.A):
        raise Wrong(1200)
    if any(int(part) > 255 for part in text.split(".")) or any(IPv4Address(text) in net for net in NOT_FORWARDED):
        raise Wrong(1200)
    return text


class _Faults(logging.Handler):
    """What a fault of Hopline's own is logged as."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(f"a fault of hopline's own: {record.exc_info}")


def check(body: bytes) -> None:
    """The whole oracle."""
    service = ServiceDouble()
    service.entries[ENTRY.to] = ENTRY
    service.learned = []
    log, faults = logging.getLogger("hopline.fwd_api"), _Faults()
    log.addHandler(faults)
    try:
        text = asyncio.run(FwdApi(service).answer(body))
    finally:
        log.removeHandler(faults)
    assert text.isascii()
    answer = json.loads(text)
    code = answer.pop("code")
    trace_id = wrong = None
    try:
        request = strictly(body)
        trace_id = request.get("traceId")
        what, entries = expected(request)
    except Wrong as error:
        [wrong] = error.args
    if wrong is None:
        assert code == 200, answer
        assert (answer.pop("traceId"), service.entries) == (trace_id, entries)
        rows = [{"Ip": ENTRY.to, "Iface": 4, "SrcMac": OWN_MAC, "DstMac": NEIGHBOUR_MAC, "Origin": "operator"}]
        assert answer == ({"Tables": rows} if what == "query" else {})
        return
    [error] = answer.pop("errors")
    assert (code, error.pop("code")) == (500, wrong)
    check_message(wrong, error.pop("msg"))
    assert (error, list(answer), service.entries) == ({}, ["traceId"], {ENTRY.to: ENTRY})
    assert wrong == 1100 or answer["traceId"] == trace_id


def check_message(code: int, text: str) -> None:
    """One line, fit for a terminal, that says what is wrong and what to do."""
    begins, wrong, *todo = text.split(": ", 2)
    assert begins == CODES[code], text
    assert wrong, text
    assert todo, text
    assert text.isprintable(), text
    assert len(text) < LONGEST_MESSAGE, text


TARGET = Target(
    check, [text.encode() for text in SEEDS], WORDS, modules=("hopline.daemon.fwd_api", "hopline.spelling", "json")
)


def test_mutations():
    vary(TARGET, 400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search(tmp_path):
    search(TARGET, "fuzz.test_fwd_api", tmp_path, runs=200_000)
