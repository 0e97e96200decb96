"""What a command printed beside what a page says it prints."""

import difflib
import re
from collections.abc import Sequence

ANY = "…"
NOTHING = "nothing"


def squeezed(lines: Sequence[str]) -> list[str]:
    """The lines with single blanks; empty ones left out."""
    return [" ".join(line.split()) for line in lines if line.strip()]


def fits(pattern: str, line: str) -> bool:
    """Whether a line is as the page has it, `…` standing for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split(ANY))), line) is not None


def compare(page: Sequence[str], printed: Sequence[str]) -> tuple[str, str]:
    """What was expected and what was seen, in a line each: equal if it is as the page says.

    If not, they are the first line that differs and the one that came in its place, or came nearest.
    """
    patterns, lines = squeezed(page), squeezed(printed)
    anywhere, place = False, 0
    for pattern in patterns:
        if pattern == ANY:
            anywhere = True
            continue
        candidates = lines[place:] if anywhere else lines[place : place + 1]
        skipped = next((index for index, line in enumerate(candidates) if fits(pattern, line)), None)
        if skipped is None:
            nearest = difflib.get_close_matches(pattern, candidates, 1, 0.0)
            return pattern, nearest[0] if nearest else NOTHING
        place += skipped + 1
        anywhere = False
    if place < len(lines) and not anywhere:
        return f"{NOTHING} more", lines[place]
    told = "; ".join(pattern for pattern in patterns if pattern != ANY) or NOTHING
    return told, told
