"""`hopline lab program`: every lesson's page, told; and what becomes of a page that is wrong."""

import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from hopline import lab as labs
from hopline.cli.main import root
from hopline.errors import NotFound, Refused
from hopline.host.program import keep, record
from hopline.kernel import netns
from hopline.lab import program
from hopline.lab.program import TOPOLOGY, lessons
from hopline.lab.program.compare import compare
from hopline.lab.shell import hopline_command, namespaces
from lab.net import sh

NAMES = set(TOPOLOGY.namespace_names())
PINS, RUN = Path("/sys/fs/bpf/hopline/.programs"), Path("/run/hopline/.programs")
LESSONS = [lesson.name for lesson in lessons.lessons()]
PASS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
kept SEC(".maps");
SEC("xdp") int all(struct xdp_md *ctx)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&kept, &zero) ? XDP_PASS : XDP_ABORTED;
}
char _license[] SEC("license") = "GPL";
"""


def hopline(*arguments):
    return subprocess.run([hopline_command(), *arguments], capture_output=True, text=True, timeout=110, check=False)


def remains(inode: int = 0):
    """Whatever a lesson may leave on this machine; pins and records are known by their namespace's inode."""
    files = [place / str(inode) for place in (PINS, RUN) if inode and (place / str(inode)).exists()]
    return [*(NAMES & namespaces()), *files, *(each for each in [labs.record_directory("program")] if each.exists())]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function: a lesson of that page alone, called `mine`."""

    def write(page: str) -> None:
        directory = tmp_path / "mine"
        directory.mkdir()
        (directory / "mine.bpf.c").write_text(PASS)
        (directory / "README.md").write_text(f"# mine: a page\n\n## One\n\nThis.\n\n```console\n{page}```\n")
        monkeypatch.setattr(lessons, "PLACES", (tmp_path,))

    yield write
    labs.down()


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("page", "printed", "expected", "seen"),
    [
        (["a  b"], ["a b "], "a b", "a b"),
        (["one …", "…", "last"], ["one 1", "two", "three", "last"], "one …; last", "one …; last"),
        (["…", "x…"], ["x1", "y"], "nothing more", "y"),
        (["…", "x…", "…"], ["w", "x1", "y"], "x…", "x…"),
        (["a", "b"], ["a", "c", "b"], "b", "c"),
        (["…", "received 3"], ["sent 3", "received 2"], "received 3", "received 2"),
        (["a"], [], "a", "nothing"),
        (["(a+b)"], ["(a+b)"], "(a+b)", "(a+b)"),
    ],
)
def test_what_is_printed_is_held_against_the_page(page, printed, expected, seen):
    assert compare(page, printed) == (expected, seen)


@pytest.mark.rootless
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_one_page_of_c_and_one_of_text(name):
    lesson = lessons.find(name)
    assert sorted(path.name for path in lesson.directory.iterdir() if path.suffix != ".o") == [
        "README.md",
        f"{name}.bpf.c",
    ]
    source = lesson.source.read_text()
    assert len(source.splitlines()) < 150
    assert "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)" in source.splitlines()[0]
    assert 'SEC("license") = "Dual BSD/GPL";' in source
    assert [each for each in re.findall(r"(\w+) SEC\(\"\.maps\"\)", source) if len(each) > 15] == []
    assert max(len(line.expandtabs(8)) for line in source.splitlines()) <= 120
    assert lesson.page.startswith(f"# {name}: ")
    assert lesson.title
    steps = lesson.steps
    assert steps
    assert all(step.expectation for step in steps)
    commands = [command.text for step in steps for command in step.commands]
    assert f"hopline program build {name}.bpf.c" in commands
    assert any("hopline program load" in command for command in commands)
    # nothing is left loaded, and nothing is told that is not compared with anything
    assert any("hopline program unload" in command for command in commands)
    assert len(lesson.page.splitlines()) < 250


@pytest.mark.rootless
def test_the_list_has_a_line_for_each_lesson():
    told = CliRunner().invoke(root, ["lab", "program"])
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.stdout.splitlines()] == LESSONS
    rows = json.loads(CliRunner().invoke(root, ["lab", "program", "--json"]).stdout)
    assert [row["name"] for row in rows] == LESSONS
    assert {"name": "redirect", "title": "a device map and a MAC table, both ways"} in rows
    index = (lessons.PLACES[1] / "README.md").read_text()
    assert [name for name in LESSONS if f"[{name}]({name}/README.md)" not in index] == []


@pytest.mark.rootless
def test_what_is_no_lesson_is_named_and_so_are_those_that_are():
    with pytest.raises(NotFound, match=r"lab program nothing: no such lesson: there are .*redirect"):
        program.run("nothing")
    assert CliRunner().invoke(root, ["lab", "program", "--keep"]).exit_code == 2
    assert CliRunner().invoke(root, ["lab", "program", "redirect", "--json"]).exit_code == 2


def test_redirect_connects_what_was_not_connected_and_leaves_nothing_behind():
    told = hopline("lab", "program", "redirect")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stderr == ""
    assert "DIFFERS" not in told.stdout
    # both tables are filled between the pings that fail and those that succeed
    texts = ("2 packets transmitted, 0 received", "map set left/ports 0 right", "64 bytes from 10.11.2.2: icmp_seq=3")
    failed, filled, arrived = map(told.stdout.index, texts)
    assert failed < filled < arrived
    assert remains() == []


def test_a_page_that_says_otherwise_fails(written):
    written(
        "node# echo one\none\nleft# sleep 0.3; echo two &\nright# echo three\nfour\nleft# wait\ntwo\n"
        "node# echo 0; exit 4\n0\nnode# echo 'hopline: no'\nhopline: no\nnode# echo 'hopline: no'; exit 1\nhopline: …\n"
        "node# false\nnode# exit 3\nright# test -t 1 && ls -l mine.bpf.c\n…mine.bpf.c\n"
    )
    out = io.StringIO()
    assert program.run("mine", out=out) == 1
    said = out.getvalue()
    assert "✓ node# echo one: one" in said
    assert "✓ left# wait: two" in said
    assert "✗ right# echo three: expected four, seen three" in said
    assert "✗ node# false: expected exit code 0, seen exit code 1" in said
    assert "✗ node# echo 0; exit 4: expected exit code 0, seen exit code 4: 0" in said
    assert "✗ node# echo 'hopline: no': expected a failure, seen exit code 0: hopline: no" in said
    assert "✓ node# echo 'hopline: no'; exit 1" in said
    assert "4 of 9 as expected" in said
    assert remains() == []


def test_what_a_page_left_loaded_goes_with_the_namespaces(written):
    written(
        "node# hopline program build mine.bpf.c\nnode# hopline program load left mine.bpf.o --pin\n"
        "right# hopline program load eth0 mine.bpf.o --for 60s\nright# sleep 50 &\n"
    )
    out = io.StringIO()
    program.run("mine", keep=True, out=out)
    assert "hopline lab down" in out.getvalue()
    inode = netns.inode("hl-node")
    (kept,) = netns.run_in("hl-right", record.records)
    assert keep.runs(kept.keeper)
    assert (PINS / str(inode) / "left" / "kept").exists()
    # what ran beside the story has ended, but for the keeper, which may be elsewhere
    assert {*sh(None, "ip netns pids hl-right").stdout.split()} <= {str(kept.keeper.pid)}
    assert sorted(labs.down()) == sorted(NAMES)
    assert remains(inode) == []
    assert not keep.runs(kept.keeper)


def test_a_lesson_with_devices_that_the_kernel_lacks_is_refused(written):
    written("node# hopline program load left mine.bpf.o\nnode# ip link add link left name x type nosuch id 7\n")
    with pytest.raises(Refused, match=r"^lab program mine: this kernel has no nosuch devices: "):
        program.run("mine", out=io.StringIO())
    assert remains() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_every_page_is_as_it_says(name):
    told = hopline("lab", "program", name)
    lacking = re.fullmatch(r"hopline: lab program \w+: this kernel has no (\w+) devices: .*\n", told.stderr)
    if lacking:
        assert told.returncode == 1
        assert remains() == []
        pytest.skip(f"this kernel has no {lacking[1]} devices")
    assert told.returncode == 0, told.stdout + told.stderr
    assert remains() == []
