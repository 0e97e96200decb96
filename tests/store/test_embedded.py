"""The store: what is acknowledged stays, what is damaged is set aside, one daemon at a time."""

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hopline.config import Interface, NextHop
from hopline.errors import Refused
from hopline.intent import Change, Delta, Wanted, difference
from hopline.store.embedded import Store

DIRECT = NextHop(dev="enp0s9", src_mac="08:00:27:13:df:b6", dst_mac="08:00:27:f2:cb:f9")
VIA = NextHop(dev="enp0s9", via="fe80::1")
OTHER = NextHop(via="10.10.3.1")
PORT = Interface("enp0s3", "generic", True)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state" / "main"


def wanted(forward: dict[str, NextHop] | None = None, *interfaces: Interface) -> Wanted:
    return Wanted({"interface": {i.name: i for i in interfaces}, "forward": forward or {}})


def put(store: Store, want: Wanted, **how) -> int:
    """Make the intent this."""
    return store.write(difference(store.read(), want), by="tests", what="apply", **how)


def reopened(directory: Path) -> Wanted:
    with Store.open(directory) as store:
        assert store.recovered_from is None
        return store.read()


def test_a_new_store_is_empty_and_private(directory):
    assert not Store.exists(directory)
    with Store.open(directory) as store:
        assert store.read() == wanted()
        assert (store.recovered_from, store.damage, store.revision) == (None, None, 0)
        put(store, wanted({"10.10.3.5": DIRECT}))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        on_disk = sum((directory / name).stat().st_size for name in ("hopline.db", "hopline.db-wal"))
        assert store.size == on_disk > 0
    assert Store.exists(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}
    assert "hopline.db" in modes


def test_what_is_written_is_read_back_in_key_order(directory):
    want = wanted({"2001:db8::/64": VIA, "10.10.3.5": DIRECT, "10.2.0.0/16": OTHER}, PORT, Interface("a"))
    with Store.open(directory) as store:
        assert put(store, want) == 1
        assert store.read() == want
    read = reopened(directory)
    assert read == want
    assert list(read.of("forward")) == ["10.10.3.5", "10.2.0.0/16", "2001:db8::/64"]
    assert list(read.of("interface")) == ["a", "enp0s3"]


def test_equal_next_hops_are_read_as_one_object(directory):
    many = {f"10.0.0.{n}": NextHop("e", None, "08:00:27:f2:cb:f9") for n in range(1, 9)}
    with Store.open(directory) as store:
        put(store, wanted(many))
    with Store.open(directory) as store:
        for read in (store.read(), store.read()):
            assert len({id(hop) for hop in read.of("forward").values()}) == 1


def test_a_change_adds_changes_and_removes(directory):
    first = {f"10.0.0.{n}": DIRECT for n in range(1, 101)}
    second = {f"10.0.0.{n}": OTHER if n % 3 else DIRECT for n in range(50, 200)}
    with Store.open(directory) as store:
        put(store, wanted(first, PORT))
        put(store, wanted(second, Interface("enp0s3"), Interface("b")))
        assert store.read() == wanted(second, Interface("b"), Interface("enp0s3"))
        put(store, wanted())
        assert store.read() == wanted()
    assert reopened(directory) == wanted()


@pytest.mark.parametrize(
    "delta",
    [
        Delta(after={"10.0.0.1": OTHER}),
        Delta(after={f"10.0.{n}.1": OTHER for n in range(40)}),
        Delta(before={"10.0.0.1": OTHER}),
        Delta(before={"10.0.0.1": OTHER}, after={"10.0.0.1": VIA}),
        Delta(before={"10.0.0.2": DIRECT}),
        Delta(before={"10.0.0.2": DIRECT}, after={"10.0.0.2": OTHER}),
        Delta(before={"10.0.0.1": DIRECT, "10.0.0.2": DIRECT}, after={"192.0.2.1": OTHER}),
    ],
    ids=[
        "there",
        "one of many there",
        "other value goes",
        "other value changes",
        "absent goes",
        "absent changes",
        "one",
    ],
)
def test_a_change_that_does_not_start_from_what_is_stored_changes_nothing(directory, delta):
    want = wanted({"10.0.0.1": DIRECT})
    with Store.open(directory) as store:
        put(store, want)
        change = Change({"interface": Delta(after={"a": Interface("a")}), "forward": delta})
        with pytest.raises(Refused, match=r"what is stored of forward is not .*: nothing was changed, start again"):
            store.write(change, by="tests", what="astray")
        assert (store.read(), store.revision) == (want, 1)
        assert put(store, wanted({"10.0.0.1": OTHER})) == 2
    assert reopened(directory) == wanted({"10.0.0.1": OTHER})


