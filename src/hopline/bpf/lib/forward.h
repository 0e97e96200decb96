/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * forward: which interface and MAC addresses are next. The cache answers first; behind it the operator's entries,
 * exact then prefix, then the FIB where learning is allowed. What is not plainly forwardable is the kernel's.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "adjacency.h"
#include "cache.h"
#include "config.h"
#include "judge.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"
#include "trace.h"

#define FAMILY_INET 2
#define FAMILY_INET6 10
#define EXACT_TRIES 2
#define FIB_SMALL 1 /* octets: never too big, and the FIB says the route's MTU */

/*
 * The adjacency of an exact entry. An element that is replaced or deleted goes to the next key that is written, without
 * a grace period, so what is read may be another's. It is this key's where a second look-up finds the same in the
 * same place; ADJACENCY_ID_NONE where twice it did not, ADJACENCY_ID_ASK_FIB where there is no entry.
 */
static __always_inline __u32 exact_id(void *table, const void *key)
{
	for (int i = 0; i < EXACT_TRIES; i++) {
		__u32 *id = bpf_map_lookup_elem(table, key), found, *again;

		if (!id)
			return ADJACENCY_ID_ASK_FIB;
		found = *(volatile __u32 *)id;
		again = bpf_map_lookup_elem(table, key);
		if (again == id && *(volatile __u32 *)again == found)
			return found;
	}
	return ADJACENCY_ID_NONE;
}

/* Our own addresses, then the operator's tables, exact before prefix. */
static __always_inline __u32 look_up_entry(const struct packet *packet)
{
	struct prefix6 prefix6 = { .length = 128, .address = packet->destination };
	struct prefix4 prefix4 = { .length = 32, .address = packet->destination.words[0] };
	bool ipv4 = packet->family == 4;
	__u32 *id;

	note_lookup(LOOKUP_LOCAL);
	id = ipv4 ? bpf_map_lookup_elem(&local4, &prefix4) : bpf_map_lookup_elem(&local6, &prefix6);
	if (id)
		return ADJACENCY_ID_LOCAL;
	note_lookup(LOOKUP_EXACT);
	__u32 exact = ipv4 ? exact_id(&forward_exact4, &prefix4.address) : exact_id(&forward_exact6, &prefix6.address);

	if (exact != ADJACENCY_ID_ASK_FIB)
		return exact;
	note_lookup(LOOKUP_PREFIX);
	id = ipv4 ? bpf_map_lookup_elem(&forward_prefix4, &prefix4) : bpf_map_lookup_elem(&forward_prefix6, &prefix6);
	if (id)
		return *id;
	note_lookup(LOOKUP_NONE);
	return ADJACENCY_ID_ASK_FIB;
}

static __always_inline enum verdict fib_verdict(long code)
{
	switch (code) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return CONTINUE;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return PASS_FORWARDING_OFF;
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
		return PASS_ENCAPSULATED_ROUTE;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return PASS_NO_NEIGHBOUR;
	default:
		return PASS_NO_ROUTE;
	}
}

/* The kernel's own answer for this packet, were it to go to `to`, on this interface. */
static __always_inline enum verdict ask_fib(struct xdp_md *ctx, const struct packet *packet, const ip6_t *to,
					    struct next_hop *hop)
{
	struct bpf_fib_lookup fib = { .ifindex = ctx->ingress_ifindex };

	fib.l4_protocol = packet->protocol;
	/* the size is judged after the TTL, as ip_forward does, and where the answer is cached too */
	fib.tot_len = FIB_SMALL;
	if (packet->family == 4) {
		fib.family = FAMILY_INET;
		fib.tos = packet->tos;
		fib.ipv4_src = packet->source.words[0];
		fib.ipv4_dst = to->words[0];
	} else {
		fib.family = FAMILY_INET6;
		__builtin_memcpy(fib.ipv6_src, &packet->source, sizeof(ip6_t));
		__builtin_memcpy(fib.ipv6_dst, to, sizeof(ip6_t));
	}
	long code = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);

	note_lookup(LOOKUP_FIB);
	note_fib(code, &fib, to, FIB_SMALL);
	if (code)
		return fib_verdict(code);
	__u32 *slot = bpf_map_lookup_elem(&interface_slots, &fib.ifindex);

	hop->ifindex = fib.ifindex;
	if (!slot) {
		note_refusal(REFUSAL_NO_SLOT);
		return PASS_NO_EGRESS;
	}
	/* on success the kernel puts the route's MTU where it was given the packet's length */
	hop->destination = (__u64)fib.tot_len << 48;
	hop->source = (__u64)*slot << 48;
	__builtin_memcpy(&hop->destination, fib.dmac, sizeof(mac_t));
	__builtin_memcpy(&hop->source, fib.smac, sizeof(mac_t));
	hop->family = fib.family == FAMILY_INET ? 4 : 6;
	if (hop->family == 4)
		hop->address.words[0] = fib.ipv4_dst;
	else
		__builtin_memcpy(&hop->address, fib.ipv6_dst, sizeof(ip6_t));
	return CONTINUE;
}

