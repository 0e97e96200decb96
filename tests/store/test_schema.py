"""The file: brought up from schema 1 in place, refused where it is newer or not ours, and damage named."""

import sqlite3

import pytest

from hopline.config import Interface, NextHop
from hopline.errors import Refused
from hopline.intent import Change, Delta, Wanted
from hopline.store.embedded import Store
from hopline.store.schema import SCHEMA_VERSION

# as the first release made it
SCHEMA_1 = """
PRAGMA journal_mode = WAL;
CREATE TABLE interface (
    name TEXT PRIMARY KEY, mode TEXT NOT NULL, bypass_policy INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE forward (
    "to" TEXT PRIMARY KEY, dev TEXT, src_mac TEXT, dst_mac TEXT, via TEXT
) STRICT, WITHOUT ROWID;
INSERT INTO interface VALUES ('enp0s3', 'native', 1), ('enp0s9', 'auto', 0);
INSERT INTO forward VALUES ('10.10.3.5', 'enp0s9', NULL, '08:00:27:f2:cb:f9', NULL);
INSERT INTO forward VALUES ('2001:db8::/64', 'enp0s9', NULL, NULL, 'fe80::1');
PRAGMA application_id = 0x484F504C;
PRAGMA user_version = 1;
"""
WANTED_1 = Wanted(
    {
        "interface": {"enp0s3": Interface("enp0s3", "native", True), "enp0s9": Interface("enp0s9")},
        "forward": {
            "10.10.3.5": NextHop(dev="enp0s9", dst_mac="08:00:27:f2:cb:f9"),
            "2001:db8::/64": NextHop(dev="enp0s9", via="fe80::1"),
        },
    }
)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "main"


def execute(directory, script: str) -> None:
    """As another program would."""
    directory.mkdir(exist_ok=True)
    connection = sqlite3.connect(directory / "hopline.db")
    connection.executescript(script)
    connection.close()


def test_schema_1_is_brought_up_in_place(directory):
    execute(directory, SCHEMA_1)
    with Store.open(directory) as store:
        assert (store.recovered_from, store.fresh, store.revision, store.history()) == (None, False, 0, [])
        assert store.read() == WANTED_1
        assert not store.back_to(0)
        change = Change({"forward": Delta(before={"10.10.3.5": WANTED_1.of("forward")["10.10.3.5"]})})
        assert store.write(change, by="x", what="x") == 1
    with Store.open(directory) as store:
        assert store.recovered_from is None
        store.write(store.back_to(0), by="x", what="x")
        assert store.read() == WANTED_1
    connection = sqlite3.connect(directory / "hopline.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_both_schemas_have_the_same_tables_of_entries(tmp_path):
    columns = []
    execute(tmp_path / "one", SCHEMA_1)
    Store.open(tmp_path / "two").close()
    for directory in (tmp_path / "one", tmp_path / "two"):
        connection = sqlite3.connect(directory / "hopline.db")
        columns.append(
            [connection.execute(f"PRAGMA table_xinfo({table})").fetchall() for table in ("interface", "forward")]
        )
    assert columns[0] == columns[1]


def test_a_damaged_file_of_schema_1_is_set_aside(directory):
    execute(directory, SCHEMA_1 + "UPDATE interface SET mode = 'fast' WHERE name = 'enp0s9';")
    with Store.open(directory) as store:
        assert "interface 'enp0s9': " in store.damage
        assert store.read() == Wanted({"interface": {}, "forward": {}})


def test_a_newer_schema_is_refused_by_number(directory):
    Store.open(directory).close()
    execute(directory, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(Refused, match=f"schema {SCHEMA_VERSION + 1} is newer"):
        Store.open(directory)
    assert list(directory.glob("*.corrupt-*")) == []


def test_the_file_of_another_application_is_refused_and_not_touched(directory):
    Store.open(directory).close()
    execute(directory, "PRAGMA application_id = 7")
    before = (directory / "hopline.db").read_bytes()
    with pytest.raises(Refused, match="another application"):
        Store.open(directory)
    assert (directory / "hopline.db").read_bytes() == before


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "UPDATE forward SET \"to\" = 'nowhere' WHERE via IS NULL",
            "forward 'nowhere': to: nowhere is not an IP address",
        ),
        ("UPDATE forward SET \"to\" = '10.10.3.5/32' WHERE via IS NULL", "forward '10.10.3.5/32': to: "),
        (
            "UPDATE forward SET dst_mac = 'zz' WHERE via IS NULL",
            "forward '10.10.3.5': dst_mac: zz is not a MAC address",
        ),
        ("UPDATE forward SET dst_mac = NULL WHERE via IS NULL", "forward '10.10.3.5': dst_mac: missing"),
        ("UPDATE forward SET dst_mac = CAST(x'ff00' AS TEXT)", "could not decode to utf-8"),
        ("UPDATE interface SET bypass_policy = 2", "interface 'enp0s3': "),
        ("DELETE FROM forward WHERE via IS NULL", "it holds 1 entries of forward and says 2"),
        ("DROP TABLE forward", "no table forward"),
        ("DROP TABLE history", "no table history"),
        ("DELETE FROM state", "does not say its revision"),
        ("UPDATE state SET entries = '[]'", "state: entries: "),
        ("UPDATE state SET revision = 9", "the history does not lead to change 9"),
        ("UPDATE state SET pending = 9, confirm_by = 1.0", "change 9, which waits to be confirmed, is not in"),
        ("UPDATE history SET counts = 'x'", "history 1: counts: "),
        ("UPDATE history SET number = 7", "the history does not lead to change 1"),
    ],
)
def test_damage_is_named(directory, script, said):
    with Store.open(directory) as store:
        deltas = {noun: Delta(after=WANTED_1.of(noun)) for noun in ("interface", "forward")}
        store.write(Change(deltas), by="x", what="x")
    execute(directory, script)
    with Store.open(directory) as store:
        assert said in store.damage
        assert store.recovered_from.exists()
        assert store.fresh
        assert store.read() == Wanted({"interface": {}, "forward": {}})
