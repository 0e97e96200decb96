"""answer.h and quoted.h alone: a program around them that parses a frame and calls one of them, run by TEST_RUN."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import hopline.bpf
from bpf.frames import checksum
from clang import compile_bpf
from hopline.kernel import BpfObject

XDP_PASS, XDP_TX = 2, 3
QUOTE4, QUOTE6 = 548, 1232  # octets of a packet that its error quotes at most
LIB = Path(hopline.bpf.__file__).parent / "lib"
SOURCE = f"""
#include "{LIB}/answer.h"
#include "{LIB}/quoted.h"

const volatile __u32 told_mtu = 0;

struct {{
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quoted);
}} found SEC(".maps");

static __always_inline bool parsed(struct xdp_md *ctx, struct packet *packet)
{{
	if (parse(ctx, NULL, packet) != CONTINUE)
		return false;
	if (packet->family == 4)
		parse_l4_ipv4(ctx, packet);
	else
		parse_extension_headers(ctx, packet->l3_offset + sizeof(struct ipv6hdr), packet);
	return true;
}}

static __always_inline int action(enum verdict verdict)
{{
	return verdict == CONTINUE ? XDP_PASS : verdict == ANSWERED_ECHO || verdict == ANSWERED_ERROR ? XDP_TX : XDP_DROP;
}}

SEC("xdp.frags") int echo(struct xdp_md *ctx)
{{
	struct packet packet;

	return parsed(ctx, &packet) ? action(answer_echo(ctx, &packet)) : XDP_ABORTED;
}}

SEC("xdp.frags") int error(struct xdp_md *ctx)
{{
	struct packet packet;

	return parsed(ctx, &packet) ? action(answer_error(ctx, &packet, told_mtu)) : XDP_ABORTED;
}}

SEC("xdp.frags") int quote(struct xdp_md *ctx)
{{
	struct quoted quoted = {{}};
	struct packet packet;
	__u32 zero = 0;

	if (!parsed(ctx, &packet))
		return XDP_ABORTED;
	if (!quoted_flow(ctx, &packet, &quoted))
		return XDP_PASS;
	bpf_map_update_elem(&found, &zero, &quoted, BPF_ANY);
	return XDP_TX;
}}

static __always_inline enum verdict answered(struct xdp_md *ctx, const struct packet *packet)
{{
	if (packet->ttl <= 1)
		return answer_error(ctx, packet, 0);
	if (told_mtu && packet->l3_length > told_mtu)
		return answer_error(ctx, packet, told_mtu);
	return answer_echo(ctx, packet);
}}

/* as a service would use them: for real traffic */
SEC("xdp.frags") int live(struct xdp_md *ctx)
{{
	struct packet packet;

	if (!parsed(ctx, &packet))
		return XDP_PASS;
	return answered(ctx, &packet) == CONTINUE ? XDP_PASS : send_back(ctx);
}}

