/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* router: the kernel's routing table is asked for every packet, and every answer is counted */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define CLASS_AND_LABEL bpf_htonl(0x0fffffff)

/* what bpf_fib_lookup returns: BPF_FIB_LKUP_RET_* of linux/bpf.h, here with a name so that BTF carries it */
enum answer {
	SUCCESS = BPF_FIB_LKUP_RET_SUCCESS,
	BLACKHOLE = BPF_FIB_LKUP_RET_BLACKHOLE,
	UNREACHABLE = BPF_FIB_LKUP_RET_UNREACHABLE,
	PROHIBIT = BPF_FIB_LKUP_RET_PROHIBIT,
	NOT_FORWARDED = BPF_FIB_LKUP_RET_NOT_FWDED, /* local, multicast, or no route at all */
	FORWARDING_OFF = BPF_FIB_LKUP_RET_FWD_DISABLED,
	ENCAPSULATED = BPF_FIB_LKUP_RET_UNSUPP_LWT,
	NO_NEIGHBOUR = BPF_FIB_LKUP_RET_NO_NEIGH,
	TOO_BIG = BPF_FIB_LKUP_RET_FRAG_NEEDED,
	OTHER, /* an answer that a later kernel knows */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, OTHER + 1);
	__type(key, enum answer);
	__type(value, __u64);
} answers SEC(".maps");

static __always_inline void count(enum answer answer)
{
	__u64 none = 0, *packets = bpf_map_lookup_elem(&answers, &answer);

	if (!packets) {
		bpf_map_update_elem(&answers, &answer, &none, BPF_NOEXIST);
		packets = bpf_map_lookup_elem(&answers, &answer);
	}
	if (packets)
		++*packets;
}

/* One hop less to live. The checksum grows by what its word lost, with the carry added in (RFC 1141). */
static __always_inline void decrease_ttl(struct iphdr *ip)
{
	__u32 sum = ip->check + bpf_htons(0x0100);

	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
}

SEC("xdp")
int router(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip4 = (void *)(ethernet + 1);
	struct ipv6hdr *ip6 = (void *)(ethernet + 1);
	struct bpf_fib_lookup way = {.ifindex = ctx->ingress_ifindex};
	int answer;

	if ((void *)(ethernet + 1) > data_end || ethernet->h_dest[0] & 1)
		return XDP_PASS;
	/* options, and a packet whose last hop this is, are the kernel's: it may owe an ICMP error */
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		if ((void *)(ip4 + 1) > data_end || ip4->ihl != 5 || ip4->ttl <= 1)
			return XDP_PASS;
		way.family = AF_INET;
		way.tos = ip4->tos;
		way.l4_protocol = ip4->protocol;
		way.tot_len = bpf_ntohs(ip4->tot_len);
		way.ipv4_src = ip4->saddr;
		way.ipv4_dst = ip4->daddr;
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(ip6 + 1) > data_end || ip6->hop_limit <= 1)
			return XDP_PASS;
		way.family = AF_INET6;
		way.flowinfo = *(__be32 *)ip6 & CLASS_AND_LABEL;
		way.l4_protocol = ip6->nexthdr;
		way.tot_len = bpf_ntohs(ip6->payload_len) + sizeof(*ip6);
		__builtin_memcpy(way.ipv6_src, &ip6->saddr, sizeof(way.ipv6_src));
		__builtin_memcpy(way.ipv6_dst, &ip6->daddr, sizeof(way.ipv6_dst));
	} else {
		return XDP_PASS;
	}
	answer = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	count(answer >= 0 && answer < OTHER ? answer : OTHER);
	if (answer == BPF_FIB_LKUP_RET_BLACKHOLE)
		return XDP_DROP;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	if (way.family == AF_INET)
		decrease_ttl(ip4);
	else
		ip6->hop_limit--;
	__builtin_memcpy(ethernet->h_source, way.smac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, way.dmac, ETH_ALEN);
	return bpf_redirect(way.ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
