"""`hopline doctor backend`: what keeps this host from being a real server behind a director that tunnels.

facts    what the kernel and Hopline say of this host       judge    what of that is wrong, and what mends it
"""

from hopline.host.backend.facts import Hopline, look
from hopline.host.backend.judge import Finding, judge

__all__ = ["Finding", "Hopline", "examine"]


def examine(vip: str | None, hopline: Hopline | None) -> list[Finding]:
    """Return what was found of a VIP, in its one spelling, or of all that look like one.

    `hopline` is what an instance says of itself, None where none answers.
    """
    return judge(look(hopline), vip)
