"""Fixtures for tests that need root; where they cannot run they are skipped, and the reason is given.

A test marked `rootless` needs nothing and always runs.
"""

import os

import pytest

from clang import compile_bpf
from lab.documents import ready
from lab.loading import SOURCE, loading_room
from lab.net import Daemon, Router, missing_tools, remove_leftovers
from lab.traffic import WideRouter, only_xdp_forwards

TOOLS = ("ip", "nsenter", "ethtool", "ping", "tcpdump", "curl", "timeout")


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    missing = missing_tools(*TOOLS)
    return f"needs {', '.join(missing)}" if missing else None


def pytest_configure(config):
    config.addinivalue_line("markers", "rootless: needs neither root nor tools")


def pytest_collection_modifyitems(items):
    reason = why_not()
    if reason is None:
        return
    for item in items:
        if item.path.parent.name == "lab" and item.get_closest_marker("rootless") is None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers():
    if why_not() is None:
        remove_leftovers()


@pytest.fixture
def router():
    """A fresh client -- router -- server network."""
    with Router() as net:
        yield net


@pytest.fixture
def wide():
    """The same with a second next hop behind the router, and neighbours that are known for good."""
    with WideRouter() as net:
        yield net


@pytest.fixture
def daemon(tmp_path):
    """A function that starts a daemon in a namespace: `daemon(ns, "--trace")`; all are cleaned up after the test."""
    started = []

    def start(ns: str, *arguments: str) -> Daemon:
        one = Daemon(ns, tmp_path / f"daemon{len(started)}", *arguments)
        started.append(one)
        return one.__enter__()

    yield start
    for one in started:
        one.clean()


@pytest.fixture(scope="module")
def net():
    """One network for all tests of a module, forwarded by XDP alone: what a test leaves, `serving` removes."""
    with WideRouter() as one:
        only_xdp_forwards(one)
        yield one


@pytest.fixture(scope="module")
def node(net, tmp_path_factory):
    """The daemon on it."""
    with Daemon(net.ns, tmp_path_factory.mktemp("node")) as one:
        yield one


@pytest.fixture
def serving(net, node):
    """That daemon with the first of the two documents in force, and nothing that waits."""
    return ready(net, node)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The object of programs that count, of lab/loading.py."""
    return str(compile_bpf(tmp_path_factory.mktemp("program"), SOURCE))


@pytest.fixture
def ns():
    """A namespace to load it in."""
    with loading_room() as name:
        yield name
