"""Network namespaces and bpffs: entering one never hides the pins."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hopline.errors import InvalidInput, KernelError, NotFound
from hopline.kernel import bpffs, netns


@pytest.fixture
def namespace():
    name = f"hl-ns-{os.getpid()}"
    netns.create(name)
    yield name
    netns.delete(name, missing_ok=True)


def devices():
    return [name for _, name in socket.if_nameindex()]


def test_a_function_runs_inside_and_the_caller_stays_outside(namespace):
    outside = netns.inode()
    assert netns.run_in(namespace, netns.inode) == netns.inode(namespace) != outside
    assert netns.run_in(namespace, devices) == ["lo"]
    assert netns.inode() == outside
    assert netns.run_in(os.getpid(), netns.inode) == outside
    assert netns.run_in(Path("/run/netns") / namespace, netns.inode) == netns.inode(namespace)


def test_results_and_exceptions_come_back(namespace):
    assert netns.run_in(namespace, divmod, 7, 2) == (3, 1)
    assert netns.run_in(namespace, sorted, [2, 1], reverse=True) == [2, 1]
    with pytest.raises(ZeroDivisionError):
        netns.run_in(namespace, lambda: 1 // 0)


def test_bpffs_is_seen_from_inside(namespace):
    assert netns.run_in(namespace, bpffs.root) == bpffs.root()
    with netns.inside(namespace):
        assert bpffs.is_bpffs(bpffs.root())


def test_inside_returns_also_after_an_error(namespace):
    before = netns.inode()
    with pytest.raises(ZeroDivisionError), netns.inside(namespace):
        1 // (netns.inode() == before)
    assert netns.inode() == before


def test_names_come_and_go(namespace):
    assert netns.exists(namespace)
    assert namespace in netns.names()
    with pytest.raises(KernelError, match=f"create network namespace {namespace}: file exists"):
        netns.create(namespace)
    netns.delete(namespace)
    assert not netns.exists(namespace)
    netns.delete(namespace, missing_ok=True)
    with pytest.raises(KernelError, match="no such file"):
        netns.delete(namespace)


@pytest.mark.parametrize("missing", ["hl-nobody", "/run/netns/hl-nobody", 2**22 + 1])
def test_a_namespace_that_is_not_there_is_named(missing):
    with pytest.raises(NotFound, match=r"nobody|4194305"):
        netns.run_in(missing, devices)
    with pytest.raises(NotFound):
        netns.inode(missing)


def test_ip_netns_exec_does_not_lose_the_pins(namespace):
    """It mounts a fresh /sys: the pins are then found through PID 1."""
    code = "import os; from hopline.kernel import bpffs; print(os.stat(bpffs.root()).st_dev)"
    made = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert made.returncode == 0, made.stderr
    assert int(made.stdout) == os.stat(bpffs.root()).st_dev


def test_an_instance_has_a_directory_of_its_own():
    name = f"hl-test-{os.getpid()}"
    place = bpffs.instance_dir(name)
    try:
        assert place == bpffs.root() / "hopline" / name
        assert place.stat().st_mode & 0o777 == 0o700
        assert bpffs.instance_dir(name) == place
    finally:
        place.rmdir()
    assert not bpffs.instance_dir(name, create=False).exists()


@pytest.mark.parametrize("name", ["", ".", ".hidden", "a.b", "a/b", "x" * 33, "ä", "a b", "a\n"])
def test_names_that_bpffs_or_the_rules_refuse(name):
    with pytest.raises(InvalidInput, match="instance: "):
        bpffs.check_name(name)
