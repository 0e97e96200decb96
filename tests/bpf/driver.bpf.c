// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The driver of the attack on the cache: run by TEST_RUN with repeat, it looks at the packet that the pipeline left in
 * the buffer the last time, writes the next one over it, and tail-calls the pipeline: millions of packets a second, to
 * any destination, through the program as it is shipped. See driver.py.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#define TARGETS 4096
#define MARK 0x686f706cu
#define TTL 64
#define PROTOCOL 253

/* A MAC that says whose it is: kind, number of the destination, epoch in which it is right. */
#define KIND_DESTINATION 0x06
#define KIND_SOURCE 0x0a

struct target {
	__u8 address[16]; /* IPv4: the first four */
};

/* The epochs of a target that are right: `newest` is written before a change, `oldest` after it and its bump. */
struct window {
	__u32 oldest;
	__u32 newest;
};

struct tally {
	__u64 forwarded;
	__u64 passed;
	__u64 wrong;
	__u32 number; /* of the last that was wrong: its target and window, the MACs it left with */
	__u32 oldest;
	__u32 newest;
	__u8 macs[12];
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} pipeline SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TARGETS);
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TARGETS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct window);
} windows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

const volatile __u32 target_count = 1;
const volatile bool ipv4 = true;
const volatile __u8 frame_macs[12] = {}; /* of a frame on its way to the pipeline */
const volatile __u8 egress_mac[6] = {}; /* what a packet leaves with as its source; zero: one of KIND_SOURCE */

/* What the driver keeps in the frame's payload, from one run to the next. */
struct note {
	__u32 mark;
	__u32 number;
	__u32 oldest;
} __attribute__((packed));

struct headers {
	struct ethhdr eth;
	union {
		struct {
			struct iphdr ip;
			struct note note;
		} __attribute__((packed)) four;
		struct {
			struct ipv6hdr ip;
			struct note note;
		} __attribute__((packed)) six;
	};
} __attribute__((packed));

static __always_inline struct note *note_of(struct headers *frame)
{
	return ipv4 ? &frame->four.note : &frame->six.note;
}

static __always_inline bool is_untouched(const struct headers *frame)
{
	const __u8 *octets = (const __u8 *)frame;

#pragma unroll
	for (int i = 0; i < 12; i++)
		if (octets[i] != frame_macs[i])
			return false;
	return (ipv4 ? frame->four.ip.ttl : frame->six.ip.hop_limit) == TTL;
}

static __always_inline bool is_right_mac(const __u8 *mac, __u8 kind, __u32 number, __u32 oldest, __u32 newest)
{
	__u32 epoch = mac[3] << 16 | mac[4] << 8 | mac[5];

	return mac[0] == kind && (__u32)(mac[1] << 8 | mac[2]) == number && epoch >= oldest && epoch <= newest;
}

static __always_inline bool is_egress_mac(const __u8 *mac)
{
#pragma unroll
	for (int i = 0; i < 6; i++)
		if (mac[i] != egress_mac[i])
			return false;
	return true;
}

static __always_inline bool is_right(const struct headers *frame, __u32 number, __u32 oldest, __u32 newest)
{
	const __u8 *octets = (const __u8 *)frame;

	if ((ipv4 ? frame->four.ip.ttl : frame->six.ip.hop_limit) != TTL - 1)
		return false;
	if (!is_right_mac(octets, KIND_DESTINATION, number, oldest, newest))
		return false;
	return egress_mac[0] ? is_egress_mac(octets + 6) : is_right_mac(octets + 6, KIND_SOURCE, number, oldest, newest);
}

/* Judge what the pipeline made of the packet before this one. */
static __always_inline void judge(const struct headers *frame, const struct note *note)
{
	__u32 zero = 0, number = note->number;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);
	struct window *window = bpf_map_lookup_elem(&windows, &number);

	if (note->mark != MARK || !tally || !window)
		return;
	__u32 newest = *(volatile __u32 *)&window->newest;

	if (is_untouched(frame)) {
		tally->passed++;
	} else if (is_right(frame, number, note->oldest, newest)) {
		tally->forwarded++;
	} else {
		tally->wrong++;
		tally->number = number;
		tally->oldest = note->oldest;
		tally->newest = newest;
		__builtin_memcpy(tally->macs, frame, 12);
	}
}

static __always_inline void write_ipv4(void *header, const struct target *target)
{
	__u16 words[10] = { bpf_htons(0x4500), bpf_htons(sizeof(struct headers) - sizeof(struct ethhdr)), 0, 0,
			    bpf_htons(TTL << 8 | PROTOCOL), 0, bpf_htons(0x0a00), bpf_htons(0x0102) };
	__u32 sum = 0;

	__builtin_memcpy(&words[8], target->address, 4);
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	words[5] = ~((sum & 0xffff) + (sum >> 16));
	__builtin_memcpy(header, words, sizeof(words));
}

static __always_inline struct ipv6hdr ipv6_header(const struct target *target)
{
	struct ipv6hdr ip = { .version = 6, .hop_limit = TTL, .nexthdr = PROTOCOL };

	ip.payload_len = bpf_htons(sizeof(struct note));
	ip.saddr.in6_u.u6_addr32[0] = bpf_htonl(0x20010db8);
	ip.saddr.in6_u.u6_addr32[3] = bpf_htonl(2);
	__builtin_memcpy(&ip.daddr, target->address, 16);
	return ip;
}

SEC("xdp.frags")
int drive(struct xdp_md *ctx)
{
	struct headers *frame = (void *)(long)ctx->data;
	__u32 number = bpf_get_prandom_u32() % target_count;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	struct note *note = note_of(frame);
	struct target *target = bpf_map_lookup_elem(&targets, &number);
	struct window *window = bpf_map_lookup_elem(&windows, &number);

	if (!target || !window)
		return XDP_ABORTED;
	judge(frame, note);
#pragma unroll
	for (int i = 0; i < 12; i++)
		((__u8 *)frame)[i] = frame_macs[i]; /* one by one: a copy as a whole would be of what clang saw here */
	frame->eth.h_proto = ipv4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (ipv4)
		write_ipv4((void *)frame + sizeof(struct ethhdr), target);
	else
		frame->six.ip = ipv6_header(target);
	note->mark = MARK;
	note->number = number;
	note->oldest = *(volatile __u32 *)&window->oldest;
	bpf_tail_call(ctx, &pipeline, 0);
	return XDP_ABORTED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
