/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The two ends of a check through the tunnel, at the traffic control hooks: out of the namespace of checks to the
 * device that leads to the backend, and from there the backend's answer back into that namespace. Neither packet meets
 * this host's own IP layer, so the VIP may be local here, and it does not matter whether the host forwards, filters by
 * the reverse path or has a firewall.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/address.h"

#define FAMILY_INET 2
#define FAMILY_INET6 10
#define CHECK_ANSWERS 16384
#define ECHO_REPLY 0 /* of ICMP, RFC 792, and of ICMPv6, RFC 4443 */
#define ECHO_REPLY6 129
#define NOT_FIRST_FRAGMENT 0x1fff

/* From where to where an answer goes; IPv4 addresses in their first word. */
struct check_answer {
	ip6_t source; /* the VIP */
	ip6_t destination; /* the address that checks have */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CHECK_ANSWERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct check_answer);
	__type(value, __u32);
} check_answers SEC(".maps");

/* the end of the pair of devices that is in this namespace */
const volatile __u32 check_device;
/* checks have this port, or identifier of echo, and those above */
const volatile __u16 check_first_port;

SEC("tc")
int hopline_check_out(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct bpf_fib_lookup ask = { .ifindex = check_device };
	struct ethhdr *eth = data;
	long answer;

	if ((void *)(eth + 1) > data_end)
		return TC_ACT_SHOT;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end)
			return TC_ACT_SHOT;
		ask.family = FAMILY_INET;
		ask.ipv4_src = ip->saddr;
		ask.ipv4_dst = ip->daddr;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end)
			return TC_ACT_SHOT;
		ask.family = FAMILY_INET6;
		__builtin_memcpy(ask.ipv6_src, &ip->saddr, sizeof(ip6_t));
		__builtin_memcpy(ask.ipv6_dst, &ip->daddr, sizeof(ip6_t));
	} else {
		return TC_ACT_SHOT;
	}
	answer = bpf_fib_lookup(skb, &ask, sizeof(ask), 0);
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	/* the kernel asks for the neighbour where it is not known yet */
	return bpf_redirect_neigh(ask.ifindex, NULL, 0, 0);
}

/* Whether the octets at an offset are a port of checks, in its place of the header of `protocol`. */
static __always_inline bool for_checks(struct __sk_buff *skb, __u32 offset, __u8 protocol)
{
	__be16 words[4]; /* TCP and UDP: source, destination; echo: type and code, checksum, identifier */
	__u16 port;

	if (bpf_skb_load_bytes(skb, offset, words, sizeof(words)))
		return false;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
		port = bpf_ntohs(words[1]);
	else if ((protocol == IPPROTO_ICMP && words[0] == bpf_htons(ECHO_REPLY << 8)) ||
		 (protocol == IPPROTO_ICMPV6 && words[0] == bpf_htons(ECHO_REPLY6 << 8)))
		port = bpf_ntohs(words[2]);
	else
		return false;
	return port >= check_first_port;
}

SEC("tc")
int hopline_check_in(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct check_answer answer = {};
	struct ethhdr *eth = data;
	__u32 offset;
	__u8 protocol;

	if ((void *)(eth + 1) > data_end)
		return TC_ACT_UNSPEC;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end || ip->ihl < 5 || ip->frag_off & bpf_htons(NOT_FIRST_FRAGMENT))
			return TC_ACT_UNSPEC;
		answer.source.words[0] = ip->saddr;
		answer.destination.words[0] = ip->daddr;
		offset = sizeof(*eth) + ip->ihl * 4;
		protocol = ip->protocol;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end)
			return TC_ACT_UNSPEC;
		__builtin_memcpy(&answer.source, &ip->saddr, sizeof(ip6_t));
		__builtin_memcpy(&answer.destination, &ip->daddr, sizeof(ip6_t));
		offset = sizeof(*eth) + sizeof(*ip);
		protocol = ip->nexthdr;
	} else {
		return TC_ACT_UNSPEC;
	}
	/* the port first: the look-up costs what few other packets are to pay */
	if (!for_checks(skb, offset, protocol) || !bpf_map_lookup_elem(&check_answers, &answer))
		return TC_ACT_UNSPEC;
	return bpf_redirect_peer(check_device, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
