/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The cache in front of the operator's tables and the FIB: destination → adjacency id. Set-associative, one array
 * map a family, a bucket one cache line (IPv6: two that are fetched as a pair). An entry of an older generation is
 * no entry. Replacement takes the way of the same destination or a stale one, its home first, then one of the bucket
 * that the hash names besides, then a random one.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"
#include "maps.h"

#define READ_WORD(word) (*(const volatile __u64 *)&(word))
#define WRITE_WORD(word, value) (*(volatile __u64 *)&(word) = (value))
/* a way of the IPv6 cache while its address is being written: of generation 0, so never found, and not empty */
#define WAY_BUSY 1ULL

/* What the cache is asked for. */
struct search {
	__u64 wanted; /* a way with this destination, less the adjacency's id */
	__u32 mixed; /* hash of the destination */
	__u32 index_bits;
	__u32 generation;
};

/* A keyed permutation of the 32 bits: addition and multiplication by odd numbers, and shifts that can be undone. */
static __always_inline __u32 mix4(const struct state *s, ip4_t address)
{
	__u32 x = (address + s->mix_add) * s->mix_multiply;

	x ^= x >> 16;
	x *= 0x7feb352d;
	x ^= x >> 15;
	return x;
}

/* An address's bit in local_bloom: the top nine bits of a keyed multiplication. */
static __always_inline __u32 local_bit(const struct state *s, ip4_t address)
{
	return (__u32)(address * s->mix_multiply) >> 23;
}

static __always_inline __u32 mix6(const struct state *s, const ip6_t *address)
{
	__u64 key = (__u64)s->mix_add << 32 | s->mix_multiply;
	__u64 x = (address->halves[0] ^ key) * 0x9e3779b97f4a7c15ULL;

	x ^= x >> 32;
	x = (x + address->halves[1]) * key;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	return x >> 32;
}

static __always_inline bool way_holds(__u64 way, __u64 wanted)
{
	return (way ^ wanted) <= cache_mask;
}

static __always_inline bool way_is_stale(__u64 way, __u64 wanted)
{
	return ((way ^ wanted) & ~CACHE_DISPLACED) >> 32;
}

/*
 * The way of a bucket that an entry is put into where it can be, and looked for in first: most are there, and a branch
 * that nearly always goes the same way costs nothing, where one for each way is mispredicted.
 */
static __always_inline __u32 home4(__u32 mixed)
{
	return mixed >> 29;
}

static __always_inline __u32 home6(__u32 mixed)
{
	return (mixed >> 29) * CACHE6_WAYS >> 3;
}

/* Where an entry goes whose bucket is full: it follows from the bucket and the rest of the hash, either way round. */
static __always_inline __u32 other_bucket(__u32 mixed, __u32 index_bits)
{
	return (mixed ^ ((mixed & ~index_bits) >> 15 | 1)) & index_bits;
}

static __always_inline __u32 cache4_look(const struct cache4_bucket *bucket, __u64 wanted, __u64 index_bits)
{
#pragma unroll
	for (int i = 0; i < CACHE4_WAYS; i++) {
		__u64 difference = READ_WORD(bucket->ways[i]) ^ wanted;

		if (difference <= index_bits)
			return difference;
	}
	return ADJACENCY_ID_NONE;
}

static __always_inline __u32 cache4_find(const struct search *search)
{
	__u32 index = search->mixed & search->index_bits;
	struct cache4_bucket *bucket = bpf_map_lookup_elem(&cache4, &index);

	if (!bucket)
		return ADJACENCY_ID_NONE;
	__u64 difference = READ_WORD(bucket->ways[home4(search->mixed)]) ^ search->wanted;

	if (difference <= search->index_bits)
		return difference;
	return cache4_look(bucket, search->wanted, search->index_bits);
}

static __always_inline __u32 cache4_find_displaced(const struct search *search)
{
	__u32 index = other_bucket(search->mixed, search->index_bits);
	struct cache4_bucket *bucket = bpf_map_lookup_elem(&cache4, &index);

	return bucket ? cache4_look(bucket, search->wanted | CACHE_DISPLACED, search->index_bits) : ADJACENCY_ID_NONE;
}

