"""Small BPF programs compiled for one test."""

import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDES = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu")


def compile_bpf(directory: Path, text: str, name: str = "fixture") -> Path:
    """Compile `text` to directory/NAME.bpf.o, or skip the test where there is no clang."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    source, target = directory / f"{name}.bpf.c", directory / f"{name}.bpf.o"
    source.write_text(text)
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", *(f"-I{path}" for path in INCLUDES)]
    made = subprocess.run(
        ["clang", *flags, "-c", str(source), "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return target
