/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The layouts of balance and decap that programs and Python share; included by layout.h alone. */
#pragma once

#include "address.h"

enum balance_limit {
	SERVICES = 4096, /* rows; 0 is none */
	VIPS = 4096, /* rows; 0 is none */
	VIP_BUCKETS = 1024,
	VIP_WAYS = 8,
	PORT_RULES = 2, /* of a VIP and a protocol; what does not fit is in pages */
	PORT_PAGES = 2048, /* 0 is none */
	PORT_PAGE_ENTRIES = 256,
	SERVICE_BACKENDS = 1 << 12, /* of one service: their numbers are 0 to one less */
	RING_ELEMENT_SLOTS = 1024,
	RING_MOST_SLOTS = 1 << 20,
	FLOW_WAYS = 4,
	BACKEND_HOP_FIRST = 1 << 14, /* adjacency ids of backends' next hops, which no cache holds */
	BACKEND_HOPS = 4096,
	DECAPS = 256,
};

/* Transport protocols of services, in the order of a VIP's rules. */
enum service_protocol {
	SERVICE_TCP = 0,
	SERVICE_UDP = 1,
	SERVICE_PROTOCOLS = 2,
};

/*
 * VIPs, found by a keyed hash of the address: a bucket is a cache line; a way is tag << 32 | row of the VIP, 0 where
 * there is none. The tag is the whole mixed hash, mix4 or mix6. What found its bucket full lies in the one beside it
 * (index ^ 1).
 */
struct vip_bucket {
	__u64 ways[VIP_WAYS];
};

enum vip_flag {
	VIP_LOCAL = 1 << 0, /* the address is one of this host's: the kernel would answer for it */
	VIP_ANSWERS_ECHO = 1 << 1,
	VIP_OWNED = 1 << 2, /* for the daemon: it added the address to a device */
};

/*
 * A rule is first port | last port << 16 | service << 32, ports in host order, one store; 0 is none. Where a VIP has
 * more services of a protocol than rules, its page says the rest: entry [port >> 8] of it is 0, a service, or
 * PORT_LEAF | another page, whose entry [port & 255] is 0 or a service.
 */
#define PORT_LEAF 0x8000

struct vip {
	ip6_t address; /* IPv4: the first word */
	__u64 rules[SERVICE_PROTOCOLS][PORT_RULES];
	__u32 pages[SERVICE_PROTOCOLS];
	__u32 family; /* 4 or 6; 0: the row is free */
	__u32 flags; /* enum vip_flag */
};

struct port_page {
	__u16 entries[PORT_PAGE_ENTRIES];
};

enum service_flag {
	SERVICE_REMEMBERS = 1 << 0, /* affinity "table": every flow is in the flow table, whatever its slot's state */
	SERVICE_ANY_PORT = 1 << 1, /* all ports: a flow is all that one client sends, so fragments have one too */
	SERVICE_QUIC = 1 << 2,
};

/* A service, a cache line. `ring` is one store. */
struct service {
	__u64 ring; /* first element of `rings` | slots << 32; 0: no backend takes anything */
	__u64 seed; /* of the flow's hash; the same on every node with the same document */
	__u32 backends; /* row in `backends` of number 0 */
	__u32 numbers; /* rows that it has there */
	__u32 flags; /* enum service_flag */
	__u32 idle; /* T: ticks of state.clock after which a silent flow is forgotten */
	__u32 refused; /* tick in which the flow table last refused a flow of it; 0 is never */
	__u32 vip; /* its row; for the daemon */
	__u32 protocols; /* bit 0 TCP, bit 1 UDP; for the daemon */
	__u16 first_port, last_port; /* for the daemon */
	__u64 spare[2];
};

/*
 * A slot of a ring is one 32-bit word: `now` | `before` << 12 | state << 24 | stamp << 26, numbers of backends local to
 * the service; the stamp says when an open one last changed, in steps of the daemon's, and is 0 in a closed one.
 * Each slot changes by one store of its own. See docs/features/balance.md for what the states promise.
 */
enum slot_state {
	SLOT_CLOSED = 0, /* `now` decides */
	SLOT_OPEN = 1, /* the flow table, else a SYN goes to `now` and the rest to `before`, and is remembered */
	SLOT_RESIDUAL = 2, /* the flow table, else `now`; nothing is inserted */
};

#define SLOT_NUMBER_BITS 12
#define SLOT_NUMBER_MASK ((1U << SLOT_NUMBER_BITS) - 1)
#define SLOT_STATE_SHIFT 24
#define SLOT_STATE_MASK 3U
#define SLOT_STAMP_SHIFT 26

struct ring_element {
	__u32 slots[RING_ELEMENT_SLOTS];
};

enum encapsulation {
	ENCAPSULATION_IPIP = 1,
	ENCAPSULATION_GUE = 2, /* variant 1: UDP, then the packet itself */
};