char _license[] SEC("license") = "Dual BSD/GPL";
"""


@dataclass(frozen=True)
class Flow:
    """A flow as its client sends it."""

    client: str
    client_port: int
    service_port: int
    protocol: int


@dataclass
class Answers:
    """The loaded programs; None is a frame that was left as it was."""

    opened: BpfObject

    def _run(self, program: str, frame: bytes) -> bytes | None:
        ran = self.opened.program(program).test_run(frame)
        assert ran.retval in (XDP_PASS, XDP_TX), f"action {ran.retval}"
        if ran.retval == XDP_PASS:
            assert ran.data == frame
            return None
        return ran.data

    def echo(self, frame: bytes) -> bytes | None:
        """The reply to an echo request."""
        return self._run("echo", frame)

    def error(self, frame: bytes) -> bytes | None:
        """The error that a packet gets, by the MTU that the programs were loaded with."""
        return self._run("error", frame)

    def quoted(self, frame: bytes) -> Flow | None:
        """The flow that an ICMP error quotes."""
        if self._run("quote", frame) is None:
            return None
        row = self.opened.map("found").get(0)
        at, ports, size = int(row["client_offset"]), int(row["ports_offset"]), 4 if frame[14] >> 4 == 4 else 16
        service_port, client_port = (int.from_bytes(frame[i : i + 2], "big") for i in (ports, ports + 2))
        assert int(row["service_port"]) == service_port
        return Flow(str(ip_address(frame[at : at + size])), client_port, service_port, int(row["protocol"]))


_directory = tempfile.TemporaryDirectory(prefix="hl-answers-")


@cache
def _built() -> Path:
    return compile_bpf(Path(_directory.name), SOURCE, "answers")


@contextlib.contextmanager
def answers(mtu: int = 0, *, generic: bool = False) -> Iterator[Answers]:
    """Load them; `mtu` is what an error tells, 0: that no hop is left."""
    with BpfObject.open(_built()) as opened:
        opened.set_rodata(told_mtu=mtu, generic_mode=generic)
        opened.load()
        yield Answers(opened)


# what must come of it, in plain Python


def replied(sent: bytes) -> bytes:
    """The reply, worked out anew: addresses turned, TTL 64, checksums over everything, no padding."""
    eth, packet = sent[6:12] + sent[:6] + sent[12:14], bytearray(sent[14:])
    if sent[12:14] == b"\x08\x00":
        packet = packet[: int.from_bytes(packet[2:4], "big")]
        packet[12:16], packet[16:20], packet[8], packet[10:12], packet[20] = (
            packet[16:20],
            packet[12:16],
            64,
            bytes(2),
            0,
        )
        packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
        packet[22:24] = bytes(2)
        # of ones' complement's two zeros, the one that is right for a message of zeros as well
        packet[22:24] = (checksum(even(packet[20:])) or 0xFFFF).to_bytes(2, "big")
    else:
        packet = packet[: 40 + int.from_bytes(packet[4:6], "big")]
        packet[8:24], packet[24:40], packet[7], packet[40], packet[42:44] = (
            packet[24:40],
            packet[8:24],
            64,
            129,
            bytes(2),
        )
        packet[42:44] = checksum(pseudo6(packet) + even(packet[40:])).to_bytes(2, "big")
    return eth + bytes(packet)


def even(octets: bytes | bytearray) -> bytes:
    return bytes(octets) + bytes(len(octets) % 2)


def pseudo6(packet: bytes | bytearray) -> bytes:
    return bytes(packet[8:40]) + (len(packet) - 40).to_bytes(4, "big") + bytes(3) + b"\x3a"


def reported(sent: bytes, mtu: int) -> bytes:
    """The error that answers a frame, as RFC 792 and RFC 4443 have it, worked out in plain Python."""
    macs, packet = sent[6:12] + sent[:6], sent[14:]
    if sent[12:14] == b"\x08\x00":
        quote = packet[: int.from_bytes(packet[2:4], "big")][:QUOTE4]
        kind = b"\x03\x04" if mtu else b"\x0b\x00"
        icmp = summed(kind + bytes(2) + mtu.to_bytes(4, "big") + quote, b"")
        header = b"\x45\xc0" + (20 + len(icmp)).to_bytes(2, "big") + b"\x00\x00\x40\x00\x40\x01\x00\x00"
        header += packet[16:20] + packet[12:16]
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        return macs + b"\x08\x00" + header + icmp
    quote = packet[: 40 + int.from_bytes(packet[4:6], "big")][:QUOTE6]
    addresses = packet[24:40] + packet[8:24]
    body = (b"\x02\x00" if mtu else b"\x03\x00") + bytes(2) + mtu.to_bytes(4, "big") + quote
    icmp = summed(body, addresses + len(body).to_bytes(4, "big") + bytes(3) + b"\x3a")
    return macs + b"\x86\xdd" + b"\x60\x00\x00\x00" + len(icmp).to_bytes(2, "big") + b"\x3a\x40" + addresses + icmp


def summed(icmp: bytes, pseudo: bytes) -> bytes:
    return icmp[:2] + checksum(pseudo + even(icmp)).to_bytes(2, "big") + icmp[4:]
