"""`hopline service`: what it sends, what it shows, and what it refuses before anything is asked."""

import json
import os

import pytest

from cli.balanced import ADD, ONE, OTHER, SILENT, VIP, Readings, served
from hopline.config import Service


@pytest.fixture(autouse=True)
def readings(run, monkeypatch):
    """What is shown of services; the double's own rows are for others."""
    found = Readings(run.service)
    monkeypatch.setattr(run.service, "services", found.services)
    return found


def test_a_service_is_added_set_shown_and_deleted(run):
    code, out, err = run(*ADD)
    assert (code, out) == (0, "")
    assert err == "hopline: warning: no neighbour answers for 192.168.33.12\n"
    assert run.service.services_by_name["web"] == Service("web", VIP, "80-81", "tcp")
    code, out, err = run(*ADD)
    assert (code, out, err) == (1, "", "hopline: service web exists: use `hopline service set`\n")
    assert run("service", "set", "web", "--idle", "30", "--affinity", "table") == (0, "", "")
    assert run.service.services_by_name["web"] == Service("web", VIP, "80-81", "tcp", affinity="table", idle=30)
    assert run("service", "del", "web") == (0, "", "")
    assert (
        run("service", "rm", "web")[2] == "hopline: service web: no such service: `hopline service show` lists them\n"
    )


def test_every_setting_of_the_grammar_is_sent(run):
    settings = {
        "encap": "gue", "gue_port": 7000, "local": "192.168.33.10", "ring": 1009, "seed": 5, "affinity": "table",
        "idle": 60, "own": "on-wire", "own_dev": "enp0s9", "check": "http://www.example.org/health", "check_via": "vip",
        "interval": 0.5, "rise": 3, "fall": 4, "expect": "200", "all_down": "refuse", "icmp_echo": "pass",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert run(*ADD, *words)[0] == 0
    assert run.service.services_by_name["web"] == Service("web", VIP, "80-81", "tcp", **settings)
    taken = ["--local", "", "--own", "routed", "--own-dev", "", "--port", "any", "--protocol", "both"]
    assert run("service", "set", "web", *taken)[0] == 0
    left = settings | {"local": None, "own": "routed", "own_dev": None}
    assert run.service.services_by_name["web"] == Service("web", VIP, "any", "both", **left)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["add", "web", "--vip", VIP, "--port", "80"], "missing option '--protocol'"),
        (["add", "web", "--vip", VIP, "--protocol", "tcp"], "missing option '--port'"),
        (["add", "web", "--port", "80", "--protocol", "tcp"], "missing option '--vip'"),
        (["add", "web", "--vip", VIP, "--port", "80", "--protocol", "sctp"], "invalid value for '--protocol'"),
        (["add", "--vip", VIP, "--port", "80", "--protocol", "tcp"], "missing argument 'NAME'"),
        (["set", "web"], "nothing to set: give a setting, such as --idle"),
        (["show", "web", "--stats", "--ring"], "--stats and --ring are two listings: give one"),
        (["set", "web", "--rise", "two"], "invalid value for '--rise'"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, words, text):
    code, out, err = run("service", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hopline: {text}")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--ring", "1000"], "ring: 1000 is not a prime: the nearest are 997 and 1009"),
        (["--port", "81-80"], "port: 81-80 ends before it begins: write 80-81"),
        (["--vip", "10.0.0.300"], "vip: 10.0.0.300 is not an IP address: give an IPv4 or IPv6 address"),
        (["--check", "smoke"], "check: smoke is no check: use none, icmp, tcp"),
        (["--gue-port", "7000"], "gue_port: given with encap ipip, which has no port"),
        (["--local", VIP], f"local: {VIP} is the VIP"),
    ],
)
def test_values_that_cannot_be_right_are_named_as_the_document_has_them(run, words, text):
    code, out, err = run(*ADD, *words)
    assert (code, out) == (1, "")
    assert err.startswith(f"hopline: {text}")
    assert run.service.services_by_name == {}


