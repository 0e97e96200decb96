/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lwt_seg6local: a segment of ours (End.BPF): the kernel moves to the next segment, and we write the packet's tag */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <linux/seg6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct segment_counts {
	__u64 packets;
	__u64 octets;
	/* as the last packet had them when it came here */
	__u32 segments_left;
	__u32 tag;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct segment_counts);
} segment_counts SEC(".maps");

/* --set tag=NUMBER */
const volatile __u16 tag;

SEC("lwt_seg6local")
int end_bpf(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct segment_counts *counts;
	struct ipv6hdr *ip = data;
	struct ipv6_sr_hdr *srh = (void *)(ip + 1);
	__be16 written = bpf_htons(tag);
	__u32 zero = 0;

	/* the kernel has looked at the headers already, but the verifier has not */
	if ((void *)(srh + 1) > data_end || ip->nexthdr != IPPROTO_ROUTING)
		return BPF_DROP;
	counts = bpf_map_lookup_elem(&segment_counts, &zero);
	if (!counts)
		return BPF_DROP;
	__sync_fetch_and_add(&counts->packets, 1);
	__sync_fetch_and_add(&counts->octets, skb->len);
	counts->segments_left = srh->segments_left;
	counts->tag = bpf_ntohs(srh->tag);

	/* flags, tag and TLVs of the header may be written, and nothing else */
	if (bpf_lwt_seg6_store_bytes(skb, (void *)&srh->tag - data, &written, sizeof(written)))
		return BPF_DROP;
	return BPF_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
