/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The layouts that programs and Python share. They are defined here only; Python derives its own from the BTF.
 * An old and a new program run together for one grace period, so a layout changes only with a new map.
 */
#pragma once

#include "address.h"

enum limit {
	INTERFACE_SLOTS = 256,
	VERDICT_SLOTS = 32,
	ADJACENCIES = 1 << 14, /* the operator's and learned ones; those of backends lie behind them */
	CACHE_BUCKETS = 1 << 14,
	CACHE4_WAYS = 8,
	CACHE6_WAYS = 5,
	LOCAL_BLOOM_WORDS = 8,
	VIP_BLOOM_WORDS = 8,
	LEARN_PROBES = 8,
};

/* Every way out of the pipeline. A number that is retired stays reserved. */
enum verdict {
	CONTINUE = 0, /* not a way out: the next step decides */
	PASS_NOT_IP = 1,
	PASS_MALFORMED = 2, /* truncated, lengths that disagree, a wrong checksum: the kernel drops and counts it */
	PASS_VLAN = 3,
	PASS_OTHER_HOST = 4, /* the frame is addressed to another MAC */
	PASS_MULTICAST = 5, /* multicast or broadcast, on the wire or in the IP header */
	PASS_MARTIAN = 6, /* an address that no router forwards, or our own as the source */
	PASS_LOCAL = 7,
	PASS_OPTIONS = 8, /* IPv4 options or an IPv6 hop-by-hop header */
	PASS_TTL = 9,
	PASS_TOO_BIG = 10,
	PASS_NO_NEIGHBOUR = 11,
	PASS_NO_ROUTE = 12, /* the FIB does not forward it: no route, unreachable, or not unicast */
	PASS_NOT_LEARNING = 13, /* no operator entry, and learning is off on this interface */
	PASS_FORWARDING_OFF = 14,
	PASS_ENCAPSULATED_ROUTE = 15, /* the route has a lightweight tunnel */
	PASS_NO_EGRESS = 16, /* the next hop's device is gone, down, or cannot take a redirect */
	PASS_HAIRPIN = 17, /* learned, and back out of the same interface: the kernel may owe an ICMP redirect */
	PASS_NO_LEASE = 18, /* no daemon vouches for what was learned */
	FORWARDED = 19,
	BALANCED = 20,
	DECAPSULATED = 21,
	ANSWERED_ECHO = 22,
	ANSWERED_ERROR = 23, /* too big or TTL exceeded, to who sent a packet to a service */
	DROP_NO_BACKEND = 24, /* a service's: none takes it, or the way to the one that does is unresolved */
	DROP_FRAGMENT = 25, /* of a service that needs ports, on a VIP that is local */
	DROP_TOO_BIG = 26, /* a service's, and it may be neither fragmented nor reported */
	DROP_NOT_ACCEPTED = 27, /* encapsulated, for a local address, by a source that is not accepted */
	DROP_MALFORMED = 28, /* inside a service or a tunnel of ours */
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* One for an instance. `generation` and `lease_deadline` are each written with one store. */
struct state {
	__u32 generation; /* of 31 bits; 0 is never valid */
	__u32 mix_add; /* the key of the hash, so that nobody can aim at one bucket */
	__u32 mix_multiply; /* odd */
	__u32 clock; /* ticks of a quarter of a second while a daemon runs; flows are as old as it says */
	__u64 lease_deadline; /* jiffies */
	__u64 lease_jiffies; /* how far the lease program moves the deadline */
	__u64 jiffies; /* when it last did */
	__u64 spare[3];
	__u64 local_bloom[LOCAL_BLOOM_WORDS]; /* our own IPv4 addresses, as bits of their hash */
	__u64 vip_bloom[VIP_BLOOM_WORDS]; /* VIPs: bit (mixed hash >> 23) */
};

/* One for an instance: what made its maps, so that another version leaves them alone, and where its devices are. */
struct identity {
	char version[32];
	__u8 object[16]; /* digest of the object file */
	__u64 netns; /* inode of the network namespace; 0 is none yet */
};

enum interface_flag {
	INTERFACE_LEARN4 = 1 << 0,
	INTERFACE_LEARN6 = 1 << 1,
	INTERFACE_BYPASS_POLICY = 1 << 2,
	INTERFACE_EGRESS_FRAGS = 1 << 3, /* a redirect of a frame larger than a page arrives */
	INTERFACE_ONE_BUFFER = 1 << 4, /* a frame whose first buffer is short has no other: no header split */
};

struct interface {
	mac_word_t mac; /* top bits zero */
	__u32 ifindex; /* 0: the slot is free */
	__u32 flags; /* enum interface_flag */
};

enum adjacency_state {
	ADJACENCY_FREE = 0,
	ADJACENCY_CLAIMED = 1, /* a program is writing it */
	ADJACENCY_READY = 2,
	ADJACENCY_UNRESOLVED = 3, /* the next hop has no MAC yet */
	ADJACENCY_NO_DEVICE = 4,
	ADJACENCY_RETIRING = 5, /* free after a generation bump and a grace period */
};

enum adjacency_id {
	ADJACENCY_ID_NONE = 0,
	ADJACENCY_ID_LOCAL = 1, /* the destination is this host */
	ADJACENCY_ID_ASK_FIB = 2, /* no operator entry covers the destination */
	ADJACENCY_ID_FIRST = 16, /* the operator's, up to learned_base */
};

/* A next hop, one cache line. Ids below learned_base are the daemon's, the others are handed out by the program. */
struct adjacency {
	mac_word_t destination; /* top: MTU, octets of IP packet */
	mac_word_t source; /* top: slot of the device */
	__u32 ifindex;
	__u32 state; /* enum adjacency_state */
	__u32 generation; /* learned: the last one in which it was handed out */
	__u32 family; /* of next_hop: 4, 6, or 0 where there is none */
	ip6_t next_hop; /* IPv4: the first word */
	__u64 spare[2];
};

#include "layout_balance.h"

/*
 * A way is generation << 32 | hash without its index bits | adjacency id. The hash of an IPv4 address is a
 * permutation and the index bits are the bucket's, so a match is exact. For IPv6 the address stands beside it.
 * What found its bucket full lies in another, with CACHE_DISPLACED above the generation's 31 bits.
 */
#define CACHE_DISPLACED (1ULL << 63)

struct cache4_bucket {
	__u64 ways[CACHE4_WAYS];
};

struct cache6_way {
	__u64 word;
	ip6_t address;
};

struct cache6_bucket {
	struct cache6_way ways[CACHE6_WAYS];
	__u64 spare;
};

struct prefix4 {
	__u32 length; /* bits */
	ip4_t address;
};

/* packed: the trie reads the address right behind the length, and ip6_t alone would be aligned to 8 */
struct prefix6 {
	__u32 length; /* bits */
	ip6_t address;
} __attribute__((packed, aligned(4)));

enum lookup {
	LOOKUP_NONE = 0, /* all were asked and none knew */
	LOOKUP_CACHE = 1 << 0,
	LOOKUP_LOCAL = 1 << 1,
	LOOKUP_EXACT = 1 << 2,
	LOOKUP_PREFIX = 1 << 3,
	LOOKUP_FIB = 1 << 4,
};

enum packet_flag {
	PACKET_FRAGMENT = 1 << 0,
	PACKET_LATER_FRAGMENT = 1 << 1, /* has no L4 header */
	PACKET_OPTIONS = 1 << 2, /* IPv4 options */
	PACKET_HOP_BY_HOP = 1 << 3,
	PACKET_EXTENSION = 1 << 4, /* IPv6 extension headers other than hop-by-hop */
	PACKET_PORTS = 1 << 5, /* source_port and destination_port are set */
	PACKET_ICMP = 1 << 6, /* icmp_type and icmp_code are set */
	PACKET_L4_TRUNCATED = 1 << 7,
	PACKET_SEVERAL_BUFFERS = 1 << 8,
};

/* What parse found; handed from step to step. */
struct packet {
	__u32 length; /* octets of the whole frame */
	__u16 l3_offset;
	__u16 l3_length; /* octets, as the IP header says */
	__u8 family; /* 4 or 6; 0 when not IP */
	__u8 tos; /* or traffic class */
	__u8 ttl;
	__u8 protocol; /* of L4, behind extension headers */
	__u16 flags; /* enum packet_flag */
	__u16 tags; /* VLAN tags */
	__be16 tag[2]; /* TCI; from here to the ports, set only as tags and flags say */
	__be16 ethertype;
	__u16 l4_offset;
	__be16 source_port;
	__be16 destination_port;
	__u8 icmp_type;
	__u8 icmp_code;
	ip6_t source; /* IPv4: the first word */
	ip6_t destination;
};

/* Where a packet goes next: an adjacency as forward works with it. */
struct next_hop {
	mac_word_t destination; /* top: MTU */
	mac_word_t source; /* top: slot of the device */
	ip6_t address;
	__u32 family; /* of address: 4, 6, or 0 where there is none */
	__u32 ifindex;
	__u32 id; /* of the adjacency, 0 when it has none */
	__u32 reserved;
};

/* Why the egress device does not take a frame. */
enum refusal {
	REFUSAL_NONE = 0,
	REFUSAL_NO_SLOT = 1, /* it has none: it came just now, or there are too many devices */
	REFUSAL_NO_REDIRECT = 2, /* it is gone, down, or of a kind that takes none in this mode */
	REFUSAL_ONE_BUFFER = 3, /* the frame is in several buffers, and it takes only one */
};

/*
 * Notes: what each step looked up, found and decided, written only where `trace` is on. A step has one struct,
 * NAME_note, as the member NAME of struct trace_event, in the order of the steps. Python finds them there by BTF; one that it has
 * no words for is shown field by field, so give fields names that say it and an enum's type where they hold one.
 */
struct forward_note {
	enum lookup lookups; /* what was asked */
	enum lookup found; /* the one of them that answered */
	__s32 fib; /* the return code of bpf_fib_lookup, -1 when it was not asked */
	__u32 adjacency; /* id, 0 when it has none */
	__u32 generation;
	__u32 ifindex;
	mac_word_t destination;
	mac_word_t source;
	ip6_t next_hop;
	__u32 family; /* of next_hop */
	__u32 leased;
	mac_word_t mac; /* of the interface it came in by */
	enum interface_flag flags; /* of that interface */
	enum adjacency_state state;
	enum refusal refusal; /* of the device it would leave by */
	ip6_t fib_asked; /* the address that the FIB was asked for */
	ip6_t fib_gateway; /* this and the device stay what was asked where the FIB did not come that far */
	__u32 fib_family; /* of fib_gateway */
	__u32 fib_ifindex;
	__u32 fib_mtu; /* of the route; 0 where the FIB did not come that far */
	__u32 reserved;
};

struct trace_event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	__u32 ifindex;
	enum verdict verdict;
	struct packet packet;
	struct decap_note decap;
	struct balance_note balance;
	struct forward_note forward;
};

/*
 * What is used only through the ring buffer or as a number is not in the BTF of any map; these pointers put it
 * there and cost nothing.
 */
#define ANCHOR(kind, name) kind name *anchor_##name __attribute__((section("layout"), used))

ANCHOR(enum, limit);
ANCHOR(enum, verdict);
ANCHOR(enum, interface_flag);
ANCHOR(enum, adjacency_state);
ANCHOR(enum, adjacency_id);
ANCHOR(enum, lookup);
ANCHOR(enum, packet_flag);
ANCHOR(enum, refusal);
ANCHOR(enum, balance_limit);
ANCHOR(enum, service_protocol);
ANCHOR(enum, vip_flag);
ANCHOR(enum, service_flag);
ANCHOR(enum, slot_state);
ANCHOR(enum, encapsulation);
ANCHOR(enum, backend_flag);
ANCHOR(enum, flow_answer);
ANCHOR(enum, slot_choice);
ANCHOR(struct, trace_event);
