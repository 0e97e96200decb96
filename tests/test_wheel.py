"""What `make dist` ships: a wheel that works where there is no repository."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from repository import ROOT, files, named

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
NO_INDEX = re.compile(r"No matching distribution|Could not find a version|Connection|Temporary failure")


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=110)


def packaged(suffix: str) -> set[str]:
    """The package's files that end so, by their names in the wheel."""
    names = (named(path) for path in files() if path.name.endswith(suffix))
    return {name.removeprefix("src/") for name in names if name.startswith("src/hopline/")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy as of a fresh clone: a build in the checkout would leave and find things there."""
    clone, made = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for path in files():
        target = clone / named(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    done = run([*PIP, "wheel", "-q", "--no-deps", "-w", str(made), "."], clone)
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip("the package index cannot be reached, which building a wheel needs")
    assert done.returncode == 0, done.stderr
    (built,) = made.iterdir()
    return built


def test_the_wheel_has_all_that_runs_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == packaged(".py")
    assert {name for name in names if name.endswith(".o")} == {f"{name[:-2]}.o" for name in packaged(".bpf.c")}
    assert names >= {"hopline/py.typed", "hopline/kernel/_libbpf.abi3.so", "hopline/kernel/_libbpf.pyi"}
    kinds = {Path(name).suffix for name in names if name.startswith("hopline/")}
    assert kinds <= {".py", ".pyi", ".typed", ".so", ".o", ".c", ".h", ".md"}
    lessons = {named(path) for path in files() if named(path).startswith("examples/lessons/")}
    shipped = {name for name in names if name.startswith("hopline/lessons/")}
    assert shipped == {name.replace("examples/", "hopline/", 1) for name in lessons}
    assert "hopline/lessons/redirect/redirect.bpf.c" in shipped


def test_the_wheel_names_and_carries_its_licences(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        metadata = opened.read(next(name for name in names if name.endswith("METADATA"))).decode()
    for path in (ROOT / "LICENSES").iterdir():
        assert [name for name in names if name.endswith(path.name)], path.name
        assert re.search(rf"^License.*{re.escape(path.stem)}", metadata, re.MULTILINE), path.stem


def test_the_wheel_serves_every_later_python(wheel):
    assert wheel.name.split("-")[2:4] == ["cp311", "abi3"]


def test_the_wheel_works_where_there_is_no_repository(wheel, tmp_path):
    site = tmp_path / "site"
    done = run([*PIP, "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)], tmp_path)
    assert done.returncode == 0, done.stderr
    where = {"PYTHONPATH": str(site), "LC_ALL": "C.UTF-8"}
    found = run([sys.executable, "-c", "import hopline; print(hopline.__file__)"], tmp_path, **where)
    assert Path(found.stdout.strip()) == site / "hopline" / "__init__.py", found.stderr
    command = str(site / "bin" / "hopline")
    from hopline import __version__

    assert run([command, "--version"], tmp_path, **where).stdout == f"hopline {__version__}\n"
    doctor = run([command, "doctor"], tmp_path, **where)
    # whatever this host lacks, the answer is the doctor's
    assert doctor.returncode in (0, 1), doctor.stderr
    assert doctor.stderr == ""
    assert all(re.match(r"(ok|WARNING|FAILURE) +\S+: ", line) for line in doctor.stdout.splitlines())
    assert " kernel: " in doctor.stdout
    opened = "from hopline.daemon.datapath import OBJECT; from hopline.kernel import BpfObject"
    text = f"{opened}; print(*BpfObject.open(OBJECT).programs())"
    assert "hopline_xdp" in run([sys.executable, "-c", text], tmp_path, **where).stdout
    told = run([command, "lab", "program"], tmp_path, **where)
    assert told.returncode == 0, told.stderr
    assert re.search("^redirect +[a-z]", told.stdout, re.MULTILINE)
