/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ports: the destination port of UDP and TCP becomes one less, and the checksum follows */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4_FRAGMENT_OFFSET 0x1fff

/*
 * The checksum after one word under it has changed (RFC 1624, equation 3): HC' = ~(~HC + ~m + m').
 * Ones' complement sums do not care about byte order, so the words stay as they are on the wire.
 */
static __always_inline __sum16 corrected(__sum16 checksum, __be16 before, __be16 after)
{
	__u32 sum = (__u16)~checksum + (__u16)~before + after;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline void one_less(__be16 *port, __sum16 *checksum)
{
	__be16 before = *port, after = bpf_htons(bpf_ntohs(before) - 1);

	*port = after;
	*checksum = corrected(*checksum, before, after);
}

SEC("xdp")
int port_minus_one(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip4 = (void *)(ethernet + 1);
	struct ipv6hdr *ip6 = (void *)(ethernet + 1);
	void *transport;
	__u8 protocol;

	if ((void *)(ethernet + 1) > data_end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP) && (void *)(ip4 + 1) <= data_end) {
		/* only a first fragment has ports */
		if (ip4->ihl < 5 || ip4->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET))
			return XDP_PASS;
		transport = (void *)ip4 + ip4->ihl * 4;
		protocol = ip4->protocol;
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= data_end) {
		transport = ip6 + 1;
		protocol = ip6->nexthdr;
	} else {
		return XDP_PASS;
	}
	if (protocol == IPPROTO_UDP) {
		struct udphdr *udp = transport;
		__sum16 sum;

		if ((void *)(udp + 1) > data_end || !udp->dest)
			return XDP_PASS;
		sum = udp->check;
		one_less(&udp->dest, &sum);
		/* 0 says that there is no checksum, and a sum that comes out as 0 is sent as its other form */
		if (udp->check)
			udp->check = sum ?: 0xffff;
	} else if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = transport;

		if ((void *)(tcp + 1) > data_end || !tcp->dest)
			return XDP_PASS;
		one_less(&tcp->dest, &tcp->check);
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
