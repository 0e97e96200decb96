"""A dump of a large map beside bpftool's: `.venv/bin/python bench/program_maps.py [--quick] [--json FILE]`.

Maps of 1,000,000 entries, of a kind each: a hash of counters by IPv4 address, a hash of next hops with MAC addresses,
an array of numbers, a per-CPU hash, and a hash without BTF. `hopline program map dump` and `bpftool map dump` write
each as text and as JSON in turn, into /dev/null, where bpftool is quickest; a figure is from the start of the process
to its end. Before that, what Hopline writes is read and held against the map.

What it does not show: a pipe or a file, for which bpftool takes up to twice as long as text; a terminal, which is
slower than either; values that are IPv6 addresses or floats, which Python spells one by one.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from record import machine, save

from hopline.kernel import BpfObject, Map
from hopline.lab.shell import hopline_command

ENTRIES, QUICK_ENTRIES = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 3, 1
GOAL = 0.5
SOURCE = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
typedef __be32 ip4_t;
typedef struct { __u8 octet[6]; } mac_t;
struct counter { __u64 packets; __u64 bytes; };
struct next_hop { __u32 ifindex; mac_t source; mac_t destination; __u16 mtu; __u16 flags; };
#define MAP(name, kind, k, v) struct { __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, 1); __type(key, k); \\
                                       __type(value, v); } name SEC(".maps")
MAP(counters, HASH, ip4_t, struct counter);
MAP(next_hops, HASH, ip4_t, struct next_hop);
MAP(numbers, ARRAY, __u32, __u64);
MAP(per_cpu, PERCPU_HASH, ip4_t, struct counter);
SEC("xdp") int use(struct xdp_md *ctx)
{
    __u32 key = 0;

    bpf_map_lookup_elem(&counters, &key);
    bpf_map_lookup_elem(&next_hops, &key);
    bpf_map_lookup_elem(&numbers, &key);
    bpf_map_lookup_elem(&per_cpu, &key);
    return XDP_PASS;
}
char _license[] SEC("license") = "Dual BSD/GPL";
"""


@contextlib.contextmanager
def filled(entries: int) -> Iterator[dict[str, Map]]:
    """The maps by what they hold, full of random values; keys are in no order."""
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(prefix="hl-bench-") as directory:
        source, target = Path(directory, "maps.bpf.c"), Path(directory, "maps.bpf.o")
        source.write_text(SOURCE)
        flags = ["-O2", "-g", "-target", "bpf", "-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu"]
        subprocess.run(["clang", *flags, "-c", str(source), "-o", str(target)], check=True)
        with BpfObject.open(target) as made, Map.create(1, "octets", 8, 16, entries) as octets:
            for name in made.maps():
                made.resize(name, entries)
            made.load()
            maps = {name: made.map(name) for name in made.maps()} | {"octets": octets}
            for found in maps.values():
                keys = chance.permutation(1 << 24)[:entries].astype("u4")
                if found.name == "numbers":
                    keys = np.arange(entries, dtype="u4")
                raw = np.zeros((entries, found.key_size), np.uint8)
                raw[:, :4] = keys.view(np.uint8).reshape(entries, 4)
                size = found.value_dtype.itemsize
                values = np.frombuffer(chance.bytes(entries * size), found.value_dtype)
                if found.value_dtype.names == ("packets", "bytes"):  # as traffic has them, not of 20 digits
                    values = np.array(values)
                    values["packets"] >>= 40
                    values["bytes"] >>= 28
                found.update_batch(raw, values)
            yield maps


def commands(map_id: int) -> dict[tuple[str, str], list[str]]:
    ours, theirs = [hopline_command(), "program", "map", "dump", str(map_id)], ["map", "dump", "id", str(map_id)]
    bpftool = shutil.which("bpftool")
    assert bpftool is not None, "bpftool is not installed"
    return {
        ("hopline", "text"): ours,
        ("hopline", "JSON"): [*ours, "--json"],
        ("bpftool", "text"): [bpftool, *theirs],
        ("bpftool", "JSON"): [bpftool, "-j", *theirs],
    }


def check(found: Map, entries: int) -> None:
    """What Hopline dumps is what the map holds, and all of it."""
    dumped = {language: subprocess.run(command, capture_output=True, check=True).stdout
              for (tool, language), command in commands(found.id).items() if tool == "hopline"}  # fmt: skip
    rows = json.loads(dumped["JSON"])
    lines = dumped["text"].count(b"\n")
    copies = found.ncpu + 1 if found.per_cpu else 1
    assert len(rows) == entries, f"{found.name}: {len(rows)} rows of {entries}"
    assert lines == entries * copies, f"{found.name}: {lines} lines of {entries * copies}"
    _, values = found.items()
    if found.value_dtype.names == ("packets", "bytes"):
        each = [row["values"] if found.per_cpu else [row["value"]] for row in rows]
        for name in ("packets", "bytes"):
            shown = sum(copy[name] for some in each for copy in some)
            assert shown == sum(values[name].ravel().tolist()), f"{found.name}: other {name} than the map has"
    elif found.name == "numbers":
        assert [row["value"] for row in rows] == values.tolist()


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure(name: str, found: Map, rounds: int) -> list[dict]:
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for key, command in commands(found.id).items():
            taken.setdefault(key, []).append(seconds(command))
    rows = []
    for language in ("text", "JSON"):
        row = {"map": name, "language": language}
        for tool in ("hopline", "bpftool"):
            each = taken[tool, language]
            row |= {f"{tool}_s": round(min(each), 3), f"{tool}_median_s": round(statistics.median(each), 3)}
        rows.append(row | {"ratio": round(row["hopline_s"] / row["bpftool_s"], 3)})
    return rows


def markdown(rows: list[dict], entries: int, start: float) -> str:
    lines = [["map", "written as", "hopline, s", "bpftool, s", "ratio"], [*["---"] * 2, *["--:"] * 3]]
    for row in rows:
        both = [f"{row[f'{tool}_s']:.2f} ({row[f'{tool}_median_s']:.2f})" for tool in ("hopline", "bpftool")]
        lines.append([row["map"], row["language"], *both, f"{row['ratio']:.2f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    what = f"{entries:,} entries each; seconds, the least (median)"
    return f"{table}\n\n{what}. Of ours {start:.2f} s is Python's start, as a map of one entry shows.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the entries, once: start takes most of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    told = parser.parse_args()
    entries, rounds = (QUICK_ENTRIES, QUICK_ROUNDS) if told.quick else (ENTRIES, ROUNDS)
    rows: list[dict] = []
    with filled(entries) as maps, Map.create(2, "one", 4, 8, 1) as one:
        for name, found in maps.items():
            check(found, entries)
            rows += measure(name, found, rounds)
            print(f"{name}: {rows[-2]['ratio']} as text, {rows[-1]['ratio']} as JSON", file=sys.stderr, flush=True)
        start = min(seconds(commands(one.id)["hopline", "text"]) for _ in range(10))
    worst = max(row["ratio"] for row in rows)
    text, here = markdown(rows, entries, start), machine()
    print(f"{here['cpu']}, {here['cpus']} CPUs, Linux {here['kernel']}, load {here['load']}\n\n{text}")
    if told.json is not None:
        save(told.json, maps=rows, markdown=text, entries=entries, quick=told.quick, start_s=round(start, 3))
    if not told.quick:
        print(
            f"{'met' if worst <= GOAL else 'NOT MET'}: at most {GOAL} times bpftool's time: it is {worst:.2f} at most"
        )
    return int(worst > GOAL and not told.quick)


if __name__ == "__main__":
    sys.exit(main())
