"""The helpers of this directory, tried on the real thing."""

import socket
import struct

import pytest

from hopline.errors import HoplineError
from hopline.kernel import netns
from hopline.lab.service import PINS, RUN, is_daemon
from hopline.lab.shell import namespaces
from lab.net import Daemon, Router, Sniffer, remove_leftovers, send_frames, sh


def checksum(header: bytes) -> int:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def udp4(source_mac: bytes, target_mac: bytes, source: str, target: str, ttl: int, payload: bytes) -> bytes:
    udp = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(udp), 7, 0x4000, ttl, 17)
    header += struct.pack("!H", checksum(header + ends))
    return target_mac + source_mac + b"\x08\x00" + header + ends + udp


def test_a_frame_crosses_a_hopline_node_with_one_ttl_less_and_the_new_macs(router, daemon):
    router.pin_neighbours()
    node = daemon(router.ns)
    for end in (router.left, router.right):
        node.call("interface", "add", end.dev)
    sent = udp4(router.client.mac_bytes, router.left.mac_bytes, router.client.ip4, router.server.ip4, 64, b"one")
    expected = udp4(router.right.mac_bytes, router.server.mac_bytes, router.client.ip4, router.server.ip4, 63, b"one")
    with Sniffer(router.server.ns, router.server.dev, match=lambda frame: frame.endswith(b"one")) as sniffer:
        send_frames(router.client.ns, router.client.dev, [sent])
        assert sniffer.wait(1) == [expected]
    verdicts = {each["name"]: each["verdicts"] for each in node.json("status")["interfaces"]}
    assert verdicts["left"]["FORWARDED"]["packets"] == 1


def test_a_daemon_is_killed_restarted_and_ended(router, daemon):
    node = daemon(router.ns)
    first = node.pid
    assert is_daemon(first, node.instance)
    node.kill9()
    assert not is_daemon(first, node.instance)
    assert node.pins.is_dir()
    node.start()
    node.restart()
    assert node.pid != first
    assert node.call("status").returncode == 0
    assert node.terminate() == 0
    node.clean()
    assert not (PINS / node.instance).exists()
    assert not (RUN / node.instance).exists()


def test_a_raw_sender_and_a_socket_stay_in_the_namespace_they_were_made_in():
    with Router() as net:
        assert net.client.index == netns.run_in(net.client.ns, socket.if_nametoindex, "eth0")
        with (
            Sniffer(net.client.ns, net.client.dev, outgoing=True) as both,
            Sniffer(net.client.ns, net.client.dev) as ours,
        ):
            frame = net.left.mac_bytes + net.client.mac_bytes + b"\x88\xb5outgoing"
            send_frames(net.client.ns, net.client.dev, [frame])
            assert frame in both.wait(1)
            assert frame not in ours.frames


def test_what_a_dead_test_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    dead = 2**22 + 1  # above the highest process id there can be
    with Router(f"t{dead}-1") as left, Router() as living:
        service = Daemon(left.ns, tmp_path, instance=f"t{dead}-1")
        service.start()
        remove_leftovers()
        assert service.process.wait(5) is not None
        assert not any(left.tag in name for name in namespaces())
        assert set(living.topology.namespace_names()) <= namespaces()
        assert not service.pins.exists()


def test_a_command_that_fails_says_what_was_asked_and_why():
    with pytest.raises(HoplineError, match=r'^ip link show dev no-such-dev: Device "no-such-dev" does not exist'):
        sh(None, "ip link show dev no-such-dev")
