"""Speed and memory of the control path: `.venv/bin/python bench/control.py [--quick] [--json FILE]`.

A real daemon in a namespace of its own, at 10,000, 100,000 and 1,000,000 operator entries by 64 next hops, in no order:
`hopline forward load`, one `replace`, requests of 1, 10 and 100 clients, restarts, memory; and bpftool beside it. Each
entry is looked up in the kernel's map, or the daemon's word for it is: a figure of something that was not done raises.

What it does not show: IPv6 and prefixes, which take longer to compare at a start; next hops that differ from entry to
entry; another disk than that of the temporary directory, whose file system is printed; a host with other work to do.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import control_report
from control_bpftool import Bpftool
from control_clients import FIRST, MACS, body_of, measured, percentile
from control_daemon import HOPLINE, Connection, Served, in_namespace, served
from record import machine

from hopline import connect
from hopline.kernel import Map

NEXT_HOPS = 64
STRIDE = 0x9E3779B1  # odd, so that n → n * STRIDE is a permutation of any power of two
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (10_000, 50_000)
CLIENTS = (1, 10, 100)

Figures = dict[str, Any]


def destination(number: int) -> str:
    return str(IPv4Address(int(FIRST) + number))


def write_csv(path: Path, entries: int) -> None:
    mask = (1 << (entries - 1).bit_length()) - 1
    mixed = (number * STRIDE & mask for number in range(mask + 1))
    with path.open("w") as file:
        file.write("to,dev,dst_mac\n")
        file.writelines(f"{destination(n)},out0,02:00:00:00:00:{n % NEXT_HOPS:02x}\n" for n in mixed if n < entries)


def spread(seconds: list[float]) -> dict[str, float]:
    in_order = sorted(seconds)
    return {f"p{part}_ms": round(percentile(in_order, part / 100) * 1e3, 2) for part in (50, 99)}


def load(daemon: Served, entries: int) -> Figures:
    """`hopline forward load` of a file, until the command has ended: all is durable and in the kernel then."""
    file = daemon.directory / "many.csv"
    write_csv(file, entries)
    before = daemon.seconds_spent()
    took, _ = daemon.run("forward", "load", str(file))
    spent = {name: seconds - before[name] for name, seconds in daemon.seconds_spent().items()}
    rss, peak = daemon.memory()
    with Map.from_pin(daemon.pins / "forward_exact4") as table:
        found = len(table.items()[0])
    assert found == entries, f"the kernel has {found} of {entries} entries"
    in_kernel = spent["plan"] + spent["execute"] - spent["durable"]  # `execute` is the store's part too
    return {
        "load_s": round(took, 2),
        "store_s": round(spent["durable"], 2),
        "kernel_s": round(in_kernel, 2),
        "plan_to_map_per_s": round(entries / in_kernel),
        "rss_mb": rss,
        "load_peak_mb": peak,
    }


def replaced(daemon: Served, times: int, replace: Callable[[str, int], None]) -> dict[str, float]:
    """One entry gets another next hop, and is looked up in the kernel: its adjacency id must have changed each time."""
    to, took = destination(1), []
    key = IPv4Address(to).packed
    with Map.from_pin(daemon.pins / "forward_exact4") as table:
        replace(to, 1)
        last = table.get(key)
        for turn in range(times):
            began = time.perf_counter()
            replace(to, turn)
            took.append(time.perf_counter() - began)
            now = table.get(key)
            assert now != last, "the kernel's entry is the old one"
            last = now
    return spread(took)


def replaces(daemon: Served, quick: bool) -> Figures:
    client = connect(daemon.instance, daemon.socket.parent)
    with contextlib.closing(Connection(daemon.socket)) as kept:
        ways = {
            "kept": (200, lambda to, turn: kept.ask("PUT", "/forwards", body_of(to, turn))),
            "client": (100, lambda to, turn: client.forward.replace(to, dev="out0", dst_mac=MACS[turn % 2])),
            "command": (
                10,
                lambda to, turn: daemon.run("forward", "replace", to, "--dev", "out0", "--dst-mac", MACS[turn % 2]),
            ),
        }
        return {way: replaced(daemon, times // (5 if quick else 1), how) for way, (times, how) in ways.items()}


def rates(daemon: Served, quick: bool) -> list[Figures]:
    seconds = 0.5 if quick else 4.0
    return [
        {"kind": kind, "clients": number, **measured(daemon.socket, number, seconds, kind)}
        for kind in ("show", "replace")
        for number in CLIENTS
    ]


def restarts(daemon: Served, entries: int, times: int) -> Figures:
    """Seconds from exec to the first answer, everything adopted: no step was needed for kernel and store to agree."""
    took, cpu = [], []
    for _ in range(times):
        daemon.stop()
        took.append(daemon.start())
        cpu.append(daemon.cpu_seconds())
        assert daemon.agreed() == (entries, 0), f"entries and steps: {daemon.agreed()}"
    rss, peak = daemon.memory()
    return {
        "restart_s": round(min(took), 2),
        "restart_median_s": round(statistics.median(took), 2),
        "restart_cpu_s": round(min(cpu), 2),
        "restart_rss_mb": rss,
        "restart_peak_mb": peak,
    }


def at_size(entries: int, quick: bool) -> Figures:
    with served() as daemon:
        empty = daemon.start()
        for device in ("in0", "out0"):
            daemon.run("interface", "add", device)
        found = {"entries": entries, "start_empty_s": round(empty, 2), "empty_mb": daemon.memory()[0]}
        found |= load(daemon, entries)
        found["replace"] = replaces(daemon, quick)
        found["rates"] = rates(daemon, quick)
        found |= restarts(daemon, entries, 2 if quick else 5)
        return found


def python_start(times: int) -> Figures:
    """What starting Python, and importing, takes of a command and of the daemon's start; the least of some runs."""
    ways = {
        "python_s": [sys.executable, "-c", ""],
        "version_s": [HOPLINE, "--version"],
        "daemon_imports_s": [sys.executable, "-c", "import hopline.cli.main, hopline.daemon.main"],
    }
    found = {}
    for name, command in ways.items():
        took = []
        for _ in range(times):
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took.append(time.perf_counter() - began)
        found[name] = round(min(took), 3)
    return found


def bpftool(pin: Path, quick: bool) -> Figures:
    each, batch = (100, 10_000) if quick else (1000, 100_000)
    tool = Bpftool(pin)
    try:
        seconds = tool.each([destination(n) for n in range(each)])
        assert tool.entries() == each
        whole = tool.batch([destination(n) for n in range(batch)])
        assert tool.entries() == batch
    finally:
        tool.close()
    return {
        "each_entries": each,
        "each_per_s": round(each / seconds),
        "batch_entries": batch,
        "batch_per_s": round(batch / whole),
    }


def measure(quick: bool, target: Path | None) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True, text=True, check=True)
    document: Figures = {
        "taken": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "file_system": kind.stdout.strip(),
        "python": python_start(3 if quick else 10),
        "bpftool": bpftool(Path(f"/sys/fs/bpf/hl-control-{time.time_ns()}"), quick),
        "sizes": [],
    }
    for entries in QUICK_SIZES if quick else SIZES:
        document["sizes"].append(at_size(entries, quick))
        print(control_report.size(document["sizes"][-1]), flush=True)
    document["markdown"] = control_report.markdown(document)
    print(document["markdown"])
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer entries, fewer times: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    asked = parser.parse_args()
    in_namespace(lambda: measure(asked.quick, asked.json))
