"""The seed's JSON API over a real TCP socket: its shapes, every code, and what a broken client gets."""

import json
import socket
import threading
import time

import pytest

from daemon.asking import received
from front_double import KERNEL_FAULT, NEIGHBOUR_MAC, OWN_MAC, Doors
from hopline.config import Forward
from hopline.daemon import fwd_http
from hopline.daemon.fwd_api import BODY_MOST, Failure, FwdApi, parse
from hopline.daemon.options import parse_cidr, parse_endpoint, serve_options
from hopline.errors import InvalidInput, Refused

TRACE = "e3e98256-5a75-4bdc-80a5-e26fef7ffcca"
QUERY = {"action": "QueryForward", "traceId": TRACE}
UPDATE = {
    "action": "UpdateForward",
    "traceId": TRACE,
    "ip": "10.10.3.10",
    "iface": 4,
    "srcMac": OWN_MAC,
    "dstMac": NEIGHBOUR_MAC,
}
DELETE = {"action": "DeleteForward", "traceId": TRACE, "ip": "10.10.3.10"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def open_doors(tmp_path_factory):
    with Doors(tmp_path_factory.mktemp("run"), fwd_api=f"127.0.0.1:{free_port()}") as doors:
        yield doors


@pytest.fixture
def doors(open_doors):
    open_doors.service.__init__()
    open_doors.service.learned = []
    return open_doors


def talk(doors, data, *, half_close=False):
    """Send bytes as they are; return all that comes until the server closes, or a second passes."""
    with socket.create_connection(doors.front.fwd_address, 20) as client:
        client.sendall(data)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return answers(client)


def answers(client):
    received = b""
    while chunk := client.recv(65536):
        received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:") and len(body) >= int(line.split(b":")[1]):
                assert head.startswith(b"HTTP/1.1 200 ")
                return json.loads(body)
    return None


def post(doors, body, *headers, **options):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ["POST / HTTP/1.1", "Host: 192.168.56.4:5555", f"Content-Length: {len(data)}", *headers]
    return talk(doors, "\r\n".join(lines).encode() + b"\r\n\r\n" + data, **options)


def failure(answer, code):
    assert answer["code"] == 500
    (error,) = answer["errors"]
    assert error["code"] == code
    assert error["msg"].startswith(TEXTS[code] + ": ")
    assert "\n" not in error["msg"]
    return error["msg"]


TEXTS = {
    1000: "read request body error",
    1100: "json format error",
    1101: "not support action error",
    1200: "update error",
    1201: "query error",
}


def test_the_seed_s_example_word_for_word(doors):
    assert post(doors, QUERY) == {"code": 200, "traceId": TRACE, "Tables": []}
    assert post(doors, UPDATE) == {"code": 200, "traceId": TRACE}
    row = {"Ip": "10.10.3.10", "Iface": 4, "SrcMac": OWN_MAC, "DstMac": NEIGHBOUR_MAC, "Origin": "operator"}
    assert post(doors, QUERY) == {"code": 200, "traceId": TRACE, "Tables": [row]}
    assert post(doors, {**UPDATE, "srcMac": "08:00:27:AA:00:01"}) == {"code": 200, "traceId": TRACE}
    assert post(doors, QUERY)["Tables"] == [{**row, "SrcMac": "08:00:27:aa:00:01"}]
    assert doors.service.past[-1].by == "fwd client 127.0.0.1"
    assert post(doors, DELETE) == {"code": 200, "traceId": TRACE}
    assert post(doors, QUERY)["Tables"] == []


def test_only_ipv4_hosts_with_a_known_next_hop_are_in_the_table(doors):
    for to, via in [
        ("10.10.3.0/24", "10.10.3.1"),
        ("2001:db8::1", "2001:db8::2"),
        ("10.10.3.7", "10.10.3.99"),
        ("10.10.3.8", "10.10.3.1"),
    ]:
        doors.service.entries[to] = Forward(to, via=via)
    doors.service.entries["10.10.3.9"] = Forward("10.10.3.9", dev="gone0", dst_mac=NEIGHBOUR_MAC)
    assert [row["Ip"] for row in post(doors, QUERY)["Tables"]] == ["10.10.3.8"]


@pytest.mark.parametrize("trace_id", [None, 0, 1.5, True, "", "\ud800", "日本", ["a", {}], {"a": [None]}, 10**30])
def test_the_trace_id_comes_back_whatever_it_is(doors, trace_id):
    assert post(doors, {**QUERY, "traceId": trace_id})["traceId"] == trace_id
    assert post(doors, {"action": "Nothing", "traceId": trace_id})["traceId"] == trace_id


@pytest.mark.parametrize(
    ("body", "trace_id"),
    [
        (b"", None),
        (b"\xff\xfe\x00", None),
        (b"not json", None),
        (b'{"action": "QueryForward"', None),
        (b'{"action": "QueryForward"} trailing', None),
        (b'"QueryForward"', None),
        (b"[1]", None),
        (b"null", None),
        (b"[" * 200_000, None),
        (b'{"a":' * 100_000, None),
        (b'{"traceId": "t", "iface": NaN}', "t"),
        (b'{"traceId": "t", "iface": 1e999}', "t"),
        (b'{"traceId": NaN}', None),
        (b'{"traceId": "t", "ip": "10.0.0.1", "ip": "10.0.0.2"}', "t"),
        (b'{"traceId": "t", "a": [{"b": 1, "b": 2}]}', "t"),
        (b'{"iface": ' + b"9" * 5000 + b"}", None),
    ],
)
def test_1100_what_is_not_one_json_object(doors, body, trace_id):
    answer = post(doors, body)
    failure(answer, 1100)
    assert answer["traceId"] == trace_id


@pytest.mark.parametrize("action", [None, "", "queryforward", "Update", 1, ["QueryForward"], {}])
def test_1101_an_action_that_does_not_exist(doors, action):
    assert "use QueryForward, UpdateForward, DeleteForward" in failure(post(doors, {"action": action}), 1101)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ip", "10.10.3"),
        ("ip", "10.10.3.0/24"),
        ("ip", "2001:db8::1"),
        ("ip", "224.0.0.1"),
        ("ip", "127.0.0.1"),
        ("ip", 168427274),
        ("ip", None),
        ("iface", 3),
        ("iface", 0),
        ("iface", -1),
        ("iface", 2**64),
        ("iface", True),
        ("iface", 4.0),
        ("iface", "enp0s9"),
        ("srcMac", "ff:ff:ff:ff:ff:ff"),
        ("srcMac", ""),
        ("dstMac", "01:00:5e:00:00:01"),
        ("dstMac", "08-00-27-f2-cb-f9"),
        ("dstMac", "00:00:00:00:00:00"),
        ("dstMac", 1),
    ],
)
def test_1200_a_field_that_is_wrong(doors, field, value):
    answer = post(doors, {**UPDATE, field: value})
    assert failure(answer, 1200).startswith(f"update error: {field}: ")
    assert answer["traceId"] == TRACE
    assert doors.service.entries == {}


