"""In CI a test that could not run must be one that is known not to run there: nothing is skipped in silence."""

import os
import re
from pathlib import Path

import pytest

from front_double import Doors

KNOWN = Path(__file__).parent / "known_skips.txt"
UNFORESEEN = pytest.StashKey[list[str]]()


def known_reasons() -> list[re.Pattern[str]]:
    """The expressions in known_skips.txt."""
    lines = (line.strip() for line in KNOWN.read_text().splitlines())
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests of one name where they are handed out to several processes: only one of them would run."""
    named = [item.nodeid for item in items]
    if hasattr(config, "workerinput") and len(set(named)) < len(named):
        twice = sorted({name for name in named if named.count(name) > 1})
        raise pytest.UsageError(f"these have one name and are several: run them by themselves: {', '.join(twice)}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped a test for a reason nobody foresaw."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    known = known_reasons()
    unforeseen = []
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(pattern.search(reason) for pattern in known):
            unforeseen.append(f"{report.nodeid}: {reason}")
    session.config.stash[UNFORESEEN] = unforeseen
    if unforeseen:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the skips that nobody foresaw."""
    for line in config.stash.get(UNFORESEEN, []):
        terminalreporter.write_line(f"unforeseen skip: {line}", red=True)


@pytest.fixture(scope="module")
def open_doors(tmp_path_factory):
    """The daemon's doors before a double of its service, one for all tests of a module."""
    with Doors(tmp_path_factory.mktemp("run")) as doors:
        yield doors


@pytest.fixture
def doors(open_doors):
    """Those doors, the double as new."""
    open_doors.service.__init__()
    return open_doors
