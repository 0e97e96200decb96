"""The house: every verb has its rooms, the fences between rooms hold, and no room is too large.

A verb to come is a row in VERBS; a test of something that is no module of that name is a row in WITHOUT_COUNTERPART.
"""

import ast
import fnmatch
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from repository import ROOT, files, named

SOURCE = ROOT / "src" / "hopline"
BPF = SOURCE / "bpf"


@dataclass(frozen=True)
class Verb:
    """A verb's rooms: `core` is where its meaning is, features/ or host/; `bpf` whether it has a step of its own.

    A room is a module of the verb's stem or a package; its tests are one file of that stem, or several that begin so.
    """

    stem: str
    core: str = "features"
    bpf: bool = True
    tests: tuple[str, ...] = ("bpf", "features")
    nouns: tuple[str, ...] = ()  # of the command line; its own name, unless told

    def rooms(self) -> list[str]:
        """Patterns from the root of the repository, with `|` between two of which one must be there."""
        stem = self.stem
        package = [f"{room}/{stem}.py|{room}/{stem}/__init__.py" for room in (self.core, "cli", "lab")]
        package += [f"bpf/lib/{stem}.h"] if self.bpf else []
        tests = [f"tests/{room}/test_{stem}.py|tests/{room}/test_{stem}_*.py" for room in self.tests]
        return [*("|".join(f"src/hopline/{path}" for path in room.split("|")) for room in package), *tests,
                f"docs/features/{stem}.md"]  # fmt: skip


VERBS = (
    Verb("forward"),
    Verb("balance", tests=("bpf", "lab"), nouns=("service", "backend", "decap")),
    Verb("program", core="host", bpf=False, tests=("host", "cli", "lab")),
)

# imports of these, and of what is in them, are kernel/'s alone
KERNEL_ONLY = {"cffi", "pyroute2", "ctypes", "_cffi_backend"}
# neither files, sockets, processes nor clocks
PURE = {
    *("__future__", "bisect", "collections", "dataclasses", "enum", "functools", "ipaddress", "itertools", "math"),
    *(
        "hashlib",
        "numpy",
        "operator",
        "typing",
        "hopline.config",
        "hopline.errors",
        "hopline.features",
        "hopline.intent",
    ),
    # C that works on nothing but the arrays that it is given
    "hopline.kernel.turns",
    # text to octets and back: these touch no network
    *("socket.inet_ntop", "socket.inet_pton", "socket.AF_INET", "socket.AF_INET6"),
}
NOT_PURE = {"open", "print", "input", "exec", "eval", "__import__"}
# serve is the daemon: its command alone loads it
CLI = {
    "hopline.cli",
    "hopline.client",
    "hopline.config",
    "hopline.daemon.options",
    "hopline.daemon.protocol",
    "hopline.document",
    "hopline.errors",
    "hopline.explain",
    "hopline.host",
    "hopline.intent",
    "hopline.lab",
}
# and the rules of ipvsadm are read where they are typed
CLI_MORE = {"serve.py": {"hopline.daemon.main"}, "ipvs.py": {"hopline.features.ipvs"}}

