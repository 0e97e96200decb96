/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* verdict: the one way out. Counts the verdict on its interface, tells the tracer, and says it to XDP. */
#pragma once

#include "config.h"
#include "forward.h"
#include "layout.h"
#include "maps.h"

static __always_inline void count_verdict(enum verdict verdict, __u32 length)
{
	__u32 slot = interface_slot * VERDICT_SLOTS + verdict;
	struct counter *counter = bpf_map_lookup_elem(&verdict_count, &slot);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

static __always_inline void record_trace(struct xdp_md *ctx, enum verdict verdict, const struct packet *packet,
					 const struct forward_note *forward)
{
	struct trace_event *event = bpf_ringbuf_reserve(&trace_events, sizeof(*event), 0);

	if (!event)
		return;
	event->time = bpf_ktime_get_ns();
	event->ifindex = ctx->ingress_ifindex;
	event->verdict = verdict;
	event->packet = *packet;
	event->forward = *forward;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline int leave(struct xdp_md *ctx, enum verdict verdict, const struct packet *packet,
				 const struct forward_note *forward)
{
	if (!dry_run)
		count_verdict(verdict, packet->length);
	if (trace)
		record_trace(ctx, verdict, packet, forward);
	return verdict == FORWARDED ? XDP_REDIRECT : XDP_PASS;
}
