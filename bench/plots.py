"""What grows, drawn: ns a packet by destinations and by the operator's entries, and time to the right packet."""

import json
from pathlib import Path

import control_plot
import matplotlib
from record import Figure, load
from report import entries_of, plain

matplotlib.use("Agg")
from matplotlib import pyplot

# rows and what they are called and look like in a drawing
DRAWN = {
    "forward, exact": ("forward", "#0b6e4f", "-", 2.4),
    "LRU hash": ("LRU hash", "#c1440e", "-", 1.6),
    "FIB of 100,000 routes": ("FIB of 100,000 routes", "#3a7ca5", "-", 1.6),
    "FIB each packet": ("FIB of a handful of routes", "#6a4c93", "-", 1.6),
    "least possible": ("least possible", "#777777", "--", 1.2),
    "one random line": ("one random line", "#aaaaaa", ":", 1.2),
    "one random line, alone": ("one random line, alone", "#444444", ":", 1.2),
}
TICKS = {"1": 1, "64": 64, "4 k": 4_096, "64 k": 65_536, "1 M": 1_048_576}
SIZE, DPI = (10, 4.2), 110


def axes(titles: list[str], x: str) -> tuple:
    figure, panels = pyplot.subplots(1, len(titles), figsize=SIZE, sharey=True, squeeze=False)
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(TICKS.values()), list(TICKS))
        panel.set_xlabel(x)
        panel.grid(True, color="#eeeeee")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("ns a packet over the harness (minimum)")
    return figure, panels[0]


def saved(figure, target: Path) -> None:
    figure.tight_layout()
    figure.savefig(target, dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)


def by_destinations(figures: list[Figure], target: Path) -> None:
    families = [family for family in (4, 6) if plain(figures, family)]
    figure, panels = axes([f"IPv{family}" for family in families], "destinations")
    for family, panel in zip(families, panels, strict=True):
        for row, (label, colour, style, width) in DRAWN.items():
            found = sorted((x for x in plain(figures, family) if x.row == row), key=lambda x: x.destinations)
            if not found:
                continue
            places, values = [x.destinations for x in found], [x.over_least for x in found]
            panel.plot(places, values, style, color=colour, linewidth=width, marker="o", markersize=3, label=label)
    panels[0].set_ylim(bottom=0)  # last: the panels share it, and a limit that is set is not adapted any more
    panels[0].legend(frameon=False)
    saved(figure, target)


def by_entries(figures: list[Figure], target: Path) -> None:
    families = [family for family in (4, 6) if entries_of(figures, family, "prefixes")]
    if not families:
        return
    figure, panels = axes([f"IPv{family}, 65,536 destinations" for family in families], "operator's entries")
    for family, panel in zip(families, panels, strict=True):
        for kind, colour in (("prefixes", "#0b6e4f"), ("exact", "#c1440e")):
            found = entries_of(figures, family, kind)
            places, values = [x.entries for x in found], [x.over_least for x in found]
            panel.plot(places, values, "-", color=colour, marker="o", markersize=3, label=kind)
    panels[0].set_ylim(bottom=0)  # last: the panels share it, and a limit that is set is not adapted any more
    panels[0].legend(frameon=False)
    saved(figure, target)


def freshness(document: dict, target: Path) -> None:
    """For each change, the part of the trials that had the right packet by then."""
    figure, panel = pyplot.subplots(figsize=SIZE)
    for row in document["freshness"]:
        times = sorted(max(trial["stale"], 0.01) for trial in row["trials"])
        panel.step(times, [(i + 1) / len(times) for i in range(len(times))], where="post", label=row["kind"])
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("ms from the change to the right packet")
    panel.set_ylabel("part of the changes")
    panel.grid(True, color="#eeeeee")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
    saved(figure, target)


def draw(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if (found := source / "forward.json").exists():
        _, figures = load(found)
        by_destinations(figures, target / "destinations.png")
        by_entries(figures, target / "entries.png")
    if (found := source / "freshness.json").exists():
        freshness(json.loads(found.read_text()), target / "freshness.png")
    if (found := source / "control.json").exists():
        control_plot.plot(json.loads(found.read_text()), target)
