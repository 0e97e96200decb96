"""A router whose routes have programs that do as they are told, and where packets come to: for tests of the hooks."""

import contextlib
import socket
import struct
import time
from ipaddress import ip_address

from hopline.host.hooks import HOOKS
from hopline.kernel import BpfObject, netns
from hopline.kernel.netlink import encap
from lab.net import Router, Sniffer, sh

SOURCE = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
const volatile int code, mark, device, header;
const volatile __be32 from, to;
const volatile __be16 flags;
const volatile struct ethhdr link;

SEC("lwt_xmit") int answer(struct __sk_buff *skb)
{
    skb->mark = mark;
    return code;
}
SEC("xdp") int xdp_answer(struct xdp_md *ctx) { return code; }

SEC("lwt_xmit") int send(struct __sk_buff *skb)
{
    struct ethhdr copy = link;

    if (header && (bpf_skb_change_head(skb, ETH_HLEN, 0) || bpf_skb_store_bytes(skb, 0, &copy, ETH_HLEN, 0)))
        return BPF_DROP;
    return bpf_redirect(device, 0);
}

SEC("lwt_xmit") int push(struct __sk_buff *skb)
{
    struct { struct iphdr ip; __be16 gre[2]; } outer = {
        .ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_GRE, .saddr = from, .daddr = to,
                .frag_off = flags, .tot_len = bpf_htons(skb->len + sizeof(outer)) },
        .gre = { 0, bpf_htons(ETH_P_IP) },
    };

    return bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer)) ? BPF_DROP : BPF_LWT_REROUTE;
}

SEC("xdp") int fib(struct xdp_md *ctx)
{
    struct bpf_fib_lookup asked = {.family = 2, .ipv4_src = from, .ipv4_dst = to, .ifindex = ctx->ingress_ifindex};

    return bpf_fib_lookup(ctx, &asked, sizeof(asked), 0);
}
char _license[] SEC("license") = "GPL";
"""
BEHIND, SEGMENT = "10.9.0.1", "fd00:9::1"
AGAIN = 7  # this mark leads back to the client
DONT_FRAGMENT = b"\x40\x00"


@contextlib.contextmanager
def network():
    """A router, with sniffers `places` behind it; packets for BEHIND that have the mark go back to the client."""
    with Router() as made:
        made.pin_neighbours()
        sh(made.ns, f"ip rule add fwmark {AGAIN} table 77")
        sh(made.ns, f"ip route add {BEHIND} via {made.client.ip4} table 77")
        for name in ("all", "left"):
            sh(made.ns, f"sysctl -qw net.ipv6.conf.{name}.seg6_enabled=1")
        with Sniffer(made.server.ns, "eth0") as server, Sniffer(made.client.ns, "eth0") as client:
            made.places = {"server": server, "client": client}
            yield made


@contextlib.contextmanager
def loaded(file, name, hook, **variables):
    with BpfObject.open(file) as opened:
        opened.only(name)
        opened.set_type(name, HOOKS[hook])
        opened.set_rodata(**variables)
        opened.load()
        with opened.program(name) as program:
            yield program


@contextlib.contextmanager
def hooked(net, file, hook, name="answer", headroom=0, **variables):
    """A route of the router's to BEHIND, or to SEGMENT, that has a program."""
    kind = hook.removeprefix("lwt_")
    to, via = (SEGMENT, net.server.ip6) if kind == "seg6local" else (BEHIND, net.server.ip4)
    prefix = f"{to}/{ip_address(to).max_prefixlen}"
    with loaded(file, name, hook, **variables) as program:
        new = encap.NewHook(kind, f"test/{program.id}", program.fd)
        netns.run_in(net.ns, lambda: encap.create(prefix, via, socket.if_nametoindex("right"), [new], headroom))
        try:
            yield
        finally:
            sh(net.ns, f"ip route delete {prefix}")


def address(text) -> bytes:
    return ip_address(text).packed


def udp(net, payload, flags=DONT_FRAGMENT) -> bytes:
    """A frame to BEHIND, from the client."""
    ip = struct.pack("!BBHH2sBBH", 0x45, 0, 28 + len(payload), 0, flags, 64, 17, 0)
    ip += address(net.client.ip4) + address(BEHIND)
    total = sum(struct.unpack("!10H", ip))
    ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    head = net.left.mac_bytes + net.client.mac_bytes + b"\x08\x00"
    return head + ip + struct.pack("!HHHH", 1, 9, 8 + len(payload), 0) + payload


def segments(net, payload) -> bytes:
    """A frame to SEGMENT, from the client, whose next segment (RFC 8754) is the server."""
    routing = struct.pack("!BBBBBBH", 17, 4, 4, 1, 1, 0, 0) + address(net.server.ip6) + address(SEGMENT)
    rest = routing + struct.pack("!HHHH", 1, 9, 8 + len(payload), 0xFFFF) + payload
    head = net.left.mac_bytes + net.client.mac_bytes + b"\x86\xdd"
    ip = struct.pack("!IHBB", 6 << 28, len(rest), 43, 64) + address(net.client.ip6) + address(SEGMENT)
    return head + ip + rest


def fate(net, send, mark, expected) -> str | None:
    """Where packets that hold `mark` come to when `send` has sent one: server, client, or None.

    It is waited for longer where something is `expected`.
    """
    send()
    deadline = time.monotonic() + (2 if expected else 0.1)
    while time.monotonic() < deadline:
        for name, place in net.places.items():
            if any(mark in frame for frame in place.frames):
                return name
        time.sleep(0.005)
    return None


def redirected(net, header=1) -> dict:
    link = net.client.mac_bytes + net.left.mac_bytes + b"\x08\x00"
    return {"device": net.left.index, "header": header, "link": link}


@contextlib.contextmanager
def plain_route(net):
    sh(net.ns, f"ip route add {BEHIND} via {net.server.ip4}")
    try:
        yield
    finally:
        sh(net.ns, f"ip route delete {BEHIND}")
