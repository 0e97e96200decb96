"""cffi builder of hopline.kernel._libbpf: the system's libbpf plus our own C, as an abi3 extension.

native.h is what cffi is told; cffi's generated C includes both and compares every prototype and struct with it.
"""

from pathlib import Path

from cffi import FFI

# cffi's setuptools hook runs this file by exec(); __file__ is set there too
HERE = Path(__file__).resolve().parent

builder = FFI()
builder.cdef((HERE / "native.h").read_text())
builder.set_source(
    "hopline.kernel._libbpf",
    "".join(
        (HERE / name).read_text()
        for name in ("native.c", "atomic.c", "maglev.c", "objects.c", "ring.c", "runs.c", "watch.c")
    ),
    libraries=["bpf"],
    extra_compile_args=["-O2", "-Wall"],
    py_limited_api=True,
)

if __name__ == "__main__":
    # the extension alone, beside its sources; setup.py builds it with the rest
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        made = Path(builder.compile(tmpdir=scratch))
        fresh = HERE / f".{made.name}"
        shutil.copy(made, fresh)
        # processes that have the old one mapped keep it
        fresh.replace(HERE / made.name)
