/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lwt_redirect: out of another device than the route says, with an Ethernet header and without */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

typedef __u8 mac_t[6];

struct redirected {
	__u64 packets;
	__u64 failed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct redirected);
} redirected SEC(".maps");

/* --set port=NUMBER of a device; --set source=MAC --set destination=MAC, where it is one with Ethernet headers */
const volatile __u32 port;
const volatile mac_t source;
const volatile mac_t destination;

static __always_inline void count(int failed)
{
	__u32 zero = 0;
	struct redirected *counts = bpf_map_lookup_elem(&redirected, &zero);

	if (!counts)
		return;
	counts->packets++;
	counts->failed += failed;
}

/* The packet begins with its IP header. A device without headers (tun, wireguard) sends it so; Ethernet cannot. */
SEC("lwt_xmit")
int redirect_bare(struct __sk_buff *skb)
{
	count(0);
	return bpf_redirect(port, 0);
}

SEC("lwt_xmit")
int redirect_ethernet(struct __sk_buff *skb)
{
	struct ethhdr ethernet = { .h_proto = skb->protocol };

	for (int i = 0; i < ETH_ALEN; i++) {
		ethernet.h_source[i] = source[i];
		ethernet.h_dest[i] = destination[i];
	}
	if (bpf_skb_change_head(skb, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0)) {
		count(1);
		return BPF_DROP;
	}
	count(0);
	return bpf_redirect(port, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
