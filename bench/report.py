"""What the benches found, as Markdown: `.venv/bin/python bench/report.py DIRECTORY [--write PAGE] [--plots DIRECTORY]`.

DIRECTORY holds forward.json, balance.json, balance_control.json, freshness.json, control.json, program.json and
program_maps.json, as the benches' `--json` writes them; what is missing is left out. `--write` puts
each part between its marks in PAGE, `--plots` draws what grows.
"""

import argparse
import json
import re
from pathlib import Path

import balance_report
from record import Figure, load

FIELDS = ("instructions", "calls", "lookups", "lines")
COLUMNS = (1, 65_536, 1_048_576)
ENTRIES_AT = 65_536
COLD = (", first packet", ", burst of 64")
# what is wanted: ns over the harness, by family and destinations
GOALS = {(4, 1): 20, (4, 65_536): 45, (6, 1): 26}
OF_ONE_LINE, OF_IPV4 = 3, 1.4
MARK = "<!-- figures: {} -->\n"
END = "<!-- end of figures -->"


def head(document: dict, command: str) -> str:
    machine = document["machine"]
    command += " --quick" * document["quick"]
    return (
        f"Taken {document['taken'][:10]} by `{command}` on {machine['cpu']}, {machine['cpus']} CPUs "
        f"({machine['caches']}), Linux {machine['kernel']}, load {machine['load']} at the end.\n"
    )


def table(titles: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, rule, *rows]) + "\n"


def plain(figures: list[Figure], family: int) -> list[Figure]:
    return [one for one in figures if one.family == family and not one.row.endswith(COLD)]


def over(one: Figure | None) -> str:
    return "" if one is None else f"{one.over_least:g} ({one.over_median:g})"


def main_table(figures: list[Figure], family: int) -> str:
    """A line a row: ns over the harness, minimum (median), then what one packet of it does."""
    found = {(one.row, one.destinations): one for one in plain(figures, family)}
    at_scale = [one for one in plain(figures, family) if one.destinations in COLUMNS]
    names = dict.fromkeys(one.row for one in at_scale if not of_entries(one.row) and not one.row.startswith("empty"))
    rows = []
    for name in names:
        each = [found.get((name, count)) for count in COLUMNS]
        known = next(one for one in each if one is not None)
        missed = max((one.missed or 0 for one in each if one is not None), default=0)
        counts = ["" if getattr(known, field) is None else f"{getattr(known, field)}" for field in FIELDS]
        rows.append([name, *map(over, each), f"{100 * missed:.1f} %" if known.missed is not None else "", *counts])
    titles = [f"IPv{family}, destinations:", *(f"{count:,}" for count in COLUMNS), "missed at most"]
    return table([*titles, "instructions", "calls", "look-ups", "map lines"], rows)


def of_entries(row: str) -> bool:
    return re.fullmatch(r"forward, [\d,]+ (prefixes|exact)", row) is not None


def entries_of(figures: list[Figure], family: int, kind: str) -> list[Figure]:
    """The rows that differ in the number of the operator's entries, fewest first."""
    own = {"prefixes": "forward, prefixes", "exact": "forward, exact"}[kind]
    rows = [
        one
        for one in plain(figures, family)
        if one.destinations == ENTRIES_AT and (one.row == own or (of_entries(one.row) and one.row.endswith(kind)))
    ]
    return sorted(rows, key=lambda one: one.entries or 0)


def entries_table(figures: list[Figure]) -> str:
    counts = sorted({one.entries or 0 for one in entries_of(figures, 4, "prefixes")})
    rows = []
    for family in (4, 6):
        for kind in ("prefixes", "exact"):
            found = {one.entries: one for one in entries_of(figures, family, kind)}
            rows.append([f"IPv{family}, {kind}", *(over(found.get(count)) for count in counts)])
    return table(["entries:", *(f"{count:,}" for count in counts)], rows)


