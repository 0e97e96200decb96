/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The flow table: which backend a flow has, for as long as the ring alone would not say it. A bounded hash, never an
 * LRU: what is established and not silent stays, whatever else comes.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "config.h"
#include "layout.h"
#include "maps.h"

#define FLOW_IDENTITY (0xffffULL << FLOW_SERVICE_SHIFT | FLOW_UDP)
#define FLOW_FINISHED_LIFE 240 /* ticks */
#define FLOW_REFRESHES 16 /* of last seen in a service's idle time */
#define FLOW_TRIES 2

enum flow_insertion {
	FLOW_REFUSED = 0,
	FLOW_INSERTED = 1,
	FLOW_EVICTED = 2, /* inserted, and one of a single segment gave way */
};

/* A bucket follows from the hash by a multiplication that is keyed: who knows hashes cannot aim at one. */
static __always_inline __u64 flow_place(const struct state *s, __u64 hash)
{
	return hash * ((__u64)s->mix_add << 32 | s->mix_multiply);
}

static __always_inline __u32 flow_home(__u64 place)
{
	return (place >> 32) * ((__u64)flow_mask + 1) >> 32;
}

static __always_inline __u32 flow_beside(__u64 place, __u32 home)
{
	return (home ^ ((__u32)place >> 8 | 1)) & flow_mask;
}

static __always_inline __u32 flow_age(__u64 word, __u32 clock)
{
	__s32 age = clock - (__u32)(word >> FLOW_SEEN_SHIFT);

	return age < 0 ? 0 : age;
}

/*
 * The word is read before the hash and after it: a writer changes the word first. Between the two it may have been
 * refreshed, so that only what says whose it is and where it leads must be the same.
 */
static __always_inline struct flow_way *flow_look(__u32 index, __u64 hash, __u64 identity, __u64 *word)
{
	struct flow_bucket *bucket = bpf_map_lookup_elem(&flows, &index);
	__u32 found = FLOW_WAYS;
	__u64 before = 0;

	if (!bucket)
		return NULL;
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		__u64 here = READ_WORD(bucket->ways[i].word);

		if (READ_WORD(bucket->ways[i].hash) == hash && (here & FLOW_IDENTITY) == identity) {
			before = here;
			found = i;
		}
	}
	asm volatile("" : "+r"(found)); /* else clang drops the check below, and the verifier refuses */
	if (found >= FLOW_WAYS)
		return NULL;
	*word = READ_WORD(bucket->ways[found].word);
	return (*word ^ before) & (FLOW_IDENTITY | FLOW_NUMBER_MASK) ? NULL : &bucket->ways[found];
}

static __always_inline struct flow_way *flow_find(const struct state *s, __u64 hash, __u64 identity, __u64 *word)
{
	__u64 place = flow_place(s, hash);
	__u32 home = flow_home(place);
	struct flow_way *way = flow_look(home, hash, identity, word);

	return way ? way : flow_look(flow_beside(place, home), hash, identity, word);
}

/* Who takes a way by compare-and-exchange of its word alone writes it, and nobody finds it meanwhile. */
static __always_inline bool flow_take(struct flow_way *way, __u64 before, __u64 hash, __u64 word)
{
	if (__sync_val_compare_and_swap(&way->word, before, FLOW_BUSY) != before)
		return false;
	WRITE_WORD(way->hash, hash);
	__sync_lock_test_and_set(&way->word, word); /* a full barrier */
	return true;
}

#define EVICT_SINGLE (1ULL << 32)
#define EVICT_FINISHED (2ULL << 32)
#define EVICT_SILENT (3ULL << 32)

/* Ticks that an entry lives without a segment. */
static __always_inline __u32 flow_life(const struct service *service, __u64 word)
{
	return word & FLOW_FINISHED && service->idle > FLOW_FINISHED_LIFE ? FLOW_FINISHED_LIFE : service->idle;
}

/* Last seen is coarse, since a line that is written for each packet is slow: it may be this many ticks behind. */
static __always_inline __u32 flow_lag(__u32 life)
{
	return life < 2 * FLOW_REFRESHES ? 1 : life / FLOW_REFRESHES;
}

