"""The public page, and the client against the real API over real sockets."""

import os
import socket
import subprocess
import sys
import threading

import pytest

import hopline
from front_double import LEARNED, NEIGHBOUR_MAC, OWN_MAC, Doors
from hopline.config import Forward, Intent, Interface
from hopline.daemon.protocol import Counts
from hopline.errors import InvalidInput, InvalidInputs, NotFound, Refused, Unavailable
from hopline.intent import wanted_of
from others import let_others_in


@pytest.fixture
def client(doors):
    return hopline.connect(run_dir=doors.run)


def test_the_public_page_is_lazy_and_complete():
    code = "import sys, hopline; print(*sorted(m for m in sys.modules if m.startswith(('hopline', 'msgspec', 'http'))))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    assert out.stdout.split() == ["hopline"]
    for name in hopline.__all__:
        assert getattr(hopline, name) is not None
    assert set(dir(hopline)) == set(hopline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hopline.nothing


def test_the_version_is_the_package_s():
    from importlib.metadata import version

    assert hopline.__version__ == version("hopline")


def test_forward_verbs(client, doors):
    with client:
        client.forward.add("10.10.3.5", dev="enp0s9", dst_mac=NEIGHBOUR_MAC, src_mac=OWN_MAC)
        with pytest.raises(Refused) as caught:
            client.forward.add("10.10.3.5", via="10.10.3.1")
        assert str(caught.value) == "forward 10.10.3.5 exists: use replace"
        client.forward.replace("10.10.3.5", via="10.10.3.1")
        assert doors.service.entries["10.10.3.5"].via == "10.10.3.1"
        assert [row.to for row in client.forward.show(origin="operator")] == ["10.10.3.5"]
        assert client.forward.show("10.10.2.7") == [LEARNED]
        assert len(client.forward.show(limit=1)) == 1
        client.forward.delete("10.10.3.5")
        with pytest.raises(NotFound, match="no such entry"):
            client.forward.delete("10.10.3.5")


def test_many_forwards_at_once(client):
    client.forward.put(Forward(f"10.1.{n >> 8}.{n & 255}", via="10.10.3.1") for n in range(1000))
    assert len(client.forward.show(origin="operator")) == 1000
    client.forward.put([])
    client.forward.delete(*(f"10.1.0.{n}" for n in range(256)))
    assert len(client.forward.show(origin="operator")) == 744


def test_get_next_hops_flush_status_detach(client, doors):
    answer = client.forward.get("10.10.3.5", in_dev="enp0s3")
    assert (answer.verdict, answer.dst_mac) == ("FORWARDED", NEIGHBOUR_MAC)
    assert client.forward.next_hops()[0].packets == 7
    assert client.forward.flush() == 1
    assert client.forward.flush() == 0
    assert client.status().entries.learned == 0
    client.detach()
    assert doors.service.detached


def test_interface_verbs(client):
    added = client.interface.add("enp0s3", mode="generic")
    assert added.state.mode == "generic"
    assert added.warnings
    with pytest.raises(Refused):
        client.interface.add("enp0s3")
    assert client.interface.add("enp0s3", replace=True).interface.mode == "auto"
    assert client.interface.set("enp0s3", bypass_policy=True).interface.bypass_policy
    assert [state.name for state in client.interface.show()] == ["enp0s3"]
    assert client.interface.show("enp0s3")[0].bypass_policy
    client.interface.delete("enp0s3")
    with pytest.raises(NotFound):
        client.interface.show("enp0s3")


def test_invalid_input_keeps_its_field(client):
    with pytest.raises(InvalidInput) as caught:
        client.forward.add("10.0.0.7/24", via="10.0.0.1")
    assert caught.value.field == "to"
    assert "10.0.0.0/24" in caught.value.hint
    with pytest.raises(InvalidInput):
        client.interface.delete("a/b?c=d#e")
    with pytest.raises(InvalidInput):
        hopline.connect("../x")


def test_no_daemon_is_one_line_that_says_how_to_start_it(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Unavailable) as caught:
            hopline.connect("lab", directory).status()
        path = directory / "admin.sock"
        expected = f"instance lab: no daemon answers on {path}: start it with `hopline serve --instance lab`"
        assert str(caught.value) == expected


def test_a_daemon_that_says_nothing_or_goes_away_is_unavailable(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "admin.sock"))
        listener.listen()
        with pytest.raises(Unavailable, match=r"did not answer in 0\.1 s"):
            hopline.connect("main", tmp_path, timeout=0.1).status()

        def hang_up():
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Unavailable, match="broke"):
            hopline.connect("main", tmp_path).status()
        thread.join(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become someone else")
def test_a_member_of_the_group_may_look_but_not_change(doors, tmp_path):
    code = f"""
import os
import hopline
client = hopline.connect(run_dir={str(tmp_path / "run")!r})
client.status()  # loads what the other user may not be able to read
os.setgroups([])
os.setgid(65534)
os.setuid(65533)
print(client.status().pid)
print(client.intent.diff(hopline.Intent()).dry_run)
try:
    client.forward.add("10.10.3.5", via="10.10.3.1")
except hopline.Refused as error:
    print(error)
"""
    with Doors(tmp_path / "run") as own:
        let_others_in(tmp_path)
        os.chown(own.run / "view.sock", 0, 65534)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
        assert own.service.entries == {}
    assert out.stdout.splitlines()[:2] == ["4711", "True"], out.stderr
    assert "permission denied: do this as root" in out.stdout


def intent(*destinations, interfaces=(), via="10.10.3.1"):
    forwards = tuple(Forward(to, via=via) for to in destinations)
    return Intent(interface=tuple(Interface(name) for name in interfaces), forward=forwards)


def test_the_intent_is_applied_compared_and_shown(client, doors):
    want = intent("10.1.0.1", "10.1.0.2", interfaces=["enp0s3"])
    found = client.intent.diff(want, limit=10)
    assert (found.dry_run, found.revision, found.counts["forward"]) == (True, 0, Counts(2, 0, 0))
    assert [(d.noun, d.key) for d in found.differences] == [
        ("interface", "enp0s3"),
        ("forward", "10.1.0.1"),
        ("forward", "10.1.0.2"),
    ]
    done = client.intent.apply(want, limit=0)
    assert (done.dry_run, done.revision, done.differences) == (False, 1, [])
    assert client.intent.show() == want
    assert client.intent.apply(wanted_of(want)).counts == {}
    rehearsed = client.intent.apply(intent("10.1.0.2", via="10.10.3.2"), dry_run=True, limit=1)
    assert rehearsed.counts == {"interface": Counts(0, 0, 1), "forward": Counts(0, 1, 1)}
    assert client.intent.apply(intent("10.1.0.3"), merge=True).counts == {"forward": Counts(1, 0, 0)}
    assert list(doors.service.entries) == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]


