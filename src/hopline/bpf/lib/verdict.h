/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* verdict: the one way out. Counts the verdict on its interface, tells the tracer, and says it to XDP. */
#pragma once

#include "answer.h"
#include "config.h"
#include "layout.h"
#include "maps.h"
#include "trace.h"

static __always_inline void count_verdict(__u32 slot, enum verdict verdict, __u32 length)
{
	__u32 row = slot * VERDICT_SLOTS + verdict;
	struct counter *counter = bpf_map_lookup_elem(&verdict_count, &row);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

/* Nearly all are forwarded, or the first ones, so these are asked for first. */
static __always_inline int action_of(struct xdp_md *ctx, enum verdict verdict)
{
	if (verdict == FORWARDED)
		return XDP_REDIRECT;
	if (verdict < FORWARDED || verdict == DECAPSULATED)
		return XDP_PASS;
	if (verdict == BALANCED)
		return XDP_REDIRECT;
	return verdict <= ANSWERED_ERROR ? send_back(ctx) : XDP_DROP;
}

static __always_inline int leave(struct xdp_md *ctx, __u32 slot, enum verdict verdict, __u32 length,
				 __u32 adjacency)
{
	if (!dry_run) {
		count_verdict(slot, verdict, length);
		if (verdict == FORWARDED)
			count_next_hop(adjacency, length);
	}
	trace_end(ctx, verdict);
	return action_of(ctx, verdict);
}