enum backend_flag {
	BACKEND_IN_USE = 1 << 0,
	BACKEND_DRAINING = 1 << 1, /* takes no new flow: a SYN of a flow it has goes to the ring */
	BACKEND_DEAD = 1 << 2, /* what the flow table says of it is ignored */
};

/* A backend of one service, a cache line: the outer header, nearly ready-made, and the way to its next hop. */
struct backend {
	ip6_t source; /* outer; IPv4: the first word */
	ip6_t destination;
	__u32 adjacency;
	__u32 flags; /* enum backend_flag */
	__u32 vary; /* bits of the last word of `source`, as it lies there, that the flow's hash fills; 0: fixed */
	__be16 port; /* GUE: the outer destination port */
	__u8 family; /* of the outer header: 4 or 6 */
	__u8 encapsulation; /* enum encapsulation */
	__u32 weight; /* for the daemon */
	__u32 leaving; /* for the daemon: tick in which a removed one ends, 0 where it is none */
	__u64 spare;
};

struct backend_counter {
	__u64 packets;
	__u64 bytes; /* of frames as they came in */
	__u64 connections; /* TCP: SYNs without ACK */
	__u64 spare;
};

/* What happened with flow memory, a row a service. */
struct flow_counter {
	__u64 remembered; /* inserted */
	__u64 refused; /* not inserted: no room */
	__u64 evicted; /* single-segment entries that gave way */
	__u64 hits;
};

/*
 * The flow table: buckets of FLOW_WAYS ways, one cache line. `hash` of an IPv4 flow is a permutation of source address
 * and ports, so a match is exact; of IPv6 it is a hash of 64 bits. `word` is number | flags | service << 16 | last seen
 * (tick) << 32; 0 is free. Service and FLOW_UDP are part of what the flow is. A way is taken by compare-and-exchange of its word to FLOW_BUSY; its hash is written before
 * its word, and a reader reads the word again after the hash. What found its bucket full lies in the one that
 * flow_beside() names.
 */
#define FLOW_NUMBER_MASK SLOT_NUMBER_MASK
#define FLOW_ESTABLISHED (1ULL << 12) /* more than one segment was seen */
#define FLOW_FINISHED (1ULL << 13) /* a FIN was seen */
#define FLOW_UDP (1ULL << 14) /* a flow of UDP and one of TCP may have the same ports */
#define FLOW_SERVICE_SHIFT 16
#define FLOW_SEEN_SHIFT 32
#define FLOW_BUSY (0xffffULL << FLOW_SERVICE_SHIFT)

struct flow_way {
	__u64 hash;
	__u64 word;
};

struct flow_bucket {
	struct flow_way ways[FLOW_WAYS];
};

/* decap: which outer sources are accepted for a local address. */
struct decap_key4 {
	__u32 length; /* bits of all that follows */
	__u32 encapsulation; /* enum encapsulation, big-endian like all that is matched */
	ip4_t local;
	ip4_t source;
};

struct decap_key6 {
	__u32 length;
	__u32 encapsulation;
	ip6_t local;
	ip6_t source;
} __attribute__((packed, aligned(4)));

#define DECAP_PORTS 8

struct decap_ports {
	__be16 ports[DECAP_PORTS];
};

/* For the daemon alone: a service's name, padded with zeros. */
struct service_name {
	char name[64];
};

/* What balance looked up and decided; see struct forward_note. */
enum flow_answer {
	FLOW_NOT_ASKED = 0,
	FLOW_HIT = 1,
	FLOW_MISS = 2,
	FLOW_IGNORED = 3, /* there, but its backend is dead, or drains and this is a SYN */
};

enum slot_choice {
	CHOICE_NONE = 0,
	CHOICE_NOW = 1,
	CHOICE_BEFORE = 2,
	CHOICE_TABLE = 3,
};

struct balance_note {
	__u32 vip; /* row, 0: the destination is no VIP */
	__u32 service; /* row, 0: none there for this protocol and port */
	__u64 hash; /* of the flow */
	__u32 slot;
	enum slot_state state;
	__u32 now;
	__u32 before;
	enum flow_answer flow;
	enum slot_choice choice;
	__u32 number; /* of the backend, local to the service */
	__u32 backend; /* its row */
	__u32 remembers; /* the flow would be, or was, inserted */
	__u32 adjacency;
	enum adjacency_state adjacency_state;
	__u32 ifindex; /* it would leave by */
	__u32 mtu; /* of the adjacency */
	__u32 overhead; /* octets of outer header */
	__u32 quoted; /* the flow is the one that an ICMP error quotes */
	__u32 outer_family;
	ip6_t outer_source;
	ip6_t outer_destination;
};

struct decap_note {
	enum encapsulation encapsulation; /* 0: not encapsulated for an address of ours */
	__u32 decap; /* row of the counter, 0: no such local address */
	__u32 accepted;
	__u32 overhead; /* octets taken off */
	ip6_t outer_source;
	ip6_t outer_destination;
	__u32 outer_family;
	__u32 inner_family;
};
