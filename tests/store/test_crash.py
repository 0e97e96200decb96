"""Power loss at any call, death at any call, a disk that fails any call: the old intent or the new, never a mixture."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

from hopline.intent import Change, Delta, Wanted
from hopline.store.embedded import Store
from store.disk import Disk, Op, read_log, restore
from store.play import BEGIN, HOPS, PLAYS, Play, Snapshot, snapshot
from store.test_schema import SCHEMA_1, execute

HERE = Path(__file__).parent
EMPTY = Wanted({"interface": {}, "forward": {}})
# what is acknowledged must be there at the least
LOOKED_AT = {Op.MARK: ("synced",), Op.WRITE: ("synced", "some")}
KILL_BEFORE, KILL_WITHIN, FAIL_BEFORE, FAIL_AFTER = range(4)


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    target = tmp_path_factory.mktemp("shim") / "crash.so"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(HERE / "crash.c"), "-o", str(target), "-ldl"], check=True)
    return target


@pytest.fixture
def fast():
    """A directory in memory, where a sync costs nothing: what it does is crash.c's to say."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="hl-store-", dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


@cache
def template(name: str) -> bytes | None:
    """The store that is there before a play begins."""
    if name not in ("old", "spoilt"):
        return None
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made, "main")
        execute(directory, SCHEMA_1)
        content = (directory / "hopline.db").read_bytes()
    return content if name == "old" else content[:4096] + bytes(len(content) - 4096)


def prepare(name: str, root: Path) -> None:
    root.mkdir(exist_ok=True)
    content = template(name)
    if content is not None:
        (root / "template").mkdir()
        (root / "template" / "hopline.db").write_bytes(content)


