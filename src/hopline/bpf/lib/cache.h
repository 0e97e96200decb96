/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The cache in front of the operator's tables and the FIB: destination → adjacency id. Set-associative, one array
 * map a family, a bucket one cache line (IPv6: two that are fetched as a pair). An entry of an older generation is
 * no entry. Replacement takes the way of the same destination, then a stale way, then a random one.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"
#include "maps.h"

#define INDEX_BITS ((__u64)cache_mask)
#define READ_WORD(word) (*(const volatile __u64 *)&(word))
#define WRITE_WORD(word, value) (*(volatile __u64 *)&(word) = (value))
/* a way of the IPv6 cache while its address is being written: of generation 0, so never found, and not empty */
#define WAY_BUSY 1ULL

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

static __always_inline __u64 cache_word(__u32 generation, __u32 mixed)
{
	return (__u64)generation << 32 | (mixed & ~cache_mask);
}

static __always_inline bool way_holds(__u64 way, __u64 wanted)
{
	return ((way ^ wanted) & ~INDEX_BITS) == 0;
}

static __always_inline __u32 cache4_find(__u32 mixed, __u64 wanted)
{
	__u32 index = mixed & cache_mask;
	struct cache4_bucket *bucket = bpf_map_lookup_elem(&cache4, &index);

	if (!bucket)
		return ADJACENCY_ID_NONE;
#pragma unroll
	for (int i = 0; i < CACHE4_WAYS; i++) {
		__u64 way = READ_WORD(bucket->ways[i]);

		if (way_holds(way, wanted))
			return way & INDEX_BITS;
	}
	return ADJACENCY_ID_NONE;
}

/*
 * A function of its own, with numbers for arguments: the verifier then checks it once, not once a way of getting here
 * (which was a tenth of its limit for the whole program), and 5.10 takes it too.
 */
__attribute__((noinline)) int cache4_store(__u32 mixed, __u64 wanted, __u32 id)
{
	__u32 index = mixed & cache_mask, victim = bpf_get_prandom_u32() % CACHE4_WAYS;
	struct cache4_bucket *bucket = bpf_map_lookup_elem(&cache4, &index);

	if (!bucket)
		return 0;
#pragma unroll
	for (int i = CACHE4_WAYS - 1; i >= 0; i--)
		if (READ_WORD(bucket->ways[i]) >> 32 != wanted >> 32)
			victim = i;
#pragma unroll
	for (int i = 0; i < CACHE4_WAYS; i++)
		if (way_holds(READ_WORD(bucket->ways[i]), wanted))
			victim = i;
	victim &= CACHE4_WAYS - 1;
	WRITE_WORD(bucket->ways[victim], wanted | id);
	return 0;
}

/* The word is read again after the address: a writer changes the word first. */
static __always_inline __u32 cache6_find(__u32 mixed, __u64 wanted, const ip6_t *address)
{
	__u32 index = mixed & cache_mask;
	struct cache6_bucket *bucket = bpf_map_lookup_elem(&cache6, &index);

	if (!bucket)
		return ADJACENCY_ID_NONE;
#pragma unroll
	for (int i = 0; i < CACHE6_WAYS; i++) {
		__u64 way = READ_WORD(bucket->ways[i]);

		if (way_holds(way, wanted) && READ_WORD(bucket->addresses[i].high) == address->halves[0] &&
		    READ_WORD(bucket->addresses[i].low) == address->halves[1] && READ_WORD(bucket->ways[i]) == way)
			return way & INDEX_BITS;
	}
	return ADJACENCY_ID_NONE;
}

static __always_inline __u32 cache6_victim(struct cache6_bucket *bucket, __u64 wanted, __u64 high, __u64 low)
{
	__u32 victim = bpf_get_prandom_u32() % CACHE6_WAYS;

#pragma unroll
	for (int i = CACHE6_WAYS - 1; i >= 0; i--)
		if (READ_WORD(bucket->ways[i]) >> 32 != wanted >> 32)
			victim = i;
#pragma unroll
	for (int i = 0; i < CACHE6_WAYS; i++)
		if (way_holds(READ_WORD(bucket->ways[i]), wanted) &&
		    READ_WORD(bucket->addresses[i].high) == high && READ_WORD(bucket->addresses[i].low) == low)
			victim = i;
	return victim;
}

/* Compare-and-exchange gives the way to one writer; another that meets it lets it be. */
__attribute__((noinline)) int cache6_store(__u32 mixed, __u64 wanted, __u64 high, __u64 low, __u32 id)
{
	__u32 index = mixed & cache_mask;
	struct cache6_bucket *bucket = bpf_map_lookup_elem(&cache6, &index);

	if (!bucket)
		return 0;
	__u32 victim = cache6_victim(bucket, wanted, high, low);
	asm volatile("" : "+r"(victim)); /* else clang drops the check below, and the verifier refuses */
	if (victim >= CACHE6_WAYS)
		return 0;
	__u64 way = READ_WORD(bucket->ways[victim]);

	if (way == WAY_BUSY || __sync_val_compare_and_swap(&bucket->ways[victim], way, WAY_BUSY) != way)
		return 0;
	WRITE_WORD(bucket->addresses[victim].high, high);
	WRITE_WORD(bucket->addresses[victim].low, low);
	__sync_lock_test_and_set(&bucket->ways[victim], wanted | id); /* a full barrier */
	return 0;
}

/* What the cache is asked for: computed once a packet. */
struct cache_key {
	__u64 wanted;
	__u32 mixed;
};

static __always_inline void cache_key(const struct state *s, __u32 generation, const struct packet *packet,
				      struct cache_key *key)
{
	key->mixed = packet->family == 4 ? mix4(s, packet->destination.words[0]) : mix6(s, &packet->destination);
	key->wanted = cache_word(generation, key->mixed);
}

static __always_inline __u32 cache_find(const struct cache_key *key, const struct packet *packet)
{
	return packet->family == 4 ? cache4_find(key->mixed, key->wanted) :
				     cache6_find(key->mixed, key->wanted, &packet->destination);
}

static __always_inline void cache_store(const struct cache_key *key, const struct packet *packet, __u32 id)
{
	if (dry_run)
		return;
	if (packet->family == 4)
		cache4_store(key->mixed, key->wanted, id);
	else
		cache6_store(key->mixed, key->wanted, packet->destination.halves[0], packet->destination.halves[1], id);
}

/* A packet that is left to the tables. One that hits costs nothing: those are what verdict_count has besides. */
static __always_inline void count_cache_miss(void)
{
	__u32 slot = interface_slot;
	__u64 *misses = dry_run ? NULL : bpf_map_lookup_elem(&cache_misses, &slot);

	if (misses)
		(*misses)++;
}
