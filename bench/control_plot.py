"""What bench/control.py has found, drawn: `python bench/control_plot.py FILE.json DIRECTORY`. Needs matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

BOUNDS = {"load_s": 8.0, "restart_s": 3.0, "memory": 400.0}
INK, FAINT, BLUE, ORANGE, GREEN = "#222222", "#999999", "#1f5fa8", "#c8641e", "#3a7d44"


def plot(document: dict[str, Any], directory: Path) -> list[Path]:
    """Draw time and memory over the number of entries; return the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    sizes = document["sizes"]
    entries = [found["entries"] for found in sizes]
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, label, colour in (
        ("load_s", "load, durable and in the kernel", BLUE),
        ("restart_s", "restart, adopted and answering", ORANGE),
    ):
        times.plot(entries, [found[name] for found in sizes], "o-", color=colour, label=label)
        times.axhline(BOUNDS[name], color=colour, linewidth=0.8, linestyle=":")
    times.set(xscale="log", yscale="log", xlabel="operator entries", ylabel="seconds", title="time; dotted: the bounds")
    times.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    times.yaxis.set_minor_formatter(ticker.NullFormatter())
    for name, label, colour in (
        ("load_peak_mb", "peak, the load included", BLUE),
        ("restart_peak_mb", "peak, a restart included", ORANGE),
        ("restart_rss_mb", "after a restart", GREEN),
    ):
        memory.plot(entries, [found[name] for found in sizes], "o-", color=colour, label=label)
    memory.axhline(BOUNDS["memory"], color=FAINT, linewidth=0.8, linestyle=":")
    memory.set(xscale="log", ylim=(0, None), xlabel="operator entries", ylabel="MB", title="memory of the daemon")
    for axes in (times, memory):
        axes.legend(frameon=False, fontsize=8)
        axes.set_xticks(entries, [f"{number:,}" for number in entries])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(True, color="#eeeeee", linewidth=0.6)
        axes.tick_params(colors=INK, labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "control.png"
    figure.savefig(target, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return [target]


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    print(*plot(json.loads(source.read_text()), target))
