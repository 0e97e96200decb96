"""What README.md and docs/ show is what happens: their examples are run, in order, on a router with a daemon.

In a console block `$ ` begins a command, and what follows is all it prints on either stream. `…` stands for anything
within a line, and alone on a line for any lines. The commands are the real ones; they find their way to the right
namespace and instance by wrappers on PATH.
"""

import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import hopline
from clang import compile_bpf
from hopline.cli import main as cli
from hopline.features.probe import Fields, probe_frame
from hopline.host.program import load
from hopline.kernel import netns
from hopline.lab.shell import enter, environment, hopline_command
from lab.balance_room import Stage
from lab.loading import left_of
from lab.net import AUTO, Daemon, Router, missing_tools, sh
from lab.traffic import wait_for

ROOT = Path(__file__).resolve().parents[2]
FWD_API = ("--fwd-api", "127.0.0.1:5555")
ANY = "…"
LESSONS = ROOT / "examples" / "lessons"


@dataclass
class Example:
    """One command of a page, and the lines that the page says it prints."""

    line: int
    command: str
    output: list[str] = field(default_factory=list)

    def matches(self, printed: str, auto: str = AUTO, loose: bool = AUTO != "native") -> bool:
        """Whether a pattern of the page's lines fits; a kernel that knows less has another mode, of another width.

        Loose: columns may be wider than on the page.
        """
        wanted = [line.replace("native", auto) for line in self.output]
        # `explain` has a line on that mode alone
        printed = re.sub(r"^.*GRO merges before generic XDP\n", "", printed, flags=re.MULTILINE)
        if loose:
            printed = re.sub("^ +", "", re.sub(" +", " ", printed), flags=re.MULTILINE)
            wanted = [re.sub(" +", " ", line).lstrip() for line in wanted]
        parts = []
        for line in wanted:
            parts.append(r"(?:.*\n)*" if line == ANY else ".*".join(map(re.escape, line.split(ANY))) + r"\n")
        return re.fullmatch("".join(parts), printed) is not None


def blocks(page: str, language: str) -> list[tuple[int, list[str]]]:
    """The fenced blocks of a language: number of the first line, and the lines."""
    found, inside = [], False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside and line == f"```{language}"
            if inside:
                found.append((number + 1, []))
        elif inside:
            found[-1][1].append(line)
    return found


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    for first, lines in blocks(page, "console"):
        assert lines[0].startswith("$ "), f"{page}:{first}: a console block begins with a command"
        for number, line in enumerate(lines, first):
            if line.startswith("$ "):
                found.append(Example(number, line[2:]))
            else:
                found[-1].output.append(line)
    return found


class Console:
    """The router of the pages: a shell whose commands act where the pages mean; `instance` is its daemon's."""

    def __init__(self, net: Router, directory: Path, instance: str | None = None) -> None:
        self.net, self.directory = net, directory
        self.client = None if instance is None else hopline.connect(instance)
        self.programs = directory / "bin"
        self.programs.mkdir()
        self._wrap("hopline", net.ns, hopline_command() + (f" --instance {instance}" if instance else ""), "")
        for command in ("curl", "ip"):
            self._wrap(command, net.ns, command, "")
        self._wrap("ping-from-client", net.client.ns, "ping -n -q -i 0.2 -w 5", ">/dev/null 2>&1")

    def _wrap(self, name: str, ns: str, command: str, after: str) -> None:
        inside = " ".join(enter(ns, [command]))
        # the wrapper is not to find itself
        path = environment()["PATH"]
        script = self.programs / name
        script.write_text(f'#!/bin/sh\nPATH="{path}" exec {inside} "$@" {after}\n')
        script.chmod(0o755)

    def run(self, command: str) -> str:
        """What a command prints, both streams as a terminal would show them."""
        if re.fullmatch(r"hopline program (?!stats|log)[^|&;]*", command):
            return self.call(shlex.split(command)[1:])
        if command.startswith("ping-") and self.client is not None:
            self.settle(self.client)
        if "program stats" in command:
            # a table, which it is on a terminal only
            command = f"script -qec {shlex.quote(command)} /dev/null"
        index = self.net.right.index
        command = command.replace(f'"iface":{ANY}', f'"iface":{index}')
        env = {**environment(), "PATH": f"{self.programs}:{environment()['PATH']}"}
        done = subprocess.run(
            ["sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=30,
            env=env,
            cwd=self.directory,
        )
        printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
        assert done.returncode == 0 or "hopline: " in printed, f"{command}: exit code {done.returncode}: {printed}"
        return printed

    def call(self, words: list[str]) -> str:
        """What hopline prints, called here: a process for each of a page's many commands would take long."""
        before, octets = Path.cwd(), io.BytesIO()
        stream = io.TextIOWrapper(octets, encoding="utf-8", write_through=True)
        os.chdir(self.directory)
        try:
            with redirect_stdout(stream), redirect_stderr(stream), netns.inside(self.net.ns):
                code = cli.main(words)
        finally:
            os.chdir(before)
        printed = octets.getvalue().decode()
        assert (code == 0) is ("hopline: " not in printed), f"{words}: exit code {code}: {printed}"
        return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())

    @staticmethod
    def settle(client: hopline.Client, quiet_seconds: float = 0.4) -> None:
        """Wait until the daemon has followed what the last commands changed: then what is learned stays."""
        seen, since, end = 0, time.monotonic(), time.monotonic() + 10
        while time.monotonic() - since < quiet_seconds:
            assert time.monotonic() < end, "the generation never comes to rest"
            generation = client.status().generation
            if generation != seen:
                seen, since = generation, time.monotonic()
            time.sleep(0.05)


