"""What makes a service, its backends and all services together right, and what their refusals say."""

import time

import pytest

from hopline.config import Backend, Service, checked_service, services_together
from hopline.config.service import BACKENDS_MOST, SERVICES_MOST
from hopline.errors import InvalidInput

VIP, SERVER, MAC = "192.168.33.33", "192.168.33.11", "08:00:27:96:39:d5"


def service(*backends, **more):
    servers = tuple(Backend(each) if isinstance(each, str) else each for each in backends)
    return Service(**{"name": "web", "vip": VIP, "port": "80", "protocol": "tcp", "backend": servers, **more})


def refusals(wrong):
    """What is wrong with a service, a line each."""
    with pytest.raises(InvalidInput) as caught:
        checked_service(wrong)
    lines = [str(problem) for problem in caught.value.problems]
    assert all("\n" not in line and len(line) < 300 for line in lines)
    # the same is said of it as part of a document
    with pytest.raises(InvalidInput) as placed:
        checked_service(wrong, "service[3].")
    assert [str(problem) for problem in placed.value.problems] == [f"service[3].{line}" for line in lines]
    return lines


def test_a_service_has_one_spelling():
    written = service(
        Backend("2001:DB8::11", via="FE80::1", dev="eth1"),
        Backend("2001:db8::12", dst_mac=MAC.upper(), dev="eth1"),
        vip="2001:DB8:0::33",
        port=80,
        local="2001:DB8:1::/64",
        check="HTTP://www.example.org:8080/Health?a",
        expect="200, 301-302",
    )
    spelled = service(
        Backend("2001:db8::11", via="fe80::1", dev="eth1"),
        Backend("2001:db8::12", dst_mac=MAC, dev="eth1"),
        vip="2001:db8::33",
        port="80",
        local="2001:db8:1::/64",
        check="http://www.example.org:8080/Health?a",
        expect="200,301-302",
    )
    assert checked_service(written) == spelled
    assert checked_service(spelled) is spelled


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"name": "a.b"}, "name: a.b cannot name a service: use 1 to 63 of A-Z a-z 0-9 _ -"),
        ({"name": "a" * 64}, "name: " + "a" * 64 + " cannot name a service: use 1 to 63 of A-Z a-z 0-9 _ -"),
        ({"vip": "192.168.33.0/24"}, "vip: 192.168.33.0/24 is a prefix: give one address"),
        ({"vip": "224.0.0.1"}, "vip: 224.0.0.1 is multicast: give a unicast address"),
        ({"vip": "127.0.0.1"}, "vip: 127.0.0.1 is loopback: give a unicast address"),
        ({"vip": "0.0.0.0"}, "vip: 0.0.0.0 is the unspecified address: give a unicast address"),
        ({"vip": "255.255.255.255"}, "vip: 255.255.255.255 is broadcast: give a unicast address"),
        ({"vip": "::1"}, "vip: ::1 is loopback: give a unicast address"),
        ({"vip": "fe80::1"}, "vip: fe80::1 is link-local: give a unicast address"),
        ({"vip": "ff02::1"}, "vip: ff02::1 is multicast: give a unicast address"),
        ({"vip": "::ffff:10.0.0.1"}, "vip: ::ffff:10.0.0.1 is an IPv4-mapped IPv6 address: write 10.0.0.1"),
        ({"protocol": "sctp"}, "protocol: sctp is none of these: use one of tcp, udp, both"),
        ({"encap": "vxlan"}, "encap: vxlan is none of these: use one of ipip, gue"),
        ({"encap": "gue", "gue_port": 0}, "gue_port: 0 is out of range: give a whole number, 1 to 65535"),
        ({"gue_port": 7000}, "gue_port: given with encap ipip, which has no port: give encap gue, or leave it out"),
        ({"local": "10.0.0.1/24"}, "local: 10.0.0.1/24 has host bits set: write 10.0.0.0/24, or 10.0.0.1 for the one"),
        ({"local": "0.0.0.0/0"}, "local: 0.0.0.0/0 holds 224.0.0.0/4, multicast: give a unicast address"),
        ({"local": "::/3"}, "local: ::/3 has IPv4-mapped addresses: write IPv4 as IPv4"),
        ({"local": "224.1.0.0/16"}, "local: 224.1.0.0/16 is multicast: give a unicast address"),
        ({"local": VIP}, f"local: {VIP} is the VIP, and a server drops what its own address sent: give an address of"),
        ({"local": "192.168.33.32/28"}, "local: 192.168.33.32/28 holds the VIP, and a server drops what its own"),
        ({"ring": 65536}, "ring: 65536 is not a prime: the nearest are 65521 and 65537"),
        ({"ring": 241}, "ring: 241 is out of range: give a prime from 251 to 1048573"),
        ({"ring": 1_048_583}, "ring: 1048583 is out of range: give a prime from 251 to 1048573"),
        ({"seed": -1}, "seed: -1 is out of range: give a whole number, 0 to 9223372036854775807"),
        ({"seed": 1 << 63}, "seed: 9223372036854775808 is out of range: give a whole number, 0 to 9223372036854775807"),
        ({"affinity": "source"}, "affinity: source is none of these: use one of ring, table"),
        ({"idle": 0}, "idle: 0 is out of range: give a whole number, 1 to 604800"),
        ({"own": "wire"}, "own: wire is none of these: use one of routed, on-wire"),
        ({"own_dev": "eth1"}, "own_dev: given with own routed: give own on-wire, or leave it out"),
        ({"check": "ping"}, "check: ping is no check: use none, icmp, tcp, tcp://:PORT, http://…, https://… or udp://"),
        ({"check": "tcp", "port": "any"}, "check: the service has all ports: say which port is asked, as tcp://:8080"),
        ({"check_via": "tunnel"}, "check_via: tunnel is none of these: use one of backend, vip"),
        ({"interval": 0.05}, "interval: 0.05 is out of range: give 0.1 to 3600 seconds"),
        ({"interval": float("nan")}, "interval: nan is out of range: give 0.1 to 3600 seconds"),
        ({"rise": 0}, "rise: 0 is out of range: give a whole number, 1 to 100"),
        ({"fall": 101}, "fall: 101 is out of range: give a whole number, 1 to 100"),
        ({"expect": "20x"}, "expect: 20x names no statuses of HTTP: give three digits each, such as 200, 200-399"),
        ({"expect": "399-200"}, "expect: 399-200 ends before it begins: write 200-399"),
        ({"all_down": "drop"}, "all_down: drop is none of these: use one of keep, refuse"),
        ({"icmp_echo": "drop"}, "icmp_echo: drop is none of these: use one of answer, pass"),
        ({"quic": True}, "quic: connection ids are not offered yet: leave it out, or give affinity table"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_names_its_field_and_what_would_do(more, said):
    (line,) = refusals(service(SERVER, **more))
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (Backend(VIP), f"address: {VIP} is the VIP itself: give the server's own address"),
        (Backend("10.0.0.0/8"), "address: 10.0.0.0/8 is a prefix: give one address"),
        (Backend("127.0.0.1"), "address: 127.0.0.1 is loopback: give a unicast address"),
        (Backend("::"), "address: :: is the unspecified address: give a unicast address"),
        (Backend("fe80::1"), "address: fe80::1 is link-local: give a unicast address"),
        (Backend(SERVER, weight=-1), "weight: -1 is out of range: give a whole number, 0 to 65535"),
        (Backend(SERVER, weight=65536), "weight: 65536 is out of range: give a whole number, 0 to 65535"),
        (Backend(SERVER, weight=True), "weight: True is out of range: give a whole number, 0 to 65535"),
        (Backend(SERVER, dst_mac=MAC), f"dev: missing for {SERVER}: dst_mac needs the device that it is reached by"),
        (Backend(SERVER, dev="eth1"), f"dev: given alone for {SERVER}: give via or dst_mac too, or leave the way to"),
        (Backend(SERVER, via="10.0.0.1", dst_mac=MAC, dev="e"), f"dst_mac: given together with via for {SERVER}: give"),
        (Backend(SERVER, via="2001:db8::1"), f"via: 2001:db8::1 is IPv6 and {SERVER} is IPv4: an IPv6 next hop for"),
        (Backend(SERVER, dst_mac="01:00:5e:00:00:01", dev="e"), "dst_mac: 01:00:5e:00:00:01 is a multicast address:"),
        (Backend(SERVER, via="10.0.0.1", dev="a b"), "dev: 'a b' has a character that no device name has:"),
    ],
    ids=str,
)
def test_a_backend_that_cannot_be_names_its_place(backend, said):
    (line,) = refusals(service("192.168.33.12", backend))
    assert line.startswith(f"backend[1].{said}")


