/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * trace: what each step did with a packet, for `forward get` and `serve --trace`. Steps note what they did in one record
 * a CPU, not on the stack, so that notes cost nothing where `trace` is off.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"
#include "maps.h"

static __always_inline struct trace_event *trace_slot(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&trace_record, &zero);
}

static __always_inline void trace_begin(void)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->forward.fib = -1;
}

static __always_inline void note_state(__u32 generation, bool leased)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->forward.generation = generation;
	event->forward.leased = leased;
}

/* The last one that was asked is the one that knew. */
static __always_inline void note_lookup(enum lookup lookup)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->forward.lookups |= lookup;
	event->forward.found = lookup;
}

static __always_inline void note_fib(long code)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (event)
		event->forward.fib = code;
}

static __always_inline void note_next_hop(const struct next_hop *hop)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->forward.adjacency = hop->id;
	event->forward.ifindex = hop->ifindex;
	event->forward.destination = hop->destination;
	event->forward.source = hop->source;
	event->forward.family = hop->family;
	event->forward.next_hop = hop->address;
}

static __always_inline void trace_end(struct xdp_md *ctx, enum verdict verdict, const struct packet *packet)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->time = bpf_ktime_get_ns();
	event->ifindex = ctx->ingress_ifindex;
	event->verdict = verdict;
	event->packet = *packet;
	bpf_ringbuf_output(&trace_events, event, sizeof(*event), 0);
}
