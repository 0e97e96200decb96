"""Two builds and one instance: the other is refused by name, `hopline upgrade` swaps it in place, no packet is lost."""

import json
import signal
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest

import hopline
from hopline.kernel import Map
from lab.build import LATER, SMALLER, Build, make_build, this_build
from lab.net import missing_tools, sh, unique_tag
from lab.node import assert_refused, kernel_entries, map_items, shown_entries, xdp_id
from lab.traffic import Flow, Traffic, at_server, attach, only_xdp_forwards, verdicts

pytestmark = pytest.mark.skipif(
    bool(missing_tools("clang", "llvm-strip", "bpftool", "gcc")), reason="needs clang, llvm, gcc and bpftool"
)
MAKING_STEPS = 32  # fewer than the pins of one build
BULK = [f"10.80.{i >> 8}.{i & 255}" for i in range(100)]


@pytest.fixture(scope="session")
def this() -> Build:
    return this_build()


@pytest.fixture(scope="session")
def later(tmp_path_factory) -> Build:
    return make_build(tmp_path_factory.mktemp("later"), "0.2.0", LATER)


@pytest.fixture(scope="session")
def smaller(tmp_path_factory) -> Build:
    return make_build(tmp_path_factory.mktemp("smaller"), "0.3.0", SMALLER)