def test_what_was_looked_at_is_what_is_done(client):
    revision = client.intent.diff(intent("10.1.0.1")).revision
    client.forward.add("10.1.0.9", via="10.10.3.1")
    with pytest.raises(Refused, match="revision"):
        client.intent.apply(intent("10.1.0.1"), revision=revision)
    assert client.intent.apply(intent("10.1.0.1"), revision=revision + 1).counts == {"forward": Counts(1, 0, 1)}


def test_a_change_waits_to_be_confirmed(client):
    done = client.intent.apply(intent("10.1.0.1"), confirm_within=60)
    assert done.confirm_within_s == 60
    assert [row.pending for row in client.history()] == [True]
    with pytest.raises(Refused, match="waits to be confirmed"):
        client.intent.apply(intent())
    assert client.intent.confirm().revision == done.revision
    with pytest.raises(Refused, match="no change waits"):
        client.intent.confirm()


def test_history_and_rollback(client, doors):
    for to in ("10.1.0.1", "10.1.0.2", "10.1.0.3"):
        client.forward.add(to, via="10.10.3.1")
    newest = client.history()[0]
    assert (newest.number, newest.what, newest.counts) == (3, "forward add 10.1.0.3", {"forward": Counts(1, 0, 0)})
    assert f"process {os.getpid()}" in newest.by
    assert client.rollback(1, dry_run=True, limit=5).counts == {"forward": Counts(0, 0, 2)}
    assert len(doors.service.entries) == 3
    assert client.rollback(1).revision == 4
    assert list(doors.service.entries) == ["10.1.0.1"]
    with pytest.raises(NotFound):
        client.rollback(99)


