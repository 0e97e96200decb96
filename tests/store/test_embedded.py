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

from hopline.config import Forward, Intent, Interface
from hopline.errors import Refused
from hopline.store.change import DeleteForward, DeleteInterface, PutForward, PutInterface
from hopline.store.embedded import SCHEMA_VERSION, Store

DIRECT = Forward(to="10.10.3.5", dev="enp0s9", src_mac="08:00:27:13:df:b6", dst_mac="08:00:27:f2:cb:f9")
VIA = Forward(to="2001:db8::/64", dev="enp0s9", via="fe80::1")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state" / "main"


def reopened(directory: Path) -> Intent:
    with Store.open(directory) as store:
        assert store.recovered_from is None
        return store.intent()


def test_a_new_store_is_empty_and_private(directory):
    assert not Store.exists(directory)
    with Store.open(directory) as store:
        assert store.intent() == Intent()
        assert store.recovered_from is None
        store.write([PutForward(DIRECT)])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert Store.exists(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}
    assert "hopline.db" in modes


def test_what_is_written_is_read_back(directory):
    wanted = Interface("enp0s3", "generic", True)
    with Store.open(directory) as store:
        store.write([PutInterface(wanted), PutForward(DIRECT), PutForward(VIA)])
        assert store.intent() == Intent((wanted,), (DIRECT, VIA))
    assert reopened(directory) == Intent((wanted,), (DIRECT, VIA))


def test_changes_of_one_write_apply_in_order(directory):
    other = Forward(to=DIRECT.to, via="10.10.3.1")
    with Store.open(directory) as store:
        store.write([PutForward(DIRECT), DeleteForward(DIRECT.to), PutForward(other), PutInterface(Interface("a"))])
        assert store.intent().forward == (other,)
        store.write([DeleteForward(other.to), DeleteInterface("a"), DeleteForward("192.0.2.1")])
        assert store.intent() == Intent()


def test_a_write_that_fails_changes_nothing(directory):
    broken = Forward(to="192.0.2.9", dev=b"not text", dst_mac="08:00:27:f2:cb:f9")  # type: ignore[arg-type]
    with Store.open(directory) as store:
        store.write([PutForward(DIRECT)])
        with pytest.raises(Refused, match="nothing was changed"):
            store.write([DeleteForward(DIRECT.to), PutForward(broken)])
        assert store.intent().forward == (DIRECT,)
        store.write([PutForward(VIA)])
        assert len(store.intent().forward) == 2


def test_a_second_opener_is_refused_and_told_the_process(directory):
    with Store.open(directory), pytest.raises(Refused) as caught:
        Store.open(directory)
    assert f"in use by process {os.getpid()}" in str(caught.value)
    assert "\n" not in str(caught.value)
    reopened(directory)


def test_what_was_acknowledged_survives_kill(directory):
    code = f"""
import sys
from pathlib import Path
from hopline.config import Forward
from hopline.store.change import PutForward
from hopline.store.embedded import Store
store = Store.open(Path({str(directory)!r}))
for n in range(1000000):
    store.write([PutForward(Forward(to=f"10.0.{{n >> 8}}.{{n & 255}}", via="10.10.3.1"))])
    print(n, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    acknowledged = -1
    try:
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= 50:
                break
    finally:
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
    acknowledged = max([acknowledged, *map(int, rest)])
    present = {forward.to for forward in reopened(directory).forward}
    assert {f"10.0.{n >> 8}.{n & 255}" for n in range(acknowledged + 1)} <= present


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database, but long enough to look like one" * 100),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(path.stat().st_size - 4096)),
    ],
    ids=["empty", "garbage", "half", "overwritten"],
)
def test_a_damaged_file_is_set_aside_and_named(directory, damage):
    with Store.open(directory) as store:
        store.write([PutForward(Forward(to=f"10.0.0.{n}", via="10.10.3.1")) for n in range(1, 255)])
    damage(directory / "hopline.db")
    damaged = (directory / "hopline.db").read_bytes()
    with Store.open(directory) as store:
        assert store.recovered_from is not None
        assert re.fullmatch(r"hopline\.db\.corrupt-\d{8}T\d{6}Z", store.recovered_from.name)
        assert store.recovered_from.read_bytes() == damaged
        assert store.intent() == Intent()
        store.write([PutForward(DIRECT)])
    assert reopened(directory).forward == (DIRECT,)


def test_a_newer_schema_is_refused_by_number(directory):
    Store.open(directory).close()
    connection = sqlite3.connect(directory / "hopline.db")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(Refused, match=f"schema {SCHEMA_VERSION + 1} is newer"):
        Store.open(directory)
    assert list(directory.glob("*.corrupt-*")) == []


def test_the_file_of_another_application_is_refused(directory):
    Store.open(directory).close()
    connection = sqlite3.connect(directory / "hopline.db")
    connection.execute("PRAGMA application_id = 7")
    connection.close()
    with pytest.raises(Refused, match="another application"):
        Store.open(directory)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"open store .*: file exists"):
        Store.open(tmp_path / "file" / "main")
