"""What a check found, in words."""

import errno
import os
from dataclasses import dataclass

# what this node lacks says nothing about the backend
_OWN = {
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.EADDRNOTAVAIL,
    errno.EADDRINUSE,
    errno.EACCES,
    errno.EPERM,
    errno.EAFNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ENODEV,
}
_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`good` None: the check could not be made, for a reason of this node's own."""

    good: bool | None
    text: str


def good(text: str) -> Outcome:
    """The backend answered as it should."""
    return Outcome(True, text)


def bad(text: str) -> Outcome:
    """It did not."""
    return Outcome(False, text)


def unknown(text: str) -> Outcome:
    """Nobody asked it."""
    return Outcome(None, f"not checked: {text}")


def silent(seconds: float) -> Outcome:
    """It said nothing in time."""
    return bad(f"no answer in {seconds:g} s")


def of_error(error: OSError, seconds: float) -> Outcome:
    """What a failed system call says: of the backend, or of this node. `seconds` is the time-out of the check."""
    if error.errno == errno.ETIMEDOUT:
        return silent(seconds)
    words = _WORDS.get(error.errno or 0) or os.strerror(error.errno or errno.EIO).lower()
    return unknown(words) if error.errno in _OWN else bad(words)
