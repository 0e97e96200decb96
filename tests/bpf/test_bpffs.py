"""Names with dots on bpffs, which refuses them unless it is asked in the right way."""

import os
import threading

import pytest

from hopline.errors import InvalidInput
from hopline.kernel import bpffs
from hopline.kernel.map import Map


@pytest.fixture
def place():
    made = bpffs.instance_dir(f"t{os.getpid()}-dots")
    yield made
    for path in sorted(made.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    made.rmdir()


def test_a_name_with_a_dot_is_made_found_and_renamed(place):
    with pytest.raises(PermissionError):
        (place / "eth0.1").mkdir()
    assert not bpffs.is_there(place / "eth0.1")
    with bpffs.dotted(place / "eth0.1"):
        (place / "eth0.1").mkdir()
    assert place.stat().st_mode & 0o777 == 0o700
    assert bpffs.is_there(place / "eth0.1")
    with Map.create(2, "dots", 4, 4, 1) as one:
        one.pin(place / "eth0.1" / "dots")
    with bpffs.dotted(place / "eth0.2"):
        (place / "eth0.1").rename(place / "eth0.2")
    assert [path.name for path in place.iterdir()] == ["eth0.2"]
    Map.from_pin(place / "eth0.2" / "dots").close()


def test_many_at_once_leave_the_mode_as_it_was(place):
    failed = []

    def make(number):
        try:
            for n in range(20):
                with bpffs.dotted(place / f"d{number}.{n}"):
                    (place / f"d{number}.{n}").mkdir()
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list(place.iterdir())) == 80
    assert place.stat().st_mode & 0o777 == 0o700


def test_the_mode_comes_back_after_a_failure(place):
    with pytest.raises(FileNotFoundError), bpffs.dotted(place / "x.y"):
        (place / "gone" / "deep").mkdir()
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256])
def test_names_that_are_none(name):
    with pytest.raises(InvalidInput, match="is no name for a directory"):
        bpffs.program_dir(name)