# what the tests in a directory are about, in the order in which a counterpart is looked for
COUNTERPARTS = {
    "bpf": ("bpf/lib/{}.h", "kernel/{}.py"),  # both need a kernel with BPF
    "lab": ("lab/{}.py", "host/{}.py", "kernel/netlink/{}.py", "daemon/{}.py"),  # all need root
    "fuzz": ("document/{}.py", "daemon/{}.py", "daemon/api/{}.py", "kernel/{}.py", "host/{}.py", "bpf/lib/{}.h"),
    ".": ("{}.py", "{}/__init__.py"),
}
WITHOUT_COUNTERPART = {
    "tests/bpf/test_attack.py": "bpf/lib/cache.h and adjacency.h under attack from two processors",
    "tests/bpf/test_btf_against_bpftool.py": "kernel/btf.py beside another reader of BTF",
    "tests/bpf/test_cost.py": "what a packet costs on each way, which may not grow unseen",
    "tests/bpf/test_emulate.py": "bench/emulate, by which that is counted",
    "tests/bpf/test_flow_room.py": "bpf/lib/flow.h and slot.h where the flow table is full",
    "tests/bpf/test_operator_tables.py": "daemon/operator.py over real maps, without a daemon",
    "tests/cli/test_cli.py": "the command line as a whole, before a daemon's double",
    "tests/daemon/test_api.py": "the package daemon/api",
    "tests/daemon/test_api_intent.py": "the package daemon/api: the intent as a whole",
    "tests/faults/test_faults.py": "the tests of bpf/: whether they notice a fault",
    "tests/lab/test_api_contract.py": "what daemon/api says of itself, held against a real daemon",
    "tests/lab/test_ask.py": "`forward get`, which the package daemon/explain answers",
    "tests/lab/test_bad_input.py": "what a whole node says to input that cannot be right",
    "tests/lab/test_capability.py": "docs/rights.md: what a daemon that serves can still do, and what it cannot",
    "tests/lab/test_cli_real.py": "the command line as a whole, before a real daemon",
    "tests/lab/test_devices.py": "what becomes of packets when devices come, go and come back, and are too many",
    "tests/lab/test_docs.py": "README.md and docs/, run",
    "tests/lab/test_doctor_backend.py": "the package host/backend",
    "tests/lab/test_explain.py": "the package daemon/explain, before a real daemon and the kernel",
    "tests/lab/test_explain_files.py": "the same of files, and that asking changes nothing",
    "tests/lab/test_freshness.py": "a promise of docs/packet.md: how soon a stale answer goes",
    "tests/lab/test_garbage.py": "what a whole node makes of input that nobody meant",
    "tests/lab/test_intent_real.py": "cli/intent.py before a real daemon, under traffic",
    "tests/lab/test_lab_forward.py": "lab/forward.py, whose name tests/lab/test_forward.py would not tell apart",
    "tests/lab/test_net.py": "the tests' own tests/lab/net.py",
    "tests/lab/test_netlink.py": "the package kernel/netlink",
    "tests/lab/test_oracle.py": "the pipeline as a whole beside the kernel's own forwarding",
    "tests/lab/test_survival.py": "a promise of docs/features/forward.md: what a dead daemon leaves",
    "tests/lab/test_lessons.py": "the lessons on devices, of examples/lessons",
    "tests/lab/test_lab_program.py": "the package lab/program: every lesson's page, told",
    "tests/lab/test_lessons_lwt.py": "the lessons on routes, of examples/lessons",
    "tests/bpf/test_balance_answers.py": "the pipeline with balance on: what VIPs say themselves",
    "tests/bpf/test_balance_random.py": "the pipeline with balance on, given packets that nobody meant",
    "tests/bpf/test_balancer.py": "daemon/balance/balancer.py over real maps, without a daemon",
    "tests/bpf/test_balancer_failures.py": "the package daemon/balance over real maps, where something fails",
    "tests/bpf/test_flow_attack.py": "bpf/lib/flow.h and slot.h under attack from two processors",
    "tests/features/test_promise.py": "the promise of docs/features/balance.md: a simulation of its rules",
    "tests/lab/test_balance_flows.py": "the package daemon/balance, before real servers and the kernel",
    "tests/lab/test_balance_upgrade.py": "host/upgrade.py and the package daemon/balance: what is balanced goes on",
    "tests/lab/test_explain_balance.py": "the package daemon/explain: what it says of balance and decap",
    "tests/lab/test_lab_balance.py": "lab/balance.py, whose name tests/lab/test_balance.py would not tell apart",
    "tests/lab/test_promise_real.py": "the promise of docs/features/balance.md, on the shipped program",
    "tests/model/test_agreement_balance.py": "the pipeline with balance on beside the tests' own model of it",
    "tests/model/test_balance.py": "that model by itself",
    "tests/lab/test_confirm.py": "daemon/changes.py: changes that wait to be confirmed",
    "tests/lab/test_program_bad_input.py": "the package host/program: what it says to input that cannot be right",
    "tests/lab/test_program_foreign.py": "the package host/program: objects that others built",
    "tests/lab/test_program_rounds.py": "the package host/program: a thousand rounds leave nothing",
    "tests/lab/test_program_interrupted.py": "the package host/program: what a load that is cut short leaves",
    "tests/model/test_agreement.py": "the pipeline beside the tests' own model of it, and the kernel alone",
    "tests/model/test_model.py": "that model by itself",
    "tests/store/test_crash.py": "a promise of store/embedded.py: killed, or the power cut, at any write",
    "tests/store/test_truncated.py": "a promise of store/embedded.py: whatever was cut off the file",
    "tests/test_rooms.py": "the house as a whole",
    "tests/test_wheel.py": "pyproject.toml and setup.py: what is shipped",
}


