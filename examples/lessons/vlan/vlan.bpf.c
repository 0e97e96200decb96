/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* vlan: a packet's head moves. `pop` takes the outer VLAN tag off, `push` puts one in. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ADDRESSES (2 * ETH_ALEN)
#define TAG 4

/* the tag that `push` puts in */
const volatile __u16 vlan_id = 7;

/* An Ethernet header with a VLAN tag in it (IEEE 802.1Q). */
struct tagged {
	__u8 addresses[ADDRESSES];
	__be16 tpid;
	__be16 tci;
	__be16 ethertype;
};

SEC("xdp")
int pop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct tagged *frame = data;
	__u8 addresses[ADDRESSES];

	if ((void *)(frame + 1) > data_end)
		return XDP_PASS;
	if (frame->tpid != bpf_htons(ETH_P_8021Q) && frame->tpid != bpf_htons(ETH_P_8021AD))
		return XDP_PASS;
	/* the tag's own type stays where it is: only the addresses move up to it */
	__builtin_memcpy(addresses, frame->addresses, ADDRESSES);
	__builtin_memcpy(data + TAG, addresses, ADDRESSES);
	return bpf_xdp_adjust_head(ctx, TAG) ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp")
int push(struct xdp_md *ctx)
{
	__u8 addresses[ADDRESSES];
	struct tagged *frame;

	/* room in front of the packet; every pointer into it is void from here on */
	if (bpf_xdp_adjust_head(ctx, -TAG))
		return XDP_ABORTED;
	frame = (void *)(long)ctx->data;
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(addresses, (void *)frame + TAG, ADDRESSES);
	__builtin_memcpy(frame->addresses, addresses, ADDRESSES);
	frame->tpid = bpf_htons(ETH_P_8021Q);
	/* twelve bits of identifier; priority and drop eligibility, the upper four, are 0 */
	frame->tci = bpf_htons(vlan_id & 0x0fff);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