@pytest.mark.parametrize("field", ["ip", "iface", "srcMac", "dstMac"])
def test_1200_a_field_that_is_missing(doors, field):
    answer = post(doors, {name: value for name, value in UPDATE.items() if name != field})
    assert f"{field}: missing" in failure(answer, 1200)


def test_1200_and_1201_what_the_daemon_refuses(doors):
    assert "no such entry" in failure(post(doors, DELETE), 1200)
    doors.service.fault = KERNEL_FAULT
    assert "no space left" in failure(post(doors, UPDATE), 1200)
    doors.service.fault = Refused("list forwards: not now: wait")
    assert failure(post(doors, QUERY), 1201) == "query error: list forwards: not now: wait"
    doors.service.fault = ZeroDivisionError("a bug")
    assert "a bug" not in failure(post(doors, QUERY), 1201)


def test_a_web_page_has_no_right(doors):
    assert "no right" in failure(post(doors, UPDATE, "Origin: http://example.org"), 1200)
    assert "no right" in failure(post(doors, QUERY, "Origin: null"), 1201)
    assert doors.service.entries == {}


def test_only_listed_clients_have_a_right():
    def server(endpoint, *allow):
        networks = tuple(parse_cidr(text, "allow") for text in allow)
        return fwd_http.FwdServer(FwdApi(None), networks, parse_endpoint(endpoint, "fwd-api").loopback)

    assert server("127.0.0.1:5555").refusal("127.0.0.1") is None
    listed = server("192.168.56.4:5555", "192.168.56.0/24")
    assert listed.refusal("192.168.56.103") is None
    assert "no right: 10.10.2.7 is not an allowed client" in listed.refusal("10.10.2.7")
    assert listed.refusal("127.0.0.1") is not None
    assert server("[::]:5555", "192.168.56.0/24").refusal("::ffff:192.168.56.9") is None
    assert server("[::]:5555", "fe80::/10").refusal("fe80::1%enp0s3") is None