def python_files(*tops: str) -> list[Path]:
    return [path for path in files() if path.suffix == ".py" and named(path).startswith(tops or "")]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; of `from m import n` both m and m.n, for n may be a module."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}: a relative import, which hides the fence it crosses"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def foreign(path: Path, allowed: set[str]) -> list[str]:
    """The imports that lie outside `allowed`."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if not within(alias.name, allowed)]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            both = [f"{module}.{alias.name}" for alias in node.names]
            found += [name for name in both if not within(module, allowed) and not within(name, allowed)]
    return found


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.stem)
def test_a_verb_has_its_rooms(verb):
    there = {named(path) for path in files()}
    missing = [room for room in verb.rooms() if not any(fnmatch.filter(there, one) for one in room.split("|"))]
    assert missing == []


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.stem)
def test_a_verb_is_a_step_of_the_pipeline_and_a_noun(verb):
    if verb.bpf:
        assert f'#include "lib/{verb.stem}.h"' in (BPF / "xdp.bpf.c").read_text()
    from hopline.cli.main import root

    assert set(verb.nouns or [verb.stem]) <= set(root.list_commands(None))


def test_only_the_kernel_layer_speaks_to_the_kernel():
    crossed = {}
    for path in python_files("src/"):
        if SOURCE / "kernel" not in path.parents:
            crossed[named(path)] = [name for name in imports(path) if name.partition(".")[0] in KERNEL_ONLY]
    assert {path: names for path, names in crossed.items() if names} == {}


@pytest.mark.parametrize("path", [*python_files("src/hopline/features/"), SOURCE / "daemon" / "plan.py"], ids=named)
def test_what_a_verb_means_is_pure(path):
    assert foreign(path, PURE) == []
    called = {
        node.func.id for node in ast.walk(parsed(path)) if isinstance(node, ast.Call) and hasattr(node.func, "id")
    }
    assert called & NOT_PURE == set()


@pytest.mark.parametrize("path", python_files("src/hopline/cli/"), ids=named)
def test_a_command_asks_the_daemon_or_the_host_and_never_the_kernel(path):
    allowed = CLI | CLI_MORE.get(path.name, set()) | {"hopline.__version__"}
    assert [name for name in foreign(path, allowed) if name.partition(".")[0] == "hopline"] == []


def test_the_client_and_the_front_page_need_no_kernel():
    rooms = ("src/hopline/client/", "src/hopline/config/", "src/hopline/errors.py", "src/hopline/__init__.py")
    for path in python_files(*rooms):
        assert [name for name in imports(path) if within(name, {"hopline.kernel"})] == [], named(path)


def test_each_test_has_a_counterpart_or_a_reason():
    astray = []
    for path in python_files("tests/"):
        if not path.name.startswith("test_") or named(path) in WITHOUT_COUNTERPART:
            continue
        room = path.parent.relative_to(ROOT / "tests").as_posix()
        places = COUNTERPARTS.get(room, (f"{room}/{{}}.py",))
        stem = path.stem.removeprefix("test_")
        # of a package by the name of its module: test_program_load is of program/load.py, and so is what is longer
        package, *words = stem.split("_")
        stems = (stem, *(f"{package}/{'_'.join(words[:count])}" for count in range(1, len(words) + 1)))
        if not any((SOURCE / place.format(one)).is_file() for place in places for one in stems):
            astray.append(named(path))
    assert astray == [], "name the module that it tests, or give the reason in WITHOUT_COUNTERPART"


def test_no_module_or_function_of_python_is_too_long():
    long = []
    for path in python_files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long += [f"{named(path)}: {lines} lines"] if lines >= 400 else []
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                long += [f"{named(path)}: {node.name}: {lines} lines"] if lines >= 50 else []
    assert long == []


def bpf_files() -> list[Path]:
    lessons = ROOT / "examples" / "lessons"
    ours = [path for path in files() if path.is_relative_to(BPF) or path.is_relative_to(lessons)]
    return [path for path in ours if path.suffix in (".c", ".h")]


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and length of each function: from the first line of its head to its closing brace, both at the margin."""
    start, head, body = 0, "", False
    for number, line in enumerate(text.splitlines()):
        if line == "{":
            body = True
        elif line == "}" and body:
            yield head.partition("(")[0].split()[-1].lstrip("*"), number - start + 1
            body = False
        elif line and not body and line[0].isalpha() | (line[0] == "_"):
            start, head = number, line