/* Ticks by which an entry has been silent for longer than it lives; not above 0 where it has not. */
static __always_inline __s32 flow_overdue(const struct service *service, __u64 word, __u32 clock)
{
	__u32 life = flow_life(service, word);

	return flow_age(word, clock) - life - flow_lag(life);
}

/* How readily an entry gives way: 0 is not at all. In the lower half how long it has been silent. */
static __always_inline __u64 flow_worth(__u64 word, __u32 clock)
{
	__u32 row = word >> FLOW_SERVICE_SHIFT & 0xffff, age = flow_age(word, clock);
	struct service *service = bpf_map_lookup_elem(&services, &row);

	if ((word & FLOW_BUSY) == FLOW_BUSY)
		return 0;
	/* a tick later than anybody still obeys it */
	if (!service || flow_overdue(service, word, clock) > 1)
		return (word & FLOW_FINISHED ? EVICT_FINISHED : EVICT_SILENT) | age;
	return word & FLOW_ESTABLISHED ? 0 : EVICT_SINGLE | age;
}

/*
 * The way of a bucket that gives way first: its worth << 2 | its index, 0 where none does. A function of its own, like
 * the next, of numbers: what calls it is then verified once, not once for each way that it may be.
 */
__noinline __u64 flow_worst(__u32 index, __u32 clock)
{
	struct flow_bucket *bucket = bpf_map_lookup_elem(&flows, &index);
	__u64 worst = 0;

	for (__u32 i = 0; bucket && i < FLOW_WAYS; i++) {
		__u64 worth = flow_worth(READ_WORD(bucket->ways[i].word), clock) << 2;

		if (worth && (worth | i) > worst)
			worst = worth | i;
	}
	return worst;
}

/* How many ways of a bucket are free, and in the upper half the last of them. */
__noinline __u64 flow_room(__u32 index)
{
	struct flow_bucket *bucket = bpf_map_lookup_elem(&flows, &index);
	__u64 room = 0;

	for (__u64 i = 0; bucket && i < FLOW_WAYS; i++)
		if (!READ_WORD(bucket->ways[i].word))
			room = (i << 32 | (__u32)room) + 1;
	return room;
}

/* Takes a way that is free, or, if it may be, one that gives way. It may have become another's meanwhile. */
static __always_inline bool flow_put(__u32 index, __u32 at, bool free, __u64 hash, __u64 word)
{
	struct flow_bucket *bucket = bpf_map_lookup_elem(&flows, &index);

	asm volatile("" : "+r"(at)); /* else clang drops the check below, and the verifier refuses */
	if (!bucket || at >= FLOW_WAYS)
		return false;
	__u64 before = READ_WORD(bucket->ways[at].word);

	if (free ? before != 0 : before != 0 && !flow_worth(before, word >> FLOW_SEEN_SHIFT))
		return false;
	return flow_take(&bucket->ways[at], before, hash, word);
}

/*
 * For who has not found the flow. Its home while that has two free ways, else the emptier of the two buckets, so that
 * few fill up before the others do. Two that insert one flow at once both do: they have decided alike.
 */
static __always_inline enum flow_insertion flow_insert(const struct state *s, __u64 hash, __u64 word)
{
	__u64 place = flow_place(s, hash);
	__u32 clock = word >> FLOW_SEEN_SHIFT, home = flow_home(place), beside = flow_beside(place, home);

	for (int i = 0; i < FLOW_TRIES; i++) {
		__u64 here = flow_room(home), there = (__u32)here < 2 ? flow_room(beside) : 0;
		bool other = (__u32)there > (__u32)here;

		if (!here && !there)
			break;
		if (flow_put(other ? beside : home, (other ? there : here) >> 32, true, hash, word))
			return FLOW_INSERTED;
	}
	for (int i = 0; i < FLOW_TRIES; i++) {
		__u64 here = flow_worst(home, clock), there = flow_worst(beside, clock);
		bool other = there > here;
		__u64 worst = other ? there : here;

		if (!worst)
			break;
		if (flow_put(other ? beside : home, worst & (FLOW_WAYS - 1), false, hash, word))
			return worst >> 2 < EVICT_FINISHED ? FLOW_EVICTED : FLOW_INSERTED;
	}
	return FLOW_REFUSED;
}