def played(shim: Path, name: str, root: Path, manner: int, calls: list[int], log: Path | None = None) -> list[dict]:
    """Play once for each call, with the disk striking at that call."""
    prepare(name, root)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LD_PRELOAD": str(shim)}
    environment["CRASH_ROOT"] = str(root)
    if log is not None:
        environment["CRASH_LOG"] = str(log)
    command = [sys.executable, str(HERE / "play.py"), name, str(root), str(manner), *map(str, calls)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class Expected:
    """What the store says after each step of a play where nothing fails, and what the intent was at each revision."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        directory.mkdir(parents=True)
        if (content := template(name)) is not None:
            (directory / "hopline.db").write_bytes(content)
        self.states: list[Snapshot] = []
        self.settled: list[bool] = []
        self.intents: dict[int, Wanted] = {}
        play = Play(directory)
        for step in PLAYS[name]:
            step(play)
            if step is not Play.close:
                state = snapshot(play.store)
                self.intents.setdefault(state["revision"], state["wanted"])
            self.states.append(state)
            self.settled.append(not play.store.fresh)

    def check(self, directory: Path, done: int, *, refused: bool = False, thorough: bool = True) -> None:
        """The store in `directory` is as after `done` steps or, unless that was refused, as after one more."""
        with Store.open(directory) as store:
            assert store.recovered_from is None or self.name == "spoilt"
            now = snapshot(store)
            possible = [self.states[max(done - 1, 0)]]
            if done < len(self.states) and not refused:
                possible.append(self.states[done])
            assert now in possible
            if done and self.settled[done - 1]:
                assert not store.fresh
            elif self.name != "old" and not any(self.settled[: done + 1]):
                assert store.fresh, "an empty store that was made anew is not the operator's wish"
            if thorough:
                self._check_history(store, now)
        if thorough:
            self._check_use(directory, now)

    def _check_history(self, store: Store, now: Snapshot) -> None:
        numbers = [row[0] for row in now["history"]]
        oldest = numbers[-1] - 1 if numbers else 0
        for number in {*numbers[:4], *numbers[len(numbers) // 2 :][:2], oldest}:
            entries = {}
            for noun, held in now["wanted"].entries.items():
                delta = store.back_to(number).of(noun)
                assert {key: held.get(key) for key in delta.before} == delta.before
                entries[noun] = {k: v for k, v in held.items() if k not in delta.before} | delta.after
            assert Wanted(entries) == self.intents[number]

    def _check_use(self, directory: Path, now: Snapshot) -> None:
        """What was found can be worked with."""
        with Store.open(directory) as store:
            store.write(Change({"forward": Delta(after={"192.0.2.77": HOPS[3]})}), by="x", what="x")
        with Store.open(directory) as store:
            assert store.read().of("forward") == {**now["wanted"].of("forward"), "192.0.2.77": HOPS[3]}
            assert store.revision == now["revision"] + 1


@pytest.fixture
def expected(tmp_path):
    return lambda name: Expected(name, tmp_path / f"expected-{name}" / "main")


def base(disk: Disk, records, name: str) -> list:
    """Give the disk what was there when the play began; return what came then."""
    begin = next(i for i, record in enumerate(records) if record.op is Op.MARK and record.path == BEGIN)
    content = template(name)
    for record in records[:begin]:
        if record.op is Op.CREATE and content is not None and "/0/main/" in record.path:
            disk.put(record.inode, record.path, content)
    if content is not None:
        disk.names[f"{disk.root}/main"] = disk.durable[f"{disk.root}/main"] = None
    return records[begin + 1 :]


@pytest.mark.parametrize("name", ["small", "old", "spoilt"])
def test_what_was_written_down_is_all_that_was_done(shim, fast, name):
    root, log = fast / "root", fast / "log"
    (result,) = played(shim, name, root, KILL_BEFORE, [0], log)
    assert result["status"] == 0
    disk = Disk(f"{root}/0")
    for record in base(disk, read_log(log), name):
        disk.do(record)
    there = {str(path): None if path.is_dir() else path.read_bytes() for path in (root / "0").rglob("*")}
    assert disk.present() == there
    assert len(there) > 2


@pytest.mark.parametrize("name", PLAYS)
def test_power_lost_at_any_call_leaves_the_old_intent_or_the_new(shim, fast, expected, name):
    root, log = fast / "root", fast / "log"
    played(shim, name, root, KILL_BEFORE, [0], log)
    want, disk, done, dice = expected(name), Disk(f"{root}/0"), 0, random.Random(name)
    records = base(disk, read_log(log), name)
    checked = 0
    for number, record in enumerate(records):
        disk.do(record)
        done += record.op is Op.MARK
        # of the many writes of a large change a few are looked at, of all else every one
        if record.op is Op.WRITE and dice.random() > 150 / len(records):
            continue
        for how, image in disk.images(number):
            if how not in LOOKED_AT.get(record.op, (how,)):
                continue
            target = fast / "image"
            restore(image, disk.root, target)
            try:
                want.check(target / "main", done, thorough=checked % 7 == 0)
            except BaseException as error:
                raise AssertionError(f"after call {number}, {record.op.name} {record.path}, {how}") from error
            shutil.rmtree(target)
            checked += 1
    assert done == len(PLAYS[name])
    assert checked > 50


def calls_of(shim: Path, name: str, fast: Path, writes: int) -> list[int]:
    """Every call of a play that is no write, every sync above all, and about so many of the writes."""
    log = fast / "log"
    (whole,) = played(shim, name, fast / "whole", KILL_BEFORE, [0], log)
    ops = [record.op for record in base(Disk(f"{fast}/whole/0"), read_log(log), name) if record.op is not Op.MARK]
    assert whole["said"][-1] == f"calls {len(ops)}"
    dice = random.Random(name)
    return [n for n, op in enumerate(ops, 1) if op is not Op.WRITE or dice.random() < writes / len(ops)]


@pytest.mark.parametrize("manner", [KILL_BEFORE, KILL_WITHIN], ids=["before", "within"])
@pytest.mark.parametrize("name", PLAYS)
def test_death_at_any_call_leaves_the_old_intent_or_the_new(shim, fast, expected, name, manner):
    calls = calls_of(shim, name, fast, 60)
    want = expected(name)
    for result in played(shim, name, fast / "root", manner, calls):
        done = result["said"].count("done")
        assert result["status"] == 9, result
        want.check(fast / "root" / str(result["call"]) / "main", done, thorough=result["call"] % 7 == 0)


@pytest.mark.parametrize("manner", [FAIL_BEFORE, FAIL_AFTER], ids=["before", "after"])
@pytest.mark.parametrize("name", ["small", "old", "spoilt"])
def test_what_a_failing_disk_refused_has_changed_nothing(shim, fast, expected, name, manner):
    calls = calls_of(shim, name, fast, 40)
    want, refusals = expected(name), 0
    for result in played(shim, name, fast / "root", manner, calls):
        done, refused = result["said"].count("done"), "refused" in result["said"][-1]
        assert result["status"] == (9 if refused else 0), result
        refusals += refused
        want.check(fast / "root" / str(result["call"]) / "main", done, refused=refused)
    assert refusals > len(calls) // 10
