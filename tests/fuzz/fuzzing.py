"""What the fuzz targets share: mutation of seeds, runs with a bound of time on each input, a search led by coverage.

A target's `check` raises for whatever is a finding. `vary` tries plain mutations, a few hundred in every run of the
tests, so that seeds and oracle do not rot; `search` lets atheris look for inputs that reach new branches, in a process
of its own. Both are the same for the same seed. What was found is made smaller, and shown as Python writes it.
"""

import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from repository import ROOT

ATTEMPTS_TO_SHRINK = 2000
_TOKEN = re.compile(rb'"[^"\n]*"|[\w.+-][\w.:/+-]*')  # of JSON, TOML, CSV and HTTP: text, a number, an address
_LITERALS = (b"true", b"false", b"null", b"0", b"-1", b"1.5", b'""', b"[]", b"{}")
# what may be said twice, and what stands in between: a pair of JSON, a parameter, a line
_PHRASES = (
    (re.compile(rb'"[^"\n]*"\s*:\s*(?:"[^"\n]*"|[\w.+-]+)'), b","),
    (re.compile(rb"[\w.-]+=[^&\s]*"), b"&"),
    (re.compile(rb"[^\n]+\n"), b""),
)
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Target:
    """One reader of octets that nobody vouches for."""

    check: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes]  # what its inputs are made of: put in as they are
    modules: tuple[str, ...]  # whose branches lead the search
    longest: int = 4096  # octets
    seconds: float = 2.0  # of this thread's processor time for one input; usual is a thousandth


class TooSlow(AssertionError):
    """An input took longer than a target's inputs may."""


def tried(target: Target, data: bytes) -> None:
    """Check one input, within its time."""
    began = time.thread_time()
    target.check(data)
    took = time.thread_time() - began
    if took > target.seconds:
        raise TooSlow(f"{took:.1f} s for {len(data)} octets")


def mutated(dice: random.Random, target: Target, seed: bytes | None = None) -> bytes:
    """One input: a seed, any of the target's unless told, with some of it changed."""
    data = bytearray(dice.choice(target.seeds) if seed is None else seed)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        _change(dice, target, data)
    return bytes(data[: target.longest])


def _change(dice: random.Random, target: Target, data: bytearray) -> None:
    at = dice.randrange(len(data) + 1)
    end = min(len(data), at + dice.choice((1, 1, 2, 4, 8, 30)))
    phrase, between = dice.choice(_PHRASES)
    match dice.randrange(12):
        case 0 if at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        case 1 if at < len(data):
            data[at] = dice.randrange(256)
        case 2:
            data[at:at] = dice.choice(target.words)
        case 3:
            data[at:end] = dice.choice(target.words)
        case 4:
            del data[at:end]
        case 5:
            data[at:at] = data[at:end] * dice.choice((1, 2, 50))
        case 6:
            other = dice.choice(target.seeds)
            data[at:end] = other[dice.randrange(len(other) + 1) :]
        case 8 | 9 | 10 if tokens := list(_TOKEN.finditer(data)):
            # one value for another: of its kind, of another type, or any
            token = dice.choice(tokens)
            alike = [word for word in target.words if _kind(word) == _kind(token[0])]
            others = dice.choice((alike or _LITERALS, _LITERALS, [*target.words, dice.choice(tokens)[0]]))
            data[token.start() : token.end()] = dice.choice(others)
        case 11 if phrases := list(phrase.finditer(data)):
            twice = dice.choice(phrases)
            data[twice.end() : twice.end()] = between + twice[0]
        case _:
            size = dice.choice((1, 2, 4))
            number = dice.choice(INTERESTING) & (1 << 8 * size) - 1
            data[at : at + size] = number.to_bytes(size, dice.choice(("little", "big")))


def _kind(word: bytes) -> tuple[bool, bool]:
    """Text in quotes, a number or an address, or a word."""
    return word[:1] == b'"', word.lstrip(b'"')[:1].isdigit()


def smaller(target: Target, data: bytes, error: BaseException) -> bytes:
    """Take away what is not needed to get an error of that type."""
    attempts, size = 0, max(len(data) // 2, 1)
    while size and attempts < ATTEMPTS_TO_SHRINK:
        at = 0
        while at < len(data) and attempts < ATTEMPTS_TO_SHRINK:
            shorter = data[:at] + data[at + size :]
            attempts += 1
            if _fails(target, shorter, type(error)):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _fails(target: Target, data: bytes, kind: type[BaseException]) -> bool:
    try:
        tried(target, data)
    except BaseException as error:
        return type(error) is kind
    return False


def vary(target: Target, count: int, seed: int = 1) -> None:
    """Check the seeds as they are, then `count` mutations; fail with the input, made smaller, that showed something."""
    for data in (*target.seeds, *_mutations(target, count, seed)):
        try:
            tried(target, data)
        except Exception as error:
            error.add_note(f"found with {smaller(target, data, error)!r}")
            raise


def _mutations(target: Target, count: int, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    return (mutated(dice, target) for _ in range(count))


def search(target: Target, module: str, directory: Path, runs: int, seed: int = 1) -> None:
    """Let atheris run `module`'s TARGET `runs` times, beginning with its seeds; fail with what it found."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed, or has no wheel for this machine: pip install 'hopline[fuzz]'")
    corpus, found = directory / "corpus", directory / "found-"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(data)
    dictionary = directory / "words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    options = {"runs": runs, "seed": seed, "max_len": target.longest, "timeout": 20, "rss_limit_mb": 2048,
               "dict": dictionary, "artifact_prefix": found, "verbosity": 0}  # fmt: skip
    command = [sys.executable, "-m", "fuzz.search", module, *(f"-{name}={value}" for name, value in options.items())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1"}
    made = subprocess.run([*command, str(corpus)], capture_output=True, text=True, errors="replace", env=environment)
    if made.returncode:
        shown = "".join(f"\nfound with {path.read_bytes()!r}" for path in directory.glob("found-*"))
        pytest.fail(f"{made.stdout[-3000:]}{made.stderr[-3000:]}{shown}")


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word)
