"""hopline doctor: what it finds in a namespace of its own, before and after what it says is done."""

import subprocess

import pytest

from hopline.errors import NotFound
from hopline.host import doctor
from hopline.kernel import netns
from hopline.lab.shell import enter, hopline_command
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root
MEND = """
ethtool -K v0 gro on tx off; ethtool -K v1 gro on tx off
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
for d in all v0 v1; do sysctl -qw net.ipv4.conf.$d.rp_filter=0; done
"""


@pytest.fixture
def ns():
    with room("ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up") as name:
        yield name


def test_a_fresh_veth_is_warned_of_and_a_mended_one_is_well(ns):
    before = netns.run_in(ns, doctor.examine)
    assert {finding.subject for finding in before} >= {"rights", "kernel", "xdp", "ipv4", "ipv6", "v0", "v1"}
    assert not [finding for finding in before if finding.level == "fail"]
    texts = [finding.text for finding in before if finding.subject == "v0" and finding.level == "warn"]
    assert any(text.endswith("ethtool -K v1 gro on") for text in texts)
    assert any(text.endswith("ethtool -K v1 tx off") for text in texts)
    assert any(text.startswith("learning of ipv4 off: forwarding is off") for text in texts)
    shell(ns, MEND)
    after = netns.run_in(ns, doctor.examine)
    assert [finding for finding in after if finding.level != "ok" and finding.subject != "bpffs"] == []


def test_policy_is_told(ns):
    shell(ns, MEND + "nft add table inet t; nft 'add chain inet t c { type filter hook forward priority 0; }'")
    found = netns.run_in(ns, doctor.examine, ["v0"])
    texts = [finding.text for finding in found if finding.subject == "v0" and finding.level == "warn"]
    assert texts == [f"learning of ipv{family} off: nftables chain inet t/c (forward)" for family in (4, 6)]
    assert not [finding for finding in found if finding.subject == "v1"]


def test_devices_xdp_can_do_little_with(ns):
    shell(ns, "ip link add br0 type bridge; ip tuntap add u0 mode tun")
    found = {(finding.subject, finding.text) for finding in netns.run_in(ns, doctor.examine)}
    assert ("br0", "takes no redirected packets: what leaves by it goes the kernel's way") in found
    assert any(subject == "u0" and "no Ethernet device" in text for subject, text in found)


def test_an_unknown_interface_is_not_found(ns):
    with pytest.raises(NotFound, match="interface gone"):
        netns.run_in(ns, doctor.examine, ["gone"])


def told_with(ns, *capabilities) -> list[str]:
    """The lines of `hopline doctor` run by a root that has only these capabilities, as a systemd unit may have it."""
    granted = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    limits = ["setpriv", f"--bounding-set={granted}", f"--inh-caps={granted}"]
    done = subprocess.run(enter(ns, [*limits, hopline_command(), "doctor"]), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == any(line.startswith("FAILURE") for line in done.stdout.splitlines())
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (("net_admin", "bpf", "perfmon"), ""),
        (("net_admin", "sys_admin"), ""),
        (("net_admin", "bpf"), "CAP_PERFMON"),
        (("bpf", "perfmon"), "CAP_NET_ADMIN"),
        ((), "CAP_NET_ADMIN and CAP_BPF and CAP_PERFMON"),
    ],
)
def test_rights_that_are_missing_are_named_and_the_rest_is_still_told(ns, capabilities, missing):
    lines = told_with(ns, *capabilities)
    if missing:
        assert lines[0] == f"FAILURE  rights: {missing} missing: run as root, or grant them by systemd"
        assert "FAILURE  xdp: not tried: it needs the rights above" in lines
    else:
        assert lines[0] == "ok       rights: may load and attach programs"
        assert "ok       xdp: programs load, and may ask the fib" in lines
    # of each device something is told, whoever asks
    assert {line[9:].partition(":")[0] for line in lines} >= {"v0", "v1"}


def test_every_line_is_one_line(ns):
    for finding in netns.run_in(ns, doctor.examine):
        assert finding.text
        assert "\n" not in finding.text
