/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * trace: what each step did with a packet, for `explain`, `forward get` and `serve --trace`. Steps note what they did
 * in one record a CPU, not on the stack, so that notes cost nothing where `trace` is off.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"

static __always_inline struct trace_event *trace_slot(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&trace_record, &zero);
}

/* The whole packet, to its ports: steps that have no use for some of it do not parse that. */
static __noinline int note_packet(struct xdp_md *ctx)
{
	__u32 slot = interface_slot;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);
	struct trace_event *event = trace_slot();

	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->forward.fib = -1;
	if (ingress) {
		event->forward.mac = ingress->mac;
		event->forward.flags = ingress->flags;
	}
	enum verdict verdict = parse(ctx, ingress, &event->packet);

	if (verdict != CONTINUE && verdict != PASS_VLAN)
		return 0;
	if (event->packet.family == 4)
		parse_l4_ipv4(ctx, &event->packet);
	else if (event->packet.family == 6)
		parse_extension_headers(ctx, event->packet.l3_offset + sizeof(struct ipv6hdr), &event->packet);
	return 0;
}

static __always_inline void trace_begin(struct xdp_md *ctx)
{
	if (trace)
		note_packet(ctx);
}

static __always_inline void note_search(__u32 generation, bool leased)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->forward.generation = generation;
	event->forward.leased = leased;
	if (leased)
		event->forward.lookups = event->forward.found = LOOKUP_CACHE;
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

/* `asked` and `length` are what was put to it: where it came so far, its answer stands in their place. */
static __always_inline void note_fib(long code, const struct bpf_fib_lookup *fib, const ip6_t *asked, __u16 length)
{
	struct trace_event *event = trace ? trace_slot() : NULL;
	__u32 ipv4 = 2; /* AF_INET */

	if (!event)
		return;
	event->forward.fib = code;
	event->forward.fib_ifindex = fib->ifindex;
	event->forward.fib_mtu = code == BPF_FIB_LKUP_RET_SUCCESS || fib->tot_len != length ? fib->tot_len : 0;
	event->forward.fib_family = fib->family == ipv4 ? 4 : 6;
	event->forward.fib_asked = *asked;
	if (fib->family == ipv4)
		event->forward.fib_gateway.words[0] = fib->ipv4_dst;
	else
		__builtin_memcpy(&event->forward.fib_gateway, fib->ipv6_dst, sizeof(ip6_t));
}

static __always_inline void note_refusal(enum refusal refusal)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (event)
		event->forward.refusal = refusal;
}

static __always_inline void note_next_hop(struct next_hop *hop)
{
	struct trace_event *event = trace ? trace_slot() : NULL;
	struct adjacency *known;

	if (!event)
		return;
	known = bpf_map_lookup_elem(&adjacencies, &hop->id);
	if (known && hop->id) {
		event->forward.state = known->state;
		hop->family = known->family;
		hop->address = known->next_hop;
	}
	event->forward.adjacency = hop->id;
	event->forward.ifindex = hop->ifindex;
	event->forward.destination = hop->destination;
	event->forward.source = hop->source;
	event->forward.family = hop->family;
	event->forward.next_hop = hop->address;
}

/* Found in the cache. One note, since each asks whether `trace` is on. */
static __always_inline void note_hit(__u32 generation, struct next_hop *hop)
{
	if (trace) {
		hop->family = 0;
		hop->address = (ip6_t){};
		note_search(generation, true);
		note_next_hop(hop);
	}
}

static __always_inline void note_service(__u32 vip, __u32 service, bool quoted)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->balance.vip = vip;
	event->balance.service = service;
	event->balance.quoted = quoted;
}

/* Where the flow table was not asked, `now` it was. */
static __always_inline void note_slot(__u64 hash, __u32 slot, __u32 word, __u32 number)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->balance.hash = hash;
	event->balance.slot = slot;
	event->balance.state = word >> SLOT_STATE_SHIFT & SLOT_STATE_MASK;
	event->balance.now = word & SLOT_NUMBER_MASK;
	event->balance.before = word >> SLOT_NUMBER_BITS & SLOT_NUMBER_MASK;
	event->balance.number = number;
	if (!event->balance.choice)
		event->balance.choice = CHOICE_NOW;
}

static __always_inline void note_choice(enum flow_answer flow, enum slot_choice choice, bool remembers)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->balance.flow = flow;
	event->balance.choice = choice;
	event->balance.remembers = remembers;
}

static __always_inline void note_backend(__u32 row, const struct backend *backend, __u64 hash, __u32 overhead)
{
	struct trace_event *event = trace ? trace_slot() : NULL;
	__u32 id = backend->adjacency;
	struct adjacency *known;

	if (!event)
		return;
	known = bpf_map_lookup_elem(&adjacencies, &id);
	event->balance.backend = row;
	event->balance.overhead = overhead;
	event->balance.outer_family = backend->family;
	event->balance.outer_source = backend->source;
	event->balance.outer_source.words[backend->family == 4 ? 0 : 3] |= (__u32)hash & backend->vary;
	event->balance.outer_destination = backend->destination;
	event->balance.adjacency = id;
	if (!known)
		return;
	event->balance.adjacency_state = known->state;
	event->balance.ifindex = known->ifindex;
	event->balance.mtu = mac_word_top(known->destination);
}

static __always_inline void trace_end(struct xdp_md *ctx, enum verdict verdict)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	if (!event)
		return;
	event->time = bpf_ktime_get_ns();
	event->ifindex = ctx->ingress_ifindex;
	event->verdict = verdict;
	bpf_ringbuf_output(&trace_events, event, sizeof(*event), 0);
}
