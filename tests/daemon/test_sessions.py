"""daemon/sessions: connections that end at an address of this host, as /proc/net has them."""

import socket

from hopline.daemon.sessions import sessions_on


def test_a_connection_is_found_by_its_local_address_and_port_alone():
    with socket.create_server(("127.0.0.5", 0)) as server, socket.create_connection(server.getsockname()):
        port = server.getsockname()[1]
        assert port in sessions_on("127.0.0.5")
        assert port not in sessions_on("127.0.0.6")


def test_ipv6_and_what_is_mapped_into_it(tmp_path):
    head = "  sl  local_address remote_address st\n"
    (tmp_path / "tcp").write_text(
        f"{head}   0: 0100007F:0016 0200007F:9C40 0A 0\n   1: 0A00010A:0016 0200007F:9C40 01 0\n"
    )
    (tmp_path / "tcp6").write_text(
        f"{head}   0: 000000FD000000000000000001000000:01BB 0:1 01 0\n"
        "   1: 0000000000000000FFFF00000A00010A:0050 0:1 01 0\n"
    )
    assert sessions_on("10.1.0.10", tmp_path) == {22, 80}
    assert sessions_on("127.0.0.1", tmp_path) == set(), "it only listens"
    assert sessions_on("fd00::1", tmp_path) == {443}
