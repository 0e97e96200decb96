"""A pytest plugin: a JSON line as each test begins and ends, so that a VM that dies has told how far it came."""

import json
import os
from pathlib import Path

import pytest

FILE = Path(os.environ["HOPLINE_KERNEL_RESULTS"]) / "outcomes"


def note(what: str, **fields) -> None:
    with FILE.open("a") as file:
        file.write(json.dumps({"what": what, **fields}) + "\n")


def pytest_collection_finish(session: pytest.Session) -> None:
    note("collected", count=len(session.items))


def pytest_runtest_logstart(nodeid: str) -> None:
    note("begun", test=nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    note("ended", test=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        note(report.outcome, test=report.nodeid, reason=reason(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        note("failed", test=report.nodeid, reason=reason(report))


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test failed or was skipped, in a line."""
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else report.longreprtext.strip()).splitlines()[0][:300]
