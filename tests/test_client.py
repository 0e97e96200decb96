"""The public page, and the client against the real API over real sockets."""

import os
import socket
import subprocess
import sys
import threading

import pytest

import hopline
from front_double import LEARNED, NEIGHBOUR_MAC, OWN_MAC, Doors
from hopline.config import Forward
from hopline.errors import InvalidInput, NotFound, Refused, Unavailable


@pytest.fixture(scope="module")
def open_doors(tmp_path_factory):
    with Doors(tmp_path_factory.mktemp("run")) as doors:
        yield doors


@pytest.fixture
def doors(open_doors):
    open_doors.service.__init__()
    return open_doors


@pytest.fixture
def client(doors):
    return hopline.connect(run_dir=doors.run)


def test_the_public_page_is_lazy_and_complete():
    code = "import sys, hopline; print(*sorted(m for m in sys.modules if m.startswith(('hopline', 'msgspec', 'http'))))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    assert out.stdout.split() == ["hopline"]
    for name in hopline.__all__:
        assert getattr(hopline, name) is not None
    assert set(dir(hopline)) == set(hopline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hopline.nothing


def test_the_version_is_the_package_s():
    from importlib.metadata import version

    assert hopline.__version__ == version("hopline")


def test_forward_verbs(client, doors):
    with client:
        client.forward.add("10.10.3.5", dev="enp0s9", dst_mac=NEIGHBOUR_MAC, src_mac=OWN_MAC)
        with pytest.raises(Refused) as caught:
            client.forward.add("10.10.3.5", via="10.10.3.1")
        assert str(caught.value) == "forward 10.10.3.5 exists: use replace"
        client.forward.replace("10.10.3.5", via="10.10.3.1")
        assert doors.service.intent["10.10.3.5"].via == "10.10.3.1"
        assert [row.to for row in client.forward.show(origin="operator")] == ["10.10.3.5"]
        assert client.forward.show("10.10.2.7") == [LEARNED]
        assert len(client.forward.show(limit=1)) == 1
        client.forward.delete("10.10.3.5")
        with pytest.raises(NotFound, match="no such entry"):
            client.forward.delete("10.10.3.5")


def test_many_forwards_at_once(client):
    client.forward.put(Forward(f"10.1.{n >> 8}.{n & 255}", via="10.10.3.1") for n in range(1000))
    assert len(client.forward.show(origin="operator")) == 1000
    client.forward.put([])
    client.forward.delete(*(f"10.1.0.{n}" for n in range(256)))
    assert len(client.forward.show(origin="operator")) == 744


def test_get_next_hops_flush_status_detach(client, doors):
    answer = client.forward.get("10.10.3.5", in_dev="enp0s3")
    assert (answer.verdict, answer.dst_mac) == ("FORWARDED", NEIGHBOUR_MAC)
    assert client.forward.next_hops()[0].packets == 7
    assert client.forward.flush() == 1
    assert client.forward.flush() == 0
    assert client.status().entries.learned == 0
    client.detach()
    assert doors.service.detached


def test_interface_verbs(client):
    added = client.interface.add("enp0s3", mode="generic")
    assert added.state.mode == "generic"
    assert added.warnings
    with pytest.raises(Refused):
        client.interface.add("enp0s3")
    assert client.interface.add("enp0s3", replace=True).interface.mode == "auto"
    assert client.interface.set("enp0s3", bypass_policy=True).interface.bypass_policy
    assert [state.name for state in client.interface.show()] == ["enp0s3"]
    assert client.interface.show("enp0s3")[0].bypass_policy
    client.interface.delete("enp0s3")
    with pytest.raises(NotFound):
        client.interface.show("enp0s3")


def test_invalid_input_keeps_its_field(client):
    with pytest.raises(InvalidInput) as caught:
        client.forward.add("10.0.0.7/24", via="10.0.0.1")
    assert caught.value.field == "to"
    assert "10.0.0.0/24" in caught.value.hint
    with pytest.raises(InvalidInput):
        client.interface.delete("a/b?c=d#e")
    with pytest.raises(InvalidInput):
        hopline.connect("../x")


def test_no_daemon_is_one_line_that_says_how_to_start_it(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Unavailable) as caught:
            hopline.connect("lab", directory).status()
        path = directory / "admin.sock"
        expected = f"instance lab: no daemon answers on {path}: start it with `hopline serve --instance lab`"
        assert str(caught.value) == expected


def test_a_daemon_that_says_nothing_or_goes_away_is_unavailable(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "admin.sock"))
        listener.listen()
        with pytest.raises(Unavailable, match=r"did not answer in 0\.1 s"):
            hopline.connect("main", tmp_path, timeout=0.1).status()

        def hang_up():
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Unavailable, match="broke"):
            hopline.connect("main", tmp_path).status()
        thread.join(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become someone else")
def test_a_member_of_the_group_may_look_but_not_change(doors, tmp_path):
    code = f"""
import os
import hopline
client = hopline.connect(run_dir={str(tmp_path / "run")!r})
client.status()  # loads what the other user may not be able to read
os.setgroups([])
os.setgid(65534)
os.setuid(65533)
print(client.status().pid)
try:
    client.forward.add("10.10.3.5", via="10.10.3.1")
except hopline.Refused as error:
    print(error)
"""
    with Doors(tmp_path / "run") as own:
        for parent in (tmp_path, *list(tmp_path.parents)[:2]):
            parent.chmod(0o755)
        os.chown(own.run / "view.sock", 0, 65534)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
        assert own.service.intent == {}
    assert out.stdout.splitlines()[:1] == ["4711"], out.stderr
    assert "permission denied: do this as root" in out.stdout