def capture() -> bytes:
    """mystery.pcap of docs/features/explain.md: what came in by `left` in a bad moment."""
    mac = bytes.fromhex("020000000101")
    fields = [{"dst": "10.2.0.2"}] * 7 + [{"dst": "10.2.0.77"}] * 2 + [{"dst": "10.2.0.2", "ttl": 1}]
    frames = [probe_frame(Fields(src="10.1.0.2", **each), mac) for each in fields]
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1)
    return head + b"".join(struct.pack("<IIII", 0, 0, len(each), len(each)) + each for each in frames)


@pytest.fixture
def console(router, daemon, tmp_path):
    """The router of the pages with its daemon running and no interface yet, its hosts past their first words."""
    router.warm()
    for ns in (router.client.ns, router.ns, router.server.ns):
        wait_for(lambda ns=ns: not sh(ns, "ip -6 address show tentative").stdout)
    (tmp_path / "mystery.pcap").write_bytes(capture())
    serving = daemon(router.ns, *FWD_API)
    return Console(router, tmp_path, serving.instance)


@pytest.fixture
def bare(router, tmp_path):
    """The router without a daemon, and the sources that pages build."""
    router.warm()
    for lesson in LESSONS.glob("*/*.bpf.c"):
        shutil.copy(lesson, tmp_path)
    yield Console(router, tmp_path)
    netns.run_in(router.ns, load.clear)


def python_block(number: int) -> str:
    return "\n".join(blocks("README.md", "python")[number][1]) + "\n"


