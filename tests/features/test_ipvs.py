"""Rules of ipvsadm: what they become, what cannot be expressed, and that nothing of it is lost in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config import checked_service, services_together
from hopline.features.ipvs import services_of

# as ipvsadm 1.31 saved it on Linux 6.1 (`ipvsadm -S -n`)
SAVED = """\
-A -t 192.168.33.33:80 -s rr
-a -t 192.168.33.33:80 -r 192.168.33.11:80 -i -w 1 --tun-type ipip
-a -t 192.168.33.33:80 -r 192.168.33.12:80 -i -w 3 --tun-type ipip
-a -t 192.168.33.33:80 -r 192.168.33.13:80 -i -w 0 --tun-type ipip
-A -t 192.168.33.33:443 -s mh -p 60 -b mh-fallback,mh-port
-a -t 192.168.33.33:443 -r 192.168.33.11:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 192.168.33.33:443 -r 192.168.33.12:443 -i -w 1 --tun-type gre --tun-nocsum
-a -t 192.168.33.33:443 -r 192.168.33.13:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -t 192.168.33.34:0 -s wlc -p 360
-a -t 192.168.33.34:0 -r 192.168.33.11:0 -i -w 1
-A -u 192.168.33.33:53 -s wrr -o
-a -u 192.168.33.33:53 -r 192.168.33.11:53 -m -w 1
-A -u 192.168.33.33:5060 -s wlc -p 60 --pe sip
-A --sctp-service 192.168.33.33:9 -s rr
-A -t [2001:db8::33]:80 -s wlc -p 200 -M 64
-a -t [2001:db8::33]:80 -r [2001:db8::11]:80 -i -w 1 --tun-type ipip
-A -f 7 -s rr -p 100 -M 255.255.255.0
-a -f 7 -r 192.168.33.11:0 -i -w 1 --tun-type ipip
"""


def told(said):
    return {(one.lines, one.text) for one in said}


def backends(service):
    return [(one.address, one.weight) for one in service.backend]


def one(*lines):
    """The one service of these lines, all of which can be expressed."""
    found = services_of("\n".join(lines))
    assert found.lost == ()
    (service,) = found.services
    return service


def test_what_was_saved_becomes_services():
    found = services_of(SAVED)
    services = {service.name: service for service in found.services}
    assert list(services) == [
        "tcp-192-168-33-33-80",
        "tcp-192-168-33-33-443",
        "tcp-192-168-33-34-any",
        "udp-192-168-33-33-5060",
        "tcp-2001-db8--33-80",
    ]
    web = services["tcp-192-168-33-33-80"]
    assert (web.vip, web.port, web.protocol, web.encap, web.affinity) == ("192.168.33.33", "80", "tcp", "ipip", "ring")
    assert backends(web) == [("192.168.33.11", 1), ("192.168.33.12", 1), ("192.168.33.13", 0)]
    secure = services["tcp-192-168-33-33-443"]
    assert (secure.encap, secure.gue_port) == ("gue", 6080)
    assert backends(secure) == [("192.168.33.11", 1), ("192.168.33.13", 1)]
    every = services["tcp-192-168-33-34-any"]
    assert (every.port, every.affinity, every.idle) == ("any", "table", 360)
    # each by itself and all of them beside the others are right
    assert [checked_service(service) for service in found.services] == list(found.services)
    assert list(services_together(services, services)) == []


def test_what_cannot_be_expressed_of_it_is_listed():
    without = "entered without it"
    client = "services of one port keep flows together, not a client's connections"
    assert told(services_of(SAVED).lost) == {
        ((5,), f"-p 60: {client}: {without}"),
        ((7,), "--tun-type gre: servers are reached by ipip or gue: left out"),
        ((11, 12), "no server of it can be expressed: left out, and its servers with it (line 12)"),
        ((12,), "NAT (-m): Hopline reaches servers by tunnel (-i): left out"),
        ((13,), f"-p 60: {client}: {without}"),
        ((13,), f"--pe sip: what is inside packets is not looked at: {without}"),
        ((14,), "--sctp-service 192.168.33.33:9: SCTP is not balanced, TCP and UDP are: left out"),
        ((15,), f"-p 200: {client}: {without}"),
        ((15,), f"-M 64: clients are not taken together by network: {without}"),
        (
            (17, 18),
            "-f 7: services are told by address and port, not by firewall mark: left out, and its servers with it"
            " (line 18)",
        ),
    }


def test_every_scheduler_becomes_maglev_and_is_said():
    assert told(services_of(SAVED).notes) >= {
        ((1,), "scheduler rr becomes Maglev"),
        ((3,), "rr takes no account of weights above 0: entered with weight 1"),
        ((5,), "scheduler mh is Maglev as well; its hash is another, so flows may get another backend"),
        ((9, 13, 15), "scheduler wlc becomes Maglev: by hash and weight, not by how much each has to do"),
        (
            (9,),
            "-p 360 on all ports: a client keeps its backend until it is silent for as long: affinity table, idle 360",
        ),
        ((8,), "outer UDP checksums are sent as 0, which a fou port takes as well"),
    }
    (unsaid,) = services_of("-A -t 10.0.0.1:80").notes
    assert unsaid.text.startswith("scheduler wlc becomes Maglev: by hash")


@pytest.mark.parametrize(
    "lines",
    [
        ("-A -t 10.0.0.1:80 -s wrr", "-a -t 10.0.0.1:80 -r 10.0.0.5:80 -i -w 7"),
        ("/sbin/ipvsadm -At 10.0.0.1:80 -s wrr", "/sbin/ipvsadm -at 10.0.0.1:80 -r 10.0.0.5:80 -i -w 7"),
        ("ipvsadm -At10.0.0.1:80 -swrr", "ipvsadm -iw7 -at 10.0.0.1:80 -r10.0.0.5"),
        (
            "sudo ipvsadm --add-service --tcp-service 10.0.0.1:80 --scheduler=wrr",
            "ipvsadm --add-server --tcp-service=10.0.0.1:80 --real-server 10.0.0.5 --ipip --weight=7",
        ),
        (
            "# the web",
            "",
            "ipvsadm -C",
            "ipvsadm -A -t '10.0.0.1:80' \\",
            "    -s wrr   # weighted",
            'ipvsadm -a -t "10.0.0.1:80" -r 10.0.0.5:80 -i -w 7 --tun-type ipip',
            "ipvsadm -Ln --stats",
        ),
        (
            "-A -t 10.0.0.1:80 -s rr",
            "-a -t 10.0.0.1:80 -r 10.0.0.5:80 -i -w 1",
            "-a -t 10.0.0.1:80 -r 10.0.0.6:80 -i -w 1",
            "-E -t 10.0.0.1:80 -s wrr",
            "-e -t 10.0.0.1:80 -r 10.0.0.5:80 -i -w 7",
            "-d -t 10.0.0.1:80 -r 10.0.0.6:80",
            "-A -u 10.0.0.1:80",
            "-D -u 10.0.0.1:80",
        ),
        ("-A -t 10.0.0.9:80", "-C", "-A -t 10.0.0.1:80 -s wrr", "-a -t 10.0.0.1:80 -r 10.0.0.5:80 -i -w 7 -x 0 -y 0"),
    ],
)
def test_a_rule_may_be_written_in_many_ways(lines):
    service = one(*lines)
    assert (service.name, backends(service)) == ("tcp-10-0-0-1-80", [("10.0.0.5", 7)])


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("-a -t 10.0.0.1:80 -r 10.0.0.6 -g", "direct routing (-g): Hopline reaches servers by tunnel (-i)"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.6", "direct routing (-g), which is meant where nothing is said: Hopline reaches"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.6:8080 -i", "10.0.0.6:8080: its port is not the service's, and ports are not tr"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.5 -i", "10.0.0.5 is there already, by line 2"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.1 -i", "10.0.0.1: the server is the VIP itself"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.6 -i -w 65536", "-w 65536: it is a number from 0 to 65535"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.6 -i -w -1", "-w -1: it is a number from 0 to 65535"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.6 -i --tun-type gue --tun-port 6080", "10.0.0.6: its tunnel is not that of line"),
        ("-a -t 10.0.0.1:80 -i", "--add-server without a real server (-r)"),
        ("-a -t 10.0.0.1:81 -r 10.0.0.6 -i", "no line before it adds -t 10.0.0.1:81"),
        ("-d -t 10.0.0.1:80 -r 10.0.0.6", "10.0.0.6 is no server of -t 10.0.0.1:80"),
        ("-D -u 10.0.0.1:80", "no line before it adds -u 10.0.0.1:80"),
        ("-A -t 10.0.0.1:80", "-t 10.0.0.1:80 is there already, by line 1"),
        ("-A -t 10.0.0.2:http", "10.0.0.2:http: http is no number of a port: save with `ipvsadm -S -n`"),
        ("-A -t www.example.org:80", "www.example.org:80: www.example.org is no address: save with `ipvsadm -S -n`"),
        ("-A -t 10.0.0.2:65536", "port 65536: it is a number from 0 to 65535"),
        ("-A -t 127.0.0.1:80", "vip: 127.0.0.1 is loopback: give a unicast address"),
        ("-A -t 10.0.0.2:0", "port 0 without -p, which ipvsadm refuses too"),
        ("-A -t 10.0.0.1:0 -p 50", "all ports of 10.0.0.1, of which line 1 has one: ports of services do not overlap"),
        ("-A -t 10.0.0.2:80 -u 10.0.0.2:80", "two services at once"),
        ("-A -t 10.0.0.2:80 -t 10.0.0.2:81", "--tcp-service is given twice"),
        ("-A -s rr", "no service in it (-t or -u)"),
        ("-A -a -t 10.0.0.2:80", "--add-service and --add-server at once"),
        ("-A -t", "-t without its value"),
        ("-A -t 10.0.0.2:80 -q", "-q is no option of ipvsadm"),
        ("-A -t 10.0.0.2:80 --quick", "--quick is no option of ipvsadm"),
        ("-A -t 10.0.0.2:80 rr", "rr belongs to no option"),
        ("-n", "no command of ipvsadm in it (-A, -a, …)"),
        ("/sbin/ipvsadm -At $VIP:80 -s rr", "$VIP:80 is for a shell to fill in: write what it stands for"),
        ("start() {", "start() is not ipvsadm"),
        ("/sbin/ifconfig tunl0 up", "/sbin/ifconfig is not ipvsadm"),
        ("ipvsadm -At 10.0.0.2:80 && ipvsadm -C", "more than one command: write one a line"),
        ("ipvsadm -At 10.0.0.2:80; ipvsadm -C", "more than one command: write one a line"),
    ],
)
def test_a_line_that_cannot_be_expressed_is_named_and_the_rest_is_as_it_was(rule, text):
    found = services_of(f"-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.5:80 -i -w 1\n{rule}\n")
    (lost,) = found.lost
    assert (lost.lines[0], lost.left_out) == (3, True)
    assert lost.text.startswith(text)
    assert lost.text.endswith("left out")
    assert [backends(service) for service in found.services] == [[("10.0.0.5", 1)]]


def test_an_ipv6_service_needs_ipv6_servers_and_an_ipv4_one_may_have_them():
    found = services_of("-A -t [2001:db8::1]:80\n-a -t [2001:db8::1]:80 -r 10.0.0.5 -i\n")
    assert [lost.text.partition(": left")[0] for lost in found.lost] == [
        "no server of it can be expressed",
        "10.0.0.5: an IPv6 service needs IPv6 servers",
    ]
    assert found.services == ()
    service = one(
        "-A -t 10.0.0.1:80", "-a -t 10.0.0.1:80 -r [2001:DB8::5]:80 -i", "-a -t 10.0.0.1:80 -r 2001:db8::6 -i"
    )
    assert [address for address, _ in backends(service)] == ["2001:db8::5", "2001:db8::6"]


def test_limits_are_lost_and_the_server_is_not():
    found = services_of("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.5 -i -x 100 -y 50\n")
    assert told(found.lost) == {((2,), "-x 100 -y 50: connections of a server are not limited: entered without it")}
    assert not found.lost[0].left_out
    assert backends(found.services[0]) == [("10.0.0.5", 1)]


def test_what_older_versions_save_without_dashes_is_known():
    service = one("-A -u 10.0.0.1:53 -s rr ops")
    assert service.protocol == "udp"
    found = services_of("-A -u 10.0.0.1:5060 -s wlc -p 60 pe sip")
    assert "--pe sip: what is inside packets is not looked at: entered without it" in [lost.text for lost in found.lost]


def test_time_outs_and_the_sync_daemon_are_told_of():
    found = services_of("ipvsadm --set 900 120 300\nipvsadm --start-daemon master --mcast-interface eth0 --syncid 1\n")
    assert found.lost == ()
    assert [(note.lines, note.text[:21]) for note in found.notes] == [
        ((1,), "time-outs are each se"),
        ((2,), "connections need no s"),
    ]


@given(st.text(alphabet="-AaEeDdCtufrsimgwpMxyo 10.:[]\n\\'\"#$=80", max_size=200))
def test_no_text_is_beyond_it(text):
    found = services_of(text)
    assert all(1 <= line <= text.count("\n") + 1 for said in (*found.lost, *found.notes) for line in said.lines)
    assert [checked_service(service) for service in found.services] == list(found.services)


LINES = [line for line in SAVED.splitlines() if line]


@given(st.lists(st.sampled_from(LINES), max_size=30))
def test_services_of_any_order_of_rules_are_right(lines):
    found = services_of("\n".join(lines))
    services = {service.name: service for service in found.services}
    assert len(services) == len(found.services)
    assert [checked_service(service) for service in found.services] == list(found.services)
    assert list(services_together(services, services)) == []