@pytest.fixture(scope="session")
def kill_at(tmp_path_factory) -> str:
    """The path of kill_at.c, compiled."""
    library = tmp_path_factory.mktemp("kill") / "kill_at.so"
    source = __file__.replace("test_upgrade.py", "kill_at.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


@pytest.fixture
def serving(wide, daemon):
    """This build at work on two interfaces; only what XDP sends on arrives."""
    one = daemon(wide.ns)
    attach(one, "left", "right")
    enter_all(one, wide)
    only_xdp_forwards(wide)
    return one


def enter_all(one, net) -> None:
    client = hopline.connect(one.instance)
    mac = net.server.mac
    client.forward.add("10.50.0.1", dev="right", dst_mac=mac)
    client.forward.add("10.51.0.0/16", dev="right", dst_mac=mac, src_mac=net.right.mac)
    client.forward.add("10.52.0.0/24", via=net.server.ip4)
    client.forward.add("fd00:50::1", dev="right", dst_mac=mac)
    client.forward.add("fd00:52::/64", via=net.server.ip6)
    for i, to in enumerate(BULK):
        client.forward.add(to, dev="right", dst_mac=f"02:00:00:00:77:{i % 50:02x}")


def flows(net) -> dict[str, Flow]:
    to = {"exact": "10.50.0.1", "prefix": "10.51.3.4", "via": "10.52.0.9", "exact6": "fd00:50::1", "via6": "fd00:52::9"}
    return {name: Flow(net.client.ip6 if ":" in at else net.client.ip4, at) for name, at in to.items()}


@contextmanager
def nothing_lost(net):
    """Traffic to every kind of entry while the block runs; each frame arrives, once, where it should."""
    with Traffic(net, flows(net), 1000) as traffic:
        time.sleep(0.2)
        yield traffic
        time.sleep(0.2)
    for name in traffic.flows:
        verdict = traffic.judge(name, at_server(net), 0)
        assert verdict.sent > 50, name
        assert verdict.wrong == 0, f"{name}: {verdict}"


def next_hops(one) -> dict[str, tuple]:
    """What each entry in the kernel leads to, by the names of fields: MACs, device and state, whatever the layout."""
    with Map.from_pin(one.pins / "adjacencies") as held:
        rows = held.items()[1]
    found = {}
    for table in ("forward_exact4", "forward_exact6", "forward_prefix4", "forward_prefix6"):
        for key, value in map_items(one, table).items():
            row = rows[int.from_bytes(value[:4], "little")]
            words = tuple(int(row[name]) for name in ("destination", "source", "ifindex", "state", "family"))
            found[f"{table} {key.hex()}"] = (*words, row["next_hop"].tobytes().hex())
    return found


def pinned(one) -> dict[str, int]:
    """The id of everything pinned, by its path."""
    found = {}
    for path in sorted(one.pins.rglob("*")):
        if path.is_dir():
            continue
        kind = "link" if path.name.startswith("link_") else "map"
        found[str(path)] = json.loads(sh(None, ["bpftool", "-j", kind, "show", "pinned", str(path)]).stdout)["id"]
    return found


def programs(net) -> tuple[int, int]:
    return xdp_id(net.ns, "left"), xdp_id(net.ns, "right")


def last_line(result) -> str:
    """What a daemon that did not start said last; it logs as well."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "kill-9"])
def test_a_start_of_the_same_build_takes_over_without_a_step(wide, serving, number):
    before, running = pinned(serving), programs(wide)
    with nothing_lost(wide):
        serving.restart(number)
    assert (pinned(serving), programs(wide)) == (before, running)
    assert " 0 steps to agree" in serving.log.read_text().rpartition("entries,")[2]


def test_another_version_is_refused_by_name_and_touches_nothing(wide, serving, this, later):
    serving.terminate()
    before, running, hops = pinned(serving), programs(wide), next_hops(serving)
    generation = map_items(serving, "state")
    with nothing_lost(wide):
        line = last_line(later.run(wide.ns, *serving.arguments))
    assert f"adopt instance {serving.instance}: it was loaded by hopline {this.version} (object " in line
    assert f"this is hopline {later.version} (object " in line
    assert line.endswith(f"`hopline upgrade --instance {serving.instance}` swaps it in place")
    assert (pinned(serving), programs(wide), next_hops(serving)) == (before, running, hops)
    assert map_items(serving, "state") == generation
    serving.start()
    assert programs(wide) == running


def test_an_upgrade_and_the_way_back_lose_no_packet_and_no_entry(wide, serving, this, later):
    entries, hops, running = shown_entries(serving), next_hops(serving), programs(wide)
    with nothing_lost(wide):
        counted = verdicts(serving, "left")["FORWARDED"]
        serving.terminate()
        before = pinned(serving)
        tried = later.run(wide.ns, "upgrade", "--instance", serving.instance, "--dry-run")
        assert (tried.returncode, tried.stderr) == (0, ""), tried
        assert "left: would be swapped in place" in tried.stdout
        assert (pinned(serving), programs(wide)) == (before, running)

        done = later.run(wide.ns, "upgrade", "--instance", serving.instance)
        assert (done.returncode, done.stderr) == (0, ""), done
        said = done.stdout.splitlines()
        assert said[0].startswith(f"instance {serving.instance}: hopline {this.version} (object ")
        assert f"→ hopline {later.version} (object " in said[0]
        assert said[1] == "carried 105 entries by 54 next hops"
        assert said[2:4] == ["left: swapped in place", "right: swapped in place"]
        assert "adjacencies: field colour is new and 0" in said
        assert "forward_exact4: room for 2,097,152 in place of 1,048,576" in said
        swapped = programs(wide)
        assert not {*swapped, 0} & {*running}
        assert next_hops(serving) == hops
        assert kernel_entries(serving) == entries
        again = later.run(wide.ns, "upgrade", "--instance", serving.instance)
        assert (again.returncode, "nothing to do" in again.stdout, programs(wide)) == (0, True, swapped)

        assert f"loaded by hopline {later.version}" in last_line(this.run(wide.ns, *serving.arguments))
        with later.at_work():
            serving.start()
            assert shown_entries(serving) == entries
            assert programs(wide) == swapped
            assert verdicts(serving, "left")["FORWARDED"] > counted
            serving.terminate()
        back = this.run(wide.ns, "upgrade", "--instance", serving.instance)
        assert (back.returncode, back.stderr) == (0, ""), back
        assert next_hops(serving) == hops
        serving.start()
        assert shown_entries(serving) == entries
        assert verdicts(serving, "left")["FORWARDED"] > counted
    assert " 0 steps to agree" in serving.log.read_text().rpartition("entries,")[2]
    assert list(serving.pins.glob("upgrade_*")) == []


def test_learned_traffic_goes_on_over_an_upgrade(wide, daemon, later):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    with Traffic(wide, wide.flows(), 1000) as traffic:
        time.sleep(0.3)
        one.kill9()
        done = later.run(wide.ns, "upgrade", "--instance", one.instance)
        assert done.returncode == 0, done
        with later.at_work():
            one.start()
            time.sleep(0.3)
            one.terminate()
    for name in wide.flows():
        assert traffic.judge(name, at_server(wide), 0).wrong == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_an_upgrade_killed_at_any_step_is_completed_by_the_next(wide, serving, this, later, kill_at, stride):
    serving.terminate()
    entries, hops = kernel_entries(serving), next_hops(serving)
    builds, number = [this, later], 0
    with nothing_lost(wide):
        while True:
            # while it makes, one step is like another
            number += max(stride, 6 if number in range(1, MAKING_STEPS) else 1)
            target = builds[1]
            settings = {"LD_PRELOAD": kill_at, "KILL_AT": str(number)}
            cut = target.run(wide.ns, "upgrade", "--instance", serving.instance, **settings)
            if cut.returncode == 0:
                break
            assert cut.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), cut
            assert kernel_entries(serving) == entries, f"killed at step {number}"
            if number % 3 == 0:  # back instead: the build that was there before
                target = builds[0]
            done = target.run(wide.ns, "upgrade", "--instance", serving.instance)
            assert (done.returncode, done.stderr) == (0, ""), f"killed at step {number}: {done}"
            assert next_hops(serving) == hops, f"killed at step {number}"
            assert list(serving.pins.glob("upgrade_*")) == [], f"killed at step {number}"
            if target is builds[1]:
                builds.reverse()
    assert number > 30
    with builds[1].at_work():
        serving.start()
        assert shown_entries(serving) == entries
        serving.terminate()


def test_a_start_while_an_upgrade_is_half_done_is_refused_by_either_build(wide, serving, this, later, kill_at):
    serving.terminate()
    for number in range(MAKING_STEPS + 8, 3 * MAKING_STEPS, 4):
        settings = {"LD_PRELOAD": kill_at, "KILL_AT": str(number)}
        later.run(wide.ns, "upgrade", "--instance", serving.instance, **settings)
        if (serving.pins / "upgrade_ready").exists():
            break
    before, running = pinned(serving), programs(wide)
    with nothing_lost(wide):
        for build in (this, later):
            line = last_line(build.run(wide.ns, *serving.arguments))
            assert f"an upgrade to hopline {later.version} (object " in line
            assert line.endswith(f"`hopline upgrade --instance {serving.instance}` finishes it")
        assert (pinned(serving), programs(wide)) == (before, running)
    # who would rather not, can have the kernel alone again
    assert later.run(wide.ns, "detach", "--instance", serving.instance).returncode == 0
    assert (serving.pins.exists(), programs(wide)) == (False, (0, 0))


def test_what_has_no_place_in_the_other_build_is_refused_by_name(wide, serving, this, later, smaller):
    serving.terminate()
    before, running = pinned(serving), programs(wide)
    with nothing_lost(wide):
        refused = smaller.run(wide.ns, "upgrade", "--instance", serving.instance)
        assert_refused(refused, 1, "migrate forward_exact4", "101 entries", "4 at most")
        assert (pinned(serving), programs(wide)) == (before, running)
        assert later.run(wide.ns, "upgrade", "--instance", serving.instance).returncode == 0
        with Map.from_pin(serving.pins / "adjacencies") as held:
            rows = held.mmap()
            used = np.nonzero(rows["state"])[0][0]
            rows["colour"][used] = 7
            refused = this.run(wide.ns, "upgrade", "--instance", serving.instance)
            assert_refused(refused, 1, "migrate adjacencies.colour", "no place", "1 of")
            rows["colour"][used] = 0
        with Map.from_pin(serving.pins / "later_things") as held:
            held.set(2, 9)
            refused = this.run(wide.ns, "upgrade", "--instance", serving.instance)
            assert_refused(refused, 1, "no map later_things", "1 entries")
            held.set(2, 0)
        assert this.run(wide.ns, "upgrade", "--instance", serving.instance).returncode == 0
    serving.start()


def test_what_an_early_build_left_is_said_and_upgraded(wide, serving, this):
    serving.terminate()
    (serving.pins / "identity").unlink()
    with nothing_lost(wide):
        line = last_line(this.run(wide.ns, *serving.arguments))
        assert "it was loaded by a hopline that did not say its version, and this is" in line
        done = this.run(wide.ns, "upgrade", "--instance", serving.instance)
        assert done.returncode == 0, done
        serving.start()
    assert len(shown_entries(serving)) == 105


def test_an_upgrade_is_refused_while_a_daemon_serves_and_from_another_namespace(wide, serving, this, later):
    refused = later.run(wide.ns, "upgrade", "--instance", serving.instance)
    assert_refused(refused, 1, f"upgrade instance {serving.instance}: a daemon serves it", "stop that first")
    serving.terminate()
    refused = later.run(None, "upgrade", "--instance", serving.instance)
    assert_refused(refused, 1, "its interfaces are in network namespace")
    refused = later.run(wide.ns, "upgrade", "--instance", unique_tag())
    assert_refused(refused, 1, "nothing of it is in the kernel")
    same = this.run(wide.ns, "upgrade", "--instance", serving.instance, "--json")
    assert json.loads(same.stdout)["needed"] is False


@pytest.mark.parametrize("steps", [(1, 9), pytest.param((2, 3, 5, 12), marks=pytest.mark.slow)])
def test_a_first_start_killed_at_any_step_is_made_up_for_by_the_next(router, daemon, this, kill_at, steps):
    one = daemon(router.ns)
    one.terminate()
    for number in steps:
        this.run(None, "detach", "--instance", one.instance)
        assert not one.pins.exists()
        with subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{router.ns}", "--", str(this.command), *one.arguments],
            env={**hopline.lab.shell.environment(), "LD_PRELOAD": kill_at, "KILL_AT": str(number)},
            stderr=subprocess.DEVNULL,
        ) as cut:
            assert cut.wait(20) == -signal.SIGKILL
        one.start()
        attach(one, "left")
        assert one.json("interface", "show", "left")[0]["attached"]
        one.call("interface", "del", "left")
        one.terminate()
