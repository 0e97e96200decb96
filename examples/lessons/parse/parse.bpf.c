/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* parse: a header at a time, each after asking whether it is there. Every second ping is dropped. */
#include <linux/bpf.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VLAN_TAGS 2
#define IPV4_FRAGMENT_OFFSET 0x1fff

struct vlan_header {
	__be16 tci;
	__be16 ethertype;
};

/* Where the next header begins, and where the packet ends. */
struct cursor {
	void *next;
	void *end;
};

/* The next `size` bytes, and the cursor behind them; NULL where the packet is shorter. */
static __always_inline void *take(struct cursor *cursor, __u32 size)
{
	void *header = cursor->next;

	if (header + size > cursor->end)
		return NULL;
	cursor->next = header + size;
	return header;
}

static __always_inline __be16 parse_ethernet(struct cursor *cursor)
{
	struct ethhdr *ethernet = take(cursor, sizeof(*ethernet));
	__be16 ethertype = ethernet ? ethernet->h_proto : 0;

	/* a tag stands between the addresses and the type; a provider may have put a second one in front */
	for (int i = 0; i < VLAN_TAGS; i++) {
		if (ethertype != bpf_htons(ETH_P_8021Q) && ethertype != bpf_htons(ETH_P_8021AD))
			break;
		struct vlan_header *vlan = take(cursor, sizeof(*vlan));
		ethertype = vlan ? vlan->ethertype : 0;
	}
	return ethertype;
}

/* The sequence number of an IPv4 echo request; -1 for everything else. */
static __always_inline int ping_of_ipv4(struct cursor *cursor)
{
	struct iphdr *ip = take(cursor, sizeof(*ip));

	if (!ip || ip->ihl < 5 || ip->protocol != IPPROTO_ICMP || ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET))
		return -1;
	/* the header says how long it is, in words: options follow the first five */
	if (!take(cursor, ip->ihl * 4 - sizeof(*ip)))
		return -1;
	struct icmphdr *icmp = take(cursor, sizeof(*icmp));
	return icmp && icmp->type == ICMP_ECHO ? bpf_ntohs(icmp->un.echo.sequence) : -1;
}

/* The same of IPv6. A packet with extension headers is not looked into: each is a header more to take. */
static __always_inline int ping_of_ipv6(struct cursor *cursor)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));

	if (!ip || ip->nexthdr != IPPROTO_ICMPV6)
		return -1;
	struct icmp6hdr *icmp = take(cursor, sizeof(*icmp));
	return icmp && icmp->icmp6_type == ICMPV6_ECHO_REQUEST ? bpf_ntohs(icmp->icmp6_sequence) : -1;
}

SEC("xdp")
int every_second(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	__be16 ethertype = parse_ethernet(&cursor);
	int sequence = -1;

	if (ethertype == bpf_htons(ETH_P_IP))
		sequence = ping_of_ipv4(&cursor);
	else if (ethertype == bpf_htons(ETH_P_IPV6))
		sequence = ping_of_ipv6(&cursor);
	/* -1 passes: what is not understood is the kernel's */
	return sequence > 0 && sequence % 2 == 0 ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
