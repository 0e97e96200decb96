"""An intent, written."""

import io

from hypothesis import given

from document.texts import MAC, intents
from hopline.config import Backend, Decap, Forward, Intent, Interface, Service
from hopline.document import read_document, write_toml
from hopline.intent import Wanted, wanted_of


def written(intent):
    out = io.StringIO()
    write_toml(intent, out)
    return out.getvalue()


def test_defaults_are_left_out_and_entries_stand_apart():
    interfaces = (Interface("enp0s3"), Interface("enp0s9", "generic", True))
    forwards = (Forward("10.0.0.5", "enp0s9", MAC, MAC), Forward("2001:db8::/64", via="2001:db8::1"))
    assert written(Intent(interfaces, forwards)) == (
        '[[interface]]\nname = "enp0s3"\n\n'
        '[[interface]]\nname = "enp0s9"\nmode = "generic"\nbypass_policy = true\n\n'
        f'[[forward]]\nto = "10.0.0.5"\ndev = "enp0s9"\nsrc_mac = "{MAC}"\ndst_mac = "{MAC}"\n\n'
        '[[forward]]\nto = "2001:db8::/64"\nvia = "2001:db8::1"\n'
    )
    assert written(Intent()) == written(Wanted()) == ""


def test_a_service_s_backends_stand_in_it():
    servers = (Backend("192.168.33.11", 3), Backend("192.168.33.12", dst_mac=MAC, dev="eth1", drained=True))
    web = Service("web", "192.168.33.33", "80-81", "tcp", local="192.168.33.10", interval=0.5, backend=servers)
    intent = Intent(service=(web, Service("dns", "2001:db8::33", "53", "udp")), decap=(Decap("10.0.0.1", "any"),))
    assert written(intent) == (
        '[[service]]\nname = "web"\nvip = "192.168.33.33"\nport = "80-81"\nprotocol = "tcp"\n'
        'local = "192.168.33.10"\ninterval = 0.5\n'
        '  [[service.backend]]\n  address = "192.168.33.11"\n  weight = 3\n'
        f'  [[service.backend]]\n  address = "192.168.33.12"\n  dst_mac = "{MAC}"\n  dev = "eth1"\n  drained = true\n\n'
        '[[service]]\nname = "dns"\nvip = "2001:db8::33"\nport = "53"\nprotocol = "udp"\n\n'
        '[[decap]]\nlocal = "10.0.0.1"\nfrom = "any"\n'
    )


@given(intents())
def test_what_is_written_reads_back_and_is_written_the_same(intent):
    text = written(intent)
    assert text.isascii()
    read = read_document(text.encode(), "fw.toml").wanted
    assert read == wanted_of(intent)
    assert [list(read.of(noun)) for noun in ("interface", "forward")] == [
        [interface.name for interface in intent.interface],
        [forward.to for forward in intent.forward],
    ]
    assert written(read) == text


def test_a_device_may_have_any_name_that_the_kernel_takes():
    for name in ('a"b', "a\\b", "ü", "\U0001f600", "'", "a#b", "\\u0041"):
        text = written(Intent((Interface(name),)))
        assert list(read_document(text.encode(), "fw.toml").wanted.of("interface")) == [name]


def test_many_are_written_in_pieces():
    entries = {f"10.{n >> 8}.{n & 255}.1": Forward("x", via="10.0.0.1") for n in range(300, 10_000)}
    want = Wanted({"forward": entries})
    assert written(want).count("\n\n[[forward]]\n") == len(entries) - 1
