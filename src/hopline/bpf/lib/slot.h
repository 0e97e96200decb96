/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which backend a segment's flow has, where its slot of the ring is open or residual, or its service remembers every
 * flow: what the flow table says, else what the slot's state does. docs/features/balance.md says why no flow moves.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "layout.h"
#include "maps.h"
#include "trace.h"

#define OVERWRITE_TRIES 3
#define CHOICE_UNKNOWN (1U << 31)
#define CHOICE_ESTABLISHED (1U << 30) /* and it is not its first segment */

/* What of a segment decides; the first five bits are TCP's flags. */
enum segment {
	SEGMENT_FIN = 1 << 0,
	SEGMENT_SYN = 1 << 1,
	SEGMENT_RST = 1 << 2,
	SEGMENT_ACK = 1 << 4,
	SEGMENT_TCP_FLAGS = SEGMENT_FIN | SEGMENT_SYN | SEGMENT_RST | SEGMENT_ACK,
	SEGMENT_UDP = 1 << 8,
	SEGMENT_QUOTED = 1 << 9, /* an ICMP error follows the flow that it quotes: nothing is remembered of it */
	SEGMENT_IPV6 = 1 << 10,
	SEGMENT_SEVERAL_BUFFERS = 1 << 11,
};

static __always_inline bool begins_connection(__u32 segment)
{
	return (segment & (SEGMENT_SYN | SEGMENT_ACK | SEGMENT_RST)) == SEGMENT_SYN;
}

static __always_inline __u32 now_of(__u32 slot)
{
	return slot & SLOT_NUMBER_MASK;
}

static __always_inline __u32 before_of(__u32 slot)
{
	return slot >> SLOT_NUMBER_BITS & SLOT_NUMBER_MASK;
}

static __always_inline enum slot_state state_of(__u32 slot)
{
	return slot >> SLOT_STATE_SHIFT & SLOT_STATE_MASK;
}

/*
 * What the table says is not obeyed: the backend is dead, or it drains and the client begins anew, or the flow has been
 * silent for so long that a sweep may take the entry at any moment.
 */
static __always_inline bool is_ignored(const struct service *service, __u64 word, __u32 clock, __u32 segment)
{
	__u32 row = service->backends + (word & FLOW_NUMBER_MASK);
	struct backend *backend = bpf_map_lookup_elem(&backends, &row);
	__u32 flags = backend ? *(volatile __u32 *)&backend->flags : BACKEND_DEAD;

	if (flags & BACKEND_DEAD || flow_overdue(service, word, clock) > 0)
		return true;
	/* of a service of all ports a flow is all that one client sends: a SYN does not say that it begins */
	return flags & BACKEND_DRAINING && begins_connection(segment) && !(service->flags & SERVICE_ANY_PORT);
}

/*
 * Makes the entry what it is after this segment; returns whether it is there, since one of a single segment may give way
 * at this moment, and the way may be another's when it is written. After it has been, nobody takes it.
 */
static __always_inline bool flow_refresh(const struct service *service, struct flow_way *way, __u64 hash, __u64 word,
					 __u32 clock, __u32 segment)
{
	__u64 fresh = word;

	if (begins_connection(segment))
		fresh &= ~FLOW_FINISHED;
	else
		fresh |= FLOW_ESTABLISHED;
	if (segment & SEGMENT_FIN && !(service->flags & SERVICE_ANY_PORT))
		fresh |= FLOW_FINISHED;
	if (fresh == word && flow_age(word, clock) < flow_lag(flow_life(service, fresh)))
		return true;
	fresh = (__u32)fresh | (__u64)clock << FLOW_SEEN_SHIFT;
	__u64 found = __sync_val_compare_and_swap(&way->word, word, fresh);

	/* where it is another word, a packet of the same flow may have come first, and led it elsewhere */
	return READ_WORD(way->hash) == hash && !((found ^ word) & FLOW_IDENTITY);
}

/* Where no entry is obeyed. */
static __always_inline enum slot_choice choose_by_state(const struct service *service, __u32 slot, __u32 segment)
{
	__u32 vague = SERVICE_ANY_PORT | SERVICE_REMEMBERS;

	if (state_of(slot) != SLOT_OPEN || segment & SEGMENT_UDP)
		return CHOICE_NOW;
	/* of all ports, where not every flow is remembered, a SYN may be of a client that is here already */
	if (begins_connection(segment) && (service->flags & vague) != SERVICE_ANY_PORT)
		return CHOICE_NOW;
	return CHOICE_BEFORE;
}

static __always_inline bool is_dead(const struct service *service, __u32 number)
{
	__u32 row = service->backends + number;
	struct backend *backend = bpf_map_lookup_elem(&backends, &row);

	return !backend || *(volatile __u32 *)&backend->flags & BACKEND_DEAD;
}

static __always_inline bool is_remembered(const struct service *service, __u32 slot, __u32 segment, __u32 number)
{
	if (segment & (SEGMENT_RST | SEGMENT_QUOTED) || is_dead(service, number))
		return false;
	return state_of(slot) == SLOT_OPEN || service->flags & SERVICE_REMEMBERS;
}

