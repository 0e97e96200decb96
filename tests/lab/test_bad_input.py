"""What is wrong is refused in one line, changes nothing, and leaves the daemon serving: the real command line."""

import socket
import subprocess

import pytest

from hopline import connect
from hopline.lab.shell import enter, environment, hopline_command
from lab.net import Daemon, Router, missing_tools, sh, unique_tag
from lab.node import assert_refused, hopline, kernel_tables, store_entries, xdp_id

MAC = "02:00:00:00:02:02"
BY_RIGHT = ["--dev", "right", "--dst-mac", MAC]
NOBODY = 65534

pytestmark = pytest.mark.skipif(bool(missing_tools("bpftool", "setpriv")), reason="needs bpftool and setpriv")


@pytest.fixture(scope="module")
def net():
    with Router() as router:
        router.pin_neighbours()
        sh(router.ns, "ip link add br0 type bridge")
        sh(router.ns, "ip link set br0 up")
        yield router


@pytest.fixture(scope="module")
def one(net, tmp_path_factory):
    """One daemon for all of this file: whatever it was asked, it goes on."""
    with Daemon(net.ns, tmp_path_factory.mktemp("bad") / "daemon") as daemon:
        daemon.call("interface", "add", "left")
        for to in ("10.50.0.1", "10.51.0.0/16", "fd00:50::1", "fd00:51::/64"):
            daemon.call("forward", "add", to, *BY_RIGHT)
        yield daemon
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()


def everything(net, one) -> dict:
    """What may not have changed: intent shown and stored, the kernel's tables, programs, pins."""
    return {
        "shown": one.json("forward", "show", "--origin", "operator"),
        "interfaces": [(s["name"], s["attached"], s["program_id"], s["wanted_mode"])
                       for s in one.json("interface", "show")],
        "stored": store_entries(one),
        "kernel": kernel_tables(one),
        "programs": [xdp_id(net.ns, dev) for dev in ("left", "right", "br0")],
        "pins": sorted(path.name for path in one.pins.iterdir()),
        "pid": one.json("status")["pid"],
    }  # fmt: skip


@pytest.fixture
def unchanged(net, one):
    before = everything(net, one)
    yield
    assert everything(net, one) == before


def forward_add(to: str, *hop: str) -> list[str]:
    return ["forward", "add", to, *(hop or BY_RIGHT)]


REFUSED = {
    "unknown device": (forward_add("10.8.0.1", "--dev", "nosuch", "--dst-mac", MAC), ["nosuch", "ip link"]),
    "device name too long": (forward_add("10.8.0.1", "--dev", "a" * 40, "--dst-mac", MAC), ["dev"]),
    "multicast MAC": (forward_add("10.8.0.1", "--dev", "right", "--dst-mac", "01:00:5e:00:00:01"), ["multicast"]),
    "broadcast MAC": (forward_add("10.8.0.1", "--dev", "right", "--dst-mac", "ff:ff:ff:ff:ff:ff"), ["broadcast"]),
    "zero MAC": (forward_add("10.8.0.1", "--dev", "right", "--dst-mac", "00:00:00:00:00:00"), ["dst_mac"]),
    "short MAC": (forward_add("10.8.0.1", "--dev", "right", "--dst-mac", "02:00:00"), ["not a MAC address"]),
    "MAC of letters": (forward_add("10.8.0.1", "--dev", "right", "--dst-mac", "zz:00:00:00:00:01"), ["not a MAC"]),
    "multicast source": (forward_add("10.8.0.1", *BY_RIGHT, "--src-mac", "03:00:00:00:00:01"), ["src_mac"]),
    "host bits": (forward_add("10.8.0.1/24"), ["host bits", "10.8.0.0/24"]),
    "host bits, IPv6": (forward_add("fd00:8::1/64"), ["host bits", "fd00:8::/64"]),
    "IPv4-mapped": (forward_add("::ffff:10.8.0.1"), ["IPv4-mapped", "10.8.0.1"]),
    "IPv4-mapped prefix": (forward_add("::ffff:10.8.0.0/120"), ["IPv4-mapped", "10.8.0.0/24"]),
    "no address": (forward_add("hello"), ["hello", "not an IP address"]),
    "empty address": (forward_add(""), ["not an IP address"]),
    "line breaks": (forward_add("10.8.0.1\nhopline: done"), ["not an IP address"]),
    "prefix too long": (forward_add("10.8.0.0/33"), ["/33"]),
    "zone": (forward_add("fe80::1%left"), ["zone"]),
    "multicast destination": (forward_add("224.0.0.9"), ["multicast"]),
    "link-local destination": (forward_add("fe80::/64"), ["link-local"]),
    "loopback destination": (forward_add("127.0.0.1"), ["loopback"]),
    "via no neighbour": (forward_add("10.8.0.1", "--via", "192.0.2.1"), ["192.0.2.1", "neighbour"]),
    "via our own address": (forward_add("10.8.0.1", "--via", "10.2.0.1"), ["10.2.0.1", "this host's own address"]),
    "via our own address, by device": (
        forward_add("10.8.0.1", "--via", "10.2.0.1", "--dev", "right"),
        ["10.2.0.1", "this host's own address"],
    ),
    "via the other family": (forward_add("10.8.0.1", "--via", "fd00:2::2"), ["fd00:2::2", "IPv6"]),
    "via a link-local without device": (forward_add("fd00:8::1", "--via", "fe80::1"), ["fe80::1", "dev"]),
    "via, unknown device": (forward_add("10.8.0.1", "--via", "10.2.0.2", "--dev", "nosuch"), ["nosuch"]),
    "bridge": (forward_add("10.8.0.1", "--dev", "br0", "--dst-mac", MAC), ["br0", "bridge", "redirect"]),
    "lo": (forward_add("10.8.0.1", "--dev", "lo", "--dst-mac", MAC), ["lo"]),
    "added twice": (forward_add("10.50.0.1"), ["10.50.0.1", "exists", "replace"]),
    "added twice, other spelling": (forward_add("10.50.0.1/32"), ["10.50.0.1", "exists"]),
    "del absent": (["forward", "del", "10.8.8.8"], ["10.8.8.8", "no such entry"]),
    "del nonsense": (["forward", "del", "10.8.8.8/8"], ["host bits"]),
    "get nonsense": (["forward", "get", "10.8.8"], ["10.8.8"]),
    "get of a prefix": (["forward", "get", "10.8.0.0/24"], ["prefix"]),
    "get in no interface": (["forward", "get", "10.8.0.1", "--in", "right"], ["right"]),
    "show nonsense": (["forward", "show", "10.8.0.1/8"], ["host bits"]),
    "interface unknown": (["interface", "add", "nosuch"], ["nosuch", "ip link"]),
    "interface lo": (["interface", "add", "lo"], ["lo", "Ethernet"]),
    "interface path": (["interface", "add", "../etc"], ["name"]),
    "interface twice": (["interface", "add", "left"], ["left", "exists"]),
    "interface set unknown": (["interface", "set", "right", "--mode", "native"], ["right", "interface add"]),
    "interface del unknown": (["interface", "del", "right"], ["right"]),
    "interface show unknown": (["interface", "show", "right"], ["right"]),
}

