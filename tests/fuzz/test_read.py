"""document/: whatever stands in a document, it is read rightly, or refused in lines that say where and what to do.

The first octet says which format the rest is in. What is accepted must say the same by a second, slower reader, and
when it is written and read again; an upload must say the same however it is cut.
"""

import csv
import io
import json
import time
import tomllib

import msgspec
import pytest

from document.texts import MAC
from fuzz.fuzzing import Target, search, vary
from hopline.config import Forward, checked_forward
from hopline.document import BulkReader, describe, read_document, write_toml
from hopline.document import json as document_json
from hopline.document.places import TomlPlaces
from hopline.document.problem import DOCUMENT
from hopline.document.toml import decoded
from hopline.document.values import wanted_from
from hopline.errors import InvalidInput
from hopline.intent import NOUNS, Wanted, document_of

FORMATS = ("toml", "json", "jsonl", "csv", "-")
LONGEST_LINE = 600  # of a refusal

TOML = f"""\
# the lab
[[interface]]
name = "enp0s3"
bypass_policy = true
mode = "native"

[[forward]]
to = "10.10.3.5/32"
dev = 'enp0s9'
dst_mac = "{MAC}"

[[forward]]
to = "2001:DB8::/64"
via = "fe80::1"
"dev" = "en\\u0070\\"0"
"""
SERVICES = f"""\
[[service]]
name = "web"
vip = "192.168.33.33"
port = 80
protocol = "tcp"
check = "HTTP://x:8080/%20?a"
interval = 0.5
  [[service.backend]]
  address = "192.168.33.11" # the first
  weight = 3
  [[service.backend]]
  address = "2001:DB8::12"
  dst_mac = "{MAC}"
  dev = "eth1"

[[service]]
name = "dns"
vip = "192.168.33.33"
port = "53-54"
protocol = "both"
backend = [{{address = "10.0.0.1", via = "10.0.0.2"}}]

[[decap]]
local = "10.0.0.1"
from = "10.0.0.0/8"
encap = "gue"
"""
WRITTEN = f'[[forward]]\nto = "10.0.0.{{}}"\ndev = "a"\ndst_mac = "{MAC}"\n\n'
INLINE = f"""forward = [{{to = "10.1.0.0/16", via = \"\"\"10.0.0.1\"\"\"}},
 {{ to = '10.2.0.1', dev = "x", dst_mac = "{MAC}", src_mac = "{MAC}" }} ]\ninterface.name = 1\n"""
ENTRY = f'{{"to":"10.10.3.5","dev":"enp0s9","src_mac":null,"dst_mac":"{MAC}"}}'
VIA = '{"to": "2001:db8::/64", "via": "fe80::1", "dev": "\\u0065np"}'
JSON = f'{{"interface":[{{"name":"a","mode":"auto"}}],"forward":[{ENTRY},{VIA}]}}'
SERVED = '{"name":"web","vip":"10.9.0.1","port":"80","protocol":"udp","ring":251,"interval":1e0,"backend":[%s]}'
BALANCE = (
    '{"service":['
    + SERVED % '{"address":"10.0.0.1","weight":0},{"address":"10.0.0.2","via":null}'
    + '],"decap":[{"local":"10.0.0.1","from":"any"},{"local":"::2","from":"::/0","gue_port":6080}]}'
)
CSV = f'to,dev,dst_mac,src_mac,via\n10.0.0.1,a,{MAC},,\n10.0.0.2,a,{MAC},,\n\n"10.0.0.3", "b" ,{MAC},{MAC},\r\n'
TWICE = '{"to":"10.0.0.1","via":"10.0.0.2","v\\u0069a":"10.0.0.2"}\n'
# a next hop that is known: such lines are read in a quicker way
HOSTS = "to,via\n" + "".join(f"10.0.1.{number},10.0.0.9\n" for number in range(12))

