"""A document, read: what it wants, and what is said of one that is wrong."""

import io
import json
import time

import msgspec
import pytest
from hypothesis import given

from document.texts import intents, refused
from hopline.config import Intent, Interface, NextHop
from hopline.document import Document, read_document, read_json, write_toml
from hopline.errors import InvalidInput, InvalidInputs
from hopline.intent import Wanted, document_of, wanted_of

FW = b"""\
# the lab
[[interface]]
name = "enp0s3"
bypass_policy = true

[[forward]]
to = "10.10.3.5/32"
dev = "enp0s9"
dst_mac = "08:00:27:F2:CB:F9"

[[forward]]
to = "2001:DB8::/64"
via = "fe80::1"
dev = "enp0s9"
"""
FW_WANTED = Wanted(
    {
        "interface": {"enp0s3": Interface("enp0s3", "auto", True)},
        "forward": {
            "10.10.3.5": NextHop("enp0s9", None, "08:00:27:f2:cb:f9"),
            "2001:db8::/64": NextHop("enp0s9", via="fe80::1"),
        },
    }
)


def test_a_document_says_what_is_wanted_in_one_spelling():
    document = read_document(FW, "fw.toml")
    assert document.wanted == FW_WANTED
    assert document.name == "fw.toml"
    assert read_document(FW.replace(b"\n", b"\r\n"), "-").wanted == FW_WANTED
    assert read_document(b"\xef\xbb\xbf" + FW, "fw").wanted == FW_WANTED
    assert read_document(b"", "fw.toml").wanted == Wanted({"interface": {}, "forward": {}})


@pytest.mark.parametrize("name", ["fw.json", "FW.JSON", "-"])
def test_json_is_the_api_s(name):
    data = b"""\n{"interface": [{"name": "enp0s3", "bypass_policy": true}], "forward": [
        {"to": "10.10.3.5/32", "dev": "enp0s9", "dst_mac": "08:00:27:F2:CB:F9", "src_mac": null},
        {"to": "2001:DB8::/64", "dev": "enp0s9", "via": "fe80::1"}]}"""
    assert read_document(data, name).wanted == FW_WANTED
    assert read_json(data) == FW_WANTED
    assert read_document(b"\xef\xbb\xbf" + data, name).wanted == FW_WANTED


def test_csv_and_json_lines_hold_forwards():
    of_csv = read_document(b"dst_mac,to,dev\n08:00:27:f2:cb:f9,10.10.3.5,enp0s9\n", "fw.csv")
    of_lines = read_document(b'{"to":"10.10.3.5","dev":"enp0s9","dst_mac":"08:00:27:f2:cb:f9"}\n', "fw.ndjson")
    expected = {"forward": {"10.10.3.5": FW_WANTED.of("forward")["10.10.3.5"]}}
    assert of_csv.wanted.entries == of_lines.wanted.entries == expected
    assert read_document(b"to,via\n10.0.0.5,10.0.0.1", "list.txt", "csv").wanted.of("forward")


@given(intents())
def test_every_spelling_of_an_intent_says_the_same(intent):
    wanted = wanted_of(intent)
    toml = io.StringIO()
    write_toml(intent, toml)
    assert read_document(toml.getvalue().encode(), "fw.toml").wanted == wanted
    # every value spelled out, defaults too, and nothing but what must be
    full = msgspec.json.encode(intent)
    short = json.dumps(_without_nulls(json.loads(full))).encode()
    assert read_json(full) == read_json(short) == read_document(short, "-").wanted == wanted


def _without_nulls(value):
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def test_equal_next_hops_are_one_object():
    data = "".join(f'[[forward]]\nto = "10.0.0.{n}"\nvia = "10.0.0.{1 + n % 2}"\n' for n in range(3, 99))
    hops = read_document(data.encode(), "fw.toml").wanted.of("forward").values()
    assert len({id(hop) for hop in hops}) == 2


