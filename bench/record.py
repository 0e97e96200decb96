"""What a bench has found, as JSON: figures, and the machine that they are from."""

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row; ns a packet. `over_…` is how far it is over its own empty row."""

    family: int
    destinations: int
    row: str
    least: float
    median: float
    over_least: float
    over_median: float
    rounds: int
    packets: int  # of one round
    missed: float | None = None  # part of the packets that the flow cache did not answer
    entries: int | None = None  # the operator's
    cache_size: int | None = None
    table_lines: int | None = None  # cache lines of the table that `one random line` reads
    # of one packet, counted by bench/emulate
    instructions: int | None = None
    calls: int | None = None  # helpers that are really called
    lookups: int | None = None
    lines: int | None = None  # cache lines of maps, and of what leads to them


def machine() -> dict[str, str | int]:
    """What a figure depends on, as far as the machine says it."""
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ": unknown")
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = {
        f"L{(at / 'level').read_text().strip()}": (at / "size").read_text().strip()
        for at in sorted(caches.glob("index*"))
        if (at / "type").read_text().strip() != "Instruction"
    }
    return {
        "cpu": cpu.partition(":")[2].strip(),
        "cpus": os.cpu_count() or 0,
        "caches": ", ".join(f"{level} {size}" for level, size in sizes.items()),
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def save(target: Path, **found: Any) -> None:
    """Write what was found, with when and where."""
    taken = datetime.now(UTC).isoformat(timespec="minutes")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"taken": taken, "machine": machine(), **found}, indent=1) + "\n")


def load(source: Path) -> tuple[dict, list[Figure]]:
    """Return what is said about the run, and its figures."""
    document = json.loads(source.read_text())
    return document, [Figure(**one) for one in document["figures"]]
