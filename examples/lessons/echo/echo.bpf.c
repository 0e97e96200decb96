/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* echo: pings are answered before the kernel sees them, out of the device they came in by */
#include <linux/bpf.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4_MORE_FRAGMENTS_AND_OFFSET 0x3fff
/* the first word of an ICMP header is type and code */
#define FIRST_WORD(type) bpf_htons((type) << 8)

/* RFC 1624, equation 3: the checksum after one word under it has changed */
static __always_inline __sum16 corrected(__sum16 checksum, __be16 before, __be16 after)
{
	__u32 sum = (__u16)~checksum + (__u16)~before + after;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int answer(struct ethhdr *ethernet)
{
	__u8 sender[ETH_ALEN];

	__builtin_memcpy(sender, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, sender, ETH_ALEN);
	return XDP_TX;
}

static __always_inline int echo4(struct ethhdr *ethernet, void *data_end)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct icmphdr *icmp = (void *)(ip + 1);
	__be16 *ttl = (void *)&ip->ttl, before; /* and the protocol, in one word */
	__be32 sender;

	/* an echo in fragments, or with options, is the kernel's */
	if ((void *)(icmp + 1) > data_end || ip->ihl != 5 || ip->protocol != IPPROTO_ICMP ||
	    ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS_AND_OFFSET) || icmp->type != ICMP_ECHO || icmp->code)
		return XDP_PASS;
	icmp->type = ICMP_ECHOREPLY;
	icmp->checksum = corrected(icmp->checksum, FIRST_WORD(ICMP_ECHO), FIRST_WORD(ICMP_ECHOREPLY));
	/* what is left of the request's TTL may be too little for the way back */
	before = *ttl;
	ip->ttl = IPDEFTTL;
	ip->check = corrected(ip->check, before, *ttl);
	/* a sum does not mind that two of its terms change places */
	sender = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = sender;
	return answer(ethernet);
}

static __always_inline int echo6(struct ethhdr *ethernet, void *data_end)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct icmp6hdr *icmp = (void *)(ip + 1);
	struct in6_addr sender;

	if ((void *)(icmp + 1) > data_end || ip->nexthdr != IPPROTO_ICMPV6 ||
	    icmp->icmp6_type != ICMPV6_ECHO_REQUEST || icmp->icmp6_code)
		return XDP_PASS;
	icmp->icmp6_type = ICMPV6_ECHO_REPLY;
	icmp->icmp6_cksum =
		corrected(icmp->icmp6_cksum, FIRST_WORD(ICMPV6_ECHO_REQUEST), FIRST_WORD(ICMPV6_ECHO_REPLY));
	ip->hop_limit = IPDEFTTL;
	sender = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = sender;
	return answer(ethernet);
}

SEC("xdp")
int echo(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;

	/* an answer must not come from a group's address */
	if ((void *)(ethernet + 1) > data_end || ethernet->h_dest[0] & 1)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return echo4(ethernet, data_end);
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		return echo6(ethernet, data_end);
	return XDP_PASS;
}

/* for the far end of a veth pair, see README.md */
SEC("xdp")
int far_end(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
