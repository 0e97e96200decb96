"""docs/hooks.md, held against the running kernel: what each hook may do, and what becomes of packets there."""

import errno
import json
import re
import socket
import subprocess
import time
from dataclasses import asdict

import pytest

from clang import compile_bpf
from hopline.host.hooks import hooks, shared
from hopline.kernel import XdpLink, netns
from hopline.lab.shell import hopline_command
from lab.hook_room import (
    AGAIN,
    BEHIND,
    DONT_FRAGMENT,
    SOURCE,
    address,
    fate,
    hooked,
    loaded,
    network,
    plain_route,
    redirected,
    segments,
    udp,
)
from lab.net import Sniffer, send_frames, sh
from lab.netlink_room import needs_root
from repository import ROOT

pytestmark = needs_root

PAGE = (ROOT / "docs" / "hooks.md").read_text()
# what the page says of a packet → where it is seen
FATES = {"goes on": "server", "routed again": "client", "sent": "client", "dropped": None}


@pytest.fixture(scope="module")
def net():
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return compile_bpf(tmp_path_factory.mktemp("hooks"), SOURCE)


def rows_of(heading) -> list[list[str]]:
    """The table of the page that follows a heading, its columns' names first."""
    rows = re.search(rf"^## {heading}$.*?(^\|.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)[1].splitlines()
    cells = [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]
    return [cells[0], *cells[2:]]


def table(heading) -> dict[str, dict[str, str]]:
    """The same by row and column."""
    columns, *body = rows_of(heading)
    return {row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in body}


def yes_or_no(cell) -> bool:
    assert cell in ("yes", "–")
    return cell == "yes"


def test_what_the_page_says_a_hook_may_do_it_may():
    said = table("What a program may do")
    assert list(said) == ["drop", *asdict(hooks()[0].abilities)]
    for hook in hooks():
        told = {ability: yes_or_no(row[hook.hook]) for ability, row in said.items()}
        assert told == {"drop": True, **asdict(hook.abilities)}, hook.hook


def test_the_helpers_that_the_page_names_are_where_it_says():
    said = table("Which helpers")
    assert len(said) > 15
    for hook in hooks():
        told = {helper for helper, row in said.items() if yes_or_no(row[hook.hook])}
        assert told == {helper for helper in said if helper in hook.helpers}, hook.hook
    everywhere = re.search(r"Every hook has (.*?)\.", PAGE, re.DOTALL)[1]
    named = set(re.findall(r"`(\w+)`", everywhere))
    assert len(named) > 5
    assert named <= set(shared(hooks()))


CODES = table("What it may return")
FORWARDED = [(code, hook) for code, row in CODES.items() for hook in row]


def number(code) -> int:
    found = re.search(r"\((\d+)\)", code)
    return int(found[1]) if found else 3  # any other


@pytest.mark.parametrize(("code", "hook"), FORWARDED, ids=lambda text: text.partition(" ")[0])
def test_what_becomes_of_a_packet_that_is_forwarded(net, file, code, hook):
    mark = f"{code} at {hook}".encode()
    frame = segments(net, mark) if hook == "lwt_seg6local" else udp(net, mark)
    values = {"code": number(code), "mark": AGAIN if "REROUTE" in code else 0}
    expected = FATES[re.split("[:,]", CODES[code][hook])[0]]
    name = "answer"
    if (hook, number(code)) == ("lwt_xmit", 7):
        name, values = "send", redirected(net)
    with hooked(net, file, hook, name, **values):
        found = fate(net, lambda: send_frames(net.client.ns, "eth0", [frame]), mark, expected)
    assert found == expected


XDP_CODES = table("What XDP may return")


@pytest.mark.parametrize("code", XDP_CODES, ids=lambda text: text.partition(" ")[0])
def test_what_becomes_of_a_frame_at_xdp(net, file, code):
    mark = f"{code} at xdp".encode()
    expected = FATES[re.split("[:,]", XDP_CODES[code]["becomes of the frame"])[0]]
    with (
        plain_route(net),
        loaded(file, "xdp_answer", "xdp", code=number(code) if "(" in code else 9) as program,
        netns.run_in(net.ns, XdpLink.attach, program, net.left.index, "generic"),
    ):
        found = fate(net, lambda: send_frames(net.client.ns, "eth0", [udp(net, mark)]), mark, expected)
    assert found == expected


# code, hook → what a local sender is told, and where its packet is seen
LOCAL = {
    (0, "lwt_out"): (0, "server"),
    (2, "lwt_in"): (0, "server"),  # which it does not meet
    (2, "lwt_out"): (errno.EPERM, None),
    (2, "lwt_xmit"): (errno.EPERM, None),
    (3, "lwt_out"): (errno.EINVAL, None),
    (3, "lwt_xmit"): (errno.EINVAL, None),
    (128, "lwt_xmit"): (0, "client"),
}


@pytest.mark.parametrize(("code", "hook"), LOCAL)
def test_what_a_local_sender_is_told(net, file, code, hook):
    told = []

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(mark, (BEHIND, 9))
                told.append(0)
            except OSError as error:
                told.append(error.errno)

    mark = f"{code} at {hook}, sent here".encode()
    with hooked(net, file, hook, code=code, mark=AGAIN if code == 128 else 0):
        seen = fate(net, lambda: netns.run_in(net.ns, send), mark, LOCAL[code, hook][1])
    assert (told[0], seen) == LOCAL[code, hook]


def test_a_remote_sender_is_told_by_a_mark_that_leads_to_an_unreachable_route(net, file):
    sh(net.ns, "ip rule add fwmark 8 table 78")
    sh(net.ns, f"ip route add unreachable {BEHIND} table 78")
    try:
        with (
            hooked(net, file, "lwt_in", code=128, mark=8),
            Sniffer(net.client.ns, "eth0", match=lambda frame: frame[23] == socket.IPPROTO_ICMP) as back,
        ):
            send_frames(net.client.ns, "eth0", [udp(net, b"nobody there")])
            assert [frame[34:36] for frame in back.wait(1)] == [b"\x03\x01"]
    finally:
        sh(net.ns, "ip rule delete fwmark 8 table 78")
        sh(net.ns, "ip route flush table 78")


@pytest.mark.parametrize(
    ("hook", "seen"),
    [("lwt_in", {"forward", "postrouting"}), ("lwt_out", {"postrouting"}), ("lwt_xmit", set())],
)
def test_the_hooks_lie_among_those_of_netfilter_where_the_page_has_them(net, file, hook, seen):
    places = ("prerouting", "forward", "postrouting")
    chains = "".join(
        f"chain {place} {{ type filter hook {place} priority 0; meta mark 9 counter comment {place}; }}; "
        for place in places
    )
    sh(net.ns, ["nft", f"add table ip order {{ {chains} }}"])
    try:
        with hooked(net, file, hook, code=0, mark=9):
            frames = [udp(net, b"in order")]
            assert fate(net, lambda: send_frames(net.client.ns, "eth0", frames), b"in order", "server") == "server"
        rules = sh(net.ns, "nft list table ip order").stdout
    finally:
        sh(net.ns, "nft delete table ip order")
    assert {place for place in places if re.search(rf"packets [1-9].*{place}", rules)} == seen
    # and the page's drawing has them in this order
    order = re.findall(r"\b(prerouting|forward|postrouting|lwt_in|lwt_out|lwt_xmit)\b", PAGE.split("```")[1])
    assert order.index(hook) > max((order.index(place) for place in set(places) - seen), default=0)
    assert all(order.index(hook) < order.index(place) for place in seen)


def test_a_redirect_from_xmit_without_an_ethernet_header_does_not_arrive(net, file):
    with hooked(net, file, "lwt_xmit", "send", **redirected(net, header=0)):
        assert fate(net, lambda: send_frames(net.client.ns, "eth0", [udp(net, b"bare")]), b"bare", None) is None


def test_the_fib_answers_xdp_that_a_route_has_a_program(net, file):
    addresses = {"from": address(net.client.ip4), "to": address(BEHIND)}

    def ask(program):
        return program.test_run(bytes(64), ifindex=net.left.index).retval

    with loaded(file, "fib", "xdp", **addresses) as program:
        with plain_route(net):
            assert netns.run_in(net.ns, ask, program) == 0
        for hook in ("lwt_in", "lwt_out", "lwt_xmit"):
            with hooked(net, file, hook, code=0):
                assert netns.run_in(net.ns, ask, program) == 6


# hook, headroom, whether the outer header has DF → what becomes of 1,500 octets with DF, and the MTU of local senders
SIZES = {
    (f"lwt_{hook}", {"none": 0}.get(headroom, 24), flag == "yes"): (re.split("[:;,]", becomes)[0], int(mtu))
    for hook, headroom, flags, becomes, mtu in rows_of("Headroom and path MTU")[1:]
    for flag in (("no", "yes") if flags == "either" else (flags,))
}


@pytest.mark.parametrize(("hook", "headroom", "whole"), SIZES)
def test_headroom_makes_the_path_mtu_at_xmit_and_nothing_at_in(net, file, hook, headroom, whole):
    def mtu():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((BEHIND, 9))
            return sock.getsockopt(socket.IPPROTO_IP, 14)  # IP_MTU

    # an address that is not the router's own: from such a one lwt_in's second look at the routes refuses it
    outer = {"from": address("10.1.0.99"), "to": address(net.server.ip4), "flags": DONT_FRAGMENT if whole else bytes(2)}
    with (
        hooked(net, file, hook, "push", headroom, **outer),
        Sniffer(net.server.ns, "eth0", match=lambda frame: frame[23] == socket.IPPROTO_GRE) as wire,
        Sniffer(net.client.ns, "eth0", match=lambda frame: frame[23] == socket.IPPROTO_ICMP) as back,
    ):
        send_frames(net.client.ns, "eth0", [udp(net, b"small")])
        (small,) = wire.wait(1)
        outer_ttl, inner_ttl = small[22], small[46]
        wire.clear()
        send_frames(net.client.ns, "eth0", [udp(net, bytes(1472))])
        time.sleep(0.1)
        arrived, told = len(wire.frames), [frame[34:36] + frame[40:42] for frame in back.frames]
        found = "refused" if told else "sent as two fragments" if arrived == 2 else "lost"
        assert (found, netns.run_in(net.ns, mtu)) == SIZES[hook, headroom, whole]
        assert arrived == (2 if "fragments" in found else 0)
        # fragmentation needed, and the MTU
        assert set(told) <= {b"\x03\x04\x05\xc4"}
    # in: the outer packet is what is forwarded; xmit: the inner one was
    assert (outer_ttl, inner_ttl) == ((63, 64) if hook == "lwt_in" else (64, 63))


def test_a_host_that_sends_by_a_route_with_an_in_hook_spoils_it_unless_its_own_packets_have_another(net, file):
    """The page's warning: a kernel that no longer does this needs it no more."""
    number = iter(range(100))

    def forwarded(expected) -> bool:
        mark = f"forwarded {next(number)}".encode()
        return fate(net, lambda: send_frames(net.client.ns, "eth0", [udp(net, mark)]), mark, expected) == expected

    def send_here() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"from here", (BEHIND, 9))

    with hooked(net, file, "lwt_in", code=0):
        assert forwarded("server")
        netns.run_in(net.ns, send_here)
        assert forwarded(None)
        sh(net.ns, "ip route flush cache")
        assert forwarded("server")
        sh(net.ns, f"ip route add {BEHIND} via {net.server.ip4} table 78")
        sh(net.ns, f"ip rule add iif lo to {BEHIND} lookup 78")
        netns.run_in(net.ns, send_here)
        assert forwarded("server")
        sh(net.ns, f"ip rule delete iif lo to {BEHIND} lookup 78")


def test_the_command_tells_all_of_it():
    done = subprocess.run([hopline_command(), "doctor", "--hooks", "--json"], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert [(one["hook"], one["abilities"], tuple(one["helpers"])) for one in told] == [
        (hook.hook, asdict(hook.abilities), hook.helpers) for hook in hooks()
    ]
    done = subprocess.run([hopline_command(), "doctor", "--hooks"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["fib"] == rows["fib_lookup"] == ["yes", "-", "-", "-", "-"]
    assert rows["lwt_push_encap"] == ["-", "yes", "-", "yes", "-"]
    for hook in hooks():
        assert {name for name in hook.helpers if not re.search(rf"\b{name}\b", done.stdout)} == set()


def test_without_the_right_to_load_programs_it_is_one_line():
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", hopline_command(), "doctor", "--hooks"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "CAP_BPF" in done.stderr
