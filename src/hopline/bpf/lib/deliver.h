/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* deliver: a flow of a service, by its slot of the ring to a backend, in the backend's outer header to its next hop. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "forward.h"
#include "layout.h"
#include "maps.h"
#include "push.h"
#include "slot.h"
#include "trace.h"

/* Outcomes that are no verdicts, but say what else there is to do. */
enum outcome {
	OUTCOME_RARE = 0xffff, /* not a plain packet */
	OUTCOME_REPORT = 0xfffe, /* tell the sender: the MTU stands in the upper half, 0 there says that no hop is left */
};

#define OUTCOME_SHIFT 16

/* What is known of a packet that a service takes. */
struct flow {
	__u64 hash;
	__u32 row; /* of the service */
	__u32 segment; /* enum segment */
	__u32 length; /* octets of the frame */
	__u16 l3_length;
	__u8 tos;
	__u8 ttl;
};

/* With no lease nobody follows the next hop's MAC: the FIB is asked for it, as forward does. */
__noinline __u64 followed(struct xdp_md *ctx, __u32 row, __u32 id, __u64 destination)
{
	struct backend *backend = bpf_map_lookup_elem(&backends, &row);
	struct adjacency *known = bpf_map_lookup_elem(&adjacencies, &id);
	struct bpf_fib_lookup fib = { .ifindex = ctx->ingress_ifindex, .tot_len = FIB_SMALL };
	__u64 now = 0;

	if (!backend || !known || known->family != backend->family)
		return destination;
	fib.family = backend->family == 4 ? FAMILY_INET : FAMILY_INET6;
	if (backend->family == 4) {
		fib.ipv4_src = backend->source.words[0];
		fib.ipv4_dst = known->next_hop.words[0];
	} else {
		__builtin_memcpy(fib.ipv6_src, &backend->source, sizeof(ip6_t));
		__builtin_memcpy(fib.ipv6_dst, &known->next_hop, sizeof(ip6_t));
	}
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) || fib.ifindex != known->ifindex)
		return destination;
	__builtin_memcpy(&now, fib.dmac, sizeof(mac_t));
	return (destination & ~MAC_WORD_MAC) | now;
}

/* The outer headers that are not the commonest. `about` is the inner packet's length | tos << 16 | segment << 32. */
__noinline int push_other(struct xdp_md *ctx, __u32 row, __u64 hash, __u64 about)
{
	struct inner inner = { .length = about, .tos = about >> 16, .ipv6 = about >> 32 & SEGMENT_IPV6 };
	struct backend *backend = bpf_map_lookup_elem(&backends, &row);
	bool gue;

	if (!backend)
		return false;
	gue = backend->encapsulation == ENCAPSULATION_GUE;
	if (backend->family == 6)
		return gue ? push(ctx, backend, hash, &inner, true, true) : push(ctx, backend, hash, &inner, true, false);
	return gue ? push(ctx, backend, hash, &inner, false, true) : push(ctx, backend, hash, &inner, false, false);
}

static __always_inline bool encapsulate(struct xdp_md *ctx, const struct backend *backend, __u32 row,
					const struct flow *flow, mac_word_t destination, mac_word_t source)
{
	struct inner inner = { .length = flow->l3_length, .tos = flow->tos, .ipv6 = flow->segment & SEGMENT_IPV6 };
	__u64 about = (__u64)flow->segment << 32 | flow->tos << 16 | flow->l3_length;

	if (!inner.ipv6 && backend->family == 4 && backend->encapsulation == ENCAPSULATION_IPIP)
		return push(ctx, backend, flow->hash, &inner, false, false) && write_ethernet(ctx, destination, source, false);
	return push_other(ctx, row, flow->hash, about) && write_ethernet(ctx, destination, source, backend->family == 6);
}

static __always_inline void count_backend(__u32 row, const struct flow *flow)
{
	struct backend_counter *counter = dry_run ? NULL : bpf_map_lookup_elem(&backend_count, &row);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += flow->length;
	if (begins_connection(flow->segment))
		counter->connections++;
}

/* To this backend. All is asked for before anything is written. */
static __always_inline __u32 deliver(struct xdp_md *ctx, const struct state *s, __u32 row,
					    const struct flow *flow)
{
	struct backend *backend = bpf_map_lookup_elem(&backends, &row);
	__u32 id = backend ? backend->adjacency : ADJACENCY_ID_NONE;
	struct adjacency *hop = bpf_map_lookup_elem(&adjacencies, &id);
	int padding = flow->length - flow->l3_length - sizeof(struct ethernet_header);

	if (!backend || !hop)
		return DROP_NO_BACKEND;
	__u64 destination = READ_WORD(hop->destination), source = READ_WORD(hop->source);
	__u32 overhead = outer_length(backend), mtu = mac_word_top(destination);

	note_backend(row, backend, flow->hash, overhead);
	if (*(volatile __u32 *)&hop->state != ADJACENCY_READY)
		return DROP_NO_BACKEND;
	if (flow->l3_length + overhead > mtu)
		return mtu > overhead ? OUTCOME_REPORT | (mtu - overhead) << OUTCOME_SHIFT : DROP_TOO_BIG;
	if (READ_WORD(s->lease_deadline) < bpf_jiffies64())
		destination = followed(ctx, row, id, destination);
	if (choose_egress(flow->segment & SEGMENT_SEVERAL_BUFFERS, mac_word_top(source)) != CONTINUE)
		return DROP_NO_BACKEND;
	if (!encapsulate(ctx, backend, row, flow, destination, source))
		return DROP_TOO_BIG;
	count_backend(row, flow);
	if (padding > 0)
		bpf_xdp_adjust_tail(ctx, -padding);
	return BALANCED;
}

/* A packet of a service: its slot of the ring says the backend, unless the slot is open, or residual. */
static __always_inline __u32 serve(struct xdp_md *ctx, const struct service *service, const struct flow *flow)
{
	__u64 ring = READ_WORD(service->ring);
	__u32 zero = 0, slot = (flow->hash >> 32) * (ring >> 32) >> 32, element = ring + slot / RING_ELEMENT_SLOTS;
	struct ring_element *slots = bpf_map_lookup_elem(&rings, &element);
	struct state *s = bpf_map_lookup_elem(&state, &zero);

	if (!s)
		return CONTINUE;
	if (flow->ttl <= 1)
		return OUTCOME_REPORT;
	if (!slots || !(ring >> 32))
		return DROP_NO_BACKEND;
	__u32 word = *(volatile __u32 *)&slots->slots[slot % RING_ELEMENT_SLOTS], number = word;

	if (word >> SLOT_STATE_SHIFT || service->flags & SERVICE_REMEMBERS)
		number = choose(flow->row, flow->hash, word, flow->segment);
	if (number & CHOICE_UNKNOWN)
		number = remember(flow->row, flow->hash, word, number, flow->segment);
	number &= SLOT_NUMBER_MASK;
	note_slot(flow->hash, slot, word, number);
	return deliver(ctx, s, service->backends + number, flow);
}
