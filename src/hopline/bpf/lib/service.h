/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Services: from a packet's destination to the VIP, from protocol and port to the service, from the client to its hash. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "config.h"
#include "layout.h"
#include "maps.h"

#define BLOOM_SHIFT 23 /* nine bits of a mixed hash are its bit in vip_bloom */
#define ANY_PORT_PROBE 0xffff /* a port that only a service of all ports and one that has it can have */

/* Nearly always the only question that a packet for no service is asked. */
static __always_inline bool may_be_vip(const struct state *s, __u32 mixed)
{
	return READ_WORD(s->vip_bloom[mixed >> (BLOOM_SHIFT + 6)]) >> (mixed >> BLOOM_SHIFT & 63) & 1;
}

static __always_inline bool is_vip(const struct vip *vip, __u32 family, __u64 high, __u64 low)
{
	return vip->family == family && vip->address.halves[0] == high && vip->address.halves[1] == low;
}

static __always_inline __u32 vip_in(__u32 index, __u32 mixed, __u32 family, __u64 high, __u64 low)
{
	struct vip_bucket *bucket = bpf_map_lookup_elem(&vip_buckets, &index);

	for (int i = 0; bucket && i < VIP_WAYS; i++) {
		__u64 way = READ_WORD(bucket->ways[i]);
		__u32 row = way;
		struct vip *vip = way >> 32 == mixed ? bpf_map_lookup_elem(&vips, &row) : NULL;

		if (vip && row && is_vip(vip, family, high, low))
			return row;
	}
	return 0;
}

/* The row of the VIP, 0 where the address is none. For who has not found it by the first way of its tag. */
__noinline __u32 search_vip(__u32 mixed, __u32 family, __u64 high, __u64 low)
{
	__u32 index = mixed & (VIP_BUCKETS - 1), row = vip_in(index, mixed, family, high, low);

	return row ? row : vip_in(index ^ 1, mixed, family, high, low);
}

static __always_inline __u32 first_of_tag(const struct vip_bucket *bucket, __u32 mixed)
{
#pragma unroll
	for (int i = 0; i < VIP_WAYS; i++) {
		__u64 way = READ_WORD(bucket->ways[i]);

		if (way >> 32 == mixed)
			return way;
	}
	return 0;
}

static __always_inline struct vip *find_vip(__u32 mixed, __u32 family, __u64 high, __u64 low, __u32 *found)
{
	__u32 index = mixed & (VIP_BUCKETS - 1), row;
	struct vip_bucket *bucket = bpf_map_lookup_elem(&vip_buckets, &index);
	struct vip *vip;

	row = bucket ? first_of_tag(bucket, mixed) : 0;
	if (!row) {
		index ^= 1;
		bucket = bpf_map_lookup_elem(&vip_buckets, &index);
		row = bucket ? first_of_tag(bucket, mixed) : 0;
		if (!row)
			return NULL;
	}
	vip = bpf_map_lookup_elem(&vips, &row);
	if (!vip || !is_vip(vip, family, high, low)) {
		row = search_vip(mixed, family, high, low);
		vip = row ? bpf_map_lookup_elem(&vips, &row) : NULL;
	}
	*found = row;
	return vip;
}

/* The pages of a VIP that has more services of a protocol than rules. */
static __noinline __u32 service_in_page(__u32 page, __u32 port)
{
	struct port_page *found = bpf_map_lookup_elem(&port_pages, &page);
	__u32 entry = found ? *(volatile __u16 *)&found->entries[port >> 8 & (PORT_PAGE_ENTRIES - 1)] : 0;

	if (!(entry & PORT_LEAF))
		return entry;
	page = entry & (PORT_LEAF - 1);
	found = bpf_map_lookup_elem(&port_pages, &page);
	return found ? *(volatile __u16 *)&found->entries[port & (PORT_PAGE_ENTRIES - 1)] : 0;
}

/* The row of a VIP's service for a port, in host order; 0 where there is none. */
static __always_inline __u32 service_of(const struct vip *vip, bool udp, __u16 port)
{
	const __u64 *rules = udp ? vip->rules[SERVICE_UDP] : vip->rules[SERVICE_TCP];

#pragma unroll
	for (int i = 0; i < PORT_RULES; i++) {
		__u64 rule = READ_WORD(rules[i]);
		__u16 first = rule, last = rule >> 16;

		if (rule && port >= first && port <= last)
			return rule >> 32;
	}
	__u32 page = *(volatile __u32 *)(udp ? &vip->pages[SERVICE_UDP] : &vip->pages[SERVICE_TCP]);

	return page ? service_in_page(page, port) : 0;
}

/* The end of MurmurHash3: a permutation of 64 bits. */
static __always_inline __u64 mix_flow(__u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

/* `ports` as they lie in the packet, the client's first; 0 for a service of all ports. */
static __always_inline __u64 flow_hash4(const struct service *service, ip4_t client, __u32 ports)
{
	return mix_flow(((__u64)ports << 32 | client) ^ service->seed);
}

static __always_inline __u64 flow_hash6(const struct service *service, __u64 high, __u64 low, __u32 ports)
{
	__u64 x = (high ^ service->seed) * 0x9e3779b97f4a7c15ULL;

	x = ((x ^ x >> 32) + low) * 0xd6e8feb86659fd93ULL;
	return mix_flow((x ^ x >> 32) + ports);
}
