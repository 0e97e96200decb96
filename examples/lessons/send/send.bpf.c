/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* send: what comes in here leaves by another device, with other MAC addresses */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __u8 mac_t[6];

/* constants of the loaded program, set by `--set`: the device to leave by, its address, and the receiver's */
const volatile __u32 device = 0;
const volatile mac_t source = {};
const volatile mac_t destination = {};

SEC("xdp")
int send(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;

	if ((void *)(ethernet + 1) > data_end)
		return XDP_PASS;
	/* ARP and neighbour discovery stay here, or nobody would find us */
	if (ethernet->h_proto != bpf_htons(ETH_P_IP) && ethernet->h_proto != bpf_htons(ETH_P_IPV6))
		return XDP_PASS;
	if (ethernet->h_dest[0] & 1)
		return XDP_PASS;
	/* octet by octet, for they are volatile */
	for (int i = 0; i < ETH_ALEN; i++) {
		ethernet->h_source[i] = source[i];
		ethernet->h_dest[i] = destination[i];
	}
	/* the verdict is XDP_REDIRECT; a device that is not there is found out later, and drops */
	return bpf_redirect(device, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