/* The egress device is asked for before anything is written: where it is gone, the packet passes untouched. */
static __always_inline enum verdict choose_egress(bool several_buffers, __u32 slot)
{
	if (several_buffers && !generic_mode) {
		struct interface *egress = bpf_map_lookup_elem(&interfaces, &slot);

		if (!egress || !(egress->flags & INTERFACE_EGRESS_FRAGS)) {
			note_refusal(REFUSAL_ONE_BUFFER);
			return PASS_NO_EGRESS;
		}
	}
	long action = generic_mode ? bpf_redirect_map(&egress_generic, slot, XDP_PASS) :
				     bpf_redirect_map(&egress_native, slot, XDP_PASS);

	if (action == XDP_REDIRECT)
		return CONTINUE;
	note_refusal(REFUSAL_NO_REDIRECT);
	return PASS_NO_EGRESS;
}

/* As ip_decrease_ttl does it (RFC 1141), so that every octet is the kernel's. */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u32 sum = ip->check + bpf_htons(0x0100);

	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
}

static __always_inline enum verdict rewrite(struct xdp_md *ctx, const struct packet *packet, mac_word_t destination,
					    mac_word_t source)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	int padding = packet->length - packet->l3_length - sizeof(*eth);

	if (packet->family == 4) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end)
			return PASS_MALFORMED;
		decrement_ttl(ip);
	} else {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end)
			return PASS_MALFORMED;
		ip->hop_limit--;
	}
	/* both addresses in two stores, their top bits left out */
	*(__u64 *)data = (destination & MAC_WORD_MAC) | source << 48;
	*(__u32 *)(data + sizeof(__u64)) = source >> 16;
	/* as ip_rcv does: what follows the IP packet in the frame is not sent on */
	if (padding > 0)
		bpf_xdp_adjust_tail(ctx, -padding);
	return FORWARDED;
}

static __always_inline enum verdict send(struct xdp_md *ctx, const struct packet *packet, const struct next_hop *hop)
{
	enum verdict verdict;

	if (packet->ttl <= 1)
		return PASS_TTL;
	if (packet->l3_length > mac_word_top(hop->destination))
		return PASS_TOO_BIG;
	verdict = choose_egress(packet->flags & PACKET_SEVERAL_BUFFERS, mac_word_top(hop->source));
	if (verdict != CONTINUE)
		return verdict;
	return rewrite(ctx, packet, hop->destination, hop->source);
}

/* What was learned may be used on this interface. */
static __always_inline enum verdict may_use_learned(const struct packet *packet, const struct interface *ingress)
{
	__u32 right = packet->family == 4 ? INTERFACE_LEARN4 : INTERFACE_LEARN6;

	return ingress->flags & right ? CONTINUE : PASS_NOT_LEARNING;
}

static __always_inline enum verdict may_leave(const struct next_hop *hop, const struct interface *ingress,
					      __u32 ingress_ifindex)
{
	bool hairpin = hop->ifindex == ingress_ifindex;

	return hairpin && !(ingress->flags & INTERFACE_BYPASS_POLICY) ? PASS_HAIRPIN : CONTINUE;
}

/* No operator entry: learn from the FIB. The id becomes that of the next hop, or stays what the cache should say. */
static __always_inline enum verdict learn(struct xdp_md *ctx, const struct packet *packet,
					  const struct interface *ingress, __u32 generation, bool leased,
					  struct next_hop *hop)
{
	enum verdict verdict = may_use_learned(packet, ingress);

	if (verdict != CONTINUE)
		return verdict;
	hop->id = ADJACENCY_ID_NONE;
	if (!leased)
		return PASS_NO_LEASE;
	*hop = (struct next_hop){};
	verdict = ask_fib(ctx, packet, &packet->destination, hop);
	if (verdict == CONTINUE)
		verdict = may_leave(hop, ingress, ctx->ingress_ifindex);
	if (verdict == CONTINUE && !dry_run)
		hop->id = learn_adjacency(hop, generation);
	return verdict;
}

/*
 * With no lease nobody follows the next hop's MAC, so ask the FIB for it. What it does not know stays as it was: what
 * the operator entered is obeyed.
 */
