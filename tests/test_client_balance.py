"""The client's verbs of services, backends and decap against the real API over real sockets."""

import pytest

import hopline
from hopline.config import Backend, Decap, Service
from hopline.errors import InvalidInput, NotFound, Refused

VIP, SERVER, OTHER, MAC = "192.168.33.33", "192.168.33.11", "192.168.33.12", "08:00:27:96:39:d5"


@pytest.fixture
def client(doors):
    return hopline.connect(run_dir=doors.run)


def test_service_verbs(client, doors):
    changed = client.service.add("web", VIP, 80, "tcp", backend=[hopline.Backend(SERVER, 3)], local="192.168.33.10")
    web = Service("web", VIP, "80", "tcp", local="192.168.33.10", backend=(Backend(SERVER, 3),))
    assert (changed.service, changed.state.service) == (web, web)
    with pytest.raises(Refused, match="service web exists"):
        client.service.add("web", VIP, 80, "tcp")
    assert client.service.set("web", local=None, idle=60).service.idle == 60
    assert doors.service.services_by_name["web"].local is None
    (row,) = client.service.show()
    assert (row.ring, row.flows, row.backends[0].packets) == (None, None, None)
    (row,) = client.service.show("web", stats=True, flows=True, ring=True)
    assert None not in (row.ring, row.flows, row.backends[0].packets)
    client.service.delete("web")
    for verb in (client.service.show, client.service.delete):
        with pytest.raises(NotFound):
            verb("web")


def test_backend_verbs(client, doors):
    client.service.add("web", VIP, "80-81", "both")
    assert [row.address for row in client.backend.add("web", SERVER, weight=3).backends] == [SERVER]
    client.backend.put("web", [Backend(OTHER, dst_mac=MAC, dev="enp0s9"), Backend("2001:db8::13")])
    client.backend.set("web", OTHER, dst_mac=None, dev=None, weight=0)
    service = doors.service.services_by_name["web"]
    assert service.backend == (Backend(SERVER, 3), Backend(OTHER, 0), Backend("2001:db8::13"))
    assert client.backend.drain("web", "2001:DB8::13").backends[0].state == "draining"
    assert client.backend.drained("web", "2001:db8::13", since=2).flows == 2
    client.backend.undrain("web", "2001:db8::13")
    with pytest.raises(Refused, match="its weight is 0"):
        client.backend.undrain("web", OTHER)
    (row,) = client.backend.show("web")
    assert [one.state for one in row.backends] == ["unchecked", "draining", "unchecked"]
    client.backend.delete("web", OTHER, grace=0)
    client.backend.delete("web", SERVER)
    assert doors.service.leaving == [("web", OTHER, 0.0), ("web", SERVER, None)]
    with pytest.raises(NotFound):
        client.backend.set("web", SERVER, weight=1)


def test_decap_verbs(client):
    assert client.decap.add(SERVER, "192.168.33.10/32").decap == Decap(SERVER, "192.168.33.10")
    client.decap.add(SERVER)
    client.decap.add(SERVER, encap="gue", gue_port=7000)
    with pytest.raises(Refused):
        client.decap.add(SERVER, "any")
    assert [row.decap.from_ for row in client.decap.show()] == ["any", "192.168.33.10", "any"]
    client.decap.delete(SERVER, "any", encap="gue")
    client.decap.delete(SERVER)
    with pytest.raises(NotFound):
        client.decap.delete(SERVER)
    assert len(client.decap.show()) == 1


def test_what_is_wrong_keeps_its_field(client, doors):
    client.service.add("web", VIP, 80, "tcp", backend=[Backend(SERVER)])
    for call, field in (
        (lambda: client.service.add("alt", VIP, "79-80", "tcp"), "port"),
        (lambda: client.service.add("alt", VIP, 81, "tcp", ring=65536), "ring"),
        (lambda: client.service.add("alt", VIP, 81, "tcp", backend=[Backend(VIP)]), "backend[0].address"),
        (lambda: client.service.set("web", vip=SERVER), "backend[0].address"),
        (lambda: client.service.set("web"), "body"),
        (lambda: client.service.show("a/b"), "name"),
        (lambda: client.backend.add("web", VIP), "address"),
        (lambda: client.backend.put("web", [Backend(OTHER), Backend(OTHER)]), "backend[1].address"),
        (lambda: client.backend.delete("web", "../../intent"), "address"),
        (lambda: client.decap.add("10.0.0.1", "2001:db8::/32"), "from"),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.field == field
    assert len(doors.service.past) == 1


def test_a_document_of_services_is_applied_and_compared(client):
    web = Service("web", VIP, "80", "tcp", backend=(Backend(SERVER),))
    intent = hopline.Intent(service=(web,), decap=(Decap(SERVER, "any"),))
    assert client.intent.apply(intent).counts["service"].added == 1
    assert client.intent.show() == intent
    assert client.intent.diff(intent).counts == {}
    assert client.rollback(0).counts["decap"].removed == 1