static __always_inline bool cache4_put(struct cache4_bucket *bucket, __u32 way, __u64 wanted, __u64 word)
{
	if (!way_is_stale(READ_WORD(bucket->ways[way]), wanted) && !way_holds(READ_WORD(bucket->ways[way]), wanted))
		return false;
	WRITE_WORD(bucket->ways[way], word);
	return true;
}

/* A function of its own, with numbers for arguments: the verifier checks it once, not once a way of getting here. */
__noinline int cache4_store(__u32 mixed, __u64 wanted, __u32 id)
{
	__u32 index = mixed & cache_mask, beside = other_bucket(mixed, cache_mask);
	__u32 victim = bpf_get_prandom_u32() % CACHE4_WAYS;
	struct cache4_bucket *bucket = bpf_map_lookup_elem(&cache4, &index);
	struct cache4_bucket *other = bpf_map_lookup_elem(&cache4, &beside);

	if (!bucket || !other || cache4_put(bucket, home4(mixed), wanted, wanted | id))
		return 0;
#pragma unroll
	for (int i = 0; i < CACHE4_WAYS; i++)
		if (cache4_put(bucket, i, wanted, wanted | id))
			return 0;
#pragma unroll
	for (int i = 0; i < CACHE4_WAYS; i++)
		if (cache4_put(other, i, wanted | CACHE_DISPLACED, wanted | CACHE_DISPLACED | id))
			return 0;
	WRITE_WORD(bucket->ways[victim], wanted | id);
	return 0;
}

/* The word is read again after the address: a writer changes the word first. */
static __always_inline __u32 cache6_try(const struct cache6_way *way, __u64 wanted, __u64 index_bits,
					const ip6_t *address)
{
	__u64 word = READ_WORD(way->word), difference = word ^ wanted;

	if (difference > index_bits || READ_WORD(way->address.halves[0]) != address->halves[0] ||
	    READ_WORD(way->address.halves[1]) != address->halves[1] || READ_WORD(way->word) != word)
		return ADJACENCY_ID_NONE;
	return difference;
}

static __always_inline __u32 cache6_look(const struct cache6_bucket *bucket, __u64 wanted, __u64 index_bits,
					 const ip6_t *address)
{
	__u32 id = ADJACENCY_ID_NONE;

#pragma unroll
	for (int i = 0; i < CACHE6_WAYS; i++)
		if (id == ADJACENCY_ID_NONE)
			id = cache6_try(&bucket->ways[i], wanted, index_bits, address);
	return id;
}

static __always_inline __u32 cache6_find(const struct search *search, const ip6_t *address)
{
	__u32 index = search->mixed & search->index_bits;
	struct cache6_bucket *bucket = bpf_map_lookup_elem(&cache6, &index);

	if (!bucket)
		return ADJACENCY_ID_NONE;
	__u32 id = cache6_try(&bucket->ways[home6(search->mixed)], search->wanted, search->index_bits, address);

	return id == ADJACENCY_ID_NONE ? cache6_look(bucket, search->wanted, search->index_bits, address) : id;
}

static __always_inline __u32 cache6_find_displaced(const struct search *search, const ip6_t *address)
{
	__u32 index = other_bucket(search->mixed, search->index_bits);
	struct cache6_bucket *bucket = bpf_map_lookup_elem(&cache6, &index);

	return bucket ? cache6_look(bucket, search->wanted | CACHE_DISPLACED, search->index_bits, address) :
			ADJACENCY_ID_NONE;
}

