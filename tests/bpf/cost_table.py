"""cost.toml: what a packet may cost on each way, and how a count compares with it."""

import platform
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

from emulate import Cost

TABLE = Path(__file__).with_name("cost.toml")
ACCEPT = "python bench/cost.py --accept"
LITTLE = 0.02  # of the instructions: less than that is not worth a word

# what depends on the compiler; the rest is the source's
COMPILED = {"instructions", "lines of stack"}
# what the kernel puts in the way of a look-up or of a field of the context, one more and another less
KERNELS = {"queue", "device", "jiffies"}

HEADING = f"""\
# What one packet costs on each way through the pipeline, as tests/bpf/test_cost.py holds it against the program.
# instructions: executed after the verifier has removed what is off; a look-up or helper is one, whatever the kernel
# made of it. lookups: by map. helpers: the others. lines: different ones, of 64 octets.
# Made by `{ACCEPT}`.
"""

Figures = dict[str, int]
Table = dict[str, Figures]


def compiler() -> str:
    """The name and the first number of the version of the compiler that is here."""
    said = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"clang version (\d+)", said)
    assert found, said
    return f"clang {found[1]}"


def figures_of(cost: Cost) -> Figures:
    """A count as the table has it."""
    lines = {kind: n for kind, n in cost.lines.items() if kind not in KERNELS and not kind.endswith(" pointers")}
    return {
        "instructions": cost.normal,
        **{f"look-ups in {name}": n for name, n in sorted(cost.lookups.items())},
        **{f"calls of {name}": n for name, n in sorted(cost.helpers.items())},
        **{f"lines of {kind}": n for kind, n in sorted(lines.items())},
    }


SECTIONS = {"lookups": "look-ups in ", "helpers": "calls of ", "lines": "lines of "}


def read(path: Path = TABLE) -> tuple[Table, dict[str, str]]:
    """The table, and what it was made with."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    made = data.pop("made")
    table = {}
    for way, row in data.items():
        table[way] = {"instructions": row["instructions"]}
        for section, prefix in SECTIONS.items():
            table[way].update({prefix + name: n for name, n in row[section].items()})
    return table, made


def write(table: Table, path: Path = TABLE) -> None:
    """Replace the table by this one."""
    made = {"compiler": compiler(), "kernel": platform.release().split("-")[0], "machine": platform.machine()}
    text = [HEADING, f"made = {inline(made)}\n"]
    for way, figures in table.items():
        text.append(f'\n["{way}"]\ninstructions = {figures["instructions"]}\n')
        for section, prefix in SECTIONS.items():
            found = {name.removeprefix(prefix): n for name, n in figures.items() if name.startswith(prefix)}
            text.append(f"{section} = {inline(found)}\n")
    path.write_text("".join(text), encoding="utf-8")


def inline(values: Mapping[str, int | str]) -> str:
    """An inline table of TOML."""

    def literal(value: int | str) -> str:
        return f'"{value}"' if isinstance(value, str) else str(value)

    pairs = ", ".join(f"{literal(key) if '.' in key else key} = {literal(value)}" for key, value in values.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def worse(allowed: Figures, found: Figures, ignored: set[str] = frozenset()) -> list[str]:
    """What has gone up, in words."""
    return [
        f"{name}: {allowed.get(name, 0)}, now {n}"
        for name, n in found.items()
        if n > allowed.get(name, 0) and name not in ignored
    ]


def better(allowed: Figures, found: Figures, ignored: set[str] = frozenset()) -> list[str]:
    """What has gone down by more than a little, in words."""
    return [
        f"{name}: {n}, now {found.get(name, 0)}"
        for name, n in allowed.items()
        if name not in ignored and n - found.get(name, 0) > (n * LITTLE if name == "instructions" else 0)
    ]
