/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lwt_in_gateway: a gateway pushes GUE on what it received, before it forwards it; the same at xmit, to compare */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __be32 ip4_t;

#define GUE_PORT 6080

/* Generic UDP Encapsulation, version 0, no options */
struct gue {
	__u8 version_and_length;
	__u8 protocol;
	__be16 flags;
};

struct outer {
	struct iphdr ip;
	struct udphdr udp;
	struct gue gue;
};

struct pushed {
	__u64 packets;
	__u64 octets;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pushed);
} gue_pushed SEC(".maps");

/* --set local=ADDRESS --set remote=ADDRESS */
const volatile ip4_t local;
const volatile ip4_t remote;

static __always_inline int push(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	__u16 length = skb->len + sizeof(struct outer);
	struct iphdr *ip = data;
	struct pushed *pushed;
	__u32 zero = 0;

	if ((void *)(ip + 1) > data_end || skb->protocol != bpf_htons(ETH_P_IP))
		return BPF_DROP;
	/* a remote end behind this very route: its outer packets come here too, and must not be pushed on again */
	if (ip->daddr == remote)
		return BPF_OK;

	/* another source port for another flow, so that routers and receivers spread the flows */
	struct outer outer = {
		.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .frag_off = bpf_htons(0x4000),
			.tot_len = bpf_htons(length), .saddr = local, .daddr = remote },
		.udp = { .source = bpf_htons(0xc000 | bpf_get_hash_recalc(skb) >> 18), .dest = bpf_htons(GUE_PORT),
			 .len = bpf_htons(length - sizeof(struct iphdr)) },
		.gue = { .protocol = IPPROTO_IPIP },
	};

	if (bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer)))
		return BPF_DROP;
	pushed = bpf_map_lookup_elem(&gue_pushed, &zero);
	if (pushed) {
		pushed->packets++;
		pushed->octets += skb->len;
	}
	return BPF_LWT_REROUTE;
}

SEC("lwt_in")
int push_in(struct __sk_buff *skb)
{
	return push(skb);
}

SEC("lwt_xmit")
int push_xmit(struct __sk_buff *skb)
{
	return push(skb);
}

char _license[] SEC("license") = "Dual BSD/GPL";