def test_all_that_is_wrong_with_a_document_is_told(client):
    wrong = Intent(forward=tuple(Forward(f"10.1.0.{n}", dev="enp0s9", dst_mac="zz") for n in range(25)))
    with pytest.raises(InvalidInputs) as caught:
        client.intent.apply(wrong)
    assert (len(caught.value.problems), caught.value.count) == (20, 25)
    assert caught.value.problems[3].field == "forward[3].dst_mac"
    with pytest.raises(InvalidInput) as one:
        client.intent.apply(Intent(forward=(Forward("10.1.0.1", dev="enp0s9", dst_mac="zz"),)))
    assert (one.value.field, one.value.count) == ("forward[0].dst_mac", 1)


CSV = b"to,via\n10.1.0.1,10.10.3.1\n10.1.0.0/24,10.10.3.1\n"
LINES = b'{"to": "10.1.0.1", "via": "10.10.3.1"}\n{"to": "10.1.0.0/24", "via": "10.10.3.1"}\n'


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("a.csv", CSV, {}),
        ("a.jsonl", LINES, {}),
        ("a.NDJSON", LINES, {}),
        ("a", CSV, {}),
        ("a", b" \n" + LINES, {}),
        ("a.txt", LINES, {"format": "jsonl"}),
        ("a.jsonl", CSV, {"format": "csv"}),
    ],
)
def test_a_file_is_loaded_whatever_it_is_called(client, doors, tmp_path, name, data, options):
    path = tmp_path / name
    path.write_bytes(data)
    told = []
    done = client.forward.load(path, progress=told.append, **options)
    assert done.counts == {"forward": Counts(2, 0, 0)}
    assert told == [len(data)]
    assert [forward.via for forward in doors.service.entries.values()] == ["10.10.3.1"] * 2
    with path.open("rb") as file:
        assert client.forward.load(file, **options).counts == {}
    doors.service.__init__()


def test_many_are_loaded_from_what_has_no_size(client, doors):
    reader, writer = os.pipe()

    def write():
        with os.fdopen(writer, "wb") as file:
            file.write(b"dst_mac,to,dev\n")
            for n in range(50_000):
                file.write(f"{NEIGHBOUR_MAC},10.{n >> 16}.{n >> 8 & 255}.{n & 255},enp0s9\n".encode())

    client.forward.add("10.200.0.1", via="10.10.3.1")
    thread = threading.Thread(target=write)
    thread.start()
    told = []
    with os.fdopen(reader, "rb") as file:
        done = client.forward.load(file, progress=told.append)
    thread.join(10)
    assert done.counts == {"forward": Counts(50_000, 0, 0)}
    assert told == sorted(told)
    assert len(told) > 1
    assert len(doors.service.entries) == 50_001


def test_a_load_with_wrong_values_says_where_and_ends_early(client, doors, tmp_path):
    path = tmp_path / "a.csv"
    good = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},10.10.3.1" for n in range(200_000)]
    lines = ["to,via", *good]
    lines[7], lines[9] = "10.1.0.300,10.10.3.1", "10.200.0.1,here"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidInputs) as caught:
        client.forward.load(path)
    assert [(problem.field, problem.line) for problem in caught.value.problems] == [
        ("forward[6].to", 8),
        ("forward[8].via", 10),
    ]
    # a header that cannot be is known at once: the rest is not waited for
    path.write_text("\n".join(["to,way", *good * 5]))
    told = []
    with pytest.raises(InvalidInput, match="way"):
        client.forward.load(path, progress=told.append)
    assert told[-1] < path.stat().st_size / 2
    assert doors.service.entries == {}


def test_what_cannot_be_told_apart_or_read_is_said(client, tmp_path):
    unknown = tmp_path / "a.bin"
    unknown.write_bytes(b"\x00\x01")
    with pytest.raises(InvalidInput, match="neither CSV nor JSON lines"):
        client.forward.load(unknown)
    with pytest.raises(FileNotFoundError):
        client.forward.load(tmp_path / "none.csv")
    with pytest.raises(InvalidInput):
        client.forward.load(tmp_path / "a.bin", format="csv")
