/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lwt_look: a program at each of a route's three hooks, counting what it is shown */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __be32 ip4_t;

struct seen {
	__u64 packets;
	__u64 octets;
	/* of the last packet: the device, and the first thing the hook sees, which is the IP header in each of them */
	__u32 device;
	__u32 ttl;
	ip4_t source;
	ip4_t destination;
};

struct seen_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
};
struct seen_map seen_in SEC(".maps"), seen_out SEC(".maps"), seen_xmit SEC(".maps");

static __always_inline int look(struct __sk_buff *skb, void *map)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct iphdr *ip = data;
	struct seen *seen;
	__u32 key = 0;

	seen = bpf_map_lookup_elem(map, &key);
	if (!seen)
		return BPF_OK;
	__sync_fetch_and_add(&seen->packets, 1);
	__sync_fetch_and_add(&seen->octets, skb->len);
	if ((void *)(ip + 1) > data_end || skb->protocol != bpf_htons(ETH_P_IP))
		return BPF_OK;
	seen->device = skb->ifindex;
	seen->ttl = ip->ttl;
	seen->source = ip->saddr;
	seen->destination = ip->daddr;
	return BPF_OK;
}

/* a packet that came in, before it is forwarded */
SEC("lwt_in")
int look_in(struct __sk_buff *skb)
{
	return look(skb, &seen_in);
}

/* any packet, when the way is known; may still be refused */
SEC("lwt_out")
int look_out(struct __sk_buff *skb)
{
	return look(skb, &seen_out);
}

/* any packet, just before the neighbour's MAC is written in front; here it may be changed, too */
SEC("lwt_xmit")
int look_xmit(struct __sk_buff *skb)
{
	return look(skb, &seen_xmit);
}

char _license[] SEC("license") = "Dual BSD/GPL";
