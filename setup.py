"""Builds what is not Python: the BPF objects (clang) and the libbpf binding (cffi, abi3)."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("src/hopline/bpf")
LESSONS = Path("examples/lessons")


class BuildAll(build_ext):
    """Compile each src/hopline/bpf/NAME.bpf.c beside the package it ships in, then the C extension.

    A package that is not used in place takes the lessons along: `hopline lab program` tells them anywhere.
    """

    def run(self):
        in_place = self.inplace or self.editable_mode
        package = SOURCES if in_place else Path(self.build_lib) / "hopline/bpf"
        package.mkdir(parents=True, exist_ok=True)
        for source in sorted(SOURCES.glob("*.bpf.c")):
            self.compile_bpf(source, package / source.with_suffix(".o").name)
        if not in_place:
            self.copy_lessons(Path(self.build_lib) / "hopline/lessons")
        super().run()

    def copy_lessons(self, target):
        for pattern in ("README.md", "*/README.md", "*/*.bpf.c"):
            for path in sorted(LESSONS.glob(pattern)):
                copy = target / path.relative_to(LESSONS)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

    def compile_bpf(self, source, target):
        multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
        flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]
        # the object does not say where it was built, so that two builds of one source are one version
        flags.append("-fdebug-compilation-dir=.")
        subprocess.run(
            ["clang", *flags, "-I", f"/usr/include/{multiarch}", "-c", str(source), "-o", str(target)], check=True
        )
        # without DWARF the object is a tenth the size; BTF stays
        subprocess.run(["llvm-strip", "-g", str(target)], check=True)


setup(
    cmdclass={"build_ext": BuildAll},
    cffi_modules=["src/hopline/kernel/_build.py:builder"],
    # the extension keeps to the stable ABI, so one wheel serves every later Python
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
