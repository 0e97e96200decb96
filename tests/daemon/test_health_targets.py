import pytest

from hopline.config import Backend, checked_service
from hopline.config import Service as Given
from hopline.daemon.health.targets import Tunnel, targets_of


def targets(check: str, **fields) -> dict:
    fields = {"name": "a", "vip": "10.9.0.1", "port": "80-81", "protocol": "tcp", **fields}
    backends = tuple(map(Backend, fields.pop("backends", ("10.0.0.1", "10.0.0.2"))))
    return dict(targets_of(checked_service(Given(check=check, backend=backends, **fields))))


def test_none_is_none():
    assert targets("none") == {}


@pytest.mark.parametrize(
    ("check", "fields", "port"),
    [
        ("tcp", {}, 80),
        ("tcp://:8080", {}, 8080),
        ("http:///health", {}, 80),
        ("http://:8080/", {}, 8080),
        ("https://www.example.org/", {"port": "any"}, 443),
        ("http://www.example.org/", {"port": "any"}, 80),
        ("icmp", {}, 0),
        ("udp://:53?send=a", {}, 53),
    ],
)
def test_the_port_is_the_services_first_unless_given(check, fields, port):
    target = targets(check, **fields)["10.0.0.1"]
    assert (target.address, target.request.port, target.tunnel) == ("10.0.0.1", port, None)


def test_what_is_asked_for_two_services_is_one_target_where_it_is_the_same():
    assert targets("tcp") == targets("tcp", name="b", vip="10.9.0.2")
    assert targets("tcp") != targets("tcp", interval=3.0)
    # the statuses that HTTP expects are nothing to TCP
    assert targets("tcp") == targets("tcp", expect="200")
    # the Host header is the VIP unless the check names one
    assert targets("http://") != targets("http://", vip="10.9.0.2")
    assert targets("http://x/") == targets("http://x/", vip="10.9.0.2")


def test_through_the_tunnel_the_vip_is_asked_and_the_backend_is_the_tunnels():
    found = targets("tcp", check_via="vip", encap="gue", gue_port=6081, local="10.0.1.0/24")
    assert found["10.0.0.2"].address == "10.9.0.1"
    assert found["10.0.0.2"].tunnel == Tunnel("10.0.0.2", "gue", 6081, "10.0.1.0/24")
    assert targets("icmp", check_via="vip")["10.0.0.1"].tunnel == Tunnel("10.0.0.1", "ipip", 0, None)
