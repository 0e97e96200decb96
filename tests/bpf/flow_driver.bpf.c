// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The driver of the attack on the flow table: run by TEST_RUN with repeat, it sees to which backend the pipeline sent
 * the packet before, takes off the outer header, writes the next segment of one of its connections, and tail-calls the
 * pipeline. Each CPU has clients of its own, so that a connection's segments come one after another.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define CLIENTS 256
#define SEGMENTS 6 /* of a connection: SYN, data, FIN */
#define NOBODY 0xff

struct connection {
	__u32 segment; /* the one that comes next */
	__u32 began; /* backend that got the SYN */
	__u32 stays; /* backend that got the first segment after it */
	__u32 port; /* the client's */
};

struct tally {
	__u64 segments;
	__u64 connections;
	__u64 evicted; /* entries of a SYN that gave way: the connection is where it would be without the table */
	__u64 wrong;
	__u32 current; /* client whose packet is in the pipeline, one more: 0 is none */
	__u32 began, stays, got, segment; /* of the last that was wrong */
	__u32 spare;
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} pipeline SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CLIENTS);
	__type(key, __u32);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

const volatile __u32 clients = 1;
const volatile __u32 before = 0; /* the backend that a flow which nothing remembers goes to */
const volatile __u32 vip = 0; /* in the packet's order */
const volatile __u64 frame_macs[2] = {}; /* 12 octets */

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

/* The segments after the SYN all go to one backend: where the SYN went, or to `before`. */
static __always_inline void judge(struct tally *tally, struct connection *connection, __u32 got)
{
	__u32 segment = connection->segment;

	tally->segments++;
	if (segment == 0) {
		connection->began = got;
	} else if (segment == 1) {
		connection->stays = got;
		tally->evicted += got != connection->began;
	}
	if ((segment == 1 && got != connection->began && got != before) || (segment > 1 && got != connection->stays)) {
		tally->wrong++;
		tally->began = connection->began;
		tally->stays = connection->stays;
		tally->segment = segment;
		tally->got = got;
	}
	connection->segment = segment + 1;
	if (connection->segment == SEGMENTS) {
		connection->segment = 0;
		connection->port++;
		tally->connections++;
	}
}

static __always_inline void write_segment(struct headers *frame, __u32 client, const struct connection *connection)
{
	__u32 sum = 0;

	__builtin_memset(frame, 0, sizeof(*frame));
	*(__u64 *)frame = frame_macs[0];
	*(__u32 *)((void *)frame + 8) = frame_macs[1];
	frame->eth.h_proto = bpf_htons(ETH_P_IP);
	frame->ip.version = 4;
	frame->ip.ihl = 5;
	frame->ip.ttl = 64;
	frame->ip.protocol = IPPROTO_TCP;
	frame->ip.tot_len = bpf_htons(sizeof(frame->ip) + sizeof(frame->tcp));
	frame->ip.saddr = bpf_htonl(0x64400000 | bpf_get_smp_processor_id() << 8 | client);
	frame->ip.daddr = vip;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += ((__u16 *)&frame->ip)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	frame->ip.check = ~((sum & 0xffff) + (sum >> 16));
	frame->tcp.source = bpf_htons(1024 + (connection->port & 0xfff));
	frame->tcp.dest = bpf_htons(80);
	frame->tcp.doff = 5;
	frame->tcp.syn = connection->segment == 0;
	frame->tcp.ack = connection->segment != 0;
	frame->tcp.fin = connection->segment == SEGMENTS - 1;
}

SEC("xdp.frags")
int drive(struct xdp_md *ctx)
{
	__u32 zero = 0, client;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);
	struct headers *frame = (void *)(long)ctx->data;
	struct connection *connection;

	if (!tally || (void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (frame->ip.protocol == IPPROTO_IPIP) {
		client = tally->current - 1;
		connection = bpf_map_lookup_elem(&connections, &client);
		if (connection && tally->current)
			judge(tally, connection, frame->eth.h_dest[5]);
		if (bpf_xdp_adjust_head(ctx, sizeof(struct iphdr)))
			return XDP_ABORTED;
	}
	client = bpf_get_prandom_u32() % clients;
	connection = bpf_map_lookup_elem(&connections, &client);
	frame = (void *)(long)ctx->data;
	if (!connection || (void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	tally->current = client + 1;
	write_segment(frame, client, connection);
	bpf_tail_call(ctx, &pipeline, 0);
	return XDP_ABORTED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