BAD = """\
[[interface]]
name = "enp0s3"
mode = "fast"
bypass_policy = "yes"
[[interface]]
name = "enp0s3"
mtu = 1500

[[forwards]]
to = "10.0.0.5"

[[forward]]
to = "10.0.0.5"
dev = "enp0s9"   # the far one
dst_mac = "zz"
[[forward]]
to = "10.0.0.6"
via = "10.0.0.1"
[[forward]]
to = "10.0.0.6/32"
via = "10.0.0.1"
[[forward]]
to = "10.0.0.7/24"
dst_mca = "08:00:27:f2:cb:f9"
dev = 5
[[forward]]
dev = "x"
[[forward]]
to = "10.0.0.9"
dev = "a b"
"""
BAD_SAID = """\
fw.toml:9: forwards: no such table: did you mean forward? the tables are interface, forward, service and decap
fw.toml:3: interface[0] (enp0s3): mode: fast is not a mode: use one of auto, native, generic
fw.toml:4: interface[0] (enp0s3): bypass_policy: yes is text: write true or false
fw.toml:7: interface[1] (enp0s3): mtu: no such field: the fields are name, mode and bypass_policy
fw.toml:6: interface[1]: name: enp0s3 is also interface[0] on line 2: give each name once
fw.toml:15: forward[0] (10.0.0.5): dst_mac: zz is not a MAC address: write six octets, as 08:00:27:f2:cb:f9
fw.toml:20: forward[2] (10.0.0.6/32): to: 10.0.0.6 is also forward[1] on line 17: give each destination once
fw.toml:23: forward[3]: to: 10.0.0.7/24 has host bits set: write 10.0.0.0/24, or 10.0.0.7 for the one address
fw.toml:24: forward[3] (10.0.0.7/24): dst_mca: no such field: did you mean dst_mac? the fields are to, dev, src_mac, \
dst_mac and via
fw.toml:25: forward[3] (10.0.0.7/24): dev: 5 is a number: write text in quotes
fw.toml:26: forward[4]: to: missing: each forward has one
fw.toml:30: forward[5] (10.0.0.9): dev: 'a b' has a character that no device name has: give the name of a device, as \
`ip link` shows it
fw.toml:28: forward[5] (10.0.0.9): dst_mac: missing for 10.0.0.9: give dev and dst_mac, or via
"""


def test_everything_that_is_wrong_is_said_with_its_line():
    lines, count = refused(read_document, BAD.encode(), "fw.toml")
    assert lines == BAD_SAID.splitlines()
    assert count == 13


def test_of_many_wrong_values_twenty_are_named_and_all_are_counted():
    entries = [f'[[forward]]\nto = "10.{n >> 8}.{n & 255}.5"\nvia = "10.0.0.1"\n' for n in range(300)]
    for n in range(50, 300, 10):
        entries[n] = entries[n].replace("via", "vla")
    lines, count = refused(read_document, "".join(entries).encode(), "fw.toml")
    # a wrong name for the one field leaves dev and dst_mac missing too, which is not said
    assert (len(lines), count) == (20, 25)
    assert lines[0].startswith("fw.toml:153: forward[50] (10.0.50.5): vla: no such field: did you mean via?")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[forward]\nto = "a"\n',
            ":1: forward: a table: give a list of entries: in TOML, each begins with [[forward]]",
        ),
        ("\nforward = 5", ":2: forward: 5 is a number: give a list of entries: in TOML, each begins with [[forward]]"),
        ("forward = [\n5]", ":2: forward[0]: 5 is a number: write a table of to, dev, src_mac, dst_mac and via"),
        (
            'forward = [\n  {to = "10.0.0.5",\tvia="10.0.0.1" },\n { to = "10.0.0.5", via="10.0.0.1"}]',
            ":3: forward[1]: to: 10.0.0.5 is also forward[0] on line 2: give each destination once",
        ),
        (
            '[[interface]]\nname="a"\n[interface.x]\ny=1\n',
            ":3: interface[0] (a): x: no such field: the fields are name, mode and bypass_policy",
        ),
        (
            '[[forward]]\nto = "10.0.0.5"\nvia = 2020-01-01',
            ":3: forward[0] (10.0.0.5): via: 2020-01-01 is a date or a time: write text in quotes",
        ),
        ("'x y' = 1", ":1: 'x y': no such table: the tables are interface, forward, service and decap"),
    ],
)
def test_a_shape_that_is_no_document_s_is_named(text, said):
    assert refused(read_document, text.encode(), "fw.toml") == ([f"fw.toml{said}"], 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", ": a list, not a document: give an object of tables"),
        (b"5", ": 5 is a number, not a document: give an object of tables"),
        (
            b'{"forward": null}',
            ": forward: null is no value: give a list of entries: in TOML, each begins with [[forward]]",
        ),
        (b'{"forward": [{"to": 5}]}', ": forward[0]: to: 5 is a number: write text in quotes"),
        (b'{"forward": [{"to": true}]}', ": forward[0]: to: true is not text: write text in quotes"),
        (b'{"forward": [], "forward": []}', ": forward: given twice: give each table once"),
        (
            b'{"forward": [{"to": "10.0.0.5", "via": "10.0.0.1", "via": "10.0.0.2"}]}',
            ": forward[0] (10.0.0.5): via: given twice: give each field once",
        ),
        (
            b'{"forward": [{"to": "10.0.0.5", "via": "10.0.0.1", "\\u0076ia": "10.0.0.2"}]}',
            ": forward[0] (10.0.0.5): via: given twice: give each field once",
        ),
    ],
)
def test_a_shape_that_is_no_api_s_is_named(data, said):
    assert refused(read_document, data, "fw.json", name="fw.json") == ([f"fw.json{said}"], 1)
    assert refused(read_json, data, name="body") == ([f"body{said}"], 1)


