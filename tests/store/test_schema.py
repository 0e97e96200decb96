"""The file: brought up from schema 1 in place, refused where it is newer or not ours, and damage named."""

import sqlite3

import pytest

from hopline.config import Backend, Decap, Interface, NextHop, Service
from hopline.errors import Refused
from hopline.intent import Change, Delta, Wanted
from hopline.store.embedded import Store
from hopline.store.history import packed
from hopline.store.schema import SCHEMA_VERSION, Pending

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


BALANCE = {
    "service": {"web": Service("web", "10.0.0.33", "80", "tcp", backend=(Backend("10.0.0.1"),))},
    "decap": {"10.0.0.1 ipip from 10.0.0.0/24": Decap("10.0.0.1", "10.0.0.0/24")},
}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "main"


def execute(directory, script: str) -> None:
    """As another program would."""
    directory.mkdir(exist_ok=True)
    connection = sqlite3.connect(directory / "hopline.db")
    connection.executescript(script)
    connection.close()


# as the second did, with one change in its history
SCHEMA_2 = f"""
{SCHEMA_1.replace("user_version = 1", "user_version = 2")}
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, entries TEXT NOT NULL,
    pending INTEGER, confirm_by REAL
) STRICT;
CREATE TABLE history (
    number INTEGER PRIMARY KEY, "when" REAL NOT NULL, "by" TEXT NOT NULL, what TEXT NOT NULL, counts TEXT NOT NULL,
    inverse BLOB NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 1, '{{"interface":2,"forward":2}}', 1, 4e9);
INSERT INTO history VALUES (1, 1.5, 'x', 'apply', '{{}}', x'INVERSE');
"""


@pytest.fixture
def second_release(directory):
    change = Change({noun: Delta(before=entries) for noun, entries in WANTED_1.entries.items()})
    execute(directory, SCHEMA_2.replace("INVERSE", packed(change).hex()))
    return directory


def test_schema_2_is_brought_up_in_place_with_its_history(second_release):
    for _ in range(2):
        with Store.open(second_release) as store:
            assert (store.recovered_from, store.damage, store.revision) == (None, None, 1)
            assert store.pending == Pending(1, 4e9)
            assert [(row.number, row.what, row.pending) for row in store.history()] == [(1, "apply", True)]
            assert store.read() == WANTED_1
    with Store.open(second_release) as store:
        assert store.write(store.back_to(0), by="x", what="x", settles_pending=True) == 2
        assert store.read() == Wanted({"interface": {}, "forward": {}})


def test_an_older_schema_that_says_other_numbers_is_set_aside_as_it_was(second_release):
    execute(second_release, 'UPDATE state SET entries = \'{"interface":2,"forward":3}\'')
    with Store.open(second_release) as store:
        assert store.damage == "it holds 2 entries of forward and says 3"
        aside = sqlite3.connect(store.recovered_from)
    assert aside.execute("PRAGMA user_version").fetchone() == (2,)
    assert len(aside.execute("SELECT dev, via FROM forward").fetchall()) == 2


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


# as the third did: the first forwards' next hops each once
SCHEMA_3 = (
    SCHEMA_2.replace("user_version = 2", "user_version = 3")
    + """
DROP TABLE forward;
CREATE TABLE forward ("to" TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE forward_value (
    number INTEGER PRIMARY KEY, entries INTEGER NOT NULL, dev TEXT, src_mac TEXT, dst_mac TEXT, via TEXT
) STRICT;
CREATE INDEX forward_value_known ON forward_value (dev, src_mac, dst_mac, via);
INSERT INTO forward VALUES ('10.10.3.5', 1), ('2001:db8::/64', 2);
INSERT INTO forward_value VALUES (1, 1, 'enp0s9', NULL, '08:00:27:f2:cb:f9', NULL);
INSERT INTO forward_value VALUES (2, 1, 'enp0s9', NULL, NULL, 'fe80::1');
"""
)


def test_schema_3_is_brought_up_in_place_and_takes_services(directory):
    change = Change({noun: Delta(before=entries) for noun, entries in WANTED_1.entries.items()})
    execute(directory, SCHEMA_3.replace("INVERSE", packed(change).hex()))
    web = Service("web", "10.0.0.33", "80", "tcp", backend=(Backend("10.0.0.1"),))
    with Store.open(directory) as store:
        assert (store.recovered_from, store.damage, store.revision) == (None, None, 1)
        assert store.read() == WANTED_1
        store.confirm()
        store.write(Change({"service": Delta(after={"web": web})}), by="x", what="x")
    with Store.open(directory) as store:
        assert store.read() == Wanted({**WANTED_1.entries, "service": {"web": web}})
        store.write(store.back_to(1), by="x", what="x")
        assert store.read() == WANTED_1
        store.write(store.back_to(0), by="x", what="x")
        assert store.read() == Wanted()