def cold_table(figures: list[Figure]) -> str:
    cold = {(one.family, one.row): one for one in figures if one.row.endswith(COLD)}
    names = dict.fromkeys(name.rpartition(", ")[0] for _, name in cold)
    titles = ["row", *(f"IPv{family}{kind}" for family in (4, 6) for kind in COLD)]
    names = [name.removesuffix(", burst of 64") for name in names if not name.startswith("empty")]
    rows = [[name, *(over(cold.get((family, name + kind))) for family in (4, 6) for kind in COLD)] for name in names]
    return table(titles, rows)


def freshness_table(document: dict) -> str:
    rows = [
        [row["kind"], str(row["rounds"]), *(f"{row[name]:.2f}" for name in ("p50", "p99", "most", "apart", "call"))]
        for row in document["freshness"]
    ]
    return table(["change", "n", "p50 ms", "p99 ms", "max ms", "frames apart, ms", "the call itself, ms"], rows)


def goals(figures: list[Figure]) -> str:
    """What was asked for and what it is, a line each."""
    at = {(one.family, one.destinations, one.row): one.over_least for one in figures}
    lines = []

    def line(what: str, wanted: float, row: tuple[int, int, str]) -> None:
        if row in at:
            lines.append(f"{'met' if at[row] <= wanted else 'NOT MET':8} {what}: {at[row]:g} ns, wanted {wanted:g}")

    for (family, count), wanted in GOALS.items():
        line(f"IPv{family}, {count:,} destinations", wanted, (family, count, "forward, exact"))
    for family in (4,):
        floor = at.get((family, COLUMNS[-1], "one random line"))
        if floor is not None:
            goal = OF_ONE_LINE * floor
            line("IPv4, 1,048,576, 3 times one random line", goal, (family, COLUMNS[-1], "forward, exact"))
    for count in COLUMNS[1:]:
        four = at.get((4, count, "forward, exact"))
        if four is not None:
            line(f"IPv6, {count:,}, 1.4 times IPv4", OF_IPV4 * four, (6, count, "forward, exact"))
    return "\n".join(lines)


def parts(directory: Path) -> dict[str, str]:
    """The Markdown of each part that there are figures for."""
    made = {}
    if (source := directory / "forward.json").exists():
        document, figures = load(source)
        said = head(document, "bench/forward.py")
        tables = [main_table(figures, family) for family in (4, 6)]
        made["forward"] = "\n".join([said, *tables])
        made["entries"] = f"{said}\n{entries_table(figures)}"
        made["cold"] = f"{said}\n{cold_table(figures)}"
    if (source := directory / "freshness.json").exists():
        document = json.loads(source.read_text())
        made["freshness"] = f"{head(document, 'bench/freshness.py')}\n{freshness_table(document)}"
    if (source := directory / "control.json").exists():
        made["control"] = json.loads(source.read_text())["markdown"]
    if (source := directory / "balance.json").exists():
        document, figures = load(source)
        tables = [balance_report.table(figures, family) for family in (4, 6)]
        made["balance"] = "\n".join([head(document, "bench/balance.py"), *tables])
    for name in ("program", "program_maps", "balance_control"):
        if (source := directory / f"{name}.json").exists():
            document = json.loads(source.read_text())
            made[name] = f"{head(document, f'bench/{name}.py')}\n{document['markdown']}"
    return made


def write(page: Path, made: dict[str, str]) -> None:
    text = page.read_text()
    for name, part in made.items():
        before, mark, rest = text.partition(MARK.format(name))
        assert mark, f"{page} has no mark for {name}"
        text = before + mark + "\n" + part + "\n" + END + rest.partition(END)[2]
    page.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY")
    asked = parser.parse_args()
    made = parts(asked.directory)
    for part in made.values():
        print(part)
    for name, told in (("forward", goals), ("balance", balance_report.goals)):
        if (asked.directory / f"{name}.json").exists():
            print(told(load(asked.directory / f"{name}.json")[1]))
    if asked.write is not None:
        write(asked.write, made)
    if asked.plots is not None:
        import plots

        plots.draw(asked.directory, asked.plots)


if __name__ == "__main__":
    main()
