// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The XDP pipeline: parse → forward → verdict. One program does all XDP work of an interface. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lib/layout.h"
#include "lib/config.h"
#include "lib/maps.h"
#include "lib/trace.h"
#include "lib/parse.h"
#include "lib/forward.h"
#include "lib/verdict.h"

SEC("xdp.frags")
int hopline_xdp(struct xdp_md *ctx)
{
	__u32 slot = interface_slot;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);
	struct packet packet = {};
	enum verdict verdict;

	trace_begin();
	verdict = parse(ctx, ingress, &packet);
	if (verdict == CONTINUE && packet.tags)
		verdict = PASS_VLAN;
	if (verdict == CONTINUE)
		verdict = forward(ctx, ingress, &packet);
	return leave(ctx, verdict, &packet);
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
