"""Programs on routes by the command line, and what is refused: one line, and the routes are as they were."""

import dataclasses
import json
import re
import subprocess
import time

import pytest

from clang import compile_bpf
from hopline.errors import HoplineError, InvalidInput
from hopline.host.program import identity, record, routes
from lab.netlink_room import needs_root, shell
from lab.route_room import (  # noqa: F401
    FOREIGN,
    PROGRAMS,
    SOURCE,
    file_fixture,
    here,
    hopline_fixture,
    load,
    ns_fixture,
    shown,
    sink_fixture,
)

pytestmark = needs_root

# what is there, what is asked, and what is said
REFUSED = {
    "another's program at the hook": (
        FOREIGN.format(hook="in", file="{file}"),
        ("10.9.0.0/24", "in"),
        r"10.9.0.0/24: another's program \S+ is at its in hook: unload it or use --replace",
    ),
    "another's program at another hook": (
        FOREIGN.format(hook="in", file="{file}"),
        ("10.9.0.0/24", "xmit"),
        "is at its in hook, and would be lost, for the kernel does not tell which program that is: use --replace",
    ),
    "an encapsulation": (
        "ip -6 route add fd00:9::/64 encap seg6 mode encap segs fd00::1 dev v0",
        ("fd00:9::/64", "xmit"),
        "it encapsulates already, by seg6: take another prefix, or remove that first",
    ),
    "a segment of another kind": (
        "ip -6 route add fd00:9::9 encap seg6local action End.X nh6 fd00:1::2 dev v0",
        ("fd00:9::9", "seg6local"),
        "it encapsulates already, by seg6local",
    ),
    "a next-hop object": (
        "ip nexthop add id 7 via 10.1.0.2 dev v0; ip route add 10.9.0.0/24 nhid 7",
        ("10.9.0.0/24", "xmit"),
        "it uses next-hop object 7, which has no place for one: give the route its own hop",
    ),
    "a route of a router's advertisement": (
        "ip -6 route add fd00:9::/64 via fd00:1::2 proto ra",
        ("fd00:9::/64", "xmit"),
        "routers advertise it, and would put it back without the program: make a static one",
    ),
    "no forwarding": (
        "ip route add blackhole 10.9.0.0/24",
        ("10.9.0.0/24", "xmit"),
        r"packets to it are not forwarded \(see `ip route show 10.9.0.0/24`\): take another prefix",
    ),
    "several of one metric": (
        "ip route add 10.9.0.0/24 via 10.1.0.2; ip route append 10.9.0.0/24 via 10.1.0.3",
        ("10.9.0.0/24", "xmit", "10.1.0.3"),
        "2 routes to it have metric 0: give each its own metric first",
    ),
    "another next hop": (
        "ip route add 10.9.0.0/24 via 10.1.0.2",
        ("10.9.0.0/24", "xmit", "10.1.0.3"),
        "it is there and leads via 10.1.0.2 dev v0: leave --via and --dev out, or change it first",
    ),
    "no route": (
        "true",
        ("10.9.0.0/24", "xmit"),
        "there is no such route: give --dev, and --via where there is a next hop, to make it",
    ),
    "no such device": ("true", ("10.9.0.0/24", "xmit", None, "v7"), "interface v7: no such device here: see ip link"),
    "a next hop out of reach": ("true", ("10.9.0.0/24", "xmit", "10.77.0.1"), "10.9.0.0/24: network is unreach"),
    "a device that is down": ("ip link set v0 down", ("10.9.0.0/24", "xmit", None, "v0"), "network is down"),
}  # fmt: skip


