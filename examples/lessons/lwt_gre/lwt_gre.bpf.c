/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lwt_gre: one route, and a map that says which tunnel endpoint each prefix behind it belongs to */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __be32 ip4_t;

/* RFC 2784, without checksum */
struct gre {
	__be16 flags;
	__be16 protocol;
};

struct outer {
	struct iphdr ip;
	struct gre gre;
};

struct prefix {
	__u32 length;
	ip4_t address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, ip4_t);
} endpoints SEC(".maps");

struct gre_counts {
	__u64 pushed;
	__u64 no_endpoint;
	__u64 failed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gre_counts);
} gre_counts SEC(".maps");

/* --set local=ADDRESS: this end of every tunnel */
const volatile ip4_t local;

SEC("lwt_xmit")
int push_gre(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct prefix prefix = { .length = 32 };
	struct gre_counts *counts;
	struct iphdr *ip = data;
	__u32 zero = 0;
	ip4_t *remote;

	counts = bpf_map_lookup_elem(&gre_counts, &zero);
	if (!counts || (void *)(ip + 1) > data_end || skb->protocol != bpf_htons(ETH_P_IP))
		return BPF_DROP;
	/* an endpoint behind this very route: its outer packets come here too, and must not be pushed on again */
	if (ip->saddr == local && ip->protocol == IPPROTO_GRE)
		return BPF_OK;
	prefix.address = ip->daddr;
	remote = bpf_map_lookup_elem(&endpoints, &prefix);
	if (!remote) {
		counts->no_endpoint++;
		return BPF_DROP;
	}

	/* the kernel writes the checksum of an outer IPv4 header that has none, and nothing else of it */
	struct outer outer = {
		.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_GRE, .frag_off = bpf_htons(0x4000),
			.tot_len = bpf_htons(skb->len + sizeof(outer)), .saddr = local, .daddr = *remote },
		.gre = { .protocol = skb->protocol },
	};

	if (bpf_lwt_push_encap(skb, BPF_LWT_ENCAP_IP, &outer, sizeof(outer))) {
		counts->failed++;
		return BPF_DROP;
	}
	counts->pushed++;
	/* the packet has another destination now, so its route is looked up anew */
	return BPF_LWT_REROUTE;
}

char _license[] SEC("license") = "Dual BSD/GPL";
