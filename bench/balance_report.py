"""What bench/balance.py found, as Markdown, and whether it is what was asked for."""

from record import Figure

COLUMNS = (1, 65_536, 1_048_576)
FIELDS = ("instructions", "calls", "lookups", "lines")
MOST = COLUMNS[-1]
# what is wanted: ns over the harness of IPv4, by row and flows; IPv6 so many times that
GOALS = {("closed", 1): 55, ("closed", MOST): 62, ("closed, SYNs", MOST): 62, ("open, in the flow table", MOST): 150}
OF_IPV4 = 1.5
BESIDE = 22  # what a packet for no service may cost beyond forward's own
WITHOUT, WITH = "forward, no services", "forward, beside a service"


def over(one: Figure | None) -> str:
    """A cell: the minimum, and the median in brackets."""
    return "" if one is None else f"{one.over_least:g} ({one.over_median:g})"


def table(figures: list[Figure], family: int) -> str:
    """A line a row: ns over the harness, then what one packet of it does."""
    found = {(one.row, one.destinations): one for one in figures if one.family == family}
    names = [name for name in dict.fromkeys(name for name, _ in found) if not name.startswith("empty")]
    titles = [f"IPv{family}, flows:", *(f"{count:,}" for count in COLUMNS)]
    lines = [[*titles, "instructions", "calls", "look-ups", "map lines"], ["---", *["--:"] * 7]]
    for name in names:
        each = [found.get((name, count)) for count in COLUMNS]
        known = next(one for one in each if one is not None)
        lines.append([name, *map(over, each), *(str(getattr(known, field)) for field in FIELDS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def goals(figures: list[Figure]) -> str:
    """What was asked for and what it is, a line each."""
    at = {(one.family, one.row, one.destinations): one.over_least for one in figures}
    wanted: list[tuple[str, float, float]] = []
    for (row, flows), most in GOALS.items():
        four, six = at.get((4, row, flows)), at.get((6, row, flows))
        if four is not None:
            wanted.append((f"balance, IPv4, {row}, {flows:,} flows", four, most))
        if four is not None and six is not None:
            wanted.append((f"balance, IPv6, {row}, {flows:,} flows: 1.5 times IPv4", six, OF_IPV4 * four))
    for family in (4, 6):
        plain, beside = at.get((family, WITHOUT, 1)), at.get((family, WITH, 1))
        if plain is not None and beside is not None:
            wanted.append((f"IPv{family}, not a service's, beyond forward's own", beside - plain, BESIDE))
    return "\n".join(
        f"{'met' if found <= most else 'NOT MET':8} {what}: {found:g} ns, wanted {most:g}"
        for what, found, most in wanted
    )