def test_an_older_schema_without_a_table_of_its_own_is_damaged(directory):
    execute(directory, SCHEMA_3.replace("INVERSE", "00") + "DROP TABLE forward_value;")
    with Store.open(directory) as store:
        assert store.damage == "no table forward_value"


def test_a_file_that_was_brought_up_is_as_one_made_anew(tmp_path, second_release):
    execute(tmp_path / "one", SCHEMA_1)
    made = []
    for directory in (tmp_path / "one", tmp_path / "new", second_release):
        Store.open(directory).close()
        connection = sqlite3.connect(directory / "hopline.db")
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema ORDER BY name")]
        made.append({name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in tables})
    assert made[0] == made[1] == made[2]
    assert {"interface", "forward", "forward_value", "service", "decap", "state", "history"} <= made[0].keys()


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
            "UPDATE forward SET \"to\" = 'nowhere' WHERE value = 1",
            "forward 'nowhere': to: nowhere is not an IP address",
        ),
        ("UPDATE forward SET \"to\" = '10.10.3.5/32' WHERE value = 1", "forward '10.10.3.5/32': to: "),
        ("UPDATE forward SET \"to\" = '10.10.3.5' || char(0) || 'x' WHERE value = 1", "is not an IP address"),
        ("UPDATE forward SET \"to\" = CAST(x'31ff' AS TEXT) WHERE value = 1", "could not decode to utf-8"),
        ("UPDATE forward SET value = 9 WHERE value = 1", "forward '10.10.3.5': its value 9 is missing"),
        ("UPDATE forward SET value = 2 WHERE value = 1", "forward '10.10.3.5': via: fe80::1 is IPv6 and"),
        ("UPDATE forward_value SET entries = 2 WHERE number = 1", "forward_value 1: 1 entries have it, and it says 2"),
        (
            "UPDATE forward_value SET dst_mac = 'zz' WHERE via IS NULL",
            "forward '10.10.3.5': dst_mac: zz is not a MAC address",
        ),
        ("UPDATE forward_value SET dst_mac = NULL WHERE via IS NULL", "forward '10.10.3.5': dst_mac: missing"),
        ("UPDATE forward_value SET dst_mac = CAST(x'ff00' AS TEXT)", "could not decode to utf-8"),
        ("UPDATE interface SET bypass_policy = 2", "interface 'enp0s3': "),
        ("DELETE FROM forward WHERE value = 1", "forward_value 1: 0 entries have it, and it says 1"),
        (
            "DELETE FROM forward WHERE value = 1; DELETE FROM forward_value WHERE number = 1",
            "it holds 1 entries of forward and says 2",
        ),
        ("DROP TABLE forward", "no table forward"),
        ("DROP TABLE forward_value", "no table forward_value"),
        ("DROP TABLE history", "no table history"),
        ("UPDATE service SET ring = 65536", "service 'web': ring: 65536 is not a prime"),
        ("UPDATE service SET port = '080'", "service 'web': port: 080 is neither a port"),
        ("UPDATE service SET backend = '[{}]'", "service 'web': Object missing required field `address`"),
        ("UPDATE service SET backend = '['", "service 'web': "),
        ("UPDATE service SET backend = replace(backend, '10.0.0.1', '10.0.0.33')", "backend[0].address: 10.0.0.33 is"),
        ("UPDATE service SET name = 'a.b'", "service 'a.b': name: a.b cannot name a service"),
        ("UPDATE decap SET \"from\" = '10.0.0.9/32'", "decap '10.0.0.1 ipip from 10.0.0.0/24': local: "),
        ("UPDATE decap SET \"key\" = '10.0.0.2 ipip from any'", "decap '10.0.0.2 ipip from any': local: "),
        ("DROP TABLE decap", "no table decap"),
        ("DELETE FROM service", "it holds 0 entries of service and says 1"),
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
        deltas = {noun: Delta(after=entries) for noun, entries in {**WANTED_1.entries, **BALANCE}.items()}
        store.write(Change(deltas), by="x", what="x")
    execute(directory, script)
    with Store.open(directory) as store:
        assert said in store.damage
        assert store.recovered_from.exists()
        assert store.fresh
        assert store.read() == Wanted({"interface": {}, "forward": {}})
