/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a row of balance is compared with. `least` is the floor: what any program must do that finds a flow's backend in
 * a table as large as the ring, counts it, pushes an outer header and sends it on. None checks what balance checks.
 */
#pragma once

#define SPREAD 0x9e3779b97f4a7c15ULL
#define OUTER_TTL 64
#define NO_FRAGMENTS 0x4000

const volatile __u32 ring_count, flow_count; /* lines of the tables */
const volatile __u32 outer_source, outer_destination; /* IPv4, or the last word of IPv6, as on the wire */
const volatile __u32 outer_checksum; /* of the outer IPv4 header without length and check, not folded */

struct line {
	__u64 words[8];
};

struct lines {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct line);
};

/* of the size of the ring, and of the flow table: what one random line of it costs is what any look-up must */
struct lines ring_lines SEC(".maps");
struct lines flow_lines SEC(".maps");

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

/* neighbour's, then own; in two pieces, since clang would copy octet by octet */
static const __u8 addresses[2 * ETH_ALEN] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };

static __always_inline void put_addresses(void *frame, __u16 ethertype)
{
	*(__u64 *)frame = *(const __u64 *)addresses;
	*(__u32 *)(frame + 8) = *(const __u32 *)(addresses + 8);
	*(__u16 *)(frame + 12) = ethertype;
}

static __always_inline bool encapsulated4(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return false;
	__u32 length = bpf_ntohs(ip->tot_len) + sizeof(*ip), sum = ip->check + bpf_htons(0x0100);

	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return false;
	void *frame = (void *)(long)ctx->data;

	ip = frame + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return false;
	put_addresses(frame, bpf_htons(ETH_P_IP));
	sum = outer_checksum + bpf_htons(length);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
	*(__u32 *)ip = bpf_htonl(0x45000000 | length);
	*(__u32 *)&ip->id = bpf_htonl(NO_FRAGMENTS);
	*(__u32 *)&ip->ttl = sum << 16 | IPPROTO_IPIP << 8 | OUTER_TTL;
	ip->saddr = outer_source;
	ip->daddr = outer_destination;
	return true;
}

static __always_inline bool encapsulated6(struct xdp_md *ctx)
{
	struct ipv6hdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return false;
	__u32 length = bpf_ntohs(ip->payload_len) + sizeof(*ip);

	ip->hop_limit--;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return false;
	void *frame = (void *)(long)ctx->data;

	ip = frame + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return false;
	put_addresses(frame, bpf_htons(ETH_P_IPV6));
	*(__u32 *)ip = bpf_htonl(6U << 28);
	*((__u32 *)ip + 1) = bpf_htonl(length << 16 | IPPROTO_IPV6 << 8 | OUTER_TTL);
	ip->saddr = (struct in6_addr){ .in6_u.u6_addr32 = { bpf_htonl(0x20010db8), 0, 0, outer_source } };
	ip->daddr = (struct in6_addr){ .in6_u.u6_addr32 = { bpf_htonl(0x20010db8), 0, 0, outer_destination } };
	return true;
}

static __always_inline bool encapsulated(struct xdp_md *ctx, bool is_ipv4)
{
	return is_ipv4 ? encapsulated4(ctx) : encapsulated6(ctx);
}

/* Source and ports, in one number that differs from flow to flow. */
static __always_inline __u64 flow_of(struct xdp_md *ctx, bool is_ipv4)
{
	void *start = (void *)(long)ctx->data + ETH_HLEN;
	struct iphdr *ip4 = start;
	struct ipv6hdr *ip6 = start;
	__u32 *ports = is_ipv4 ? (void *)(ip4 + 1) : (void *)(ip6 + 1);

	if ((void *)(ports + 1) > (void *)(long)ctx->data_end)
		return 0;
	return (__u64)*ports << 32 | (is_ipv4 ? ip4->saddr : ip6->saddr.in6_u.u6_addr32[3]);
}

static __always_inline __u32 place_of(__u64 flow, __u32 places)
{
	flow = (flow ^ flow >> 32) * SPREAD;
	flow = (flow ^ flow >> 32) * SPREAD;
	return (flow >> 32) * places >> 32;
}

static __always_inline struct line *ring_line(struct xdp_md *ctx, bool is_ipv4)
{
	__u32 at = place_of(flow_of(ctx, is_ipv4), ring_count);

	return bpf_map_lookup_elem(&ring_lines, &at);
}

static __always_inline struct line *flow_line(struct xdp_md *ctx, bool is_ipv4)
{
	__u32 at = place_of(flow_of(ctx, is_ipv4), flow_count);

	return bpf_map_lookup_elem(&flow_lines, &at);
}

/* All words are zero, but no compiler knows. */
static __always_inline int said(const struct line *line)
{
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

static __always_inline int least(struct xdp_md *ctx, struct line *line, bool is_ipv4)
{
	__u64 octets = ctx->data_end - ctx->data;

	if (!line || line->words[0] || !encapsulated(ctx, is_ipv4))
		return XDP_PASS;
	count(0, octets);
	count(1, octets);
	return bpf_redirect_map(&devices, line->words[1], XDP_PASS);
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

/* the least that encapsulation is: the outer header, two addresses and the inner TTL, all known beforehand */
ROW(encapsulator4, encapsulated(ctx, true) ? XDP_TX : XDP_PASS)
ROW(encapsulator6, encapsulated(ctx, false) ? XDP_TX : XDP_PASS)
ROW(encapsulator_redirect4, encapsulated(ctx, true) ? bpf_redirect_map(&devices, 0, XDP_PASS) : XDP_PASS)
ROW(encapsulator_redirect6, encapsulated(ctx, false) ? bpf_redirect_map(&devices, 0, XDP_PASS) : XDP_PASS)
ROW(ring_line4, said(ring_line(ctx, true)))
ROW(ring_line6, said(ring_line(ctx, false)))
ROW(flow_line4, said(flow_line(ctx, true)))
ROW(flow_line6, said(flow_line(ctx, false)))
ROW(least_ring4, least(ctx, ring_line(ctx, true), true))
ROW(least_ring6, least(ctx, ring_line(ctx, false), false))
ROW(least_flow4, least(ctx, flow_line(ctx, true), true))
ROW(least_flow6, least(ctx, flow_line(ctx, false), false))
