"""What can go wrong, as a caller sees it.

    HoplineError                 everything Hopline raises on purpose
    ├── InvalidInput             a value the operator gave cannot be right (field, detail, hint)
    │   └── InvalidInputs        several cannot (.problems, the first MOST_PROBLEMS of .count)
    ├── Refused                  the value is right, but the present state forbids it
    │   └── StepFailed           one step of a change failed, and all of it was undone
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
    """A field of the operator's input is wrong: `field` names it, `detail` says why, `hint` what would be accepted.

    In a document, `line` is where (from 1) and `key` the destination or name of the entry, where they are known.
    """

    def __init__(
        self, field: str, detail: str, hint: str = "", *, line: int | None = None, key: str | None = None
    ) -> None:
        self.field = field
        self.detail = detail
        self.hint = hint
        self.line = line
        self.key = key
        super().__init__(f"{field}: {detail}" + (f": {hint}" if hint else ""))

    @property
    def problems(self) -> "tuple[InvalidInput, ...]":
        """What is wrong, one by one: of several, the first MOST_PROBLEMS."""
        return (self,)

    @property
    def count(self) -> int:
        """How many values are wrong."""
        return 1

    def within(self, where: str) -> "InvalidInput":
        """Return this refusal for a field that is part of something: `where` goes before its name."""
        return InvalidInput(f"{where}{self.field}", self.detail, self.hint, line=self.line, key=self.key)


class InvalidInputs(InvalidInput):
    """Several values are wrong: `problems` are the first of them, at most MOST_PROBLEMS, `count` is how many in all.

    Field, detail and hint are those of the first.
    """

    def __init__(self, problems: "Sequence[InvalidInput]", count: int) -> None:
        first = problems[0]
        super().__init__(first.field, first.detail, first.hint, line=first.line, key=first.key)
        self._problems = tuple(problems[:MOST_PROBLEMS])
        self._count = count

    @property
    def problems(self) -> tuple[InvalidInput, ...]:
        """The first of what is wrong."""
        return self._problems

    @property
    def count(self) -> int:
        """How many values are wrong in all."""
        return self._count

    def within(self, where: str) -> "InvalidInputs":
        """Return the same for fields that are part of something."""
        return InvalidInputs([problem.within(where) for problem in self.problems], self.count)


class Problems:
    """What is wrong with many values, as it is found: the first MOST_PROBLEMS of it are kept, all of it is counted."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[InvalidInput] = []

    def add(self, error: InvalidInput) -> None:
        """Note one refusal, or the several that it stands for."""
        self.count += error.count
        self._first += error.problems[: MOST_PROBLEMS - len(self._first)]

    def refuse(self) -> None:
        """Raise what was noted: InvalidInput where one value is wrong, InvalidInputs where several are."""
        if self.count == 1:
            raise self._first[0] from None
        if self.count:
            raise InvalidInputs(self._first, self.count) from None


class Refused(HoplineError):
    """Right in itself, but something that exists already stands against it."""


class StepFailed(Refused):
    """A step of a change failed; those before it were undone, so that intent and kernel are as they were."""

    def __init__(self, step: str, cause: HoplineError) -> None:
        super().__init__(f"{step}: {cause}: all of it was undone")


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