/*
 * Leads a flow's entry to another backend; returns whether it did, since the way may be free or another's by now. Nobody
 * takes the way while its hash is looked at, and who refreshes the entry meanwhile changes its word: then once more.
 */
static __always_inline bool overwrite(struct flow_way *way, __u64 hash, __u64 word, __u64 fresh)
{
	for (int i = 0; i < OVERWRITE_TRIES; i++) {
		if (READ_WORD(way->hash) != hash || (word ^ fresh) & FLOW_IDENTITY)
			return false;
		__u64 found = __sync_val_compare_and_swap(&way->word, word, FLOW_BUSY);

		if (found == word) {
			bool ours = READ_WORD(way->hash) == hash;

			__sync_lock_test_and_set(&way->word, ours ? fresh : word);
			return ours;
		}
		word = found;
	}
	return false;
}

/* A flow as the table has it from this segment on. */
static __always_inline __u64 flow_word(const struct service *service, __u32 row, __u32 number, __u32 clock,
				       __u32 segment)
{
	__u64 word = (__u64)clock << FLOW_SEEN_SHIFT | row << FLOW_SERVICE_SHIFT | number;

	if (segment & SEGMENT_UDP)
		word |= FLOW_UDP;
	return segment & SEGMENT_FIN && !(service->flags & SERVICE_ANY_PORT) ? word | FLOW_FINISHED : word;
}

/*
 * Puts a flow that CHOICE_UNKNOWN was said of into the table. Returns the number of the backend: of an open slot,
 * `before` where there was no room, since that is where a flow that nothing remembers goes.
 */
__noinline __u32 remember(__u32 row, __u64 hash, __u32 slot, __u32 choice, __u32 segment)
{
	__u32 zero = 0, number = choice & SLOT_NUMBER_MASK, clock;
	struct service *service = bpf_map_lookup_elem(&services, &row);
	struct flow_counter *counter = bpf_map_lookup_elem(&flow_count, &row);
	struct state *s = bpf_map_lookup_elem(&state, &zero);

	if (!service || !counter || !s)
		return number;
	clock = *(volatile __u32 *)&s->clock;
	__u64 word = flow_word(service, row, number, clock, segment);
	int done = flow_insert(s, hash, choice & CHOICE_ESTABLISHED ? word | FLOW_ESTABLISHED : word);

	counter->remembered += done != FLOW_REFUSED;
	counter->refused += done == FLOW_REFUSED;
	counter->evicted += done == FLOW_EVICTED;
	if (done != FLOW_REFUSED)
		return number;
	*(volatile __u32 *)&service->refused = clock;
	return state_of(slot) == SLOT_OPEN && !(segment & SEGMENT_UDP) ? before_of(slot) : number;
}

static __always_inline void count_hit(__u32 row)
{
	struct flow_counter *counter = bpf_map_lookup_elem(&flow_count, &row);

	if (counter)
		counter->hits++;
}

/* Returns the backend's number, with CHOICE_UNKNOWN where the flow is to be remembered and is not yet. */
__noinline __u32 choose(__u32 row, __u64 hash, __u32 slot, __u32 segment)
{
	__u32 zero = 0, number, clock;
	struct service *service = bpf_map_lookup_elem(&services, &row);
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	__u64 word = 0;

	if (!service || !s)
		return now_of(slot);
	if (segment & SEGMENT_UDP && !(service->flags & SERVICE_REMEMBERS))
		return now_of(slot);
	clock = *(volatile __u32 *)&s->clock;
	__u64 identity = (__u64)row << FLOW_SERVICE_SHIFT | (segment & SEGMENT_UDP ? FLOW_UDP : 0);
	struct flow_way *way = flow_find(s, hash, identity, &word);

	if (way && !is_ignored(service, word, clock, segment)) {
		number = word & FLOW_NUMBER_MASK;
		note_choice(FLOW_HIT, CHOICE_TABLE, false);
		if (dry_run || segment & SEGMENT_QUOTED)
			return number;
		count_hit(row);
		if (flow_refresh(service, way, hash, word, clock, segment) || !is_remembered(service, slot, segment, number))
			return number;
		return number | CHOICE_UNKNOWN | CHOICE_ESTABLISHED;
	}
	enum slot_choice choice = choose_by_state(service, slot, segment);

	number = choice == CHOICE_NOW ? now_of(slot) : before_of(slot);
	/* the last is a connection that begins anew, though its entry leads to a backend that drains */
	bool remembered = is_remembered(service, slot, segment, number) || (way && begins_connection(segment));

	note_choice(way ? FLOW_IGNORED : FLOW_MISS, choice, remembered);
	if (dry_run || !remembered)
		return number;
	if (way && (overwrite(way, hash, word, flow_word(service, row, number, clock, segment)) ||
		    !is_remembered(service, slot, segment, number)))
		return number;
	return number | CHOICE_UNKNOWN;
}