static __always_inline void follow_next_hop(struct xdp_md *ctx, const struct packet *packet, struct next_hop *hop)
{
	struct next_hop now = {};

	if (ask_fib(ctx, packet, &hop->address, &now) == CONTINUE && now.ifindex == hop->ifindex)
		hop->destination = (hop->destination & ~MAC_WORD_MAC) | (now.destination & MAC_WORD_MAC);
}

/* An adjacency by id: the operator's or, out of the cache, a learned one. Its words are read once. */
static __always_inline enum verdict recall(struct xdp_md *ctx, const struct packet *packet,
					   const struct interface *ingress, bool leased, struct next_hop *hop)
{
	__u32 id = hop->id;
	struct adjacency *known = bpf_map_lookup_elem(&adjacencies, &id);

	if (!known)
		return PASS_NO_EGRESS;
	hop->destination = *(volatile __u64 *)&known->destination;
	hop->source = *(volatile __u64 *)&known->source;
	hop->ifindex = known->ifindex;
	if (!leased) {
		hop->family = known->family;
		hop->address = known->next_hop;
	}
	if (known->state != ADJACENCY_READY)
		return known->state == ADJACENCY_UNRESOLVED ? PASS_NO_NEIGHBOUR : PASS_NO_EGRESS;
	if (!leased && hop->family == packet->family)
		follow_next_hop(ctx, packet, hop);
	if (id < learned_base)
		return CONTINUE;
	enum verdict verdict = may_use_learned(packet, ingress);

	return verdict == CONTINUE ? may_leave(hop, ingress, ctx->ingress_ifindex) : verdict;
}

/*
 * Behind the cache: entries, then the FIB, until one of them knows; what was not in the cache is put there. A function
 * of its own that parses again, so that nothing is kept for it on the way of cached packets. `cached` is what the cache
 * said, with the generation that it was asked for. Returns the verdict and, in the upper half, the adjacency's id.
 */
static __noinline __u64 look_behind(struct xdp_md *ctx, const struct interface *ingress, __u32 cached,
				    __u32 generation)
{
	__u32 zero = 0;
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	struct next_hop hop = {};
	struct search search;
	struct packet packet;
	enum verdict verdict;

	KEEP_IN_MEMORY(packet);
	verdict = parse(ctx, ingress, &packet);
	if (!s || verdict != CONTINUE)
		return verdict;
	bool leased = begin_search(s, &packet, &search);

	note_search(search.generation, leased);
	if (search.generation != generation)
		cached = ADJACENCY_ID_NONE;
	if (cached == ADJACENCY_ID_NONE && leased)
		cached = cache_find_displaced(&search, &packet);
	hop.id = cached;
	if (cached == ADJACENCY_ID_NONE) {
		count_cache_miss();
		hop.id = look_up_entry(&packet);
	}
	if (hop.id == ADJACENCY_ID_ASK_FIB)
		verdict = learn(ctx, &packet, ingress, search.generation, leased, &hop);
	else if (hop.id == ADJACENCY_ID_LOCAL)
		verdict = PASS_LOCAL;
	else
		verdict = recall(ctx, &packet, ingress, leased, &hop);
	if (leased && hop.id != cached && hop.id != ADJACENCY_ID_NONE)
		cache_store(&search, &packet, hop.id);
	note_next_hop(&hop);
	if (verdict == CONTINUE)
		verdict = send(ctx, &packet, &hop);
	return (__u64)hop.id << 32 | verdict;
}

static __always_inline enum verdict forward(struct xdp_md *ctx, const struct interface *ingress,
					    const struct packet *packet, __u32 *adjacency)
{
	enum verdict verdict = ingress ? judge_ethernet(ctx, ingress) : PASS_NOT_LEARNING;
	struct search search;
	struct next_hop hop;
	struct state *s;
	__u32 zero = 0;

	if (verdict != CONTINUE)
		return verdict;
	s = bpf_map_lookup_elem(&state, &zero);
	if (!s)
		return PASS_NOT_LEARNING;
	verdict = packet->family == 4 ? judge_ipv4(s, packet) : judge_ipv6(packet);
	if (verdict != CONTINUE)
		return verdict;
	hop.id = begin_search(s, packet, &search) ? cache_find(&search, packet) : ADJACENCY_ID_NONE;
	if (hop.id < ADJACENCY_ID_FIRST) {
		__u64 behind = look_behind(ctx, ingress, hop.id, search.generation);

		*adjacency = behind >> 32;
		return behind;
	}
	*adjacency = hop.id;
	verdict = recall(ctx, packet, ingress, true, &hop);
	note_hit(search.generation, &hop);
	return verdict == CONTINUE ? send(ctx, packet, &hop) : verdict;
}
