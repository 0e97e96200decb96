"""Changes of the whole intent by the command line, under traffic: nothing is lost, and it goes where it should."""

import time

import pytest

from lab.net import Daemon
from lab.node import kernel_entries, store_entries
from lab.traffic import Flow, Traffic, WideRouter, attach, only_xdp_forwards, wait_for

STAYS, MOVES, ADDED = "10.50.0.1", "10.50.1.0/24", "10.50.2.2"


@pytest.fixture
def node(wide, daemon):
    """A router that forwards by XDP alone."""
    one = daemon(wide.ns)
    attach(one, "left", "right", "third")
    only_xdp_forwards(wide)
    return one


def document(wide: WideRouter, place: str, *, added: bool = False) -> str:
    """One entry that is the same always, one that leads to `place`, and perhaps a third."""
    hops = {"server": ("right", wide.server.mac), "other": ("third", wide.other.mac)}
    entries = {STAYS: hops["server"], MOVES: hops[place]} | ({ADDED: hops["other"]} if added else {})
    text = "".join(f'[[interface]]\nname = "{dev}"\n' for dev in ("left", "right", "third"))
    for to, (dev, mac) in entries.items():
        text += f'[[forward]]\nto = "{to}"\ndev = "{dev}"\ndst_mac = "{mac}"\n'
    return text


class Story:
    """What was done when, so that each packet of the flow that moves can be judged by its time."""

    def __init__(self, wide: WideRouter, node: Daemon, directory) -> None:
        self.node, self.directory = node, directory
        self.fates = {"server": f"server {wide.server.mac}", "other": f"other {wide.other.mac}"}
        self.spans: list[tuple[int, int, str]] = []
        self.place, self.since = "server", 0

    def begin(self) -> None:
        """From now on packets are sent."""
        self.since = time.time_ns()
        time.sleep(0.2)

    def moved(self, place: str, began: int) -> None:
        """Somewhere between `began` and now it moved."""
        self.spans.append((self.since, began, self.place))
        self.place, self.since = place, time.time_ns()
        time.sleep(0.2)

    def call(self, place: str, *arguments: str) -> str:
        """Run a command that moves it; what it printed."""
        began = time.time_ns()
        printed = self.node.call(*arguments).stdout
        self.moved(place, began)
        return printed

    def write(self, text: str) -> str:
        path = self.directory / "fw.toml"
        path.write_text(text)
        return str(path)

    def judge(self, traffic: Traffic) -> None:
        assert traffic.judge("stays", self.fates["server"], 0).wrong == 0
        # while it moves it may be at either, but it arrives
        whole = traffic.judge("moves", set(self.fates.values()), 0)
        assert (whole.wrong, whole.sent > 100) == (0, True), whole
        for since, until, place in [*self.spans, (self.since, time.time_ns(), self.place)]:
            verdict = traffic.judge("moves", self.fates[place], since, until)
            assert (verdict.wrong, verdict.sent > 0) == (0, True), (place, verdict)


def flows(wide: WideRouter) -> dict[str, Flow]:
    return {"stays": Flow(wide.client.ip4, STAYS), "moves": Flow(wide.client.ip4, "10.50.1.7")}


def test_apply_and_rollback_lose_nothing(wide, node, tmp_path):
    story = Story(wide, node, tmp_path)
    node.call("apply", story.write(document(wide, "server")), "--yes")
    first = node.json("history")[0]["number"]
    with Traffic(wide, flows(wide), 1000) as traffic:
        story.begin()
        printed = story.call("other", "apply", story.write(document(wide, "other", added=True)))
        assert f"~ forward {MOVES}  dev right → third  dst_mac {wide.server.mac} → {wide.other.mac}\n" in printed
        assert kernel_entries(node) == store_entries(node) == {STAYS, MOVES, ADDED}
        story.call("server", "rollback", str(first))
        assert kernel_entries(node) == store_entries(node) == {STAYS, MOVES}
        story.call("other", "rollback", str(first + 1))
        refused = node.call("apply", story.write(document(wide, "server")), check=False)
        assert (refused.returncode, "would be removed" in refused.stderr) == (1, True)
        story.call("server", "apply", story.write(document(wide, "server")), "--yes")
    story.judge(traffic)
    assert [row["number"] for row in node.json("history")][:5] == [first + 4 - n for n in range(5)]


def test_what_nobody_confirms_goes_back_with_and_without_a_daemon(wide, node, tmp_path):
    story = Story(wide, node, tmp_path)
    node.call("apply", story.write(document(wide, "server")))
    first = str(node.json("history")[0]["number"])
    apply = ("apply", story.write(document(wide, "other")), "--confirm-within")
    with Traffic(wide, flows(wide), 1000) as traffic:
        story.begin()
        story.call("other", *apply, "60s")
        assert "it stays" in node.call("confirm").stdout
        story.call("server", "rollback", first)
        assert "rolled back in 4 s" in story.call("other", *apply, "4s")
        assert "waits to be confirmed" in node.call("forward", "del", STAYS, check=False).stderr
        began = time.time_ns()
        assert wait_for(lambda: node.json("status")["pending"] is None, 10)
        story.moved("server", began)
        # killed with a change that waits: it goes back as the daemon starts
        story.call("other", *apply, "4s")
        node.kill9()
        time.sleep(4)
        began = time.time_ns()
        node.start()
        story.moved("server", began)
        assert node.json("status")["pending"] is None
    story.judge(traffic)
    backs = [row for row in node.json("history") if "not confirmed in time" in row["what"]]
    assert [row["by"] for row in backs] == ["the daemon itself"] * 2


def test_a_refused_document_leaves_everything_as_it_was(wide, node, tmp_path):
    story = Story(wide, node, tmp_path)
    node.call("apply", story.write(document(wide, "server")))
    history = node.json("history")
    with Traffic(wide, flows(wide), 1000) as traffic:
        story.begin()
        for wrong in (
            document(wide, "other").replace('"third"\ndst', '"eth9"\ndst'),
            document(wide, "other") + '[[forward]]\nto = "10.50.3.3"\nvia = "203.0.113.9"\n',
            document(wide, "other") + '[[interface]]\nname = "eth9"\n',
            document(wide, "other") + f'[[forward]]\nto = "{STAYS}"\nvia = "{wide.other.ip4}"\n',
        ):
            refused = node.call("apply", story.write(wrong), "--yes", check=False)
            assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1), refused
            assert refused.stderr.startswith(f"hopline: {tmp_path}/fw.toml:"), refused
        time.sleep(0.2)
    story.judge(traffic)
    assert node.json("history") == history