SEEDS = {
    0: (TOML, SERVICES, TOML.replace("\n", "\r\n"), "".join(WRITTEN.format(n) for n in range(4)), INLINE,
        "[forward]\nto = 1\n",
        "[[a.b.'c']]\nd.\"e\".f = [[{}, {x = 1979-05-27}], 1e400, 0x_, inf]\n"),
    1: (JSON, BALANCE, "{}", '{"forward":[],"forward":[]}', '[1e999, NaN, "\\ud800"]'),
    2: (f"{ENTRY}\n{VIA}\n", f"\n{ENTRY}\r\n\n{ENTRY}", TWICE),
    3: (CSV, HOSTS, f"via,to\n10.0.0.1,10.1.0.1\n10.0.0.1,10.1.0.1\n,\n,{'9' * 40}\n"),
    4: (TOML, f" {JSON}"),
}  # fmt: skip
WORDS = (
    b"127.0.0.1", b"224.0.0.1", b"0.0.0.0", b"10.0.0.1/24", b"255.255.255.255", b"01:00:5e:00:00:01", b"10.0.0.01",
    b"[[forward]]\n", b"[[interface]]\n", b"to = ", b"dev = ", b"via = ", b'"to":', b'"dev":', b'"via":', b'"name":',
    b'"10.0.0.1"', b"10.0.0.1", b"10.0.0.0/8", b"2001:db8::1", b"::ffff:10.0.0.1", b"fe80::1%eth0", b'"fe80::1"',
    b"\xef\xbb\xbf", b"\r\n", b"\n", b"\r", b"\0", b"\x0b\x0c\x1c\x85", b"\xe2\x80\xa8", b"\xc2\x85", b"\xff",
    b"\\ud800", b"\\uD83D\\uDE00", b"\xed\xa0\x80", b"\\u0000", b"\\n", b"\\", b'"', b"'", b'"""', b"'''", b"#", b"{",
    b"}", b"[", b"]", b"[[[[[[[[", b'{"a":{"a":{"a":', b",", b":", b".", b"/", b"a.b.c.d", b"null", b"true",
    b"9" * 30, b"-1", b"1e999", b"NaN", b"Infinity", b"inf", b"0x1F", b"1979-05-27T07:32:00Z", b"12:30:00", b"1_000",
    b"/32", b"/128", b"/0", b"/33", b"\xd9\xa1", b"e\xcc\x81", b"\xe2\x80\xae", b"%s{0}", b"to,via\n", b";", b"\t",
    b"=", b"\x7f", b"[[service]]\n", b"  [[service.backend]]\n", b"[[decap]]\n", b"weight = 1\n", b"port = 80\n",
    b'"any"', b'"weight":', b'"backend":[', b'"service":[', b'"from":', b"0.5", b"ring = 251\n", b"80-81",
    b'check = "tcp"\n',
)  # fmt: skip


def check(data: bytes) -> None:
    """The whole oracle."""
    if not data:
        return
    kind, data = FORMATS[data[0] % len(FORMATS)], data[1:]
    name = kind if kind == "-" else f"fw.{kind}"
    try:
        document = read_document(data, name)
    except InvalidInput as error:
        refusal, wanted = error, None
    else:
        refusal, wanted = None, document.wanted
    if wanted is None:
        assert refusal.count >= len(refusal.problems) > 0
        for problem in refusal.problems:
            check_refusal(problem, data, name)
    else:
        check_wanted(wanted)
    if kind in ("csv", "jsonl"):
        check_cut(data, kind)
    assert wanted == plainly(data, kind), "another reader says something else"


def check_refusal(problem: InvalidInput, data: bytes, name: str) -> None:
    """One line, fit for a terminal, that names a place and says what would do."""
    line = describe(problem, name)
    assert line.isprintable(), line
    assert len(line) < LONGEST_LINE, line
    line.encode()
    assert problem.hint, f"nothing is said of what would do: {line}"
    assert problem.line is not None or name in ("fw.json", "-") or problem.field == DOCUMENT, f"no line: {line}"
    assert problem.line is None or 1 <= problem.line <= data.count(b"\n") + 1, line


def check_wanted(wanted: Wanted) -> None:
    """What was accepted is spelled in the one way, and says the same when it is written and read again."""
    for noun in NOUNS:
        for key, value in wanted.of(noun.name).items():
            assert noun.canonical(key) == key
            entry = noun.entry(key, value)
            assert noun.checked(entry) == entry
    toml = io.StringIO()
    write_toml(wanted, toml)
    written = toml.getvalue()
    assert written.isascii()
    whole = Wanted({noun.name: wanted.of(noun.name) for noun in NOUNS})
    again = read_document(written.encode(), "fw.toml").wanted
    assert again == whole
    assert [list(again.of(noun.name)) for noun in NOUNS] == [list(whole.of(noun.name)) for noun in NOUNS]
    assert wanted_from(tomllib.loads(written), lambda path: None) == whole
    assert read_document(msgspec.json.encode(document_of(wanted)), "fw.json").wanted == whole
    twice = io.StringIO()
    write_toml(again, twice)
    assert twice.getvalue() == written


def check_cut(data: bytes, kind: str) -> None:
    """An upload that comes in pieces is read, or refused, as the same upload whole."""
    assert uploaded(kind, (data,)) == uploaded(kind, [data[n : n + 3] for n in range(0, len(data), 3)])


def uploaded(kind: str, parts) -> object:
    reader = BulkReader(kind)
    try:
        for part in parts:
            reader.feed(part)
        return list(reader.finish().items())
    except InvalidInput as error:
        return [describe(problem, "x") for problem in error.problems], error.count


