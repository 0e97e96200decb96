"""Programs on routes: what load and unload do to a route, told by `ip route`, and by packets."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

import msgspec
import pytest

from hopline.errors import KernelError, NotFound, Refused
from hopline.host.program import identity, record, routes
from hopline.kernel import netns
from hopline.kernel.program import Program
from lab.netlink_room import needs_root, shell
from lab.route_room import FOREIGN, file_fixture, gone, here, load, ns_fixture, shown, sink_fixture, unload  # noqa: F401

pytestmark = needs_root

KEPT = {
    "a route with everything": (
        "10.9.0.0/24",
        "via 10.1.0.2 metric 77 proto 99 src 10.1.0.1 mtu lock 1400 advmss 1300 realms 3",
    ),
    "several next hops": ("10.8.0.0/24", "metric 5 nexthop via 10.1.0.2 weight 3 nexthop via 10.1.0.9 dev v0 onlink"),
    "an ipv6 next hop": ("10.7.0.0/24", "via inet6 fd00:1::2 dev v0"),
    "on link": ("10.6.0.7", "dev v0 scope link"),
    "default": ("0.0.0.0/0", "via 10.1.0.2"),
    "ipv6": ("fd00:9::/64", "via fd00:1::2 metric 77 mtu 1300 expires 500 pref high"),
    "ipv6, several": ("fd00:8::/64", "metric 5 nexthop via fd00:1::2 weight 3 nexthop via fd00:1::3"),
    "ipv6 on link": ("fd00:7::7", "dev v0"),
    "ipv6 default": ("::/0", "via fd00:1::2"),
}


@pytest.mark.parametrize(("to", "rest"), KEPT.values(), ids=KEPT)
def test_a_route_keeps_all_it_has_under_its_hooks_and_without_them(ns, file, to, rest):
    shell(ns, f"ip route add {to} {rest}")
    plain = shown(ns)
    first = load(ns, file, to, "xmit", headroom=24)
    second = load(ns, file, to, "in")
    said = f" encap bpf in hopline/on_in/{second.id}/h24/kept xmit hopline/on_xmit/{first.id}/h24/kept "
    several = rest.count("nexthop") or 1
    assert shown(ns).count(said) == several
    assert shown(ns).replace(said, "") == plain
    assert (first.made, first.kept, len(first.next_hops)) == (False, True, several)

    assert [one.program for one in unload(ns, to, program="on_xmit")] == ["on_xmit"]
    said = f" encap bpf in hopline/on_in/{second.id}/h24/kept "
    assert shown(ns).replace(said, "") == plain
    assert gone(first.id)
    assert [(one.program, one.stays) for one in unload(ns, to)] == [("on_in", True)]
    assert shown(ns) == plain
    assert gone(second.id)


def test_the_routes_that_devices_have_by_themselves_take_hooks(ns, file):
    plain = shown(ns)
    for to in ("10.1.0.0/24", "fd00:1::/64"):
        load(ns, file, to)
        assert "proto kernel" in shown(ns, to)
        unload(ns, to)
    assert shown(ns) == plain


@pytest.mark.parametrize("to", ["10.5.0.0/16", "10.5.5.5", "fd00:5::/48", "fd00:5::5", "default"])
def test_load_makes_a_route_that_is_not_there_and_unload_removes_it(ns, file, to):
    plain = shown(ns)
    done = load(ns, file, to, dev="v0", via="fd00:1::2" if ":" in to else "10.1.0.2")
    assert (done.made, done.kept, done.dev, done.hook, done.route) == (
        True, False, "v0", "xmit", "0.0.0.0/0" if to == "default" else to
    )  # fmt: skip
    assert f"encap bpf xmit hopline/on_xmit/{done.id} via" in shown(ns)
    load(ns, file, to, "out")
    assert [one.stays for one in unload(ns, to, program="on_xmit")] == [True]
    assert [one.stays for one in unload(ns, to)] == [False]
    assert shown(ns) == plain


def test_a_device_alone_and_a_next_hop_alone_are_enough(ns, file):
    load(ns, file, "10.5.0.0/16", via="10.1.0.3")
    load(ns, file, "10.4.0.0/16", dev="v0")
    load(ns, file, "10.3.0.0/16", via="fd00:1::3", dev="v0")
    load(ns, file, "fd00:5::5", "seg6local", dev="v0")
    assert "via 10.1.0.3 dev v0 proto static scope global" in shown(ns, "10.5.0.0/16")
    assert "dev v0 proto static scope link" in shown(ns, "10.4.0.0/16")
    assert "via inet6 fd00:1::3 dev v0" in shown(ns, "10.3.0.0/16")
    assert "encap seg6local action End.BPF endpoint hopline/on_segment/" in shown(ns, "fd00:5::5")


def test_of_several_routes_the_one_in_use_is_meant_or_the_one_that_is_named(ns, file):
    shell(ns, "ip route add 10.9.0.0/24 via 10.1.0.2 metric 9; ip route add 10.9.0.0/24 via 10.1.0.3 metric 10")
    assert load(ns, file, "10.9.0.0/24").metric == 9
    assert load(ns, file, "10.9.0.0/24", via="10.1.0.3").metric == 10
    assert {(one.metric, one.via) for one in unload(ns, "10.9.0.0/24")} == {(9, "10.1.0.2"), (10, "10.1.0.3")}


def test_the_headroom_lowers_the_mtu_of_what_a_host_sends(ns, file):
    def mtu():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("10.9.0.1", 9))
            return sock.getsockopt(socket.IPPROTO_IP, 14)  # IP_MTU

    shell(ns, "ip route add 10.9.0.0/24 via 10.1.0.2")
    assert load(ns, file, "10.9.0.0/24", headroom=24).headroom == 24
    assert here(ns, mtu) == 1476
    load(ns, file, "10.9.0.0/24", "in")
    assert here(ns, mtu) == 1476
    load(ns, file, "10.9.0.0/24", headroom=48, replace=True)
    assert here(ns, mtu) == 1452
    unload(ns, "10.9.0.0/24")
    assert here(ns, mtu) == 1500


@pytest.mark.parametrize(("to", "via"), [("10.9.0.0/24", "10.1.0.2"), ("fd00:9::/64", "fd00:1::2")])
def test_no_packet_misses_the_route_while_hooks_come_are_replaced_and_go(ns, sink, file, to, via):
    shell(ns, f"ip route add {to} via {via}")
    stop, sent = threading.Event(), []

    def send():
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            while not stop.is_set():
                sock.sendto(b"x" * 100, (to.partition("/")[0].removesuffix("0") + "9", 9))
                sent.append(1)

    def received():
        return int(shell(sink, "cat /proc/net/dev").partition("v1:")[2].split()[1])

    before = received()
    errors = []
    thread = threading.Thread(target=lambda: errors.extend(_failed(here, ns, send)))
    thread.start()
    try:
        for _ in range(12):
            load(ns, file, to, "xmit")
            load(ns, file, to, "out")
            load(ns, file, to, "xmit", replace=True)
            unload(ns, to)
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert len(sent) > 500
    assert received() - before >= len(sent)


def _failed(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return [error]
    return []


def test_ours_is_replaced_only_when_asked_and_keeps_what_stays(ns, file):
    shell(ns, "ip route add 10.9.0.0/24 via 10.1.0.2")
    first, other = load(ns, file, "10.9.0.0/24"), load(ns, file, "10.9.0.0/24", "in")
    with pytest.raises(Refused, match=rf"program on_xmit \(id {first.id}\) is at its xmit hook: unload it or"):
        load(ns, file, "10.9.0.0/24")
    second = load(ns, file, "10.9.0.0/24", replace=True)
    assert second.replaced == (f"hopline/on_xmit/{first.id}/kept",)
    assert gone(first.id)
    said = f"encap bpf in hopline/on_in/{other.id}/kept xmit hopline/on_xmit/{second.id}/kept via 10.1.0.2"
    assert said in shown(ns)
    load(ns, file, "fd00:9::9", dev="v0")
    with pytest.raises(Refused, match="seg6local needs a route of its own: unload it or use --replace"):
        load(ns, file, "fd00:9::9", "seg6local")
    assert load(ns, file, "fd00:9::9", "seg6local", replace=True).hook == "seg6local"
    assert [one.stays for one in unload(ns, "fd00:9::9")] == [False]


def test_who_loads_at_the_same_time_loses_nothing(ns, file):
    shell(ns, "ip route add 10.9.0.0/24 via 10.1.0.2")
    plain = shown(ns)
    hooks = ["in", "out", "xmit"]
    for _ in range(5):
        threads = [threading.Thread(target=load, args=(ns, file, "10.9.0.0/24", hook)) for hook in hooks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.hook for one in here(ns, routes.attached)] == hooks
        unload(ns, "10.9.0.0/24")
    assert shown(ns) == plain


def test_of_another_s_program_the_route_is_left(ns, file):
    plain = shown(ns)
    shell(ns, FOREIGN.format(hook="in", file=file))
    (other,) = here(ns, routes.attached)
    assert (other.ours, other.id, other.headroom, other.hook) == (False, None, None, "in")
    assert other.name == other.program != ""
    with pytest.raises(Refused, match="was not loaded by hopline: name it by --program or use --all"):
        unload(ns, "10.9.0.0/24")
    with pytest.raises(NotFound, match="program id 7 is not on it, but another's program"):
        unload(ns, "10.9.0.0/24", id=7)
    assert load(ns, file, "10.9.0.0/24", replace=True).replaced == (other.name,)
    assert [one.stays for one in unload(ns, "10.9.0.0/24")] == [True]
    assert "10.9.0.0/24 via 10.1.0.2 dev v0" in shown(ns)
    shell(ns, FOREIGN.format(hook="in", file=file).replace(" add ", " replace "))
    assert [one.stays for one in unload(ns, "10.9.0.0/24", program=other.name)] == [True]
    shell(ns, FOREIGN.format(hook="in", file=file).replace(" add ", " replace "))
    unload(ns, "10.9.0.0/24", everything=True)
    shell(ns, "ip route del 10.9.0.0/24")
    assert shown(ns) == plain
    with pytest.raises(NotFound, match=r"unload from route 10.9.0.0/24: no program is on it"):
        unload(ns, "10.9.0.0/24", everything=True)


def test_every_program_of_every_table_is_listed(ns, file):
    shell(
        ns,
        f"ip route add 10.8.0.0/24 table 77 encap bpf out obj {file} section lwt_out dev v0;"
        f"ip -6 route add fd00:8::8 encap seg6local action End.BPF endpoint obj {file} section lwt_seg6local dev v0",
    )
    ours = [load(ns, file, "10.9.0.0/24", hook, via="10.1.0.2", headroom=8) for hook in ("xmit", "in")]
    segment = load(ns, file, "fd00:9::9", "seg6local", dev="v0")
    found = {(one.route, one.table, one.hook): one for one in here(ns, routes.attached)}
    assert set(found) == {
        ("10.8.0.0/24", "77", "out"),
        ("10.9.0.0/24", "main", "in"),
        ("10.9.0.0/24", "main", "xmit"),
        ("fd00:8::8", "main", "seg6local"),
        ("fd00:9::9", "main", "seg6local"),
    }
    for one in (*ours, segment):
        same = found[one.route, one.table, one.hook]
        assert (same.program, same.id, same.ours, same.kept) == (one.program, one.id, True, False)
    assert found["10.9.0.0/24", "main", "xmit"].headroom == 8
    other = found["fd00:8::8", "main", "seg6local"]
    assert not other.ours
    with Program.from_id(other.id) as program:
        assert program.name == "on_segment"
    # what a person gets
    assert msgspec.json.decode(msgspec.json.encode(other))["dev"] == "v0"


def drops(ns) -> bool:
    """Whether a packet of the host itself is lost at an xmit or out hook."""
    return here(ns, _send_fails)


def _send_fails() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", ("10.9.0.1", 9))
        except OSError:
            return True
    return False


def test_a_program_for_a_time_goes_by_itself_and_the_route_stays(ns, file):
    shell(ns, "ip route add 10.9.0.0/24 via 10.1.0.2")
    plain = shown(ns)
    stays = load(ns, file, "10.9.0.0/24", "in")
    began = time.time()
    done = load(ns, file, "10.9.0.0/24", seconds=1.0, variables=["verdict=2"])
    assert drops(ns)
    assert abs(done.until - began - 1.0) < 0.5
    assert {one.hook: one.until for one in here(ns, routes.attached)} == {"in": None, "xmit": pytest.approx(done.until)}
    wait_until(lambda: not drops(ns))
    assert time.time() - began >= 0.9
    assert f"encap bpf in hopline/on_in/{stays.id}/kept via" in shown(ns)
    wait_until(lambda: here(ns, record.records) == [])
    unload(ns, "10.9.0.0/24")
    assert shown(ns) == plain


def wait_until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def keeper(ns) -> record.Keeper:
    (one,) = here(ns, record.records)
    return one.keeper


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_ends_its_keeper_ends_its_time(ns, file, number):
    load(ns, file, "10.9.0.0/24", dev="v0", seconds=60.0, variables=["verdict=2"])
    os.kill(keeper(ns).pid, number)
    wait_until(lambda: "10.9.0.0/24" not in shown(ns))
    wait_until(lambda: here(ns, record.records) == [])


def test_unload_replace_and_a_refusal_leave_no_keeper(ns, file):
    load(ns, file, "10.9.0.0/24", dev="v0", seconds=60.0)
    first = keeper(ns)
    load(ns, file, "10.9.0.0/24", seconds=60.0, replace=True)
    second = keeper(ns)
    assert not os.path.exists(f"/proc/{first.pid}")
    unload(ns, "10.9.0.0/24")
    assert not os.path.exists(f"/proc/{second.pid}")
    with pytest.raises(KernelError, match=r"make the route to 10.9.0.0/24: network is unreachable"):
        load(ns, file, "10.9.0.0/24", via="10.77.0.1", seconds=60.0)
    assert here(ns, record.records) == []
    assert not [line for line in ps("hopline.host.program.keep") if ns_of(line) == netns.inode(ns)]


def ps(pattern) -> list[int]:
    return [int(pid) for pid in subprocess.run(["pgrep", "-f", pattern], capture_output=True).stdout.split()]


def ns_of(pid) -> int | None:
    with contextlib.suppress(OSError):
        return netns.inode(pid)
    return None


def test_the_trap_of_an_in_hook_is_told_unless_the_host_s_own_packets_go_another_way(ns, file):
    (told,) = load(ns, file, "10.9.0.0/24", "in", via="10.1.0.2").notes
    part = "`ip rule add iif lo to 10.9.0.0/24 lookup TABLE`, with the same route in that table"
    lost = "Linux loses forwarded packets that the program lets pass"
    assert told == f"once this host itself sends to 10.9.0.0/24, {lost}: part them: {part}"
    assert load(ns, file, "10.9.0.0/24", "xmit").notes == ()
    assert load(ns, file, "fd00:9::/64", "in", via="fd00:1::2").notes == ()
    shell(ns, "ip rule add iif lo to 10.9.0.0/24 lookup 77; ip route add 10.9.0.0/24 via 10.1.0.2 table 77")
    assert load(ns, file, "10.9.0.0/24", "in", replace=True).notes == ()


def test_what_was_done_is_said_in_a_line(ns, file):
    done = load(ns, file, "10.9.0.0/24", via="10.1.0.2", headroom=24)
    way = "route 10.9.0.0/24 via 10.1.0.2 dev v0"
    assert identity.sentence(done) == f"{way}: on_xmit (id {done.id}) attached at xmit, headroom 24; the route is new"
    again = load(ns, file, "10.9.0.0/24", replace=True)
    said = f"{way}: on_xmit (id {again.id}) attached at xmit, instead of {done.name}; the route was there"
    assert identity.sentence(again) == said
    (off,) = unload(ns, "10.9.0.0/24")
    assert identity.sentence(off) == f"{way}: on_xmit (id {again.id}) detached from xmit; the route went with it"
