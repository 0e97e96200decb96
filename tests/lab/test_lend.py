"""`interface add` where another program sits on the device: what root lends the daemon, and what is left of it."""

import contextlib
import socket
import subprocess

import pytest

import hopline
from hopline.config import Interface
from hopline.daemon.protocol import InterfaceAdded
from hopline.errors import HoplineError, Refused
from hopline.host.lend import lent
from hopline.kernel import BpfObject, XdpLink, foreign, netns, query
from hopline.lab.shell import enter, environment, hopline_command
from lab.net import missing_tools, sh
from lab.node import assert_refused, compile_stranger, xdp_id
from lab.node import hopline as run_hopline
from lab.traffic import Traffic, only_xdp_forwards, state_of

pytestmark = pytest.mark.skipif(bool(missing_tools("clang")), reason="needs clang")

GENERIC = "xdpgeneric"


@contextlib.contextmanager
def stranger(net, dev: str, directory, how: str, mode: str = "xdpdrv"):
    """Somebody else's program on a device, attached by netlink or held by a link; its id."""
    path = compile_stranger(directory)
    if how == "netlink":
        sh(net.ns, f"ip link set dev {dev} {mode} obj {path} sec xdp")
        yield xdp_id(net.ns, dev)
        return
    with BpfObject.open(path) as opened:
        opened.load()
        program, index = opened.program("stranger"), index_of(net, dev)
        link = netns.run_in(net.ns, XdpLink.attach, program, index, "generic" if mode == GENERIC else "native")
        with link:
            yield program.id


def index_of(net, dev: str) -> int:
    return netns.run_in(net.ns, socket.if_nametoindex, dev)


def lent_pins(daemon) -> list[str]:
    return [pin.name for pin in daemon.pins.iterdir() if pin.name.startswith("lent")]


@pytest.mark.parametrize("asked", ["cli", "client"])
@pytest.mark.parametrize("how", ["netlink", "link"])
def test_it_is_named_and_taken_over_only_when_asked(wide, daemon, tmp_path, how, asked):
    one = daemon(wide.ns)
    with stranger(wide, "left", tmp_path, how) as number:
        if asked == "cli":
            refused = run_hopline(wide.ns, "interface", "add", "left", "--instance", one.instance)
            assert_refused(refused, 1, f"another program (id {number}, stranger) is attached", "use --replace")
        else:
            with pytest.raises(Refused, match=rf"another program \(id {number}, stranger\) is attached"):
                hopline.connect(one.instance).interface.add("left")
        assert xdp_id(wide.ns, "left") == number
        assert lent_pins(one) == []
        if asked == "cli":
            one.call("interface", "add", "left", "--replace")
        else:
            hopline.connect(one.instance).interface.add("left", replace=True)
        assert state_of(one, "left").program_id == xdp_id(wide.ns, "left") not in (0, number)
        assert lent_pins(one) == []
    only_xdp_forwards(wide)
    one.call("forward", "add", wide.flows()["ipv4"].destination, "--dev", "right", "--dst-mac", wide.server.mac)
    with Traffic(wide, {"ipv4": wide.flows()["ipv4"]}, 500) as traffic:
        sh(wide.ns, "sleep 0.3")
    verdict = traffic.judge("ipv4", f"server {wide.server.mac}", 0)
    assert verdict.sent > 50
    assert verdict.wrong == 0, verdict


@pytest.mark.parametrize("how", ["netlink", "link"])
def test_a_take_over_that_fails_leaves_it_and_the_intent_as_they_were(wide, daemon, tmp_path, how):
    one = daemon(wide.ns)
    # a bridge has no native xdp
    sh(wide.ns, "ip link add br0 type bridge")
    with stranger(wide, "br0", tmp_path, how, GENERIC) as number:
        refused = run_hopline(
            wide.ns, "interface", "add", "br0", "--mode", "native", "--replace", "--instance", one.instance
        )
        line = assert_refused(refused, 1, "the driver has no native xdp")
        assert line.endswith(f"the program it had (id {number}, stranger) is attached again")
        assert netns.run_in(wide.ns, query, index_of(wide, "br0")).program_id == number
        assert hopline.connect(one.instance).interface.show() == []
        assert [pin for pin in one.pins.iterdir() if pin.name.startswith(("link_", "lent"))] == []
        # where any mode will do, the next one is tried
        one.call("interface", "add", "br0", "--replace")
        assert state_of(one, "br0").mode == "generic"
        assert lent_pins(one) == []


