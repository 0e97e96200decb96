/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* actions: what a program returns is what becomes of the packet. Three programs in one file. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	/* the kernel goes on as if there were no program */
	return XDP_PASS;
}

SEC("xdp")
int xdp_drop(struct xdp_md *ctx)
{
	/* nobody behind this sees the packet: not tcpdump, not netfilter, no socket */
	return XDP_DROP;
}

SEC("xdp")
int xdp_abort(struct xdp_md *ctx)
{
	/* dropped as well, and told: the tracepoint xdp:xdp_exception fires, for a program that met an error */
	return XDP_ABORTED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
