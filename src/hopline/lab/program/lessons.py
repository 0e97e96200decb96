"""The lessons: a directory each, with a page of C and a page of text that is also the lab's script.

In README.md, `# NAME: …` says what is taught; each `## …` is a step, its first paragraph what to expect of it. In a
`console` block `HOST# ` begins a command, and what follows is all it prints on either stream: `…` stands for anything
within a line, and alone on a line for any lines; how many blanks stand between words does not matter. What a
command prints is not compared where there are no such lines. It has to succeed, unless one of them says that it fails:
an error that begins with the command's name, or packets that are lost.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hopline.errors import NotFound

PACKAGE = Path(__file__).resolve().parents[2]
# as a wheel has them, and as a checkout has them
PLACES = (PACKAGE / "lessons", PACKAGE.parents[1] / "examples" / "lessons")
HOSTS = ("left", "node", "right")

_PROMPT = re.compile(rf"({'|'.join(HOSTS)})# (.+)")
_LOST = re.compile(r".*\b0 received|.*100% packet loss|From .* icmp_seq=\d+ ")
_DEVICE_KIND = re.compile(r"\bip (?:-\S+ )*link add\b.*\btype (\w+)")


@dataclass(frozen=True)
class Command:
    """One command on a host, and the lines that the page says it prints."""

    host: str
    text: str
    output: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether the page says that it does."""
        error = re.compile(rf"(hopline|{re.escape(self.text.split()[0])}): (?!warning: )")
        return any(error.match(line) or _LOST.match(line) for line in self.output)


@dataclass(frozen=True)
class Step:
    """A heading, the paragraph under it, and the commands."""

    title: str
    expectation: str
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Lesson:
    """One directory of lessons."""

    directory: Path

    @property
    def name(self) -> str:
        """What the lesson is called."""
        return self.directory.name

    @property
    def source(self) -> Path:
        """The page of C."""
        return self.directory / f"{self.name}.bpf.c"

    @cached_property
    def page(self) -> str:
        """The page of text."""
        return (self.directory / "README.md").read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """What it teaches, in one line."""
        return self.page.partition("\n")[0].partition(": ")[2]

    @property
    def steps(self) -> list[Step]:
        """What is done, in order; a section without commands is only to be read."""
        sections = re.split(r"^## ", self.page, flags=re.MULTILINE)[1:]
        return [step for step in map(_step, sections) if step.commands]

    @property
    def words(self) -> set[str]:
        """Every word of its commands, the tools they need among them."""
        return {word for step in self.steps for command in step.commands for word in command.text.split()}

    @property
    def device_kinds(self) -> list[str]:
        """The kinds of devices that its commands make, such as `vlan`."""
        commands = (command.text for step in self.steps for command in step.commands)
        return sorted({found[1] for text in commands if (found := _DEVICE_KIND.search(text))})


def _step(section: str) -> Step:
    title, _, text = section.partition("\n")
    first = re.sub(r"[`*]", "", text.strip().split("\n\n", 1)[0])
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return Step(title.strip(), " ".join(first.split()), tuple(each for block in blocks for each in _commands(block)))


def _commands(block: str) -> list[Command]:
    found: list[tuple[str, str, list[str]]] = []
    for line in block.splitlines():
        prompt = _PROMPT.fullmatch(line)
        if prompt:
            found.append((prompt[1], prompt[2], []))
        else:
            found[-1][2].append(line)
    return [Command(host, text, tuple(output)) for host, text, output in found]


def lessons() -> list[Lesson]:
    """All of them, by name."""
    place = next((place for place in PLACES if place.is_dir()), None)
    if place is None:
        raise NotFound(f"lab program: no lessons in {PLACES[0]}: install the package again")
    return [Lesson(page.parent) for page in sorted(place.glob("*/README.md"))]


def find(name: str) -> Lesson:
    """The lesson of that name; NotFound names those that are there."""
    known = {lesson.name: lesson for lesson in lessons()}
    if name not in known:
        raise NotFound(f"lab program {name}: no such lesson: there are {', '.join(known)}")
    return known[name]
