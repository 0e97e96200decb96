"""A store that was cut: the intent as it was at one change, or set aside and named; never a mixture, never a crash."""

import os
import random
import re
from pathlib import Path

import pytest

from hopline.intent import Wanted
from hopline.store.embedded import Store
from store.play import FEW, PLAYS, Play, many, snapshot, wanted

EMPTY = Wanted({"interface": {}, "forward": {}})
PAGE = 4096


def lengths(size: int, unit: int, dice: random.Random) -> list[int]:
    """Where to cut: around every page or frame at the ends, a few in the middle, and anywhere."""
    units = size // unit
    edges = {*range(min(units, 6)), *range(max(units - 6, 0), units), *dice.sample(range(units), min(units, 12))}
    cuts = {edge * unit + off for edge in edges for off in (0, 1, 24, 100, unit // 2, unit - 1)}
    cuts |= {dice.randrange(size) for _ in range(40)}
    return sorted(cut for cut in cuts if cut < size)


@pytest.fixture(params=["small", "long"])
def made(request, tmp_path) -> tuple[dict[str, bytes], list]:
    """The files of a store whose process died, and what it said at each revision."""
    play = Play(tmp_path / "made" / "main")
    said = []
    for step in PLAYS[request.param]:
        if step is Play.close:
            continue
        if step is Play.open and play.store is not None:
            play.store.close()
        step(play)
        said.append(snapshot(play.store))
    # as it lies there while the process lives, which is as it dies
    files = {path.name: path.read_bytes() for path in play.directory.iterdir() if path.suffix != ".db-shm"}
    play.store.close()
    assert len(files["hopline.db-wal"]) > 10 * PAGE
    return files, said


def opened(directory: Path, files: dict[str, bytes], said: list) -> str:
    """Open what is left; return what became of it."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    with Store.open(directory) as store:
        now = snapshot(store)
        if store.recovered_from is not None:
            assert (now["wanted"], now["revision"], store.fresh) == (EMPTY, 0, True)
            assert store.damage
            assert "\n" not in store.damage
            # SQLite has put a log that is whole into the file, before what the file lacks was seen
            assert "hopline.db-wal" in files or store.recovered_from.read_bytes() == files["hopline.db"]
            return "set aside"
        if store.damage is not None:
            assert re.fullmatch(r"change \d+ is damaged: it and those before it cannot be rolled back", store.damage)
            entries = [(one["wanted"], one["revision"], one["pending"]) for one in said]
            assert (now["wanted"], now["revision"], now["pending"]) in entries
            assert now["history"] in [one["history"][: len(now["history"])] for one in said]
            return "part of the history lost"
        assert now in said
        rows = store.history()
        store.back_to(rows[-1].number - 1 if rows else now["revision"])  # reads all that is kept
        return "newest" if now == said[-1] else "older"


def outcomes(tmp_path: Path, variants, said: list) -> dict[str, int]:
    """Open each; count what became of them."""
    found: dict[str, int] = {}
    for number, (files, where) in enumerate(variants):
        try:
            outcome = opened(tmp_path / f"cut{number}", files, said)
        except BaseException as error:
            raise AssertionError(where) from error
        found[outcome] = found.get(outcome, 0) + 1
    return found


def test_a_log_that_was_cut_leaves_an_intent_that_was(made, tmp_path):
    files, said = made
    log = files["hopline.db-wal"]
    cuts = lengths(len(log), PAGE + 24, random.Random(1))
    found = outcomes(tmp_path, (({**files, "hopline.db-wal": log[:cut]}, f"log cut at {cut}") for cut in cuts), said)
    assert found.keys() <= {"newest", "older"}
    assert found["older"] > 10


def test_a_file_that_was_cut_is_whole_or_set_aside(made, tmp_path):
    files, said = made
    file = files["hopline.db"]
    cuts = lengths(len(file), PAGE, random.Random(2))
    alone = {name: content for name, content in files.items() if name != "hopline.db-wal"}
    variants = [({**kind, "hopline.db": file[:cut]}, f"file cut at {cut}") for cut in cuts for kind in (files, alone)]
    found = outcomes(tmp_path, variants, said)
    assert found["set aside"] > 10


@pytest.fixture
def closed(tmp_path) -> tuple[bytes, list]:
    """The one file of a store that was closed."""
    play = Play(tmp_path / "made" / "main")
    play.open()
    play.settle()
    said = []
    for want in (wanted(FEW, "eth0"), wanted(many(1000, 1), "eth1"), wanted(many(300, 2)), wanted(many(1000, 1))):
        play.want(want)
        said.append(snapshot(play.store))
    play.close()
    return (play.directory / "hopline.db").read_bytes(), said


def test_a_closed_file_that_was_cut_is_set_aside(closed, tmp_path):
    file, said = closed
    cuts = lengths(len(file), PAGE, random.Random(3))
    found = outcomes(tmp_path, (({"hopline.db": file[:cut]}, f"cut at {cut}") for cut in cuts), said)
    assert found["set aside"] > 50
    # but for the end of the last page, which may be that of an inverse
    assert found.keys() <= {"set aside", "newest", "part of the history lost"}
    assert len(cuts) - found["set aside"] < 8


def test_pages_of_zeros_or_noise_are_never_a_mixture(closed, tmp_path):
    file, said = closed
    dice = random.Random(4)
    places = range(PAGE, len(file), PAGE)
    variants = [
        (file[:at] + junk + file[at + PAGE :], f"page at {at}")
        for at in dice.sample(places, min(len(places), 60))
        for junk in (bytes(PAGE), dice.randbytes(PAGE))
    ]
    found = outcomes(tmp_path, (({"hopline.db": content}, where) for content, where in variants), said)
    assert found["set aside"] > 20


def test_garbage_beside_a_file_is_not_believed(closed, tmp_path):
    file, said = closed
    dice = random.Random(5)
    variants = [
        ({"hopline.db": file, f"hopline.db{suffix}": content}, f"{suffix} of {len(content)}")
        for suffix in ("-wal", "-shm", "-journal", ".new", ".new-journal")
        for content in (b"", b"x", dice.randbytes(100), bytes(8192), dice.randbytes(70_000))
    ]
    assert outcomes(tmp_path, variants, said) == {"newest": len(variants)}
    assert os.listdir(tmp_path)
