"""What bench/control.py has found, in words and in Markdown."""

from typing import Any

Figures = dict[str, Any]

# row → what is in it, of one size; and the bound at a million where there is one
ROWS: tuple[tuple[str, str, str], ...] = (
    ("`hopline forward load` of a file, the command whole", "{load_s} s", "8 s"),
    ("of which the store", "{store_s} s", ""),
    ("of which plan and maps", "{kernel_s} s", ""),
    ("entries a second, plan to map", "{plan_to_map_per_s:,}", "≥ 300,000"),
    ("restart: exec to adopted and answering, least of the runs", "{restart_s} s", "3 s"),
    ("restart, median", "{restart_median_s} s", ""),
    ("restart, CPU time", "{restart_cpu_s} s", ""),
    ("memory of the daemon after the load (VmRSS)", "{rss_mb:.0f} MB", "400 MB"),
    ("its peak, the load included (VmHWM)", "{load_peak_mb:.0f} MB", "400 MB"),
    ("memory after a restart (VmRSS)", "{restart_rss_mb:.0f} MB", ""),
    ("its peak, the restart included (VmHWM)", "{restart_peak_mb:.0f} MB", "400 MB"),
    (
        "one replace over a kept connection, p50 / p99",
        "{replace[kept][p50_ms]} / {replace[kept][p99_ms]} ms",
        "p50 5 ms",
    ),
    ("one replace by `hopline.connect()`, p50 / p99", "{replace[client][p50_ms]} / {replace[client][p99_ms]} ms", ""),
    ("one `hopline forward replace`, p50", "{replace[command][p50_ms]:.0f} ms", ""),
)


def size(found: Figures) -> str:
    """What one size came to, a line a row."""
    lines = [f"{found['entries']:,} entries"]
    lines += [f"    {what:58} {shape.format(**found)}" for what, shape, _ in ROWS]
    lines += [
        f"    {rate['kind']:8} {rate['clients']:4} clients {rate['per_second']:10,.0f} a second   "
        f"p50 {rate['p50_ms']:g} ms   p99 {rate['p99_ms']:g} ms"
        for rate in found["rates"]
    ]
    return "\n".join(lines)


def markdown(document: Figures) -> str:
    """The tables of the page."""
    sizes = document["sizes"]
    head = "".join(f" {found['entries']:,} |" for found in sizes)
    lines = [f"| operator entries |{head} bound at a million |", "|---|" + "---:|" * (len(sizes) + 1)]
    lines += [
        f"| {what} |{''.join(f' {shape.format(**one)} |' for one in sizes)} {bound} |" for what, shape, bound in ROWS
    ]
    lines += ["", "| requests, at " + f"{sizes[-1]['entries']:,} entries | clients | a second | p50 | p99 |"]
    lines += ["|---|---:|---:|---:|---:|"]
    words = {"show": "show one entry", "replace": "replace one entry, durable and in the kernel"}
    lines += [_row(words[rate["kind"]], rate["clients"], f"{rate['per_second']:,.0f}",
                   f"{rate['p50_ms']:g} ms", f"{rate['p99_ms']:g} ms") for rate in sizes[-1]["rates"]]  # fmt: skip
    return "\n".join([*lines, "", *_beside(document), "", *_where(document)])


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _beside(document: Figures) -> list[str]:
    tool, most = document["bpftool"], document["sizes"][-1]
    each, batch, count = tool["each_per_s"], tool["batch_per_s"], most["entries"]
    whole = count / most["load_s"]
    return [
        _row("filling a map of the same shape", "entries a second", f"for {count:,}"),
        "|---|---:|---:|",
        _row(f"one `bpftool map update` an entry, {tool['each_entries']:,} of them", f"{each:,}",
             f"{count / each:,.0f} s, extrapolated"),
        _row(f"`bpftool batch file`, {tool['batch_entries']:,} lines", f"{batch:,}",
             f"{count / batch:,.1f} s, extrapolated"),
        _row("hopline, plan and maps", f"{most['plan_to_map_per_s']:,}", f"{most['kernel_s']} s"),
        _row("hopline, the command: checked, durable, in the kernel", f"{whole:,.0f}", f"{most['load_s']} s"),
    ]  # fmt: skip


def _where(document: Figures) -> list[str]:
    machine = document["machine"]
    python, version, imports = (
        document["python"][name] * 1e3 for name in ("python_s", "version_s", "daemon_imports_s")
    )
    return [
        f"Of these, starting Python: `python -c ''` takes {python:.0f} ms, `hopline --version` {version:.0f} ms, and "
        f"the imports of the daemon are {imports:.0f} ms of every start.",
        "",
        f"Taken {document['taken']} on {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, load "
        f"{machine['load']} before; the store on {document['file_system']}.",
    ]