@pytest.mark.parametrize("how", ["netlink", "link"])
def test_who_has_nothing_to_lend_is_refused_and_told_who_has(wide, daemon, tmp_path, how):
    one = daemon(wide.ns)
    with stranger(wide, "left", tmp_path, how) as number:
        client = hopline.connect(one.instance)
        with pytest.raises(Refused) as error:  # as a program in another language would ask
            client.ask("POST", "/interfaces", {"replace": "true"}, Interface("left"), kind=InterfaceAdded)
        assert str(error.value) == (
            f"replace xdp program {number} of left: without CAP_SYS_ADMIN it could not be put back if the other fails: "
            "run `hopline interface add left --replace` as root on this host, or unload it first"
        )
        command = ["setpriv", "--bounding-set", "-sys_admin", hopline_command(), "interface", "add", "left"]
        command += ["--replace", "--instance", one.instance]
        made = subprocess.run(
            enter(wide.ns, command), capture_output=True, text=True, env=environment(), timeout=20, check=False
        )
        assert_refused(made, 1, str(error.value))
        assert xdp_id(wide.ns, "left") == number
        assert (client.interface.show(), lent_pins(one)) == ([], [])


def test_it_is_lent_from_whatever_namespace_and_taken_back_whatever_happens(wide, daemon, tmp_path):
    one = daemon(wide.ns)
    status = hopline.connect(one.instance).status()
    with stranger(wide, "left", tmp_path, "link"):
        for here in (None, wide.ns, wide.client.ns):

            def lend() -> list[str]:
                with lent(one.instance, status.pid, status.netns, "left", replace=True):
                    return sorted(name.rpartition("_")[0] for name in lent_pins(one))

            found = lend() if here is None else netns.run_in(here, lend)
            assert found == [f"lent_link_{wide.left.index}", f"lent_program_{wide.left.index}"]
        with lent(one.instance, status.pid, status.netns, "left", replace=False):
            assert [name.rpartition("_")[0] for name in lent_pins(one)] == [f"lent_program_{wide.left.index}"]
        # a daemon whose pid is another's here, as in a container, is known by its namespace
        with lent(one.instance, 1, status.netns, "left", replace=False):
            assert len(lent_pins(one)) == 1
        with (
            pytest.raises(HoplineError, match="boom"),
            lent(one.instance, status.pid, status.netns, "left", replace=True),
        ):
            raise HoplineError("boom")
        assert lent_pins(one) == []


@pytest.mark.parametrize("dev", ["nowhere0", "left", "lo"])
def test_where_there_is_nothing_to_lend_the_daemon_alone_answers(wide, daemon, dev):
    one = daemon(wide.ns)
    status = hopline.connect(one.instance).status()
    for instance, namespace in ((one.instance, status.netns), ("never-was", status.netns), (one.instance, 1)):
        with lent(instance, status.pid, namespace, dev, replace=True):
            assert lent_pins(one) == []


def test_an_instance_that_a_killed_command_lent_to_is_removed_with_what_was_lent(wide, daemon, tmp_path):
    one = daemon(wide.ns)
    with stranger(wide, "left", tmp_path, "link") as number:
        netns.run_in(wide.ns, foreign.lend, wide.left.index, one.pins, link=True)
        assert len(lent_pins(one)) == 2
        one.restart()
        one.call("detach")
        assert not one.pins.exists()
        assert xdp_id(wide.ns, "left") == number, "a stranger's program went with our pins"