def test_the_reader_of_c_functions_reads_them():
    text = "static int\tf(int a,\n\t     int b)\n{\n\treturn a;\n}\n\nstruct s {\n\tint x;\n};\n\nint g(void)\n{\n}\n"
    assert list(c_functions(text)) == [("f", 5), ("g", 3)]


def native_files() -> list[Path]:
    return [path for path in files() if path.parent == SOURCE / "kernel" and path.suffix in (".c", ".h")]


def test_no_file_or_function_of_c_is_too_long():
    long, seen = [], set()
    for path in [*bpf_files(), *native_files()]:
        text = path.read_text()
        most = 80 if path.name == "xdp.bpf.c" else 400
        lines = len(text.splitlines())
        long += [f"{named(path)}: {lines} lines"] if lines >= most else []
        for name, length in c_functions(text):
            seen.add(name)
            long += [f"{named(path)}: {name}: {length} lines"] if length >= 80 else []
    assert long == []
    assert seen >= {"hopline_xdp", "parse", "forward", "leave", "hl_start", "hl_ring_drain"}


def test_every_file_of_bpf_says_its_licence_and_states_it_to_the_kernel():
    for path in bpf_files():
        first = path.read_text().splitlines()[0]
        assert "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)" in first, named(path)
        if path.name.endswith(".bpf.c"):
            assert 'SEC("license") = "Dual BSD/GPL";' in path.read_text(), named(path)


def test_names_of_maps_fit_the_kernel():
    found = [name for path in bpf_files() for name in re.findall(r"(\w+) SEC\(\"\.maps\"\)", path.read_text())]
    assert len(found) > 10
    # BPF_OBJ_NAME_LEN is 16, its end included
    assert [name for name in found if len(name) > 15] == []


def test_no_file_names_the_place_it_was_written_in():
    # each with one letter in brackets, so that this file does not contain it
    machine = r"share[d]/|/wor[k]/|/op[t]/|see[d]s/"
    registry = r"pyp[i]\.org|pythonhoste[d]|artifactor[y]|index-ur[l]|\.interna[l]\b"
    forbidden = re.compile(rf"{machine}|{registry}|\bissues? #?[\d]", re.IGNORECASE)
    found = []
    for path in files():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{named(path)}:{number}: {line.strip()}")
    assert found == []


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    needed += [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    said = (ROOT / "docs" / "dependencies.md").read_text().lower()
    names = [re.match(r"[\w.-]+", requirement)[0].lower() for requirement in needed]
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", said)] == []
    # the other way round: what the package imports is declared
    declared = {name.replace("-", "_") for name in names} | set(sys.stdlib_module_names) | {"hopline"}
    used = {name.partition(".")[0] for path in python_files("src/") for name in imports(path)}
    assert used - declared == set()


def test_every_verdict_is_explained_and_no_other():
    enum = re.search(r"enum verdict \{(.*?)\};", (BPF / "lib" / "layout.h").read_text(), re.DOTALL)[1]
    verdicts = set(re.findall(r"^\s*([A-Z_]+) = \d+,", enum, re.MULTILINE)) - {"CONTINUE"}
    page = (ROOT / "docs" / "packet.md").read_text()
    table = re.findall(r"^\| ([A-Z_]+) \|", page, re.MULTILINE)
    assert sorted(table) == sorted(verdicts)
    # and each that the pages name exists
    pages = [path for path in files() if path.suffix == ".md"]
    spoken = {name for path in pages for name in re.findall(r"\b(?:PASS|DROP)_[A-Z_]+\b", path.read_text())}
    assert spoken - verdicts == set()


@pytest.mark.parametrize("module", ["hopline", "hopline.kernel"])
def test_every_public_name_is_there_and_documented(module):
    package = importlib.import_module(module)
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        value = getattr(package, name)
        # a class must have its own, not its base's
        if callable(value):
            assert vars(value).get("__doc__") if isinstance(value, type) else value.__doc__, f"{module}.{name}"


def test_the_licences_are_whole_and_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named_there = set(re.findall(r"[A-Z][\w.]*-[\w.-]+", project["license"]["text"]))
    assert named_there == {path.stem for path in (ROOT / "LICENSES").iterdir()}
    for word, name in (("Version 2.0, January 2004", "Apache-2.0"), ("END OF TERMS AND CONDITIONS", "GPL-2.0-only")):
        assert word in (ROOT / "LICENSES" / f"{name}.txt").read_text()
    assert "Redistributions in binary form" in (ROOT / "LICENSES" / "BSD-2-Clause.txt").read_text()
