/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a row of forward is compared with. `least` is the floor: what any program must do that looks up a packet's next
 * hop in a table as large as the cache, counts it, and sends it on. None checks what forward checks.
 */
#pragma once

#define FAMILY_INET 2
#define FAMILY_INET6 10
#define SPREAD 0x9e3779b97f4a7c15ULL

const volatile __u32 lines_count; /* of `lines` */
const volatile __u32 egress; /* ifindex of where a row's packets go */

/* of the size of the cache beside it: what one random line of it costs is what any look-up must */
struct line {
	__u64 words[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct line);
} lines SEC(".maps");

/* an entry of the usual XDP forwarder: destination → device and addresses, learned ones evicting entered ones */
struct hop {
	__u32 ifindex;
	__u8 destination[ETH_ALEN];
	__u8 source[ETH_ALEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __be32);
	__type(value, struct hop);
} lru4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct in6_addr);
	__type(value, struct hop);
} lru6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

struct count {
	__u64 packets;
	__u64 octets;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

static const struct hop known = { .destination = { 2, 0, 0, 0, 0, 1 }, .source = { 2, 0, 0, 0, 0, 2 } };
_Static_assert(sizeof(struct hop) == 4 + 2 * ETH_ALEN, "both addresses in one piece");

static __always_inline struct iphdr *ipv4(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	return (void *)(ip + 1) > (void *)(long)ctx->data_end ? NULL : ip;
}

static __always_inline struct ipv6hdr *ipv6(struct xdp_md *ctx)
{
	struct ipv6hdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	return (void *)(ip + 1) > (void *)(long)ctx->data_end ? NULL : ip;
}

/* in two pieces: clang would copy octet by octet, since an Ethernet header may lie anywhere */
static __always_inline void put_addresses(struct xdp_md *ctx, const struct hop *hop)
{
	void *frame = (void *)(long)ctx->data;
	const void *addresses = hop->destination;

	if (frame + ETH_HLEN > (void *)(long)ctx->data_end)
		return;
	*(__u64 *)frame = *(const __u64 *)addresses;
	*(__u32 *)(frame + 8) = *(const __u32 *)(addresses + 8);
}

static __always_inline void rewrite4(struct xdp_md *ctx, struct iphdr *ip, const struct hop *hop)
{
	__u32 sum = ip->check + bpf_htons(0x0100);

	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	put_addresses(ctx, hop);
}

static __always_inline void rewrite6(struct xdp_md *ctx, struct ipv6hdr *ip, const struct hop *hop)
{
	ip->hop_limit--;
	put_addresses(ctx, hop);
}

static __always_inline bool rewritten(struct xdp_md *ctx, bool is_ipv4)
{
	struct iphdr *ip4 = is_ipv4 ? ipv4(ctx) : NULL;
	struct ipv6hdr *ip6 = is_ipv4 ? NULL : ipv6(ctx);

	if (ip4)
		rewrite4(ctx, ip4, &known);
	if (ip6)
		rewrite6(ctx, ip6, &known);
	return ip4 || ip6;
}

static __always_inline struct line *random_line(__u64 of)
{
	__u32 at = (of * SPREAD >> 32) * lines_count >> 32;

	return bpf_map_lookup_elem(&lines, &at);
}

static __always_inline struct line *line_of(struct xdp_md *ctx, bool is_ipv4)
{
	struct iphdr *ip4 = is_ipv4 ? ipv4(ctx) : NULL;
	struct ipv6hdr *ip6 = is_ipv4 ? NULL : ipv6(ctx);

	if (ip4)
		return random_line(bpf_ntohl(ip4->daddr));
	if (ip6)
		return random_line(bpf_ntohl(ip6->daddr.in6_u.u6_addr32[1]));
	return NULL;
}

static __always_inline int one_line(struct xdp_md *ctx, bool is_ipv4)
{
	struct line *line = line_of(ctx, is_ipv4);

	/* all words are zero, but no compiler knows */
	return line && !line->words[0] ? XDP_TX : XDP_PASS;
}

static __always_inline void count(__u32 which, __u64 octets)
{
	struct count *counter = bpf_map_lookup_elem(&counts, &which);

	if (counter) {
		counter->packets++;
		counter->octets += octets;
	}
}

static __always_inline int least(struct xdp_md *ctx, bool is_ipv4)
{
	struct line *line = line_of(ctx, is_ipv4);
	__u64 octets = ctx->data_end - ctx->data;

	if (!line || line->words[0] || !rewritten(ctx, is_ipv4))
		return XDP_PASS;
	count(0, octets);
	count(1, octets);
	return bpf_redirect_map(&devices, line->words[1], XDP_PASS);
}

static __always_inline int fib_forward4(struct xdp_md *ctx)
{
	struct bpf_fib_lookup fib = { .family = FAMILY_INET, .ifindex = ctx->ingress_ifindex };
	struct iphdr *ip = ipv4(ctx);
	struct hop hop;

	if (!ip)
		return XDP_PASS;
	fib.l4_protocol = ip->protocol;
	fib.tot_len = bpf_ntohs(ip->tot_len);
	fib.tos = ip->tos;
	fib.ipv4_src = ip->saddr;
	fib.ipv4_dst = ip->daddr;
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	__builtin_memcpy(hop.destination, fib.dmac, ETH_ALEN);
	__builtin_memcpy(hop.source, fib.smac, ETH_ALEN);
	rewrite4(ctx, ip, &hop);
	return bpf_redirect(fib.ifindex, 0);
}

static __always_inline int fib_forward6(struct xdp_md *ctx)
{
	struct bpf_fib_lookup fib = { .family = FAMILY_INET6, .ifindex = ctx->ingress_ifindex };
	struct ipv6hdr *ip = ipv6(ctx);
	struct hop hop;

	if (!ip)
		return XDP_PASS;
	fib.l4_protocol = ip->nexthdr;
	fib.tot_len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	__builtin_memcpy(fib.ipv6_src, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(fib.ipv6_dst, &ip->daddr, sizeof(ip->daddr));
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	__builtin_memcpy(hop.destination, fib.dmac, ETH_ALEN);
	__builtin_memcpy(hop.source, fib.smac, ETH_ALEN);
	rewrite6(ctx, ip, &hop);
	return bpf_redirect(fib.ifindex, 0);
}

static __always_inline int lru_forward4(struct xdp_md *ctx)
{
	struct iphdr *ip = ipv4(ctx);
	__be32 to = ip ? ip->daddr : 0;
	struct hop *hop = bpf_map_lookup_elem(&lru4, &to);

	if (!hop || !ip)
		return XDP_PASS;
	rewrite4(ctx, ip, hop);
	return bpf_redirect(hop->ifindex, 0);
}

static __always_inline int lru_forward6(struct xdp_md *ctx)
{
	struct ipv6hdr *ip = ipv6(ctx);
	struct in6_addr to = {};

	if (!ip)
		return XDP_PASS;
	to = ip->daddr;
	struct hop *hop = bpf_map_lookup_elem(&lru6, &to);

	if (!hop)
		return XDP_PASS;
	rewrite6(ctx, ip, hop);
	return bpf_redirect(hop->ifindex, 0);
}

/* the row that is subtracted from all others */
SEC("xdp.frags")
int empty(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

#define ROW(name, body)                                                                                               \
	SEC("xdp.frags")                                                                                               \
	int name(struct xdp_md *ctx)                                                                                   \
	{                                                                                                              \
		return body;                                                                                           \
	}

/* the least that forwarding is: TTL, checksum and two addresses, known beforehand; then with either redirect */
ROW(rewriter4, rewritten(ctx, true) ? XDP_TX : XDP_PASS)
ROW(rewriter6, rewritten(ctx, false) ? XDP_TX : XDP_PASS)
ROW(redirect4, rewritten(ctx, true) ? bpf_redirect(egress, 0) : XDP_PASS)
ROW(redirect6, rewritten(ctx, false) ? bpf_redirect(egress, 0) : XDP_PASS)
ROW(redirect_map4, rewritten(ctx, true) ? bpf_redirect_map(&devices, 0, XDP_PASS) : XDP_PASS)
ROW(redirect_map6, rewritten(ctx, false) ? bpf_redirect_map(&devices, 0, XDP_PASS) : XDP_PASS)
/* one random line of a table as large as the cache */
ROW(one_line4, one_line(ctx, true))
ROW(one_line6, one_line(ctx, false))
ROW(least4, least(ctx, true))
ROW(least6, least(ctx, false))
ROW(lru4_forward, lru_forward4(ctx))
ROW(lru6_forward, lru_forward6(ctx))
/* what every packet costs where the FIB is asked for each */
ROW(fib4, fib_forward4(ctx))
ROW(fib6, fib_forward6(ctx))
