// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The XDP pipeline: parse → decap → balance → forward → verdict. One program does all XDP work of an interface. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lib/layout.h"
#include "lib/config.h"
#include "lib/maps.h"
#include "lib/trace.h"
#include "lib/parse.h"
#include "lib/decap.h"
#include "lib/balance.h"
#include "lib/forward.h"
#include "lib/verdict.h"

/* Steps before forward: the verdict and, in the upper half, the length of the frame as it came. */
static __always_inline __u64 claim_packet(struct xdp_md *ctx)
{
	__u64 claimed = decapsulating ? decapsulate(ctx) : CONTINUE;

	return balancing && (__u32)claimed == CONTINUE ? balance(ctx) : claimed;
}

SEC("xdp.frags")
int hopline_xdp(struct xdp_md *ctx)
{
	__u32 slot = interface_slot, adjacency = ADJACENCY_ID_NONE;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);
	struct packet packet = {};
	enum verdict verdict;

	/* they parse for themselves: what clang would keep at hand for them would cost forward, whether they are on or off */
	if (early) {
		__u64 claimed;

		trace_begin(ctx);
		claimed = claim_packet(ctx);
		if ((__u32)claimed != CONTINUE)
			return leave(ctx, slot, claimed, claimed >> 32, ADJACENCY_ID_NONE);
	}
	/* the step is expanded for each family, so that clang keeps the packet in registers and asks nothing twice */
	if (parse_ethernet(ctx, ingress, &packet) && packet.ethertype == bpf_htons(ETH_P_IP)) {
		verdict = parse_ipv4(ctx, sizeof(struct ethernet_header), &packet);
		if (verdict == CONTINUE)
			verdict = forward(ctx, ingress, &packet, &adjacency);
	} else if (packet.ethertype == bpf_htons(ETH_P_IPV6)) {
		verdict = parse_ipv6(ctx, sizeof(struct ethernet_header), &packet);
		if (verdict == CONTINUE)
			verdict = forward(ctx, ingress, &packet, &adjacency);
	} else {
		verdict = parse_other(ctx, ingress);
	}
	return leave(ctx, slot, verdict, packet.length, adjacency);
}

/*
 * The lease: run by the daemon with TEST_RUN, since user space cannot read jiffies and they are the only clock
 * that costs a packet nothing. A daemon that is gone no longer moves the deadline.
 */
SEC("xdp")
int extend_lease(struct xdp_md *ctx __attribute__((unused)))
{
	__u32 zero = 0;
	struct state *s = bpf_map_lookup_elem(&state, &zero);

	if (s) {
		s->jiffies = bpf_jiffies64();
		*(volatile __u64 *)&s->lease_deadline = s->jiffies + s->lease_jiffies;
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