def test_a_client_without_right_is_answered_by_its_action(doors, monkeypatch):
    monkeypatch.setattr(doors.front._fwd, "_loopback", False)
    assert "no right" in failure(post(doors, UPDATE), 1200)
    assert "no right" in failure(post(doors, QUERY), 1201)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_1000_another_method_or_path(doors, method):
    assert "POST /" in failure(talk(doors, f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode()), 1000)
    assert "POST /" in failure(talk(doors, b"POST /forward HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 1000)


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000,
        b"POST / HTTP/2.0\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_1000_what_is_not_http(doors, data):
    failure(talk(doors, data), 1000)


def test_1000_a_body_of_two_lengths_holds_no_second_request(doors):
    hidden = json.dumps(UPDATE).encode()
    hidden = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    for body in (b"0\r\n\r\n" + hidden, b"2\r\n{}\r\n0\r\n\r\n" + hidden):
        lengths = b"Content-Length: %d\r\nTransfer-Encoding: chunked" % len(body)
        with socket.create_connection(doors.front.fwd_address, 20) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n\r\n" + body)
            client.shutdown(socket.SHUT_WR)
            said = received(client)
        assert said.count(b"HTTP/1.1 ") == 1
        assert "both Content-Length and Transfer-Encoding" in failure(json.loads(said.partition(b"\r\n\r\n")[2]), 1000)
    assert doors.service.entries == {}


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", b"POST / HT"])
def test_1000_a_request_that_ends_early(doors, data):
    failure(talk(doors, data, half_close=True), 1000)


def test_1000_a_client_that_stops_sending(doors, monkeypatch):
    monkeypatch.setattr(fwd_http, "REQUEST_SECONDS", 0.1)
    data = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
    assert "not complete" in failure(talk(doors, data), 1000)


def test_1000_a_body_too_large_declared_or_not(doors):
    padded = json.dumps(QUERY).encode().ljust(BODY_MOST)
    assert post(doors, padded)["code"] == 200
    assert "larger than 1048576 bytes" in failure(post(doors, padded + b" "), 1000)
    assert "larger" in failure(post(doors, b" " * 5 * BODY_MOST), 1000)
    chunks = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(17))
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert "larger" in failure(talk(doors, head + chunks + b"0\r\n\r\n"), 1000)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(doors):
    body = json.dumps(QUERY).encode()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(doors.front.fwd_address, 20) as client:
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert answers(client)["code"] == 200


def test_one_connection_carries_many_requests(doors):
    body = json.dumps(QUERY).encode()
    request = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(doors.front.fwd_address, 20) as client:
        for _ in range(3):
            client.sendall(request)
            assert answers(client)["traceId"] == TRACE


def test_two_hundred_at_once_beside_a_hundred_that_say_nothing(doors):
    idle = [socket.create_connection(doors.front.fwd_address, 20) for _ in range(50)]
    codes = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(post(doors, {**UPDATE, "ip": f"10.10.3.{n}"})["code"]))
        for n in range(1, 201)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for client in idle:
        client.close()
    assert codes == [200] * 200
    assert len(doors.service.entries) == 200


def test_close_ends_open_connections_at_once(tmp_path):
    doors = Doors(tmp_path, fwd_api=f"127.0.0.1:{free_port()}")
    with doors:
        client = socket.create_connection(doors.front.fwd_address, 20)
        assert post(doors, {"action": "QueryForward", "traceId": 1})["code"] == 200  # so the first was accepted too
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with client:
        assert client.recv(10) == b""


def test_an_address_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(Refused, match=f"listen on {address}: .*: stop what listens"),
            Doors(tmp_path, fwd_api=address),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fwd_api": "0.0.0.0:5555"}, "fwd-api: 0.0.0.0:5555 can be reached from other hosts"),
        ({"fwd_api": "[::]:5555"}, "fwd-api-allow"),
        ({"fwd_api": "127.0.0.1"}, "fwd-api"),
        ({"fwd_api": "127.0.0.1:0"}, "no port"),
        ({"fwd_api": "localhost:5555"}, "no numeric address"),
        ({"fwd_api": "127.0.0.1:5555", "fwd_api_allow": ["10.0.0.1/8"]}, "write 10.0.0.0/8"),
        ({"fwd_api_allow": ["10.0.0.0/8"]}, "without --fwd-api"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_start(options, text):
    with pytest.raises(InvalidInput) as caught:
        serve_options(**options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_given_twice_among_many_is_found_at_once():
    body = b"{" + b",".join(b'"%d":1' % number for number in range(40_000)) + b',"39999":2}'
    began = time.thread_time()
    with pytest.raises(Failure, match="the name 39999 occurs twice"):
        parse(body)
    assert time.thread_time() - began < 2  # it was a minute, in which the daemon did nothing else
