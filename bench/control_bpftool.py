"""bpftool filling a map of the same shape as the daemon's: a process for each entry, and one process for all."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ENTRIES_MOST = 1 << 20  # as forward_exact4 has


class Bpftool:
    """A hash map of bpftool's own, pinned at `pin` until `close`."""

    def __init__(self, pin: Path) -> None:
        self.pin = pin
        shape = f"type hash key 4 value 4 entries {ENTRIES_MOST} name control flags 1"
        subprocess.run(["bpftool", "map", "create", str(pin), *shape.split()], check=True)

    def close(self) -> None:
        self.pin.unlink(missing_ok=True)

    def _update(self, destination: str) -> list[str]:
        key = destination.split(".")
        return ["map", "update", "pinned", str(self.pin), "key", *key, "value", "16", "0", "0", "0"]

    def each(self, destinations: Sequence[str]) -> float:
        """Seconds for a process an entry."""
        program = shutil.which("bpftool")
        assert program is not None
        began = time.perf_counter()
        for destination in destinations:
            subprocess.run([program, *self._update(destination)], check=True)
        return time.perf_counter() - began

    def batch(self, destinations: Sequence[str]) -> float:
        """Seconds of `bpftool batch file`, the writing of the file not counted."""
        with tempfile.NamedTemporaryFile("w", prefix="hl-control-") as file:
            file.writelines(" ".join(self._update(destination)) + "\n" for destination in destinations)
            file.flush()
            began = time.perf_counter()
            subprocess.run(["bpftool", "batch", "file", file.name], stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - began

    def entries(self) -> int:
        told = subprocess.run(
            ["bpftool", "-j", "map", "dump", "pinned", str(self.pin)], capture_output=True, check=True
        )
        return len(json.loads(told.stdout))
