"""Which devices take a redirect: asked of the kernel, and for veth proved by packets."""

import subprocess

import pytest

from hopline.config import Interface
from hopline.daemon import attachments
from hopline.errors import NotFound
from hopline.kernel import netns
from hopline.kernel.netlink import features, query
from lab.netlink_room import TELLS_FEATURES, needs_root, needs_told_features, room, shell

pytestmark = needs_root
PASS = """
#include <linux/bpf.h>
__attribute__((section("xdp"), used)) int pass_all(void *context) { return XDP_PASS; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


@pytest.fixture
def ns():
    with room("ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up") as name:
        yield name


def target(ns: str, name: str) -> bool:
    return netns.run_in(ns, features.device_features, name).redirect_target


@needs_told_features
def test_a_veth_takes_a_redirect_only_while_its_peer_has_gro(ns):
    assert not target(ns, "v0")
    shell(ns, "ethtool -K v1 gro on")
    assert target(ns, "v0")
    assert netns.run_in(ns, features.device_features, "v0").redirect_target_frags
    assert not target(ns, "v1"), "the setting at the peer counts, not its own"
    shell(ns, "ethtool -K v1 gro off")
    assert not target(ns, "v0")


@needs_told_features
def test_a_veth_takes_a_redirect_while_its_peer_has_a_program(ns, tmp_path):
    source = tmp_path / "pass.c"
    source.write_text(PASS)
    clang = ["clang", "-O2", "-g", "-target", "bpf", "-c", str(source), "-o", str(tmp_path / "pass.o")]
    include = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run([*clang, f"-I/usr/include/{include}"], check=True)
    shell(ns, f"ip link set dev v1 xdpdrv obj {tmp_path}/pass.o sec xdp")
    assert target(ns, "v0")
    shell(ns, "ip link set dev v1 xdpdrv off")
    assert not target(ns, "v0")


def test_by_kind(ns):
    shell(ns, "ip link add br0 type bridge; ip tuntap add t0 mode tap; ip tuntap add u0 mode tun")
    found = netns.run_in(ns, features.all_features)
    names = {link.name: found[link.index] for link in netns.run_in(ns, query.links)}
    assert not names["br0"].redirect_target
    assert not names["br0"].generic_target
    assert names["t0"].redirect_target
    assert names["t0"].native_xdp
    assert not names["u0"].generic_target, "no Ethernet header"
    assert not names["lo"].redirect_target
    assert not names["lo"].generic_target
    assert names["v0"].native_xdp
    assert names["v0"].generic_target
    assert {entry.known for entry in found.values()} == {TELLS_FEATURES}


def test_a_kernel_that_does_not_tell_is_guessed_by_kind(ns, monkeypatch):
    monkeypatch.setattr(features, "_ask", lambda index: {})
    shell(ns, "ip link add br0 type bridge")
    veth = netns.run_in(ns, features.device_features, "v0")
    bridge = netns.run_in(ns, features.device_features, "br0")
    assert (veth.known, veth.redirect_target, veth.native_xdp) == (False, True, True)
    assert (bridge.redirect_target, bridge.native_xdp, bridge.generic_target) == (False, False, False)


def test_auto_is_generic_mode_where_the_kernel_does_not_tell(monkeypatch):
    assert attachments.modes_of(Interface("v0")) == (("native", "generic") if TELLS_FEATURES else ("generic",))
    monkeypatch.setattr(attachments, "told", lambda: False)
    assert attachments.modes_of(Interface("v0")) == ("generic",)
    assert attachments.modes_of(Interface("v0", mode="native")) == ("native",), "who asks for it has it"


def test_an_unknown_device_is_not_found(ns):
    with pytest.raises(NotFound):
        netns.run_in(ns, features.device_features, "gone")