USAGE = {
    "no next hop": (["forward", "add", "10.8.0.1"], ["--via"]),
    "device without MAC": (["forward", "add", "10.8.0.1", "--dev", "right"], ["--dst-mac"]),
    "MAC without device": (["forward", "replace", "10.8.0.1", "--dst-mac", MAC], ["--dev"]),
    "via and MAC": (["forward", "add", "10.8.0.1", "--via", "10.2.0.2", "--dst-mac", MAC], ["--via"]),
    "no destination": (["forward", "add", "--via", "10.2.0.2"], ["argument 'DEST': see"]),
    "unknown option": (["forward", "add", "10.8.0.1", "--colour", "red"], ["--colour"]),
    "unknown verb": (["forward", "frobnicate"], ["frobnicate"]),
    "unknown noun": (["frobnicate"], ["frobnicate"]),
    "limit zero": (["forward", "show", "--limit", "0"], ["limit"]),
    "limit of letters": (["forward", "show", "--limit", "many"], ["many"]),
    "unknown origin": (["forward", "show", "--origin", "heaven"], ["heaven"]),
    "flush operator": (["forward", "flush", "--origin", "operator"], ["operator"]),
    "flush without origin": (["forward", "flush"], ["--origin"]),
    "next hops and more": (["forward", "show", "--next-hops", "--limit", "1"], ["--next-hops"]),
    "set nothing": (["interface", "set", "left"], ["nothing to set"]),
    "unknown mode": (["interface", "add", "right", "--mode", "warp"], ["warp"]),
    "two instances": (["--instance", "other", "status"], ["--instance", "twice"]),
}


@pytest.fixture(scope="module")
def nothing_changes(net, one):
    """Tables of refused requests are compared as a whole: before the first, after the last."""
    before = everything(net, one)
    yield
    assert everything(net, one) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_is_refused_in_one_line(name, net, one, nothing_changes):
    arguments, words = REFUSED[name]
    shown = connect(one.instance).forward.show(origin="operator")
    assert_refused(hopline(net.ns, *arguments, "--instance", one.instance), 1, *words)
    assert connect(one.instance).forward.show(origin="operator") == shown


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_is_2(name, net, one, nothing_changes):
    arguments, words = USAGE[name]
    assert_refused(hopline(net.ns, *arguments, "--instance", one.instance), 2, *words)


def test_the_kernels_tables_are_as_they_were(net, one, unchanged):
    """After each kind in turn, not only at the end of all."""
    for name in ("host bits", "bridge", "added twice", "del absent"):
        arguments = REFUSED[name][0]
        before = kernel_tables(one)
        assert hopline(net.ns, *arguments, "--instance", one.instance).returncode == 1
        assert kernel_tables(one) == before