def test_a_value_may_be_a_field_s_name():
    data = b'{"interface": [{"name": "forward"}], "forward": [{"to": "10.0.0.5", "via": "10.0.0.1", "dev": "via"}]}'
    assert read_json(data).of("forward") == {"10.0.0.5": NextHop("via", via="10.0.0.1")}


def test_what_the_daemon_finds_wrong_is_put_in_its_place():
    document = read_document(FW, "fw.toml")
    assert document.line_of("forward[0].dev") == 8
    assert document.line_of("forward[1].src_mac") == 11  # absent: the entry's
    assert document.line_of("forward[1]") == 11
    assert document.line_of("interface[0].name") == 3
    assert document.line_of("forward[2].dev") == document.line_of("revision") is None
    located = document.located(InvalidInput("forward[0].dev", "eth9 is no device here"))
    assert (located.line, located.key) == (8, "10.10.3.5")
    several = InvalidInputs([InvalidInput("interface[0].name", "no"), InvalidInput("body", "x")], 30)
    both = document.located(several)
    assert [(problem.line, problem.key) for problem in both.problems] == [(3, "enp0s3"), (None, None)]
    assert both.count == 30


def test_lines_of_lists_are_counted_with_headers_and_gaps():
    document = read_document(b"\nto,via\n\n10.0.0.5,10.0.0.1\n\n10.0.0.6,10.0.0.1\n", "fw.csv")
    assert [document.line_of(f"forward[{n}].via") for n in range(3)] == [4, 6, None]
    lines = read_document(b'{"to":"10.0.0.5","via":"10.0.0.1"}\n\n{"to":"10.0.0.6","via":"10.0.0.1"}', "fw.jsonl")
    assert [lines.line_of(f"forward[{n}]") for n in range(3)] == [1, 3, None]
    of_json = read_document(b'{"forward": [{"to": "10.0.0.5", "via": "10.0.0.1"}]}', "fw.json")
    assert of_json.line_of("forward[0].to") is None


def test_nothing_that_is_read_twice_costs_much_more_than_the_parser():
    entries = ['[[forward]]\nto = "10.{}.{}.{}"\ndev  = "a"\ndst_mac = "08:00:27:f2:cb:f9"\n']
    text = "".join(entries[0].format(1 + (n >> 16), n >> 8 & 255, n & 255) for n in range(20_000))
    import tomllib

    started = time.perf_counter()
    tomllib.loads(text)
    parsed = time.perf_counter() - started
    started = time.perf_counter()
    document = read_document(text.encode(), "fw.toml")
    assert time.perf_counter() - started < 2 * parsed + 0.5
    assert isinstance(document, Document)
    assert len(document.wanted.of("forward")) == 20_000


def test_an_intent_that_is_empty_is_said_so():
    assert read_json(b"{}") == read_document(b"# none\n", "-").wanted == wanted_of(Intent())


