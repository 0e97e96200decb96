"""Drift: what somebody else changes of Hopline's state in the kernel is found, put right and counted."""

import socket
import struct
import time

import hopline
from hopline.kernel import XdpLink
from lab.net import AUTO, sh
from lab.node import bpf_links, kernel_entries, map_items, own_links, xdp_id
from lab.traffic import (
    Traffic,
    assert_right_at_the_end,
    at_server,
    attach,
    enter_fixed,
    only_xdp_forwards,
    until_right,
    wait_for,
)

OFTEN = ("--check-every", "1")


def octets(raw: bytes) -> list[str]:
    return [f"0x{octet:02x}" for octet in raw]


def bpftool(verb: str, daemon, name: str, key: bytes, value: bytes | None = None) -> None:
    """Change a pinned map behind the daemon's back."""
    command = ["bpftool", "map", verb, "pinned", str(daemon.pins / name), "key", *octets(key)]
    sh(None, command if value is None else [*command, "value", *octets(value)])


def repairs(daemon) -> dict[str, int]:
    return hopline.connect(daemon.instance).status().repairs


def test_entries_taken_out_put_in_and_redirected_are_put_right_and_counted(wide, daemon):
    node = daemon(wide.ns, *OFTEN)
    attach(node, "left", "right", "third")
    client = hopline.connect(node.instance)
    client.forward.add("10.50.0.1", dev="right", dst_mac=wide.server.mac)
    client.forward.add("10.50.0.2", dev="right", dst_mac=wide.server.mac)
    client.forward.add("10.51.0.0/16", dev="right", dst_mac=wide.server.mac)
    client.forward.add("fd50::1", dev="third", dst_mac=wide.other.mac)
    before = {name: map_items(node, name) for name in ("forward_exact4", "forward_exact6", "forward_prefix4")}
    assert repairs(node) == {}

    first, second = (socket.inet_aton(f"10.50.0.{n}") for n in (1, 2))
    bpftool("delete", node, "forward_exact4", first)
    bpftool("update", node, "forward_exact4", second, struct.pack("=I", 1))
    bpftool("update", node, "forward_exact4", socket.inet_aton("10.66.0.1"), before["forward_exact4"][first])
    bpftool("delete", node, "forward_prefix4", struct.pack("=I", 16) + socket.inet_aton("10.51.0.0"))
    bpftool("delete", node, "forward_exact6", socket.inet_pton(socket.AF_INET6, "fd50::1"))

    assert wait_for(lambda: repairs(node).get("entries") == 5), repairs(node)
    assert {name: map_items(node, name) for name in before} == before
    assert kernel_entries(node) == {"10.50.0.1", "10.50.0.2", "10.51.0.0/16", "fd50::1"}
    assert "drift: 5 entries were not as they should be" in node.log.read_text()
    # what is as it should be is not repaired again
    compared = client.status().repairs
    assert not wait_for(lambda: repairs(node) != compared, seconds=2.5)


def test_a_next_hop_s_mac_that_somebody_wrote_is_ours_again_and_packets_go_there(wide, daemon):
    node = daemon(wide.ns, *OFTEN)
    attach(node, "left", "right", "third")
    flow = enter_fixed(node, wide)
    only_xdp_forwards(wide)
    (row,) = [r for r in hopline.connect(node.instance).forward.next_hops() if r.origin == "operator"]
    key = struct.pack("=I", row.id)
    held = map_items(node, "adjacencies")[key]
    with Traffic(wide, {"fixed": flow}, 500) as traffic:
        until_right(traffic, {"fixed": at_server(wide)}, 3)
        # the first word: destination MAC and MTU
        bpftool("update", node, "adjacencies", key, bytes.fromhex("02ee00000001") + held[6:])
        assert wait_for(lambda: repairs(node).get("adjacencies"))
        until_right(traffic, {"fixed": at_server(wide)}, 3)
    assert_right_at_the_end(traffic, "fixed", at_server(wide))
    assert map_items(node, "adjacencies")[key] == held


def test_a_redirect_slot_a_device_row_and_a_local_address_are_put_right(wide, daemon):
    node = daemon(wide.ns, *OFTEN)
    attach(node, "left", "right")
    slots = map_items(node, "interface_slots")
    right = struct.pack("=I", wide.right.index)
    bpftool("delete", node, f"egress_{AUTO}", slots[right])
    bpftool("delete", node, "interface_slots", struct.pack("=I", wide.left.index))
    assert wait_for(lambda: repairs(node).get("devices") == 2), repairs(node)
    assert map_items(node, "interface_slots") == slots
    looked_up = ["bpftool", "map", "lookup", "pinned", str(node.pins / f"egress_{AUTO}"), "key", *octets(slots[right])]
    assert sh(None, looked_up, check=False).returncode == 0


def test_an_own_address_that_somebody_took_out_is_local_again(wide, daemon):
    node = daemon(wide.ns, *OFTEN)
    attach(node, "left", "right")
    own = struct.pack("=I", 32) + socket.inet_aton(wide.left.ip4)

    def taken_out_and_counted() -> bool:
        # an event of another address may come first and put it right as well, which is no repair of drift
        bpftool("delete", node, "local4", own)
        wait_for(lambda: own in map_items(node, "local4"), seconds=3)
        assert own in map_items(node, "local4")
        return "local addresses" in repairs(node)

    assert wait_for(taken_out_and_counted, seconds=15)


def test_a_program_that_somebody_took_off_is_on_again_and_counted(wide, daemon):
    node = daemon(wide.ns)
    attach(node, "left", "right")
    with XdpLink.from_pin(node.pins / f"link_{wide.left.index}") as link:
        sh(None, f"bpftool link detach id {link.id}")
    assert wait_for(lambda: repairs(node).get("programs") == 1, seconds=8), repairs(node)
    assert xdp_id(wide.ns, "left")
    assert xdp_id(wide.ns, "right")
    assert len(own_links(node)) == 2
    assert own_links(node) <= bpf_links()


def test_after_a_device_has_changed_intent_and_kernel_are_compared_soon_and_not_only_every_minute(wide, daemon):
    node = daemon(wide.ns)
    attach(node, "left", "right")
    enter_fixed(node, wide)
    time.sleep(4)  # what attaching set off is over
    bpftool("delete", node, "forward_exact4", socket.inet_aton("10.50.0.1"))
    assert not wait_for(lambda: repairs(node), seconds=1.5)
    sh(wide.ns, "ip link set third mtu 1400")
    assert wait_for(lambda: repairs(node).get("entries") == 1, seconds=6)
    assert kernel_entries(node) == {"10.50.0.1"}