/* Where the entry may go: a way that is stale or has this destination; CACHE6_WAYS where there is none. */
static __always_inline __u32 cache6_room(const struct cache6_bucket *bucket, __u32 home, __u64 wanted, __u64 high,
					 __u64 low)
{
	__u32 room = CACHE6_WAYS;

#pragma unroll
	for (int i = CACHE6_WAYS - 1; i >= 0; i--)
		if (way_is_stale(READ_WORD(bucket->ways[i].word), wanted))
			room = i;
	if (way_is_stale(READ_WORD(bucket->ways[home].word), wanted))
		room = home;
#pragma unroll
	for (int i = 0; i < CACHE6_WAYS; i++)
		if (way_holds(READ_WORD(bucket->ways[i].word), wanted) &&
		    READ_WORD(bucket->ways[i].address.halves[0]) == high &&
		    READ_WORD(bucket->ways[i].address.halves[1]) == low)
			room = i;
	return room;
}

/* Compare-and-exchange gives the way to one writer; another that meets it lets it be. */
static __always_inline void cache6_put(struct cache6_bucket *bucket, __u32 victim, __u64 high, __u64 low, __u64 word)
{
	asm volatile("" : "+r"(victim)); /* else clang drops the check below, and the verifier refuses */
	if (victim >= CACHE6_WAYS)
		return;
	struct cache6_way *way = &bucket->ways[victim];
	__u64 before = READ_WORD(way->word);

	if (before == WAY_BUSY || __sync_val_compare_and_swap(&way->word, before, WAY_BUSY) != before)
		return;
	WRITE_WORD(way->address.halves[0], high);
	WRITE_WORD(way->address.halves[1], low);
	__sync_lock_test_and_set(&way->word, word); /* a full barrier */
}

__noinline int cache6_store(__u32 mixed, __u64 wanted, __u64 high, __u64 low, __u32 id)
{
	__u32 index = mixed & cache_mask, beside = other_bucket(mixed, cache_mask), home = home6(mixed), room;
	struct cache6_bucket *bucket = bpf_map_lookup_elem(&cache6, &index);
	struct cache6_bucket *other = bpf_map_lookup_elem(&cache6, &beside);

	if (!bucket || !other)
		return 0;
	room = cache6_room(bucket, home, wanted, high, low);
	if (room == CACHE6_WAYS) {
		room = cache6_room(other, home, wanted | CACHE_DISPLACED, high, low);
		if (room < CACHE6_WAYS) {
			cache6_put(other, room, high, low, wanted | CACHE_DISPLACED | id);
			return 0;
		}
		room = bpf_get_prandom_u32() % CACHE6_WAYS;
	}
	cache6_put(bucket, room, high, low, wanted | id);
	return 0;
}

/*
 * Returns whether the lease holds. Both it and the generation are read before any table is: what is found is stamped
 * with that, so a change in between makes it stale at once.
 */
static __always_inline bool begin_search(const struct state *s, const struct packet *packet, struct search *search)
{
	search->generation = *(volatile __u32 *)&s->generation;
	search->index_bits = cache_mask;
	search->mixed = packet->family == 4 ? mix4(s, packet->destination.words[0]) : mix6(s, &packet->destination);
	search->wanted = (__u64)search->generation << 32 | (search->mixed & ~search->index_bits);
	return *(volatile __u64 *)&s->lease_deadline >= bpf_jiffies64();
}

static __always_inline __u32 cache_find(const struct search *search, const struct packet *packet)
{
	return packet->family == 4 ? cache4_find(search) : cache6_find(search, &packet->destination);
}

/* For who has missed: in the bucket beside its own. */
static __always_inline __u32 cache_find_displaced(const struct search *search, const struct packet *packet)
{
	return packet->family == 4 ? cache4_find_displaced(search) :
				     cache6_find_displaced(search, &packet->destination);
}

static __always_inline void cache_store(const struct search *search, const struct packet *packet, __u32 id)
{
	if (dry_run)
		return;
	if (packet->family == 4)
		cache4_store(search->mixed, search->wanted, id);
	else
		cache6_store(search->mixed, search->wanted, packet->destination.halves[0], packet->destination.halves[1], id);
}

/* A packet that is left to the tables. One that hits costs nothing: those are what verdict_count has besides. */
static __always_inline void count_cache_miss(void)
{
	__u32 slot = interface_slot;
	__u64 *misses = dry_run ? NULL : bpf_map_lookup_elem(&cache_misses, &slot);

	if (misses)
		(*misses)++;
}
