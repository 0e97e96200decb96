"""`hopline lab program`: the lessons in XDP and LWT programs, each told as a story in namespaces of its own.

    lessons    what they are, and how their pages are read
    stage      running their commands
    compare    what was printed beside what the page says

A lesson's page is its script, so that whoever reads it at a terminal sees what the lab saw.
"""

import shutil
from typing import TextIO

from hopline import lab as labs
from hopline.errors import Refused
from hopline.lab.program.lessons import Lesson, find
from hopline.lab.program.stage import Stage
from hopline.lab.shell import PACKAGES, enter, require
from hopline.lab.shell import run as run_command
from hopline.lab.story import Story
from hopline.lab.topology import Namespace, Port, Topology, build

NAME = "program"
# whatever the lesson: the network and the compiler
TOOLS = ("ip", "nsenter", "ethtool", "clang", "timeout")
LEFT_LAN, RIGHT_LAN = "lan-left", "lan-right"

TOPOLOGY = Topology(
    name=NAME,
    nodes=(
        Namespace(
            "hl-left",
            (Port("eth0", LEFT_LAN, "02:00:00:00:01:02", ("10.11.1.2/24", "fd00:11:1::2/64")),),
            ("default via 10.11.1.1", "default via fd00:11:1::1"),
        ),
        Namespace(
            "hl-node",
            (
                Port("left", LEFT_LAN, "02:00:00:00:01:01", ("10.11.1.1/24", "fd00:11:1::1/64")),
                Port("right", RIGHT_LAN, "02:00:00:00:02:01", ("10.11.2.1/24", "fd00:11:2::1/64")),
            ),
        ),
        Namespace(
            "hl-right",
            (Port("eth0", RIGHT_LAN, "02:00:00:00:02:02", ("10.11.2.2/24", "fd00:11:2::2/64")),),
            ("default via 10.11.2.1", "default via fd00:11:2::1"),
        ),
    ),
)

PICTURE = """\
   left ── eth0 10.11.1.2 ────── left 10.11.1.1 ── node ── right 10.11.2.1 ────── 10.11.2.2 eth0 ── right
           02:…:01:02            02:…:01:01                02:…:02:01             02:…:02:02
   IPv6 alike: fd00:11:1::2 and ::1, fd00:11:2::1 and ::2. The node does not forward unless it is told to."""


def refuse_missing_kinds(lesson: Lesson) -> None:
    """Raise Refused, in one line, if the kernel lacks a kind of device that the lesson makes."""
    for kind in lesson.device_kinds:
        # without its parameters no kind makes a device that matters, and in these namespaces none lasts
        tried = run_command(enter("hl-left", ["ip", "link", "add", "hl-kind", "type", kind]), check=False)
        if "Unknown device type" in tried.stderr:
            asked = f"lab program {lesson.name}"
            raise Refused(f"{asked}: this kernel has no {kind} devices: load the module for them or use another kernel")


def look_around(story: Story) -> None:
    """Say what --keep has left, and how to use it."""
    story.line("")
    story.say("The namespaces are left standing (--keep). Look around:")
    for each in ("hopline program show", "ip link"):
        story.line(f"   # nsenter --net=/run/netns/hl-node {each}")
    story.say("and remove them with: hopline lab down")


def tell(lesson: Lesson, out: TextIO | None, keep: bool) -> int:
    """Build the network and go through the page; whoever calls removes what it made."""
    directory = labs.claim(NAME, TOPOLOGY.namespace_names())
    build(TOPOLOGY)
    refuse_missing_kinds(lesson)
    shutil.copy(lesson.source, directory)
    story = Story(out)
    story.line(f"hopline lab program {lesson.name}: {lesson.title}", "bold")
    story.line(PICTURE)
    story.line(f"   The text: {lesson.directory / 'README.md'}")
    with Stage(story, directory) as stage:
        for step in lesson.steps:
            story.step(step.title, step.expectation)
            for command in step.commands:
                stage.perform(command)
    code = story.conclude()
    if keep:
        look_around(story)
    return code


def run(name: str, keep: bool = False, out: TextIO | None = None) -> int:
    """Tell a lesson on `out` (stdout); 0 if everything was as its page says, else 1.

    With `keep` the namespaces are left standing. Raises HoplineError when it cannot be told at all; nothing is left
    behind then, nor after any other exception.
    """
    lesson = find(name)
    require(f"lab program {name}", sorted(lesson.words.intersection(PACKAGES).union(TOOLS)))
    with labs.alone(NAME, f"lab program {name}"), labs.stoppable():
        standing = False
        try:
            # an earlier run may have been killed
            labs.clear(NAME)
            code = tell(lesson, out, keep)
            standing = keep
        finally:
            if not standing:
                with labs.undisturbed():
                    labs.clear(NAME)
        return code
