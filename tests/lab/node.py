"""What a node holds, asked of others than Hopline: its maps by bpftool, its store by sqlite, its devices by ip."""

import json
import os
import re
import sqlite3
import subprocess
import time
from ipaddress import IPv4Address, IPv6Address

from hopline import connect
from hopline.lab.shell import Result, enter, environment, hopline_command
from lab.net import Daemon, sh

TABLES = ("forward_exact4", "forward_exact6", "forward_prefix4", "forward_prefix6")
PREFIX_LENGTH_OCTETS = 4


def map_items(daemon: Daemon, name: str) -> dict[bytes, bytes]:
    """A pinned map's keys and values, as octets."""
    told = sh(None, ["bpftool", "-j", "map", "dump", "pinned", str(daemon.pins / name)]).stdout
    octets = {}
    for item in json.loads(told):
        key, value = (bytes(int(octet, 16) for octet in item[part]) for part in ("key", "value"))
        octets[key] = value
    return octets


def kernel_entries(daemon: Daemon) -> set[str]:
    """The destinations that the operator's tables hold."""
    found = set()
    for table in TABLES:
        make = IPv6Address if table.endswith("6") else IPv4Address
        size = 16 if table.endswith("6") else 4
        for key in map_items(daemon, table):
            address = make(key[-size:])
            prefixed = table.startswith("forward_prefix")
            found.add(f"{address}/{int.from_bytes(key[:PREFIX_LENGTH_OCTETS], 'little')}" if prefixed else str(address))
    return found


def kernel_tables(daemon: Daemon) -> dict[str, dict[bytes, bytes]]:
    """What a request could change in the kernel, but for counters and the cache."""
    return {name: map_items(daemon, name) for name in (*TABLES, "interface_slots")}


def store_entries(daemon: Daemon) -> set[str]:
    """The destinations in the store, read by another program while the daemon runs."""
    with sqlite3.connect(f"file:{daemon.directory / 'state' / 'hopline.db'}?mode=ro", uri=True) as database:
        return {to for (to,) in database.execute('SELECT "to" FROM forward')}


def shown_entries(daemon: Daemon) -> set[str]:
    return {row.to for row in connect(daemon.instance).forward.show(origin="operator")}


def xdp_id(ns: str, dev: str) -> int:
    """The id of the XDP program on a device, 0 where there is none."""
    found = re.search(r"prog/xdp id (\d+)", sh(ns, f"ip -d link show dev {dev}").stdout)
    return int(found[1]) if found else 0


def bpf_links() -> set[int]:
    """The ids of all BPF links there are."""
    return {link["id"] for link in json.loads(sh(None, "bpftool -j link show").stdout or "[]")}


def own_links(daemon: Daemon) -> set[int]:
    """The ids of the links that an instance has pinned."""
    pins = daemon.pins.glob("link_*")
    return {json.loads(sh(None, ["bpftool", "-j", "link", "show", "pinned", str(pin)]).stdout)["id"] for pin in pins}


def hopline(ns: str | None, *arguments: str, uid: int | None = None, timeout: float = 20) -> Result:
    """`hopline ARGUMENTS` to its end, as root or as another user with no capability."""
    command = [hopline_command(), *arguments]
    if uid is not None:
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", *command]
    return subprocess.run(
        enter(ns, command), capture_output=True, text=True, timeout=timeout, env=environment(), check=False
    )


def assert_refused(result: Result, code: int, *words: str) -> str:
    """Exactly one line on stderr, nothing on stdout, this exit code, each of the words; return the line."""
    lines = result.stderr.splitlines()
    assert result.returncode == code, result
    assert len(lines) == 1, result
    assert result.stdout == "", result
    assert lines[0].startswith("hopline: "), result
    assert "Traceback" not in result.stderr, result
    assert "fault of hopline" not in result.stderr, result
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
    return lines[0]


def serve_by_netns_exec(daemon: Daemon) -> subprocess.Popen:
    """Start the daemon as a user would who knows only `ip netns exec`, which mounts a fresh /sys."""
    command = ["ip", "netns", "exec", daemon.namespace, hopline_command(), *daemon.arguments]
    daemon.directory.mkdir(parents=True, exist_ok=True)
    with daemon.log.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())
    daemon.process = process
    deadline = time.monotonic() + 10
    while daemon.call("status", check=False).returncode != 0:
        assert process.poll() is None, daemon.log.read_text()
        assert time.monotonic() < deadline, daemon.log.read_text()
        time.sleep(0.05)
    return process


TRIVIAL_XDP = """
__attribute__((section("xdp"), used)) int stranger(void *ctx) { return 2; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


def compile_stranger(directory) -> str:
    """A program of somebody else's that passes everything; the path of its object."""
    source, target = directory / "stranger.c", directory / "stranger.o"
    source.write_text(TRIVIAL_XDP)
    command = ["clang", "-O2", "-g", "-target", "bpf", "-c", str(source), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ})
    return str(target)
