"""What the tests are worth: the datapath with a fault in one place, dozens of them, is never taken for a right one.

Each fault is built into a copy of the sources and the tests named for it are run against that object; they must fail.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bpf.conftest import obstacle
from faults.builder import applied, build
from faults.table import FAULTS, OF_BALANCE, Fault
from repository import ROOT

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle())

EXIT_TESTS_FAILED = 1
MODEL, MODEL_OF_BALANCE = "tests/model/test_agreement.py", "tests/model/test_agreement_balance.py"
AGREE = "they_agree and not million"


def who_fails(built: Path, tests: str, only: str) -> str:
    """The first test that fails against an object; that none does is an error, and so is one that cannot be run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "--tb=line", "-p", "no:cacheprovider", tests]
    command += ["-k", only] if only else []
    # skips that a CI would not accept are the affair of the run that starts this one
    environment = {**os.environ, "HOPLINE_TEST_OBJECT": str(built), "CI": ""}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = made.stdout + made.stderr
    # a fault that does not load, or a test that breaks before it looks, is nobody's catch
    assert made.returncode == EXIT_TESTS_FAILED, said
    caught = re.search(r"^FAILED ([^\s\[]+)", said, re.MULTILINE)
    assert caught, said
    return caught[1]


def named(fault: Fault) -> str:
    return fault.sentence.replace(" ", "-")


CASES = [pytest.param(fault, id=named(fault), marks=[] if fault.quick else pytest.mark.slow) for fault in FAULTS]


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_is_caught(fault, tmp_path, record_property):
    caught = who_fails(build(tmp_path, fault.changes), fault.tests, fault.only)
    record_property("caught by", caught)
    print(f"\n    {fault.sentence}: caught by {caught}", end="")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.model], ids=named)
def test_the_model_notices_it_too(fault, tmp_path):
    """Packets that were drawn show it, and not only those that somebody thought of."""
    model = MODEL_OF_BALANCE if fault in OF_BALANCE else MODEL
    assert who_fails(build(tmp_path, fault.changes), model, AGREE).endswith("test_they_agree")


@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_the_place_of_a_fault_is_there_once(fault):
    text = (ROOT / "src" / "hopline" / "bpf" / fault.file).read_text()
    for change in fault.changes:
        if change.file != fault.file:
            continue
        text = applied(change, text)


def test_every_fault_is_said_once():
    sentences = [fault.sentence for fault in FAULTS]
    assert len(sentences) == len(set(sentences)) > 20
