/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The route hooks. A check through the tunnel leaves by one: the mark of its socket names the backend. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/address.h"

#define CHECK_OUTERS 65536
#define GUE_SOURCE 50000 /* of 49152 to 65535, which balance takes by the flow's hash */
#define HOPS 64

/* What is put in front of a check's packets; IPv4 addresses in their first word. */
struct check_outer {
	ip6_t source;
	ip6_t destination;
	__u32 family; /* of the outer header: 4 or 6 */
	__be16 port; /* GUE: the outer destination port; 0: IPIP */
	__u16 spare;
};

/* mark of the check's socket → outer header */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CHECK_OUTERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct check_outer);
} check_outers SEC(".maps");

struct check_counts {
	__u64 pushed;
	__u64 failed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct check_counts);
} check_counts SEC(".maps");

struct outer4 {
	struct iphdr ip;
	struct udphdr udp;
};

struct outer6 {
	struct ipv6hdr ip;
	struct udphdr udp;
} __attribute__((packed));

static __always_inline struct udphdr udp_in_front_of(const struct __sk_buff *skb, __be16 port)
{
	/* without checksum, which RFC 6935 allows tunnels over IPv6 too */
	return (struct udphdr){ .source = bpf_htons(GUE_SOURCE), .dest = port,
				.len = bpf_htons(skb->len + sizeof(struct udphdr)) };
}

static __always_inline int push4(struct __sk_buff *skb, const struct check_outer *to)
{
	__u32 length = to->port ? sizeof(struct outer4) : sizeof(struct iphdr);
	struct outer4 outer = {
		/* the kernel writes the checksum of an outer IPv4 header that has none */
		.ip = { .version = 4, .ihl = 5, .ttl = HOPS, .frag_off = bpf_htons(0x4000),
			.protocol = IPPROTO_UDP, .tot_len = bpf_htons(skb->len + length),
			.saddr = to->source.words[0], .daddr = to->destination.words[0] },
		.udp = udp_in_front_of(skb, to->port),
	};

	if (to->port)
		return bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer));
	outer.ip.protocol = skb->protocol == bpf_htons(ETH_P_IP) ? IPPROTO_IPIP : IPPROTO_IPV6;
	return bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer.ip));
}

static __always_inline int push6(struct __sk_buff *skb, const struct check_outer *to)
{
	struct outer6 outer = {
		.ip = { .version = 6, .hop_limit = HOPS, .nexthdr = IPPROTO_UDP,
			.payload_len = bpf_htons(skb->len + (to->port ? sizeof(struct udphdr) : 0)) },
		.udp = udp_in_front_of(skb, to->port),
	};

	__builtin_memcpy(&outer.ip.saddr, &to->source, sizeof(ip6_t));
	__builtin_memcpy(&outer.ip.daddr, &to->destination, sizeof(ip6_t));
	if (to->port)
		return bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer));
	outer.ip.nexthdr = skb->protocol == bpf_htons(ETH_P_IP) ? IPPROTO_IPIP : IPPROTO_IPV6;
	return bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer.ip));
}

SEC("lwt_xmit")
int hopline_check(struct __sk_buff *skb)
{
	__u32 mark = skb->mark, zero = 0;
	const struct check_outer *to = bpf_map_lookup_elem(&check_outers, &mark);
	struct check_counts *counts = bpf_map_lookup_elem(&check_counts, &zero);

	if (!counts)
		return BPF_DROP;
	if (!to || (to->family == 4 ? push4(skb, to) : push6(skb, to))) {
		counts->failed++;
		return BPF_DROP;
	}
	counts->pushed++;
	/* or the rule of that mark would lead the outer packet here again, where a backend is itself a VIP */
	skb->mark = 0;
	return BPF_LWT_REROUTE;
}

char _license[] SEC("license") = "Dual BSD/GPL";
