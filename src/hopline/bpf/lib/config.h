/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is fixed when a program is loaded. The verifier sees these as constants and removes what a setting turns
 * off, so an unused step costs nothing.
 */
#pragma once

#include <stdbool.h>
#include <linux/types.h>

/* clang else spills each field of a struct anew wherever ways of the program join */
#define KEEP_IN_MEMORY(variable) asm volatile("" : : "r"(&(variable)) : "memory")

/* slot of the interface that this load is attached to: index into `interfaces`, row of `verdict_counters` */
const volatile __u32 interface_slot = 0;
/* generic XDP can redirect to any Ethernet device; native only to those with ndo_xdp_xmit */
const volatile bool generic_mode = false;
/* the kernel has bpf_xdp_get_buff_len (5.18): frames larger than a page are seen whole */
const volatile bool frags = true;
/* buckets of the cache less one, a power of two less one; also the bits of an adjacency's id in a cache word */
const volatile __u32 cache_mask = (1 << 14) - 1;
/* the first adjacency id that the program itself hands out; the learned range is a power of two long */
const volatile __u32 learned_base = 1 << 13;
const volatile __u32 learned_mask = (1 << 13) - 1;
/* record each step's decision in `trace_events` */
const volatile bool trace = false;
/* write no map: the answer is wanted, not the effect */
const volatile bool dry_run = false;
/* anything that comes before forward is on, `trace` with it: one question on the way of packets that are forwarded */
const volatile bool early = false;
/* steps that are not in use cost nothing */
const volatile bool balancing = false;
const volatile bool decapsulating = false;
/* buckets of the flow table less one, a power of two less one */
const volatile __u32 flow_mask = 0;