def test_the_plain_listing_reads_like_that_of_ipvsadm(run):
    served(run)
    run("service", "add", "dns", "--vip", "2001:db8::53", "--port", "53", "--protocol", "udp", "--encap", "gue",
        "--affinity", "table", "--own", "on-wire", "--check", "icmp")  # fmt: skip
    code, out, err = run("service")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Hopline 0.1.0 (2 services, 8 flows remembered)",
        "Prot LocalAddress:Port Scheduler Name Flags",
        "  -> RemoteAddress:Port           Forward Weight State      Share    Flows",
        "UDP  [2001:db8::53]:53 maglev dns gue:6080 table 900 on-wire check icmp",
        "     it has no backend: hopline backend add",
        "TCP  192.168.33.33:80-81 maglev web",
        "  -> 192.168.33.11:80-81          Tunnel  1      unchecked  25.00%   2",
        "  -> 192.168.33.12:80-81          Tunnel  3      unchecked  75.00%   2",
    ]
    assert run("service", "show")[1] == run("service", "list")[1] == run("service", "ls")[1] == out
    assert run("service", "show", "web")[1].splitlines()[3:] == out.splitlines()[5:]
    assert run("service", "show", "none")[0] == 1


def test_a_backend_that_does_not_serve_says_why(run):
    run(*ADD)
    run("backend", "add", "web", SILENT)
    assert run("service")[1].splitlines()[-1] == (
        "  -> 10.10.3.99:80-81             Tunnel  1      unresolved 100.00%  2       no neighbour answers"
    )


def test_counters_flows_and_slots_have_listings_of_their_own(run):
    served(run)
    assert run("service", "--stats")[1].splitlines() == [
        "Hopline 0.1.0 (1 service)",
        "Prot LocalAddress:Port               Conns   InPkts  InBytes",
        "  -> RemoteAddress:Port",
        "TCP  192.168.33.33:80-81 web             2       14     1372",
        "  -> 192.168.33.11:80-81                 1        7      686",
        "  -> 192.168.33.12:80-81                 1        7      686",
    ]
    assert run("service", "show", "web", "--flows")[1].splitlines() == [
        "Hopline 0.1.0 (1 service, 4 flows remembered)",
        "Prot LocalAddress:Port                 Now Remembered  Refused  Evicted   Silent",
        "  -> RemoteAddress:Port                Now",
        "TCP  192.168.33.33:80-81 web             4         12        1        2        3",
        "  -> 192.168.33.11:80-81                 2",
        "  -> 192.168.33.12:80-81                 2",
    ]
    assert run("service", "show", "web", "--ring")[1].splitlines() == [
        "Hopline 0.1.0 (1 service)",
        "Prot LocalAddress:Port               Slots   Closed     Open Residual",
        "  -> RemoteAddress:Port              Slots    Share    Exact",
        "TCP  192.168.33.33:80-81 web         65537    65507       10       20",
        "  -> 192.168.33.11:80-81             16384 24.9996% 16384.25",
        "  -> 192.168.33.12:80-81             49153 75.0004% 49152.75",
    ]


def test_rates_are_the_difference_of_a_second(run, readings):
    served(run)
    readings.counting = True
    out = run("service", "--rate")[1].splitlines()
    assert out[1].split() == ["Prot", "LocalAddress:Port", "CPS", "InPPS", "InBPS"]
    assert [line.split()[0] for line in out[3:]] == ["TCP", "->", "->"]
    packets = [int(line.split()[-2]) for line in out[3:]]
    assert packets[0] == pytest.approx(2000, rel=0.2)
    assert packets[1] == pytest.approx(1000, rel=0.2)
    (rate,) = json.loads(run("service", "--rate", "--json")[1])
    assert rate["name"] == "web"
    assert rate["bytes"] == pytest.approx(2 * 98_000, rel=0.2)
    assert [one["address"] for one in rate["backends"]] == [ONE, OTHER]


def test_on_a_terminal_rates_go_on(run, readings, terminal):
    served(run)
    readings.counting = True
    shown, code = terminal("timeout --preserve-status -s INT 5 $hopline service --rate; echo code $?")
    assert "InPPS" in shown
    assert shown.count("\x1b[2K") >= 4, "it is drawn again"
    assert "code 0" in shown
    assert code == 0


def test_json_has_what_the_listing_has(run):
    served(run)
    (row,) = json.loads(run("service", "--json")[1])
    assert (row["service"]["name"], row["service"]["port"], row["ring"]["slots"]) == ("web", "80-81", 65537)
    assert [one["share"] for one in row["backends"]] == [16384 / 65537, 49153 / 65537]
    assert json.loads(run("service", "show", "web", "--stats", "--json")[1])[0]["backends"][0]["packets"] == 7
    assert json.loads(run("service", "set", "web", "--idle", "5", "--json")[1])["service"]["idle"] == 5
    other = ["service", "add", "dns", "--vip", VIP, "--port", "53", "--protocol", "udp", "--json"]
    assert json.loads(run(*other)[1])["warnings"]


