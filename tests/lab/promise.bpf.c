// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Flows of a service, a hundred thousand in a call of TEST_RUN: it looks at the packet that the pipeline left in the
 * buffer the last time, writes down which backend it went to, makes it the next flow's and tail-calls the pipeline. See
 * promised.py.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FLOWS (1 << 18)
#define NONE 0xffffffff
#define SKIPS 64 /* flows that one call passes over */
#define PORT_BITS 4
#define FIRST_PORT 49152
#define FIRST_CLIENT 0x0b000000
#define TTL 64

const volatile __u64 ethernet[2]; /* as received, 14 octets */
const volatile __u32 checksum; /* of the IPv4 header without source and check, not folded */

struct flow {
	__u32 backend; /* the outer destination, as it lies in the packet; 0: the packet was not balanced */
	__u32 silent; /* it sends nothing now */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct walk {
	__u32 next;
	__u32 end;
	__u32 sent; /* the flow whose packet is in the buffer */
	__u32 running;
	__u32 flags; /* of TCP */
	__u32 flood; /* flows of nobody, from FLOWS on: nothing is written down of them */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} pipeline SEC(".maps");

#define OCTETS (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr) + 6)

static __always_inline void write_down(struct xdp_md *ctx, struct walk *walk)
{
	struct iphdr *outer = (void *)(long)ctx->data + ETH_HLEN;
	__u32 sent = walk->sent;
	struct flow *flow = bpf_map_lookup_elem(&flows, &sent);
	long length = (void *)(long)ctx->data_end - (void *)(long)ctx->data;

	asm volatile("" : "+r"(length));
	if (!walk->running || (void *)(outer + 1) > (void *)(long)ctx->data_end)
		return;
	if (flow)
		flow->backend = length == OCTETS + sizeof(*outer) ? outer->daddr : 0;
	bpf_xdp_adjust_head(ctx, length - OCTETS);
}

/* The next flow that sends; NONE where there is none, or none near. */
static __always_inline __u32 find_next(struct walk *walk)
{
	if (walk->flood && walk->next < walk->end)
		return FLOWS + walk->next++;
	for (int i = 0; i < SKIPS && walk->next < walk->end; i++) {
		__u32 at = walk->next++;
		struct flow *flow = bpf_map_lookup_elem(&flows, &at);

		if (flow && !flow->silent)
			return at;
	}
	return NONE;
}

SEC("xdp.frags")
int walk_flows(struct xdp_md *ctx)
{
	__u32 zero = 0, at;
	struct walk *walk = bpf_map_lookup_elem(&walks, &zero);

	if (!walk)
		return XDP_ABORTED;
	write_down(ctx, walk);
	at = find_next(walk);
	walk->running = at != NONE;
	walk->sent = at;
	void *frame = (void *)(long)ctx->data;
	struct iphdr *ip = frame + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);

	if (!walk->running || (void *)(tcp + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__be32 client = bpf_htonl(FIRST_CLIENT + (at >> PORT_BITS));
	__u32 sum = checksum + (client & 0xffff) + (client >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
	*(__u64 *)frame = ethernet[0];
	*(__u32 *)(frame + 8) = ethernet[1];
	*(__u16 *)(frame + 12) = ethernet[1] >> 32;
	*(__u32 *)&ip->ttl = sum << 16 | IPPROTO_TCP << 8 | TTL;
	ip->saddr = client;
	tcp->source = bpf_htons(FIRST_PORT + (at & ((1 << PORT_BITS) - 1)));
	*((__u8 *)tcp + 13) = walk->flags;
	bpf_tail_call(ctx, &pipeline, 0);
	return XDP_ABORTED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