def run_python(ns: str, text: str, cwd: Path) -> str:
    done = subprocess.run(
        enter(ns, [sys.executable, "-c", text]),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def follow(console: Console | Stage, page: str, loose: bool = AUTO != "native") -> None:
    """Run a page's commands, each of which must print what the page says."""
    shown = examples(page)
    assert len(shown) >= 4
    for example in shown:
        printed = console.run(example.command)
        expected = "\n".join(example.output)
        where = f"{page}:{example.line}: $ {example.command}"
        # a veth has native XDP, whatever the kernel tells of it
        mode = "native" if example.command.startswith("hopline program") else AUTO
        assert example.matches(printed, mode, loose), (
            f"{where}\n--- the page says\n{expected}\n--- it printed\n{printed}"
        )


@pytest.mark.parametrize(
    "page", ["README.md", "docs/features/forward.md", "docs/features/explain.md", "docs/intent.md"]
)
def test_the_examples_of_a_page_print_what_it_says(console, page):
    if page == "README.md":
        # a device that no instance serves
        sh(console.net.ns, "ip link add wan up type veth peer name isp")
        sh(console.net.ns, "ip link set isp up")
        # a second server, in the place of the first
        sh(console.net.server.ns, f"ip address add 10.2.0.3/24 dev {console.net.server.dev}")
        shutil.copy(LESSONS / "count" / "count.bpf.c", console.directory)
    follow(console, page)


@pytest.mark.skipif(bool(missing_tools("clang")), reason="needs clang")
def test_the_examples_of_programs_print_what_they_say(bare):
    page = "docs/features/program.md"
    for _, source in blocks(page, "c"):
        (bare.directory / source[0].strip("/* ")).write_text("\n".join(source) + "\n")
    follow(bare, page, loose=True)
    assert left_of(bare.net.ns) == []


@pytest.fixture
def stage(tmp_path):
    """A director and its real servers."""
    with Stage(tmp_path) as stage:
        yield stage


def test_the_examples_of_balance_print_what_they_say(stage):
    page = "docs/features/balance.md"
    for _, lines in blocks(page, "text"):
        (stage.directory / lines[0].strip("# ")).write_text("\n".join(lines) + "\n")
    follow(stage, page, loose=True)


def test_the_daemon_of_the_readme_is_driven_from_python(router, daemon, tmp_path):
    serving: Daemon = daemon(router.ns)
    for dev in ("left", "right"):
        serving.call("interface", "add", dev)
    # once to make the neighbours known, once to be forwarded
    router.warm()
    router.warm()
    text = python_block(0)
    assert text.count("hopline.connect()") == 1
    printed = run_python(
        router.ns, text.replace("hopline.connect()", f"hopline.connect({serving.instance!r})"), tmp_path
    )
    lines = printed.splitlines()
    assert lines[0] == f"10.2.0.0/24 right {router.server.mac} followed"
    assert lines[1] == "FORWARDED"
    assert "  operator entry 10.2.0.0/24 (prefix): via 10.2.0.2" in lines
    interfaces = {line.partition(" ")[0]: line for line in lines[-2:]}
    assert interfaces["left"].startswith(f"left {AUTO} {{")
    assert "'FORWARDED': Count(packets=" in interfaces["left"]


@pytest.mark.skipif(bool(missing_tools("clang")), reason="needs clang")
def test_the_kernel_layer_of_the_readme_works_without_a_daemon(router, tmp_path):
    compile_bpf(tmp_path, (LESSONS / "count" / "count.bpf.c").read_text(), "count")
    lines = run_python(router.ns, python_block(1), tmp_path).splitlines()
    assert re.fullmatch(r"native [0-9a-f]{16}", lines[0])
    assert lines[1] == "2"  # XDP_PASS
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2", "3", "4"]
    assert lines[2:4] == ["0 0 0", "1 0 0"]
    packets, octets = map(int, lines[4].split()[1:])
    # the frame of ours, and what the hosts happened to say meanwhile
    assert packets >= 1
    assert octets >= 64


@pytest.mark.rootless
def test_the_readme_says_what_it_is_shows_it_and_is_short_about_it():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Hopline"
    assert all(lines[2:5]), "three lines on what it is"
    assert lines[5] == ""
    picture = "\n".join(blocks("README.md", "")[0][1])
    assert all(word in picture for word in ("packet", "parse", "forward", "verdict", "kernel"))
    commands = [line for _, block in blocks("README.md", "") for line in block if line.startswith("make ")]
    assert [line.split()[:2] for line in commands] == [["make", "demo"], ["make", "test"]]
    for number in (0, 1):
        statements = [line for line in python_block(number).splitlines() if line.strip()]
        assert 8 <= len(statements) <= 12, "ten lines of each"


@pytest.mark.rootless
def test_links_between_the_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    astray = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                astray.append(f"{page.relative_to(ROOT)}: {target}")
    assert astray == []


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("output", "printed", "same"),
    [
        ([], "", True),
        ([], "noise\n", False),
        (["left   …  on"], "left   4  on\n", True),
        (["left   …  on"], "left   4  off\n", False),
        (["a", ANY, "b"], "a\nb\n", True),
        (["a", ANY, "b"], "a\n1\n2\nb\n", True),
        (["a", "b"], "a\n1\nb\n", False),
        (["a…"], "ab\nc\n", False),
        (["(a.b)"], "(a.b)\n", True),
        (["(a.b)"], "(axb)\n", False),
    ],
)
def test_an_example_matches_what_it_says_and_no_more(output, printed, same):
    assert Example(1, "true", output).matches(printed) is same
