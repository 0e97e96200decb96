/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* verdict: the one way out. Counts the verdict on its interface, tells the tracer, and says it to XDP. */
#pragma once

#include "config.h"
#include "layout.h"
#include "maps.h"
#include "trace.h"

static __always_inline void count_verdict(enum verdict verdict, __u32 length)
{
	__u32 slot = interface_slot * VERDICT_SLOTS + verdict;
	struct counter *counter = bpf_map_lookup_elem(&verdict_count, &slot);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

static __always_inline int action_of(enum verdict verdict)
{
	if (verdict < FORWARDED || verdict == DECAPSULATED)
		return XDP_PASS;
	if (verdict <= BALANCED)
		return XDP_REDIRECT;
	return verdict <= ANSWERED_ERROR ? XDP_TX : XDP_DROP;
}

static __always_inline int leave(struct xdp_md *ctx, enum verdict verdict, __u32 length, __u32 adjacency)
{
	if (!dry_run) {
		count_verdict(verdict, length);
		if (verdict == FORWARDED)
			count_next_hop(adjacency, length);
	}
	trace_end(ctx, verdict);
	return action_of(verdict);
}
