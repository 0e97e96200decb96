/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* redirect: the way out and the MAC addresses are in maps, and change while packets flow */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

typedef __u8 mac_t[6];

/* Devices to leave by. The kernel knows this kind of map: it collects packets and sends them in bulk. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

/* who sent it → who gets it */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, mac_t);
	__type(value, mac_t);
} macs SEC(".maps");

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	__u8 *receiver;

	if ((void *)(ethernet + 1) > data_end || ethernet->h_dest[0] & 1)
		return XDP_PASS;
	receiver = bpf_map_lookup_elem(&macs, ethernet->h_source);
	if (!receiver)
		return XDP_PASS;
	__builtin_memcpy(ethernet->h_dest, receiver, ETH_ALEN);
	/* where the map has no device under this key, the verdict is that of the last argument */
	return bpf_redirect_map(&ports, 0, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