SERVICES = """\
[[service]]
name = "web"
vip = "192.168.33.33"
port = 80
protocol = "tcp"
  [[service.backend]]
  address = "192.168.33.11"
  weight = 70000
  [[service.backend]]
  addres = "192.168.33.12"
  [[service.backend]]
  address = "192.168.33.33"
[[service]]
name = "web"
vip = "192.168.33.34"
port = 80
protocol = "tcp"
ring = "65537"
backend = [5, {address = 6, weight = "7"}]
[[service]]
name = "dns"
vip = "2001:db8::33"
port = "53"
protocol = "udp"
interval = nan
  [[service.backend]]
  address = "192.168.33.11"
  via = 5
[[decap]]
local = "10.0.0.1"
[[decap]]
local = "10.0.0.1"
from = "10.0.0.0/8"
[[decap]]
local = "10.0.0.1"
from = "10.0.0.0/8"
encap = "ipip"
"""
SERVICES_SAID = """\
fw.toml:8: service[0] (web): backend[0].weight: 70000 is out of range: give a whole number, 0 to 65535
fw.toml:10: service[0] (web): backend[1].addres: no such field: did you mean address? the fields are address, weight, \
via, dst_mac, dev and drained
fw.toml:9: service[0] (web): backend[1].address: missing: each backend has one
fw.toml:18: service[1] (web): ring: 65537 is text: write a whole number
fw.toml:19: service[1] (web): backend[0]: 5 is a number: write a table of address, weight, via, dst_mac, dev and drained
fw.toml:19: service[1] (web): backend[1].address: 6 is a number: write text in quotes
fw.toml:19: service[1] (web): backend[1].weight: 7 is text: write a whole number
fw.toml:14: service[1]: name: web is also service[0] on line 2: give each name once
fw.toml:25: service[2] (dns): interval: nan is out of range: give 0.1 to 3600 seconds
fw.toml:28: service[2] (dns): backend[0].via: 5 is a number: write text in quotes
fw.toml:29: decap[0] (10.0.0.1): from: missing: each decap has one
fw.toml:35: decap[2]: local: 10.0.0.1 ipip from 10.0.0.0/8 is also decap[1] on line 32: give each pair of local and \
from once
"""


def test_what_is_wrong_in_a_service_names_the_backend_and_its_line():
    lines, count = refused(read_document, SERVICES.encode(), "fw.toml")
    assert lines == SERVICES_SAID.splitlines()
    assert count == 12


def test_what_services_want_together_is_seen_when_each_is_right():
    data = "".join(
        f'[[service]]\nname = "{name}"\nvip = "192.168.33.33"\nport = {port}\nprotocol = "{protocol}"\n'
        for name, port, protocol in (("web", '"80-90"', "tcp"), ("dns", 53, "udp"), ("alt", 81, "both"))
    )
    said = (
        "service[2]: port: alt (81 both) and web (80-90 tcp) overlap on 192.168.33.33: give each port of "
        "192.168.33.33 to one of them"
    )
    assert refused(read_document, data.encode(), "fw.toml") == ([f"fw.toml:14: {said}"], 1)
    rows = [
        {"name": "web", "vip": "192.168.33.33", "port": "80-90", "protocol": "tcp"},
        {"name": "alt", "vip": "192.168.33.33", "port": 81, "protocol": "both"},
    ]
    lines, _ = refused(read_json, json.dumps({"service": rows}).encode(), name="body")
    assert lines == [f"body: {said.replace('[2]', '[1]')}"]


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ('{"address": "10.0.0.1", "address": "10.0.0.2"}', "backend[0].address: given twice: give each field once"),
        ('{"address": "10.0.0.1", "weight": 1.5}', "backend[0].weight: 1.5 is a number: write a whole number"),
        ('{"address": "10.0.0.1", "weight": true}', "backend[0].weight: true is not text: write a whole number"),
        ('{"address": "10.0.0.1"}, {"address": "10.0.0.1"}', "backend[1].address: 10.0.0.1 is also backend[0]: give"),
        ('{"address": "10.0.0.1", "drained": 1}', "backend[0].drained: 1 is a number: write true or false"),
        ("[]", "backend[0]: a list: write a table of address, weight, via, dst_mac, dev and drained"),
    ],
)
def test_a_backend_in_json_is_read_as_strictly(backend, said):
    head = '"name": "web", "vip": "192.168.33.33", "port": "80", "protocol": "tcp"'
    (line,), count = refused(read_json, f'{{"service": [{{{head}, "backend": [{backend}]}}]}}'.encode(), name="body")
    assert (line.startswith(f"body: service[0] (web): {said}"), count) == (True, 1), line


def test_a_thousand_services_of_a_hundred_backends_are_read_in_a_moment():
    backends = "".join(f'[[service.backend]]\naddress = "10.1.0.{n}"\nweight = {n}\n' for n in range(1, 101))
    text = "".join(
        f'[[service]]\nname = "s{n}"\nvip = "10.2.{n >> 8}.{n & 255}"\nport = 80\nprotocol = "tcp"\n{backends}'
        for n in range(1000)
    )
    began = time.thread_time()
    wanted = read_document(text.encode(), "fw.toml").wanted
    assert time.thread_time() - began < 3  # 0.7 on a quiet machine
    assert sum(len(service.backend) for service in wanted.of("service").values()) == 100_000
    data = msgspec.json.encode(document_of(wanted))
    began = time.thread_time()
    assert read_json(data) == wanted
    assert time.thread_time() - began < 2  # 0.3
