"""The stage of docs/features/balance.md: a client, a director and three real servers on one LAN, as the page has it."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from hopline.cli import main as cli
from hopline.kernel import netns
from hopline.lab.shell import enter, environment, hopline_command, ip_batch, run
from hopline.lab.topology import sysctl_script, tear_down
from lab.net import Daemon, sh, unique_tag
from lab.traffic import wait_for

DIRECTOR = ("192.168.33.10", "08:00:27:07:da:cb")
CLIENT = ("192.168.33.1", "0a:00:27:00:00:01")
SERVERS = {f"rs{i}": (f"192.168.33.{10 + i}", f"08:00:27:96:39:d{4 + i}") for i in (1, 2, 3)}
# says its name to who asks for a page, as the web server of the page does
WEB = """
import http.server, sys

class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = (sys.argv[1] + chr(10)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 80), Pages).serve_forever()
"""


class Stage:
    """`with Stage(directory) as stage:` builds and removes it; `run` does one command of the page."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tag = unique_tag()
        self.switch = f"hl-{self.tag}-switch"
        self.places = {"director": DIRECTOR, "client": CLIENT, **SERVERS}
        self.hosts = {name: f"hl-{self.tag}-{name}" for name in self.places}
        self._stack = contextlib.ExitStack()

    def _build(self) -> None:
        """Make the LAN; the names of its cables' ends do not hold the tag, which leaves too few letters."""
        ip_batch(None, [f"netns add {name}" for name in (self.switch, *self.hosts.values())])
        for ns in self.hosts.values():
            run(enter(ns, ["sh", "-c", sysctl_script(forwards=False)]))
        ip_batch(self.switch, ["link add lan type bridge forward_delay 0", "link set lan up"])
        for name, (address, mac) in self.places.items():
            ns = self.hosts[name]
            ip_batch(ns, [f"link add eth1 address {mac} type veth peer name {name} netns {self.switch}"])
            for where, device in ((ns, "eth1"), (self.switch, name)):
                run(enter(where, ["ethtool", "-K", device, "gro", "on", "tx", "off"]))
            ip_batch(self.switch, [f"link set {name} master lan", f"link set {name} up"])
            ip_batch(ns, ["link set lo up", f"address add {address}/24 dev eth1", "link set eth1 up"])
            if name != "client":
                ip_batch(ns, [f"route add default via {CLIENT[0]}"])

    def __enter__(self) -> "Stage":
        with contextlib.ExitStack() as stack:
            stack.callback(tear_down, (self.switch, *self.hosts.values()))
            self._build()
            self.daemons = {
                name: stack.enter_context(Daemon(self.hosts[name], self.directory / name))
                for name in ("director", *SERVERS)
            }
            for name in SERVERS:
                web = subprocess.Popen(enter(self.hosts[name], [sys.executable, "-c", WEB, name]), env=environment())
                stack.callback(self._end, web)
            for address, _ in SERVERS.values():
                wait_for(lambda a=address: sh(self.hosts["client"], f"curl -s {a}", check=False).returncode == 0, 10)
            self._wrap()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc) -> None:
        self._stack.close()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait()

    def _wrap(self) -> None:
        """Put `hopline`, as on the director, and `ssh HOST COMMAND` where the page's commands find them."""
        self.programs = self.directory / "bin"
        self.programs.mkdir()
        path = environment()["PATH"]

        def write(name: str, body: str) -> None:
            script = self.programs / name
            script.write_text(f'#!/bin/sh\nPATH="{path}"\n{body}\n')
            script.chmod(0o755)

        for name, ns in self.hosts.items():
            instance = f" --instance {self.daemons[name].instance}" if name in self.daemons else ""
            inside = " ".join(enter(ns, []))
            (self.programs / name).mkdir()
            write(f"{name}/hopline", f'exec {inside} {hopline_command()}{instance} "$@"')
            write(f"{name}/run", f'PATH="{self.programs / name}:$PATH" exec {inside} sh -c "$*"')
        for command in ("ip", "ping"):
            write(command, f'exec {" ".join(enter(self.hosts["director"], [command]))} "$@"')
        write("hopline", f'exec {self.programs}/director/hopline "$@"')
        write("ssh", f'host="$1"; shift; exec {self.programs}/"$host"/run "$@"')

    def run(self, command: str) -> str:
        """What a command prints, both streams as a terminal would show them."""
        host, alone = "director", command
        if command.startswith("ssh "):
            _, host, alone = command.split(" ", 2)
        if alone.startswith("hopline ") and not set(alone) & set("|&;>'$"):
            return self._said(self._call(host, shlex.split(alone)[1:]), command)
        done = subprocess.run(
            ["sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=90,
            env={**environment(), "PATH": f"{self.programs}:{environment()['PATH']}"},
            cwd=self.directory,
        )
        return self._said((done.returncode, done.stdout), command)

    def _call(self, host: str, words: list[str]) -> tuple[int, str]:
        """Run hopline here: a process for each of a page's many commands would take long."""
        before, octets = Path.cwd(), io.BytesIO()
        stream = io.TextIOWrapper(octets, encoding="utf-8", write_through=True)
        os.chdir(self.directory)
        try:
            with redirect_stdout(stream), redirect_stderr(stream), netns.inside(self.hosts[host]):
                code = cli.main(["--instance", self.daemons[host].instance, *words])
        finally:
            os.chdir(before)
        return code, octets.getvalue().decode()

    @staticmethod
    def _said(done: tuple[int, str], command: str) -> str:
        """Return what a command said, without the instances of which a page knows nothing."""
        code, text = done
        printed = re.sub(r" --instance \S+", "", "".join(f"{line.rstrip()}\n" for line in text.splitlines()))
        said = "hopline: " in printed or "FAILURE" in printed
        assert code == 0 or said, f"{command}: exit code {code}: {printed}"
        return printed
