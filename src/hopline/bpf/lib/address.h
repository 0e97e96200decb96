/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses as types: the name says what the octets are, to C here and to Python through BTF. */
#pragma once

#include <linux/types.h>

typedef __be32 ip4_t;

typedef union {
	__u8 octets[16];
	__be32 words[4];
	__u64 halves[2];
} ip6_t;

typedef __u8 mac_t[6];

/*
 * A MAC address in octets 0 to 5 in memory and 16 bits of something else in the top two, so that both change in
 * one store and a reader never sees half a MAC.
 */
typedef __u64 mac_word_t;

#define MAC_WORD_MAC ((1ULL << 48) - 1)
#define MAC_WORD_GROUP 1ULL /* the bit of multicast and broadcast */

static __always_inline __u16 mac_word_top(mac_word_t word)
{
	return word >> 48;
}