def test_no_daemon_is_said_with_how_to_start_one(net):
    instance = unique_tag()
    for arguments in (["status"], ["forward", "show"], ["interface", "add", "left"], forward_add("10.8.0.1")):
        refused = hopline(net.ns, *arguments, "--instance", instance)
        assert_refused(refused, 1, instance, "start it with", f"--instance {instance}")


@pytest.mark.parametrize("name", ["../x", ".hidden", "a b", "", "x" * 33, "a/b", "ä"])
def test_a_name_that_is_no_instance(net, name):
    line = assert_refused(hopline(net.ns, "status", "--instance", name), 1, "instance")
    assert "instance main" not in line, "an empty name is taken for the default"
    assert_refused(hopline(net.ns, "serve", "--instance", name), 1, "instance")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--fwd-api", "0.0.0.0:5555"], "--fwd-api-allow"),
        (["--fwd-api", "[::]:5555"], "--fwd-api-allow"),
        (["--fwd-api", "localhost:5555"], "numeric"),
        (["--fwd-api", "127.0.0.1"], "ADDR:PORT"),
        (["--fwd-api", "127.0.0.1:70000"], "port"),
        (["--fwd-api", "192.0.2.9:5555", "--fwd-api-allow", "0.0.0.0/0"], "192.0.2.9:5555"),
        (["--fwd-api", "127.0.0.1:5555", "--fwd-api-allow", "10.0.0.1/8"], "10.0.0.0/8"),
        (["--fwd-api-allow", "10.0.0.0/8"], "--fwd-api"),
        (["--cache-size", "5"], "cache-size"),
        (["--run", "/dev/null/run"], "/dev/null"),
        (["--state", "/dev/null/state"], "/dev/null"),
        (["--run", "/run/" + "long" * 30], "longer"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else value,
)
def test_a_daemon_that_is_told_nonsense_does_not_start(net, tmp_path, arguments, word):
    instance = unique_tag()
    places = [] if "--state" in arguments else ["--state", str(tmp_path / "state")]
    places += [] if "--run" in arguments else ["--run", str(tmp_path / "run")]
    try:
        refused = hopline(net.ns, "serve", "--instance", instance, *places, *arguments)
        said = [line for line in refused.stderr.splitlines() if line.startswith("hopline: ")]
        assert refused.returncode == 1, refused
        assert len(said) == 1, refused.stderr
        assert word in said[0]
        assert "Traceback" not in refused.stderr
    finally:
        Daemon(net.ns, tmp_path, instance=instance).clean()


def test_a_port_that_is_taken_is_named(net, tmp_path):
    with Daemon(net.ns, tmp_path / "first", "--fwd-api", "127.0.0.1:5580"):
        second = Daemon(net.ns, tmp_path / "second", "--fwd-api", "127.0.0.1:5580")
        try:
            refused = hopline(net.ns, *second.arguments)
            assert refused.returncode == 1
            assert "127.0.0.1:5580" in refused.stderr.splitlines()[-1], refused.stderr
            assert "Traceback" not in refused.stderr
        finally:
            second.clean()


def as_nobody(net, *arguments: str) -> subprocess.CompletedProcess:
    """`hopline ARGUMENTS` as a user who is nobody; skipped where that user may not read the program."""
    tried = hopline(net.ns, "--version", uid=NOBODY)
    if tried.returncode != 0:
        pytest.skip(f"uid {NOBODY} cannot run {hopline_command()}: {tried.stderr.strip()[:80]}")
    return hopline(net.ns, *arguments, uid=NOBODY)


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["forward", "show"], forward_add("10.8.0.1"), ["forward", "del", "10.50.0.1"],
     ["interface", "add", "right"], ["interface", "del", "left"], ["forward", "flush", "--origin", "learned"],
     ["detach"]],
    ids=" ".join,
)  # fmt: skip
def test_another_user_may_not(net, one, nothing_changes, arguments):
    refused = as_nobody(net, *arguments, "--instance", one.instance)
    assert_refused(refused, 1, "permission denied", "root")


def test_another_user_cannot_serve(net, tmp_path):
    assert_refused(as_nobody(net, "serve", "--instance", unique_tag()), 1, "CAP_BPF", "CAP_NET_ADMIN", "root")


def test_root_without_capabilities_cannot_serve_or_detach(net, one, tmp_path):
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", hopline_command()]
    for verb, words in ((["serve"], ["CAP_BPF"]), (["detach"], ["root"])):
        command = enter(net.ns, [*bare, *verb, "--instance", unique_tag()])
        refused = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=20, check=False)
        if verb == ["detach"] and "nothing of it is in the kernel" in refused.stderr:
            continue  # it may look, and there is nothing
        assert_refused(refused, 1, *words)


def test_the_sockets_are_open_to_whom_they_should_be(one):
    modes = {path.name: path.stat().st_mode & 0o777 for path in one.run_directory.iterdir()}
    assert modes["admin.sock"] == 0o600
    assert modes["view.sock"] == 0o660
    assert (one.directory / "state").stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(one.run_directory / "view.sock"))
