"""What `hopline lab balance` puts beside a node: real servers with a web server and Hopline's decap, and downloads.

A server's pages say its name, so whoever reads them knows who answered: `/` once, `/large` from end to end.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hopline.lab.service import Service
from hopline.lab.shell import enter, environment, run
from hopline.lab.story import Story

END_SECONDS = 3.0
LARGE_OCTETS = 2_600_000
RATE = 100_000  # octets a second of one download: 26 s for all
NGINX = """\
daemon off;
worker_processes 1;
error_log {directory}/error.log;
pid {directory}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 80; root {directory}/pages; }}
}}
"""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, at the latest by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(namespace: str, arguments: Sequence[str], log: Path, record: Path) -> subprocess.Popen[bytes]:
    """Start a process in a namespace, and write its pid to the end of `record` for a later clean-up."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            enter(namespace, arguments),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(),
            start_new_session=True,
        )
    with record.open("a") as file:
        file.write(f"{process.pid}\n")
    return process


class RealServer:
    """Machine `host` with address `address`; files under `directory`, pids of what it starts in `record`."""

    def __init__(self, story: Story, host: str, namespace: str, address: str, service: Service, record: Path) -> None:
        self.story = story
        self.host = host
        self.namespace = namespace
        self.address = address
        self.service = service
        self.directory = service.directory
        self._record = record
        self._web: subprocess.Popen[bytes] | None = None

    def serve_pages(self) -> None:
        """Start nginx, or Python's http.server where that is not installed, on port 80."""
        pages = self.directory / "pages"
        pages.mkdir(parents=True, exist_ok=True)
        (pages / "index.html").write_text(f"{self.host}\n")
        word = f"{self.host}\n".encode()
        (pages / "large").write_bytes(word * (LARGE_OCTETS // len(word)))
        if nginx := shutil.which("nginx", path=environment()["PATH"]):
            settings = self.directory / "nginx.conf"
            settings.write_text(NGINX.format(directory=self.directory))
            arguments, shown = [nginx, "-c", str(settings)], "nginx"
        else:
            arguments = [sys.executable, "-m", "http.server", "80", "--directory", str(pages)]
            shown = "python3 -m http.server 80"
        self.story.command(self.host, f"{shown} &")
        self._web = start(self.namespace, arguments, self.directory / "web.log", self._record)

    def end(self) -> None:
        """End the web server and the daemon."""
        if self._web is not None:
            end(self._web)
        self.service.stop()


@dataclass
class Download:
    """One curl and the file it writes."""

    process: subprocess.Popen[bytes]
    file: Path
    log: Path

    def server(self) -> str:
        """Who answers it, as its first line says; `nobody` before there is one."""
        try:
            with self.file.open("rb") as file:
                return file.readline(16).decode(errors="replace").strip() or "nobody"
        except FileNotFoundError:
            return "nobody"

    def complaint(self) -> str:
        """The last line that curl said, or how it ended."""
        said = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return said[-1] if said else f"exit code {self.process.returncode}, {self.file.stat().st_size} octets"

    def is_whole(self) -> bool:
        """Whether all of it has come, and all from one server."""
        octets = self.file.read_bytes() if self.file.exists() else b""
        word = octets.partition(b"\n")[0] + b"\n"
        return self.process.returncode == 0 and octets == word * (LARGE_OCTETS // len(word))


class Downloads:
    """Slow downloads of `/large`, each from a source port of its own, side by side."""

    def __init__(self, story: Story, host: str, namespace: str, directory: Path, record: Path) -> None:
        self.story = story
        self.host = host
        self.namespace = namespace
        self._directory = directory
        self._record = record
        self._all: list[Download] = []

    def begin(self, url: str, first_port: int, count: int) -> None:
        """Start `count` of them."""
        self._directory.mkdir(parents=True, exist_ok=True)
        # curl keeps to a rate by pauses of several seconds; one that gets nothing for twenty is broken
        options = ["-sS", "--limit-rate", str(RATE), "--speed-limit", "1", "--speed-time", "20"]
        shown = f"curl {' '.join(options)} --local-port $port {url}"
        self.story.command(self.host, f"for port in $(seq {first_port} {first_port + count - 1}); do {shown} & done")
        for number in range(count):
            file = self._directory / f"{number}"
            file.unlink(missing_ok=True)
            arguments = ["curl", *options, "--local-port", str(first_port + number), "-o", str(file), url]
            log = self._directory / f"{number}.log"
            log.unlink(missing_ok=True)
            self._all.append(Download(start(self.namespace, arguments, log, self._record), file, log))

    def running(self) -> int:
        """How many have not ended."""
        return sum(each.process.poll() is None for each in self._all)

    def by_server(self) -> Counter[str]:
        """How many each server answers."""
        return Counter(each.server() for each in self._all)

    def wait(self, seconds: float) -> None:
        """Wait for all to end; those that have not by then are ended, and so broken."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            for each in self._all:
                each.process.wait(seconds)
        self.end()

    def broken(self) -> Counter[str]:
        """How many of each server did not come whole."""
        return Counter(each.server() for each in self._all if not each.is_whole())

    def complaints(self) -> list[str]:
        """What the curls of broken ones have said, each once, with how often and of which server."""
        told = Counter(f"{each.server()}: {each.complaint()}" for each in self._all if not each.is_whole())
        return [f"{count} from {text}" for text, count in sorted(told.items())]

    def end(self) -> None:
        """End what still runs."""
        for each in self._all:
            if each.process.poll() is None:
                end(each.process)


def sysctl(namespace: str, **values: str) -> None:
    """Set sysctls of a namespace: `sysctl(ns, **{"net.ipv4.tcp_rmem": "4096 16384 32768"})`."""
    for name, value in values.items():
        run(enter(namespace, ["sysctl", "-q", "-w", f"{name}={value}"]))
