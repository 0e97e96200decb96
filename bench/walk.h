/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every harness does: walk by a permutation, put the Ethernet header back, let stores settle, call the next. */
#pragma once

const volatile __u64 ethernet[2]; /* as received, 14 octets */
const volatile __u32 bits; /* of how many are walked, a power of two */

/* page-aligned, so it shares its line with nothing */
struct walk {
	__u64 packets; /* so far */
	__u64 settled; /* only ever added to, by locked instructions */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct walk);
} walked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

/* A permutation of 0 … 2^bits - 1: a walk in order would stride through memory, which the prefetcher foresees. */
static __always_inline __u32 scattered(__u32 i)
{
	__u32 mask = (1u << bits) - 1, half = (bits + 1) / 2;

	i &= mask;
	i ^= i >> half;
	i = i * 0x9e3779b1 & mask;
	i ^= i >> half;
	i = i * 0x85ebca6b & mask;
	return i ^ i >> half;
}

static __always_inline void put_ethernet(void *frame)
{
	*(__u64 *)frame = ethernet[0];
	*(__u32 *)(frame + 8) = ethernet[1];
	*(__u16 *)(frame + 12) = ethernet[1] >> 32;
}

/*
 * A locked instruction retires only when all stores before it are in the first-level cache. Without one, the program
 * under test would read what still sits in the store buffer: a load that is wider than the store it needs, or spans
 * two of them, then has to wait, which no packet that a card has put into memory makes it do.
 */
static __always_inline void settle(struct walk *walk)
{
	__sync_fetch_and_add(&walk->settled, 1);
}