def test_the_document_has_services_with_their_backends(run, tmp_path):
    served(run, "--idle", "30")
    run("decap", "add", "--local", "10.10.3.1", "--from", "any")
    found = json.loads(run("export", "--json")[1])
    assert found["service"] == [
        {
            "name": "web",
            "vip": VIP,
            "port": "80-81",
            "protocol": "tcp",
            "idle": 30,
            "backend": [{"address": ONE}, {"address": OTHER, "weight": 3}],
        }
    ]
    assert found["decap"] == [{"local": "10.10.3.1", "from": "any"}]
    for name, words in (("intent.json", ["export", "--json"]), ("intent.toml", ["export"])):
        document = tmp_path / name
        document.write_text(run(*words)[1])
        assert run("diff", str(document))[:2] == (0, "no difference\n")
    document.write_text(document.read_text().replace("weight = 3", "weight = 5"))
    assert run("diff", str(document))[1].splitlines()[0] == f"~ service web  backend ~ {OTHER} weight 3 → 5"
    assert run("apply", str(document), "--merge")[0] == 0


def test_the_instance_may_stand_before_or_after(run):
    served(run)
    assert run("service", "--instance", "main", "show", "web")[0] == 0
    assert run("service", "show", "web", "--instance", "main")[0] == 0
    assert run("--instance", "main", "service")[0] == 0


def test_the_address_one_is_logged_in_by_is_no_vip_by_mistake(run, shell, tmp_path, monkeypatch):
    words = "service add web --vip 192.168.33.33 --port 80 --protocol tcp"
    ssh = {**os.environ, "SSH_CONNECTION": "192.168.33.1 50000 192.168.33.33 22"}
    refused = shell(f"$hopline {words}", env=ssh)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "hopline: service add web: 192.168.33.33 is the address that you are logged in by, and packets to it would go"
        " to backends: use --yes if that is meant\n"
    )
    # sudo takes the variable away, not that of the shell it was called from
    assert shell(f"env -u SSH_CONNECTION $hopline {words}; exit $?", env=ssh).stderr == refused.stderr
    assert run.service.services_by_name == {}
    document = tmp_path / "web.toml"
    document.write_text('[[service]]\nname = "web"\nvip = "192.168.33.33"\nport = 80\nprotocol = "tcp"\n')
    applied = shell(f"$hopline apply {document}", env=ssh)
    assert applied.returncode == 1
    assert f"apply {document}: 192.168.33.33 is the address that you are logged in by" in applied.stderr
    rules = tmp_path / "rules"
    rules.write_text("-A -t 192.168.33.33:80 -s rr\n")
    imported = shell(f"$hopline service import-ipvs {rules}", env=ssh)
    assert "192.168.33.33 is the address that you are logged in by" in imported.stderr
    assert run.service.services_by_name == {}
    assert shell(f"$hopline {words} --yes", env=ssh).returncode == 0
    # what it serves already may be said again
    assert shell(f"$hopline apply {document}", env=ssh).returncode == 0
    moved = shell("$hopline service set web --vip 192.168.33.33", env=ssh)
    assert moved.stderr.startswith("hopline: service set web: 192.168.33.33 is the address")
    assert shell("$hopline service set web --idle 5", env=ssh).returncode == 0


def test_names_are_completed(run, shell):
    served(run)
    completed = "_HOPLINE_COMPLETE=bash_complete COMP_WORDS='hopline --run {} {}' COMP_CWORD={} $hopline"
    asked = shell(completed.format(run.directory, "service show w", 5)).stdout
    assert asked == "plain,web\n"
    asked = shell(completed.format(run.directory, "backend drain web 192", 6)).stdout
    assert asked.splitlines() == [f"plain,{ONE}", f"plain,{OTHER}"]


def test_help_lists_the_verbs(run):
    out = run("service", "--help")[1]
    for verb in ("add", "set", "del", "show", "import-ipvs"):
        assert f"\n  {verb} " in out
    assert "\n  list " not in out
    assert run("--help")[1].count("\n  service ") == 1
