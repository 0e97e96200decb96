"""Other builds of Hopline: the package copied, its version and its C changed, compiled, and run by its own command.

with newer.at_work(): …     what the lab starts inside the block is that build's
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hopline
import hopline.lab.service
import lab.node
from clang import INCLUDES
from hopline.lab.shell import Result, enter, environment
from repository import ROOT

LAYOUT, MAPS = "bpf/lib/layout.h", "bpf/lib/maps.h"

# the next hop first, a field in place of a spare word; more verdicts a slot; larger rows, a larger table, a new map
LATER = (
    (LAYOUT, "struct adjacency {\n", "struct adjacency {\n\tip6_t next_hop; /* first */\n\t__u64 colour;\n"),
    (LAYOUT, "\tip6_t next_hop; /* IPv4: the first word */\n\t__u64 spare[2];\n};\n\n#include",
     "\t__u64 spare[1];\n};\n\n#include"),
    (LAYOUT, "VERDICT_SLOTS = 32", "VERDICT_SLOTS = 48"),
    (LAYOUT, "\t__u32 ifindex; /* 0: the slot", "\t__u64 note;\n\t__u32 ifindex; /* 0: the slot"),
    (MAPS, "max_entries, 1 << 20);\n\t__uint(map_flags, BPF_F_NO_PREALLOC);\n\t__type(key, ip4_t)",
     "max_entries, 1 << 21);\n\t__uint(map_flags, BPF_F_NO_PREALLOC);\n\t__type(key, ip4_t)"),
    (MAPS, "/* not pinned:", "struct {\n\t__uint(type, BPF_MAP_TYPE_ARRAY);\n\t__uint(max_entries, 4);\n"
     "\t__type(key, __u32);\n\t__type(value, __u64);\n} later_things SEC(\".maps\");\n\n/* not pinned:"),
)  # fmt: skip
SMALLER = (
    (MAPS, "max_entries, 1 << 20);\n\t__uint(map_flags, BPF_F_NO_PREALLOC);\n\t__type(key, ip4_t)",
     "max_entries, 4);\n\t__uint(map_flags, BPF_F_NO_PREALLOC);\n\t__type(key, ip4_t)"),
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    """One build: its version, and the command that runs it."""

    version: str
    command: Path

    def run(self, ns: str | None, *arguments: str, **more: str) -> Result:
        """`hopline ARGUMENTS` of this build to its end, with more in its environment."""
        command = enter(ns, [str(self.command), *arguments])
        settings = {**environment(), **more}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=settings, check=False)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """The lab's daemons and calls are of this build until the block ends."""
        before = {module: module.hopline_command for module in (hopline.lab.service, lab.node)}
        for module in before:
            module.hopline_command = lambda: str(self.command)
        try:
            yield
        finally:
            for module, command in before.items():
                module.hopline_command = command


def this_build() -> Build:
    return Build(hopline.__version__, Path(sys.executable).with_name("hopline"))


def make_build(directory: Path, version: str, edits: tuple[tuple[str, str, str], ...]) -> Build:
    """Copy the package to `directory`, replace `(file, text, other text)`, each of which is there once, and compile."""
    package = directory / "hopline"
    shutil.copytree(ROOT / "src" / "hopline", package, ignore=shutil.ignore_patterns("__pycache__"))
    own = ("__init__.py", f'__version__ = "{hopline.__version__}"', f'__version__ = "{version}"')
    for name, text, other in (own, *edits):
        source = (package / name).read_text()
        assert source.count(text) == 1, f"{name}: {text!r} is there {source.count(text)} times"
        (package / name).write_text(source.replace(text, other))
    source, target = package / "bpf" / "xdp.bpf.c", package / "bpf" / "xdp.bpf.o"
    flags = [
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-mcpu=v3",
        "-fdebug-compilation-dir=.",
        *(f"-I{path}" for path in INCLUDES),
    ]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(target)], check=True)
    subprocess.run(["llvm-strip", "-g", str(target)], check=True)
    command = directory / "run"
    command.write_text(
        f'#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH={directory} exec {sys.executable} -m hopline.cli.main "$@"\n'
    )
    os.chmod(command, 0o755)
    return Build(version, command)
