"""Builds of the BPF sources that differ from the shipped one in what a test wants: a fault, or a wider window."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from repository import ROOT

SOURCES = ROOT / "src" / "hopline" / "bpf"

# what a change may call: pause(ns) is 0, and takes its time in coming
PAUSE = """/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
__attribute__((noinline)) int pause(__u32 ns)
{
	__u64 began = bpf_ktime_get_ns();

	for (int i = 0; i < 4000; i++)
		if (bpf_ktime_get_ns() - began > ns)
			break;
	return 0;
}
"""


@dataclass(frozen=True)
class Change:
    """One place of the sources, by its text, and what stands there instead."""

    file: str
    old: str
    new: str


INCLUDED = Change("xdp.bpf.c", '#include "lib/layout.h"\n', '#include "lib/layout.h"\n#include "lib/pause.h"\n')


def applied(change: Change, text: str) -> str:
    """The text with the change made; ValueError where its place is not there exactly once."""
    found = text.count(change.old)
    if found != 1:
        raise ValueError(f"{change.file} has this {found} times, not once: {change.old!r}")
    return text.replace(change.old, change.new)


@cache
def _build_command() -> Any:
    """The build_ext of setup.py, so that what builds the shipped object builds these."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    pytest.importorskip("setuptools")
    from distutils.core import run_setup

    here = Path.cwd()
    os.chdir(ROOT)
    try:
        distribution = run_setup("setup.py", stop_after="init")
    finally:
        os.chdir(here)
    return distribution.get_command_class("build_ext")(distribution)


def build(directory: Path, changes: Iterable[Change]) -> Path:
    """The object of the sources with these changes, made one after another in a copy of them in `directory`."""
    sources = directory / "bpf"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("*.o", "__pycache__"))
    (sources / "lib" / "pause.h").write_text(PAUSE)
    for change in (INCLUDED, *changes):
        path = sources / change.file
        path.write_text(applied(change, path.read_text()))
    main, target = sources / "xdp.bpf.c", directory / "xdp.bpf.o"
    text = main.read_text()
    main.write_text(
        applied(
            Change(main.name, '#include "lib/layout.h"\n', '#include "lib/layout.h"\n#include "lib/pause.h"\n'), text
        )
    )
    command = _build_command()
    try:
        command.compile_bpf(main, target)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"the changed sources do not compile: {error}") from error
    return target