@pytest.mark.parametrize(("there", "asked", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_in_a_line_and_nothing_changes(ns, file, there, asked, said):
    shell(ns, there.format(file=file))
    before, loaded = shown(ns), programs()
    to, hook, via, dev = (*asked, None, None)[:4]
    with pytest.raises(HoplineError, match=said) as caught:
        load(ns, file, to, hook, via=via, dev=dev)
    assert "\n" not in str(caught.value)
    assert shown(ns) == before
    assert programs() <= loaded


def programs() -> set[str]:
    """The programs of this file that are loaded; the kernel lets go of them a little later."""
    time.sleep(0.05)
    listed = json.loads(subprocess.run(["bpftool", "-j", "prog"], capture_output=True, check=True).stdout)
    return {str(one["id"]) for one in listed if one.get("name") in PROGRAMS.values()}


@pytest.mark.parametrize(
    ("asked", "more", "said"),
    [
        (("10.9.0.0/33", "xmit"), {}, "route: /33 is not a prefix length"),
        (("10.9.0.1/24", "xmit"), {}, "route: 10.9.0.1/24 has host bits set"),
        (("10.9.0.0/24", "output"), {}, "hook: output is no hook of a route: give one of in, out, xmit, seg6local"),
        (("10.9.0.0/24", "seg6local"), {}, "route: 10.9.0.0/24 is IPv4, and seg6local is of IPv6"),
        (("fd00::/64", "xmit"), {"via": "10.1.0.2"}, "via: 10.1.0.2 is IPv4 and fd00::/64 is IPv6"),
        (("10.9.0.0/24", "xmit"), {"via": "ten"}, "via: ten is not an IP address"),
        (("10.9.0.0/24", "xmit"), {"headroom": 257}, "headroom: 257 is not of 1 to 256 octets"),
        (("10.9.0.0/24", "xmit"), {"headroom": 0}, "headroom: 0 is not of 1 to 256 octets"),
        (("fd00::1", "seg6local"), {"headroom": 8}, "headroom: seg6local routes have none"),
    ],
)
def test_what_cannot_be_meant_is_said_by_its_option(asked, more, said):
    with pytest.raises(InvalidInput) as caught:
        routes.request(*asked, **more)
    assert str(caught.value).startswith(said)


def test_the_command_line_loads_shows_and_unloads(ns, hopline, file):
    code, out, err = hopline(
        "load", "--route", "10.9.0.0/24", "--hook", "xmit", "--via", "10.1.0.2", "--headroom", "24",
        file, "--section", "encap_gre", "--for", "60s", "--json",
    )  # fmt: skip
    done = json.loads(out)
    assert (code, err) == (0, "")
    assert done.keys() == {field.name for field in dataclasses.fields(identity.LoadedOnRoute)}
    assert (done["route"], done["program"], done["made"], done["headroom"]) == ("10.9.0.0/24", "on_xmit", True, 24)
    code, out, err = hopline("load", "--route", "10.9.0.0/24", "--hook", "in", file, "--program", "on_in")
    assert (code, out.partition(" (id ")[0]) == (0, "route 10.9.0.0/24 via 10.1.0.2 dev v0: on_in")
    assert err.startswith("hopline: warning: once this host itself sends to 10.9.0.0/24, Linux loses")
    shown_ = json.loads(hopline("show", "--json")[1])
    assert {(one["name"], one["hook"], one["ours"]) for one in shown_ if one["route"] == "10.9.0.0/24"} == {
        ("on_in", "in", True),
        ("on_xmit", "xmit", True),
    }
    assert next(one for one in shown_ if one["id"] == done["id"])["until"] == pytest.approx(done["until"])
    code, out, _ = hopline("unload", "--route", "10.9.0.0/24", "--json")
    assert code == 0
    assert [(one["program"], one["stays"]) for one in json.loads(out)] == [("on_in", False), ("on_xmit", False)]
    assert here(ns, record.records) == []


BAD = {
    "no program of that name": (["10.9.0.0/24", "xmit", "--program", "gone"], 1, "no program gone: it has on_in"),
    "no section of that name": (["10.9.0.0/24", "xmit", "--section", "lwt"], 1, "no section lwt: it has lwt_in"),
    "no such variable": (["10.9.0.0/24", "out", "--set", "x=1"], 1, "set x: no such variable in"),
    "no hook": (["10.9.0.0/24", None], 2, "give --hook with --route: in, out, xmit or seg6local"),
    "another hook": (["10.9.0.0/24", "ingress"], 2, "'ingress' is not one of 'in', 'out', 'xmit', 'seg6local'"),
    "a pin": (["10.9.0.0/24", "xmit", "--pin"], 2, "--pin is for devices: leave it out"),
    "no prefix": (["10.9/16", "xmit"], 1, "route: 10.9 is not an IP address"),
    "no such device": (["10.9.0.0/24", "out", "--dev", "v7"], 1, "interface v7: no such device here"),
    "too much headroom": (["10.9.0.0/24", "xmit", "--headroom", "300"], 2, "300 is not in the range 1<=x<=256"),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "exit_code", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_nothing_is_attached(ns, hopline, file, asked, exit_code, said):
    plain = shown(ns)
    route, hook, *more = asked
    words = [*(["--hook", hook] if hook else []), *([] if "--dev" in more else ["--dev", "v0"]), *more]
    code, out, err = hopline("load", "--route", route, *words, file)
    assert (code, out, err.count("\n")) == (exit_code, "", 1)
    assert said in err
    assert shown(ns) == plain


def test_what_a_hook_does_not_allow_is_said_in_the_verifier_s_words(ns, hopline, tmp_path):
    source = SOURCE.replace('return verdict; }\nSEC("lwt_out")', 'return bpf_redirect(verdict, 0); }\nSEC("lwt_out")')
    file = compile_bpf(tmp_path, source)
    plain = shown(ns)
    code, _, err = hopline("load", "--route", "10.9.0.0/24", "--dev", "v0", "--hook", "out", file, "--program", "on_in")
    assert (code, err.count("\n")) == (1, 1)
    assert re.search(r"load program on_in of .*: invalid argument \(errno 22\): \S.*bpf_redirect#23", err)
    assert shown(ns) == plain
    assert (
        hopline("load", "--route", "10.9.0.0/24", "--dev", "v0", "--hook", "xmit", file, "--program", "on_in")[0] == 0
    )
