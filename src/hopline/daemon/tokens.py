"""Tokens: who may use the API over TCP, and for what.

A token file has one token a line, `admin TOKEN [NAME]` or `view TOKEN [NAME]`, the first two also the other way round
and with a colon between them; what follows a # at the beginning of a line or after a space is a comment. NAME is what
the history says of the one who asked. A token is 8 to 512 characters of those that an Authorization header may carry
(RFC 6750, section 2.1).
"""

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hopline.config import shown
from hopline.errors import InvalidInput

_log = logging.getLogger("hopline.front")

Right = Literal["admin", "view"]

LENGTH_LEAST = 8
LENGTH_MOST = 512
FILE_MOST = 1 << 20  # bytes; a file of that size is no list of tokens

_FIELD = "token-file"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)
_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True)
class Token:
    """One line of a token file; the token itself is not kept."""

    right: Right
    name: str
    digest: bytes = field(repr=False)  # SHA-256


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file; InvalidInput, with the line, if it is wrong or others could write it."""
    tokens: list[Token] = []
    places: dict[bytes, int] = {}
    for number, line in enumerate(_lines(path), 1):
        words = _COMMENT.sub("", line).replace(":", " ").split()
        if not words:
            continue
        token = _token(words, number, path)
        first = places.setdefault(token.digest, number)
        if first != number:
            raise _wrong(path, f"the token is also on line {first}", "give each token once", number)
        tokens.append(token)
    if not tokens:
        raise _wrong(path, "it holds no token", "write lines such as `admin TOKEN NAME`")
    return tuple(tokens)


def known(tokens: Sequence[Token], offered: bytes) -> Token | None:
    """Return the token that `offered` is, None if it is none; takes the same time wherever it differs."""
    digest = hashlib.sha256(offered).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def _token(words: list[str], number: int, path: Path) -> Token:
    if words[1:2] in (["admin"], ["view"]) and words[0] not in ("admin", "view"):
        words = [words[1], words[0], *words[2:]]
    right, *rest = words
    if right not in ("admin", "view"):
        # the word is not shown: it may be a token
        raise _wrong(path, "it does not say admin or view", "write `admin TOKEN [NAME]`", number)
    if not rest or len(rest) > 2:
        count = "no token" if not rest else "more than a token and a name"
        raise _wrong(path, f"{count} after {right}", f"write `{right} TOKEN [NAME]`", number)
    text = rest[0]
    name = rest[1] if len(rest) > 1 else f"line-{number}"
    if not LENGTH_LEAST <= len(text) <= LENGTH_MOST:
        detail = f"the token has {len(text)} characters"
        hint = f"make one of {LENGTH_LEAST} to {LENGTH_MOST}, as `openssl rand -hex 32` does"
        raise _wrong(path, detail, hint, number)
    if not _TOKEN.fullmatch(text):
        detail = "the token has a character that no Authorization header carries"
        raise _wrong(path, detail, "use A-Z a-z 0-9 - . _ ~ + /, then any number of =", number)
    if not _NAME.fullmatch(name):
        raise _wrong(path, f"{shown(name)} cannot name a token", "use 1 to 64 of A-Z a-z 0-9 _ . @ -", number)
    return Token(right, name, hashlib.sha256(text.encode("ascii")).digest())  # type: ignore[arg-type]


def _lines(path: Path) -> list[str]:
    try:
        # without waiting: a pipe would hold the start up
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _wrong(path, "it is no regular file", "give a file")
            if status.st_mode & 0o022:
                raise _wrong(path, "others than its owner may write it", f"chmod 600 {path}")
            if status.st_mode & 0o044:
                _log.warning("%s: others than its owner may read the tokens: chmod 600 %s", path, path)
            if status.st_uid not in (0, os.geteuid()):
                raise _wrong(path, f"it belongs to uid {status.st_uid}", f"chown root {path}")
            data = file.read(FILE_MOST + 1)
    except OSError as error:
        raise _wrong(path, (error.strerror or str(error)).lower(), "give a file that can be read") from None
    if len(data) > FILE_MOST:
        raise _wrong(path, f"it is larger than {FILE_MOST} bytes", "give a list of tokens")
    try:
        return data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _wrong(path, "it is not UTF-8", "write it as plain text", line) from None


def _wrong(path: Path, detail: str, hint: str, line: int | None = None) -> InvalidInput:
    place = f"{path}:{line}" if line else str(path)
    return InvalidInput(_FIELD, f"{place}: {detail}", hint)