def test_a_write_that_fails_changes_nothing(directory):
    broken = NextHop(dev=b"not text", dst_mac="08:00:27:f2:cb:f9")  # type: ignore[arg-type]
    want = wanted({"10.10.3.5": DIRECT})
    with Store.open(directory) as store:
        put(store, want)
        with pytest.raises(Refused, match="nothing was changed"):
            put(store, wanted({"192.0.2.9": broken}))
        assert (store.read(), store.revision, len(store.history())) == (want, 1, 1)
        assert put(store, wanted({"10.10.3.5": VIA})) == 2


def test_a_second_opener_is_refused_and_told_the_process(directory):
    with Store.open(directory), pytest.raises(Refused) as caught:
        Store.open(directory)
    assert f"in use by process {os.getpid()}" in str(caught.value)
    assert "\n" not in str(caught.value)
    reopened(directory)


def test_what_was_acknowledged_survives_kill(directory):
    code = f"""
from pathlib import Path
from hopline.config import NextHop
from hopline.intent import Change, Delta
from hopline.store.embedded import Store
store = Store.open(Path({str(directory)!r}))
for n in range(256, 1000000):
    entry = {{f"10.{{n >> 16}}.{{n >> 8 & 255}}.{{n & 255}}": NextHop(via="10.10.3.1")}}
    store.write(Change({{"forward": Delta(after=entry)}}), by="tests", what="add")
    print(*entry, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    acknowledged = set()
    try:
        for line in writer.stdout:
            acknowledged.add(line.strip())
            if len(acknowledged) > 50:
                break
    finally:
        writer.send_signal(signal.SIGKILL)
        acknowledged |= set(writer.communicate()[0].split())
    present = set(reopened(directory).of("forward"))
    assert acknowledged <= present
    assert len(present - acknowledged) <= 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b""), "does not say that it is a store"),
        (lambda path: path.write_bytes(b"not a database, but long enough to look like one" * 100), "not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "malformed"),
        (lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(path.stat().st_size - 4096)), ""),
    ],
    ids=["empty", "garbage", "half", "overwritten"],
)
def test_a_damaged_file_is_set_aside_and_named(directory, damage, said):
    with Store.open(directory) as store:
        put(store, wanted({f"10.0.0.{n}": OTHER for n in range(1, 255)}))
    damage(directory / "hopline.db")
    damaged = (directory / "hopline.db").read_bytes()
    with Store.open(directory) as store:
        assert store.recovered_from is not None
        assert re.fullmatch(r"hopline\.db\.corrupt-\d{8}T\d{6}Z", store.recovered_from.name)
        assert store.recovered_from.read_bytes() == damaged
        assert said in store.damage
        assert "\n" not in store.damage
        assert store.fresh
        assert store.read() == wanted()
        put(store, wanted({"10.10.3.5": DIRECT}))
        store.settle()
    assert reopened(directory) == wanted({"10.10.3.5": DIRECT})


def test_a_log_without_its_file_is_set_aside_and_not_replayed(directory):
    with Store.open(directory) as store:
        put(store, wanted({"10.10.3.5": DIRECT}))
        log = (directory / "hopline.db-wal").read_bytes()
    (directory / "hopline.db").unlink()
    (directory / "hopline.db-wal").write_bytes(log)
    with Store.open(directory) as store:
        assert store.read() == wanted()
        assert store.fresh
        assert store.damage == "hopline.db was gone and its log was there"
        kept = store.recovered_from.with_name(f"{store.recovered_from.name}-wal")
        assert kept.read_bytes() == log


def test_a_file_that_turns_bad_while_it_is_open_is_one_line(directory):
    with Store.open(directory) as store:
        put(store, wanted({"10.10.3.5": DIRECT}))
        other = sqlite3.connect(directory / "hopline.db")
        other.execute("UPDATE forward_value SET dst_mac = 'zz'")
        other.commit()
        other.close()
        with pytest.raises(Refused, match=r"read store .*: forward '10\.10\.3\.5': dst_mac: .*: start again, which"):
            store.read()


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"open store .*: file exists"):
        Store.open(tmp_path / "file" / "main")
