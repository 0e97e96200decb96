"""What can go wrong, as a caller sees it.

    HoplineError                 everything Hopline raises on purpose
    ├── InvalidInput             a value the operator gave cannot be right (field, detail, hint)
    │   └── InvalidInputs        several cannot (.problems, the first MOST_PROBLEMS of .count)
    ├── Refused                  the value is right, but the present state forbids it
    ├── NotFound                 what was named does not exist
    ├── Unavailable              the daemon cannot be reached
    └── KernelError              the kernel said no (errno)
        ├── VerifierRefusal      it would not load a program; .log is the whole log
        └── LayoutError          an object lacks a struct, field or map that Python names

A text is one lower-case line, from what was asked to why it failed, and ends with what to do.
"""

import os
from collections.abc import Sequence

MOST_PROBLEMS = 20


class HoplineError(Exception):
    """Base of all; str() is the one line an operator reads."""


class InvalidInput(HoplineError):
    """A field of the operator's input is wrong: `field` names it, `detail` says why, `hint` what would be accepted."""

    def __init__(self, field: str, detail: str, hint: str = "") -> None:
        self.field = field
        self.detail = detail
        self.hint = hint
        super().__init__(f"{field}: {detail}" + (f": {hint}" if hint else ""))


class InvalidInputs(InvalidInput):
    """Several values are wrong: `problems` are the first of them, at most MOST_PROBLEMS, `count` is how many in all.

    Field, detail and hint are those of the first.
    """

    def __init__(self, problems: "Sequence[InvalidInput]", count: int) -> None:
        first = problems[0]
        super().__init__(first.field, first.detail, first.hint)
        self.problems = tuple(problems[:MOST_PROBLEMS])
        self.count = count


class Refused(HoplineError):
    """Right in itself, but something that exists already stands against it."""


class NotFound(HoplineError):
    """The thing named is not there."""


class Unavailable(HoplineError):
    """No daemon answers for this instance."""


class KernelError(HoplineError):
    """A system call failed; `errno` is positive."""

    def __init__(self, asked: str, errno: int, todo: str = "") -> None:
        self.asked = asked
        self.errno = errno
        text = f"{asked}: {os.strerror(errno).lower()} (errno {errno})"
        super().__init__(text + (f": {todo}" if todo else ""))


class VerifierRefusal(KernelError):
    """The verifier refused a program; the text is its last line, `log` all of it."""

    def __init__(self, asked: str, errno: int, log: str) -> None:
        self.log = log
        lines = [line for line in log.strip().splitlines() if line and not line.startswith(("processed ", "--"))]
        super().__init__(asked, errno, lines[-1] if lines else "")


class LayoutError(KernelError):
    """Python names something that the object's BTF does not have."""

    def __init__(self, asked: str) -> None:
        HoplineError.__init__(self, f"{asked}: rebuild Hopline so that object and package are of one version")
        self.asked = asked
        self.errno = 0
