/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Adjacencies: next hops, few and shared. The daemon writes the operator's; the program hands out ids for what it
 * learned, by open addressing in its own range of the array, and only the daemon takes them back.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"
#include "maps.h"

static __always_inline bool same_next_hop(const struct adjacency *a, const struct next_hop *b)
{
	return a->destination == b->destination && a->source == b->source && a->ifindex == b->ifindex &&
	       a->family == b->family && a->next_hop.halves[0] == b->address.halves[0] &&
	       a->next_hop.halves[1] == b->address.halves[1];
}

static __always_inline bool claim(struct adjacency *slot, const struct next_hop *learned, __u32 generation)
{
	if (__sync_val_compare_and_swap(&slot->state, ADJACENCY_FREE, ADJACENCY_CLAIMED) != ADJACENCY_FREE)
		return false;
	slot->destination = learned->destination;
	slot->source = learned->source;
	slot->ifindex = learned->ifindex;
	slot->generation = generation;
	slot->family = learned->family;
	slot->next_hop = learned->address;
	__sync_lock_test_and_set(&slot->state, ADJACENCY_READY); /* a full barrier: the rest is written by then */
	return true;
}

/* The id of what was learned, the same for the same next hop; ADJACENCY_ID_NONE when its neighbourhood is full. */
static __always_inline __u32 learn_adjacency(const struct next_hop *learned, __u32 generation)
{
	__u64 hash = (learned->destination ^ learned->address.halves[1]) * 0x9e3779b97f4a7c15ULL;

	hash = (hash ^ (hash >> 32) ^ learned->address.halves[0] ^ learned->ifindex) * 0xd6e8feb86659fd93ULL;
	for (__u32 i = 0; i < LEARN_PROBES; i++) {
		__u32 id = learned_base + (((hash >> 32) + i) & learned_mask);
		struct adjacency *slot = bpf_map_lookup_elem(&adjacencies, &id);

		if (!slot)
			return ADJACENCY_ID_NONE;
		__u32 state = *(volatile __u32 *)&slot->state;

		if (state == ADJACENCY_FREE && claim(slot, learned, generation))
			return id;
		if (state == ADJACENCY_READY && same_next_hop(slot, learned)) {
			if (slot->generation != generation)
				slot->generation = generation;
			return id;
		}
	}
	return ADJACENCY_ID_NONE;
}

static __always_inline void count_next_hop(__u32 id, __u32 length)
{
	struct counter *counter = bpf_map_lookup_elem(&next_hop_count, &id);

	if (counter && id) {
		counter->packets++;
		counter->bytes += length;
	}
}