def plainly(data: bytes, kind: str) -> Wanted | None:
    """What a document says by the plain way through the parsers, without what makes the reader quick; None: refused."""
    if kind == "-":
        head = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\n\r\x0b\x0c")
        begins = head[1:].lstrip(b" \t\n\r\x0b\x0c")[:1]
        kind = "json" if head[:1] == b"{" or (head[:1] == b"[" and begins in (b"]", b"{", b"[")) else "toml"
        if head[:1] == b"[" and begins == b"[":
            kind = "toml"
    try:
        if kind == "toml":
            text = decoded(data)
            raw = tomllib.loads(text)
            TomlPlaces(text)
            return wanted_from(raw, lambda path: None)
        if kind == "json":
            return wanted_from(document_json.objects(data.removeprefix(b"\xef\xbb\xbf"), DOCUMENT), lambda path: None)
        rows = _csv_rows(data) if kind == "csv" else _json_rows(data)
        return _wanted(rows)
    except (ValueError, csv.Error, RecursionError, InvalidInput):
        return None


def _csv_rows(data: bytes) -> list[dict]:
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").decode().split("\n") if line.strip()]
    cells = [[cell.strip() for cell in _cells(line)] for line in lines]
    if not cells or len(set(cells[0])) != len(cells[0]) or any(len(row) != len(cells[0]) for row in cells):
        raise ValueError("ragged")
    if not set(cells[0]) <= set(Forward.__struct_fields__):
        raise ValueError("a column of nothing")
    return [{name: text for name, text in zip(cells[0], row, strict=True) if text} for row in cells[1:]]


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    return next(csv.reader([line.rstrip("\r")], strict=True, skipinitialspace=True), [])


def _json_rows(data: bytes) -> list[dict]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [json.loads(line.decode(), object_pairs_hook=_once) for line in lines if line.strip()]


def _once(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name given twice")
    return dict(pairs)


def _wanted(rows: list[dict]) -> Wanted:
    entries = [checked_forward(msgspec.convert(row, Forward)) for row in rows]
    if not entries or len({entry.to for entry in entries}) != len(entries):
        raise ValueError("none, or one twice")
    [noun] = [noun for noun in NOUNS if noun.kind is Forward]
    return Wanted({"forward": {entry.to: noun.value_of(entry) for entry in entries}})


TARGET = Target(
    check,
    [bytes([kind]) + text.encode() for kind, texts in SEEDS.items() for text in texts],
    WORDS,
    modules=("hopline.document", "hopline.spelling", "hopline.config", "tomllib"),
)

MANY = 20_000
HOSTILE = {
    "names, one of them twice": ("json", b"{%s,%s}" % (b",".join(b'"%d":1' % n for n in range(MANY)), b'"1":1')),
    "fields, one of them twice": (
        "json",
        b'{"forward":[{%s,%s}]}' % (b",".join(b'"%d":1' % n for n in range(MANY)), b'"1":1'),
    ),
    "tables nearly known": ("json", b"{%s}" % b",".join(b'"forwarf%d":1' % n for n in range(MANY))),
    "one destination": ("json", b'{"forward":[%s]}' % b",".join([b'{"to":"10.0.0.1","via":"10.0.0.2"}'] * MANY)),
    "objects within objects": ("json", b'{"forward":' * 100_000),
    "lists within a line": ("jsonl", b"[" * 60_000),
    "digits": ("json", b'{"forward":%s}' % (b"9" * 100_000)),
    "digits of a line": ("jsonl", b'{"to":%s}' % (b"9" * 60_000)),
    "digits of TOML": ("toml", b"a = " + b"9" * 100_000),
    "digits of a fraction": ("toml", b"a = 0." + b"9" * 1_000_000),
    "lists": ("toml", b"a = " + b"[" * 50_000),
    "tables within tables": ("toml", b"a = " + b"{a = " * 50_000),
    "a key of many parts": ("toml", b"a" + b".a" * 30_000 + b" = 1"),
    "a table of many parts": ("toml", b"[a" + b".'a'" * 30_000 + b"]"),
    "empty entries": ("toml", b"[[forward]]\n" * (MANY // 4)),
    "a quote that is never closed": ("toml", b'a = """' + b'\\"' * 100_000),
    "nothing, at length": ("toml", b"a = [" + b" \n" * 200_000 + b"]"),
    "empty lines": ("csv", b"to,via\n" + b"\n" * 300_000),
    "cells": ("csv", b"to\n" + b"," * 60_000),
    "quotes": ("csv", b"to,via\n" + b'"' * 60_001),
    "a line without an end": ("csv", b"to," + b"a" * 1_000_000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_long_or_deep_is_refused_in_time_that_grows_with_it(what):
    kind, data = HOSTILE[what]
    began = time.thread_time()
    with pytest.raises(InvalidInput) as caught:
        read_document(data, f"fw.{kind}")
    assert time.thread_time() - began < 2
    for problem in caught.value.problems:
        check_refusal(problem, data, f"fw.{kind}")


def test_mutations():
    vary(TARGET, 400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search(tmp_path):
    search(TARGET, "fuzz.test_read", tmp_path, runs=100_000)
