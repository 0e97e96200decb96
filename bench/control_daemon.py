"""A real `hopline serve` for bench/control.py: in a namespace of its own, asked over its socket, weighed in /proc."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from world import end_cleanly, furnish

from hopline.kernel import netns
from hopline.lab.service import PINS, remove_instance
from hopline.lab.shell import environment

HOPLINE = str(Path(sys.executable).with_name("hopline"))
READY_SECONDS = 120.0
POLL_SECONDS = 0.002
AGREED = re.compile(r"(\d+) entries, (\d+) steps to agree")
METRICS = "127.0.0.1:9437"


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket, kept from one request to the next."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=READY_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        self.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        answer = self.getresponse()
        said = answer.read()
        assert answer.status == 200, f"{method} {target}: {answer.status} {said[:200]!r}"
        return said


class Served:
    """One daemon over a store of its own, in the calling thread's namespace."""

    def __init__(self, instance: str, directory: Path) -> None:
        self.instance = instance
        self.directory = directory
        self.socket = directory / "run" / "admin.sock"
        self.log = directory / "serve.log"
        self.pins = PINS / instance
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self) -> list[str]:
        where = ["--state", str(self.directory / "state"), "--run", str(self.directory / "run")]
        # no comparison of intent and kernel in the middle of a measurement
        return [HOPLINE, "serve", "--instance", self.instance, *where, "--metrics", METRICS, "--check-every", "86400"]

    def start(self) -> float:
        """Start it; return the seconds from exec to its first answer."""
        with self.log.open("ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(self.arguments(), stdout=log, stderr=log, env=environment())
        while time.perf_counter() < began + READY_SECONDS:
            with contextlib.suppress(OSError), contextlib.closing(Connection(self.socket)) as connection:
                connection.ask("GET", "/forwards?limit=1")  # of an entry, so that it says what it serves
                return time.perf_counter() - began
            assert self.process.poll() is None, f"hopline serve has ended: {self.log.read_text()[-400:]}"
            time.sleep(POLL_SECONDS)
        raise AssertionError("hopline serve does not answer")

    def agreed(self) -> tuple[int, int]:
        """How many entries the last start found in the store, and how many steps it took to agree with the kernel."""
        entries, steps = AGREED.findall(self.log.read_text())[-1]
        return int(entries), int(steps)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(READY_SECONDS)
            self.process = None

    def command(self, *arguments: str) -> list[str]:
        return [HOPLINE, *arguments, "--instance", self.instance, "--run", str(self.directory / "run")]

    def run(self, *arguments: str) -> tuple[float, str]:
        """Run a `hopline` command of this instance to its end; return how many seconds it took and what it said."""
        began = time.perf_counter()
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, env=environment(), check=False)
        took = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        return took, done.stdout

    def memory(self) -> tuple[float, float]:
        """VmRSS now and VmHWM since the last `forget_peak`, in MB (10**6 bytes)."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        rss, peak = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
        return round(rss, 1), round(peak, 1)

    def cpu_seconds(self) -> float:
        """What the daemon has used of a CPU since its exec, in user space and in the kernel."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def seconds_spent(self) -> dict[str, float]:
        """What the daemon has spent so far on planning, in the store and in the kernel, by its own metrics."""
        host, _, port = METRICS.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=READY_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        found = re.findall(r"^hopline_(plan|execute|durable)_seconds_sum ([\d.e+-]+)", text, re.MULTILINE)
        return {name: float(value) for name, value in found}


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A daemon that is to be started; whatever happens, its process, pins and files go."""
    instance = f"hl-control-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="hl-control-") as directory:
        daemon = Served(instance, Path(directory))
        try:
            yield daemon
        finally:
            daemon.stop(signal.SIGKILL)
            remove_instance(instance)


def in_namespace(measure: Callable[[], None]) -> None:
    """Run `measure` in a fresh namespace with the devices in0 and out0, and with lo up for the metrics."""
    end_cleanly()
    name = f"hl-control-{os.getpid()}"
    netns.create(name)
    try:
        furnish(name)
        subprocess.run(["nsenter", f"--net=/run/netns/{name}", "ip", "link", "set", "lo", "up"], check=True)
        netns.run_in(name, measure)
    finally:
        netns.delete(name)
