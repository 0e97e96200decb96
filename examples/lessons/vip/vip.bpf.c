/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* vip: a virtual address whose packets go to a server through one static IPIP tunnel, and the tunnel's far end */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4_DO_NOT_FRAGMENT 0x4000
#define IPV4_MORE_FRAGMENTS_AND_OFFSET 0x3fff

typedef __be32 ip4_t;
typedef __u8 mac_t[6];

/* what a client asks for; where the protocol has no ports, port is 0 */
struct vip {
	ip4_t address;
	__be16 port;
	__u8 protocol;
	__u8 reserved;
};

/* where it is served: the outer header's addresses, and how to get there */
struct tunnel {
	ip4_t source;
	ip4_t destination;
	__u32 device; /* 0: back out of the device it came in by */
	mac_t source_mac;
	mac_t destination_mac;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct vip);
	__type(value, struct tunnel);
} vips SEC(".maps");

/* packets sent into the tunnel, by the protocol's number */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} protocols SEC(".maps");

static __always_inline __sum16 checksum(struct iphdr *ip)
{
	__u32 sum = bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* What the packet asks for; a later fragment has no ports, so one in fragments asks for nothing. */
static __always_inline int asked(struct iphdr *ip, void *data_end, struct vip *vip)
{
	__be16 *ports = (void *)(ip + 1);

	if (ip->ihl != 5 || ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS_AND_OFFSET))
		return 0;
	vip->address = ip->daddr;
	vip->protocol = ip->protocol;
	if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
		if ((void *)(ports + 2) > data_end)
			return 0;
		vip->port = ports[1];
	}
	return 1;
}

SEC("xdp")
int vip(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1), outer = {};
	struct vip wanted = {};
	struct tunnel *tunnel;
	__u64 *packets;
	__u32 protocol;

	if ((void *)(ip + 1) > data_end || ethernet->h_proto != bpf_htons(ETH_P_IP) || !asked(ip, data_end, &wanted))
		return XDP_PASS;
	tunnel = bpf_map_lookup_elem(&vips, &wanted);
	if (!tunnel)
		return XDP_PASS;
	outer.version = 4;
	outer.ihl = 5;
	outer.tos = ip->tos;
	outer.tot_len = bpf_htons(bpf_ntohs(ip->tot_len) + sizeof(outer));
	/* two packets of one id are one to who puts fragments together: so there are none on the way (RFC 6864) */
	outer.frag_off = bpf_htons(IPV4_DO_NOT_FRAGMENT);
	outer.ttl = IPDEFTTL;
	outer.protocol = IPPROTO_IPIP;
	outer.saddr = tunnel->source;
	outer.daddr = tunnel->destination;
	outer.check = checksum(&outer);
	/* room for one more IP header; every pointer into the packet is void from here on */
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(outer)))
		return XDP_DROP;
	ethernet = (void *)(long)ctx->data;
	ip = (void *)(ethernet + 1);
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__builtin_memcpy(ethernet->h_source, tunnel->source_mac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, tunnel->destination_mac, ETH_ALEN);
	ethernet->h_proto = bpf_htons(ETH_P_IP);
	*ip = outer;
	protocol = wanted.protocol;
	packets = bpf_map_lookup_elem(&protocols, &protocol);
	if (packets)
		++*packets;
	return tunnel->device ? bpf_redirect(tunnel->device, 0) : XDP_TX;
}

/* who may send into the tunnel, for its far end */
const volatile ip4_t peer = 0;

SEC("xdp")
int decap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data, kept;
	struct iphdr *ip = (void *)(ethernet + 1);

	if ((void *)(ip + 1) > data_end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->ihl != 5 || ip->protocol != IPPROTO_IPIP || ip->saddr != peer ||
	    ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS_AND_OFFSET))
		return XDP_PASS;
	kept = *ethernet;
	if (bpf_xdp_adjust_head(ctx, sizeof(*ip)))
		return XDP_DROP;
	ethernet = (void *)(long)ctx->data;
	if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*ethernet = kept;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
