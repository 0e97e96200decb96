"""What tests of the running kernel share: a reason where they cannot run, and namespaces that are always cleaned up."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from bpf.balanced import Balanced, open_balanced
from bpf.pipeline import Pipeline, open_pipeline
from bpf.world import ENTRIES, ROUTES
from hopline.errors import HoplineError
from hopline.kernel import netns
from hopline.kernel.map import Map


@cache
def obstacle() -> str:
    """Why this machine cannot run these tests, or ""."""
    if os.geteuid() != 0:
        return "not root"
    try:
        Map.create(2, "probe", 4, 4, 1).close()
    except HoplineError as error:
        return f"no BPF here: {error}"
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that lacks rights is skipped and says why; it never passes unseen."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here) and obstacle():
            item.add_marker(pytest.mark.skip(reason=obstacle()))


@dataclass(frozen=True)
class Pair:
    """A namespace with both ends of a veth, up: `left` and `right` by name, indices with them."""

    namespace: str
    left: str
    right: str
    left_index: int
    right_index: int

    def sh(self, command: str) -> str:
        """Run a command inside; its output."""
        return netns.run_in(self.namespace, run, command)


def run(command: str) -> str:
    """Run a shell command and return its output; the test fails with stderr if it does."""
    made = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"{command}: {made.stderr}"
    return made.stdout


@contextlib.contextmanager
def veth_pair(tag: str) -> Iterator[Pair]:
    """A namespace hl-TAG-PID with veth left0 and right0, gone at the end whatever happens."""
    name = f"hl-{tag}-{os.getpid()}"
    netns.create(name)
    try:
        netns.run_in(name, run, "ip link add left0 type veth peer name right0 && ip link set left0 up")
        netns.run_in(name, run, "ip link set right0 up && ip link set lo up")
        left, right = (netns.run_in(name, socket.if_nametoindex, device) for device in ("left0", "right0"))
        yield Pair(name, "left0", "right0", left, right)
    finally:
        netns.delete(name)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """One veth pair in a namespace of its own."""
    with veth_pair("veth") as made:
        yield made


@pytest.fixture(scope="session")
def _pipeline() -> Iterator[Pipeline]:
    with open_pipeline() as made:
        yield made


@pytest.fixture
def pipeline(_pipeline: Pipeline) -> Pipeline:
    """The shipped pipeline with empty tables, learning off, and a lease; see bpf/pipeline.py."""
    _pipeline.reset()
    return _pipeline


@pytest.fixture(scope="session")
def _balanced() -> Iterator[Balanced]:
    with open_balanced() as made:
        yield made


@pytest.fixture
def balanced(_balanced: Balanced) -> Balanced:
    """The pipeline with `balance` on and no services; see bpf/balanced.py."""
    _balanced.reset()
    return _balanced


@pytest.fixture(scope="module")
def routes(_pipeline: Pipeline):
    """Routes of every kind in the router, for what is learned."""
    add = "".join(f"\nip {'-6 ' if '::' in route else ''}route add {route}" for route in ROUTES)
    _pipeline.sh(f"ip link add unslotted type veth peer name unslotted1; ip link set unslotted up{add}")
    neighbours = ("192.0.2.21", "2001:db8:e::7")
    _pipeline.sh("".join(f"ip neigh add {a} lladdr 02:00:00:00:00:09 dev unslotted nud permanent;" for a in neighbours))
    _pipeline.sh("ip link set unslotted1 up")
    yield
    # the routes through it go with the device
    kept = [route for route in ROUTES if "dev unslotted" not in route]
    drop = "".join(f"\nip {'-6 ' if '::' in route else ''}route del {route}" for route in kept)
    _pipeline.sh(f"ip link del unslotted{drop}")


@pytest.fixture
def world(pipeline: Pipeline, routes) -> Pipeline:
    """ENTRIES and ROUTES, and learning on for both families."""
    for to, next_hop in ENTRIES.items():
        pipeline.forward(to, next_hop)
    pipeline.learn()
    return pipeline