def test_the_same_backend_twice_names_both_places():
    (line,) = refusals(service("192.168.33.12", SERVER, "192.168.33.13", Backend(SERVER, weight=5)))
    assert line == f"backend[3].address: {SERVER} is also backend[1]: give each backend once"
    (line,) = refusals(service("2001:db8::1", "2001:DB8:0::1"))
    assert line == "backend[1].address: 2001:db8::1 is also backend[0]: give each backend once"


def test_an_ipv4_header_around_ipv6_is_refused_with_why():
    (line,) = refusals(service("2001:db8::11", SERVER, vip="2001:db8::33"))
    assert line == (
        f"backend[1].address: {SERVER} is IPv4 and the VIP is IPv6, and an outer header of IPv4 around IPv6 is not "
        "offered: give an IPv6 address of the server"
    )
    # the other way round is offered, both at once too
    checked_service(service(SERVER, "2001:db8::11"))


def test_an_outer_source_is_of_the_backend_s_family_and_never_its_own():
    (line,) = refusals(service("2001:db8::11", local="192.168.33.10"))
    assert line.startswith("backend[0].address: 2001:db8::11 is IPv6 and local, 192.168.33.10, is IPv4: give backends")
    for local in (SERVER, "192.168.33.0/28"):
        (line,) = refusals(service("192.168.33.77", SERVER, local=local))
        assert line.startswith(f"backend[1].address: {SERVER} is one of the outer sources that local, {local}, gives")
    checked_service(service(SERVER, local="192.168.33.10"))
    checked_service(service("2001:db8::11", local="2001:db8:1::/64"))


def test_everything_that_is_wrong_is_said_at_once():
    wrong = service(
        VIP, "bad", Backend(SERVER, weight=70_000, via="x"), name="", vip="bad", port="0", ring=65536, check="x"
    )
    lines = refusals(wrong)
    fields = ["name", "vip", "port", "ring", "check", "backend[1].address", "backend[2].weight", "backend[2].via"]
    assert [line.partition(":")[0] for line in lines] == fields


def test_a_ring_has_a_slot_for_each_backend_and_there_are_so_many():
    servers = [f"10.0.{n >> 8}.{n & 255}" for n in range(1, BACKENDS_MOST + 2)]
    (line,) = refusals(service(*servers[:252], ring=251))
    assert line.startswith("ring: 251 slots are fewer than its 252 backends: give a prime")
    checked_service(service(*servers[:251], ring=251))
    assert len(checked_service(service(*servers[:-1])).backend) == BACKENDS_MOST
    (line,) = refusals(service(*servers))
    assert line == "backend: 4,096 backends: give at most 4,095"


def together(*services, new=None):
    by_name = {one.name: checked_service(one) for one in services}
    found = services_together(by_name, list(by_name) if new is None else new)
    return [(key, str(error)) for key, error in found]


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        (("80", "tcp"), ("80", "tcp"), True),
        (("80-90", "tcp"), ("90", "tcp"), True),
        (("80", "tcp"), ("70-90", "both"), True),
        (("any", "both"), ("80", "udp"), True),
        (("80", "both"), ("80", "udp"), True),
        (("any", "tcp"), ("any", "tcp"), True),
        (("80", "tcp"), ("80", "udp"), False),
        (("80-81", "tcp"), ("82-83", "tcp"), False),
        (("any", "tcp"), ("any", "udp"), False),
    ],
)
def test_two_services_do_not_have_one_port(first, second, overlap):
    a, b = service(name="a", port=first[0], protocol=first[1]), service(name="b", port=second[0], protocol=second[1])
    expected = [
        (
            "b",
            f"port: b ({second[0]} {second[1]}) and a ({first[0]} {first[1]}) overlap on {VIP}: give each port of "
            f"{VIP} to one of them",
        )
    ]
    assert together(a, b) == (expected if overlap else [])
    # the one that is new is to blame, and what was there before is not looked at
    assert [key for key, _ in together(a, b, new=["a"])] == (["a"] if overlap else [])
    assert together(a, b, new=[]) == []
    assert together(a, service(name="c", vip="192.168.33.34", port=second[0], protocol=second[1])) == []


def test_each_service_that_overlaps_is_found_whatever_lies_between():
    found = together(
        service(name="a", port="1-10"),
        service(name="b", port="30-40"),
        service(name="c", port="12-20", protocol="both"),
        service(name="d", port="20-30"),
        service(name="e", port="11"),
        service(name="f", port="any", protocol="udp"),
    )
    assert [(key, error.split(" overlap")[0]) for key, error in found] == [
        ("d", "port: d (20-30 tcp) and c (12-20 both)"),
        ("f", "port: f (any udp) and c (12-20 both)"),
    ]


def test_there_is_room_for_so_many_services():
    many = {f"s{n}": service(name=f"s{n}", port=str(n)) for n in range(1, SERVICES_MOST + 2)}
    found = list(services_together(many, ["s7"]))
    assert [(key, str(error)) for key, error in found] == [("s7", "name: 4,096 services: there is room for 4,095")]
    del many["s7"]
    began = time.thread_time()
    assert list(services_together(many, many)) == []
    assert time.thread_time() - began < 1


def test_what_a_backend_has_of_the_ring_and_what_a_service_takes():
    assert [Backend(SERVER, 5).share, Backend(SERVER, 5, drained=True).share, Backend(SERVER, 0).share] == [5, 0, 0]
    assert service(port="any").ports == (0, 65535)
    assert service(port="80-81").ports == (80, 81)
    assert service(port=80).ports == (80, 80)
    assert service(protocol="both").protocols == ("tcp", "udp")
    assert service(protocol="udp").protocols == ("udp",)
