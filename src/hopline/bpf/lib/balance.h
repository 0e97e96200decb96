/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * balance: which backend takes this flow, in which outer header. What is for no service goes on to the next step. A
 * packet that is plain takes a way of its own; one with options, a fragment, or ICMP another, which parses it whole.
 */
#pragma once

#include <stddef.h>
#include <linux/tcp.h>

#include "answer.h"
#include "config.h"
#include "deliver.h"
#include "judge.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"
#include "quoted.h"
#include "service.h"
#include "trace.h"

#define TCP_FLAGS 13 /* offset in the TCP header */

static __always_inline bool may_be_fragmented(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethernet_header);

	return (void *)(ip + 1) <= data_end && !(ip->frag_off & bpf_htons(IPV4_DONT_FRAGMENT));
}

/*
 * What a packet that a service takes and that cannot go on is answered with: CONTINUE where no hop is left and no answer
 * may be given. IPv4 may have allowed fragments; these are not made.
 */
__noinline int report(struct xdp_md *ctx, __u32 outcome)
{
	__u32 slot = interface_slot, mtu = outcome >> OUTCOME_SHIFT;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);
	struct packet packet;
	enum verdict verdict;

	KEEP_IN_MEMORY(packet);
	if (parse(ctx, ingress, &packet) != CONTINUE)
		return CONTINUE;
	if (mtu && packet.family == 4 && may_be_fragmented(ctx))
		return DROP_TOO_BIG;
	if (packet.family == 4)
		parse_l4_ipv4(ctx, &packet);
	else
		parse_extension_headers(ctx, packet.l3_offset + sizeof(struct ipv6hdr), &packet);
	verdict = answer_error(ctx, &packet, mtu);
	return verdict == CONTINUE && mtu ? DROP_TOO_BIG : verdict;
}

/* The flow of a service, by the client and the ports, from here on as `struct flow` has it. */
static __always_inline __u64 hash_of(const struct service *service, bool ipv6, const ip6_t *client, __u32 ports)
{
	__u32 which = service->flags & SERVICE_ANY_PORT ? 0 : ports;

	return ipv6 ? flow_hash6(service, client->halves[0], client->halves[1], which) :
		      flow_hash4(service, client->words[0], which);
}

/* Sources that no router forwards are left to the step that says so. */
static __always_inline bool is_unicast6(const ip6_t *source)
{
	return source->octets[0] != 0xff && !is_loopback_or_unspecified(source) &&
	       (source->words[0] & bpf_htonl(0xffc00000)) != bpf_htonl(0xfe800000);
}

static __always_inline __u32 segment_of(const struct packet *packet, __u8 protocol)
{
	return (packet->family == 6 ? SEGMENT_IPV6 : 0) | (protocol == IPPROTO_UDP ? SEGMENT_UDP : 0) |
	       (packet->flags & PACKET_SEVERAL_BUFFERS ? SEGMENT_SEVERAL_BUFFERS : 0);
}

/* A plain packet: TCP or UDP right behind the IP header, all of it in the first buffer. */
static __always_inline __u32 balance_plain(struct xdp_md *ctx, __u32 mixed, const struct packet *packet, void *l4)
{
	/* the addresses are read where they lie: the stack is short */
	const ip6_t *to = l4 - sizeof(ip6_t), *client = to - 1;
	bool ipv6 = packet->family == 6, udp = packet->protocol == IPPROTO_UDP;
	__u32 vip_row, row, ports = *(__u32 *)l4;
	struct vip *vip = ipv6 ? find_vip(mixed, 6, to->halves[0], to->halves[1], &vip_row) :
				 find_vip(mixed, 4, packet->destination.words[0], 0, &vip_row);
	struct flow flow = {
		.length = packet->length,
		.l3_length = packet->l3_length,
		.tos = packet->tos,
		.ttl = packet->ttl,
		.segment = segment_of(packet, packet->protocol),
	};

	if (!vip)
		return CONTINUE;
	row = flow.row = service_of(vip, udp, bpf_ntohs(ports >> 16));
	struct service *service = bpf_map_lookup_elem(&services, &row);

	note_service(vip_row, row, false);
	if (!service || !flow.row)
		return CONTINUE;
	flow.hash = hash_of(service, ipv6, ipv6 ? client : &packet->source, ports);
	if (!udp)
		flow.segment |= *(__u8 *)(l4 + TCP_FLAGS) & SEGMENT_TCP_FLAGS;
	return serve(ctx, service, &flow);
}

static __always_inline bool is_plain_l4(__u8 protocol, __u32 l4_length)
{
	if (protocol == IPPROTO_TCP)
		return l4_length >= sizeof(struct tcphdr);
	return protocol == IPPROTO_UDP && l4_length >= sizeof(struct udphdr);
}

/*
 * Both are asked for every packet, so they begin with the one question that nearly all of what is for no service is
 * asked; only behind it the packet is parsed. They return the outcome and, in the upper half, the length of the frame.
 */
__noinline __u64 balance4(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethernet_header);
	void *l4 = ip + 1;
	__u32 zero = 0, slot = interface_slot, mixed;
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	struct packet packet = {};

	if (!s || l4 > data_end)
		return CONTINUE;
	mixed = mix4(s, ip->daddr);
	if (!may_be_vip(s, mixed))
		return CONTINUE;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);

	if (!ingress || judge_ethernet(ctx, ingress) != CONTINUE || !parse_ethernet(ctx, ingress, &packet) ||
	    parse_ipv4(ctx, sizeof(struct ethernet_header), &packet) != CONTINUE || !is_plain(packet.source.octets[0]))
		return CONTINUE;
	if (packet.flags & (PACKET_FRAGMENT | PACKET_OPTIONS) || l4 + sizeof(struct tcphdr) > data_end ||
	    !is_plain_l4(packet.protocol, packet.l3_length - sizeof(*ip)))
		return OUTCOME_RARE | (__u64)packet.length << 32;
	return balance_plain(ctx, mixed, &packet, l4) | (__u64)packet.length << 32;
}

__noinline __u64 balance6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + sizeof(struct ethernet_header);
	void *l4 = ip + 1;
	__u32 zero = 0, slot = interface_slot, mixed;
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	struct packet packet = {};

	if (!s || l4 > data_end)
		return CONTINUE;
	mixed = mix6(s, (ip6_t *)&ip->daddr);
	if (!may_be_vip(s, mixed))
		return CONTINUE;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);

	if (!ingress || judge_ethernet(ctx, ingress) != CONTINUE || !parse_ethernet(ctx, ingress, &packet) ||
	    parse_ipv6(ctx, sizeof(struct ethernet_header), &packet) != CONTINUE || !is_unicast6(&packet.source))
		return CONTINUE;
	if (l4 + sizeof(struct tcphdr) > data_end || !is_plain_l4(packet.protocol, packet.l3_length - sizeof(*ip)))
		return OUTCOME_RARE | (__u64)packet.length << 32;
	return balance_plain(ctx, mixed, &packet, l4) | (__u64)packet.length << 32;
}

/*
 * A packet that is not plain and that a service takes: the service's row << 48 | offset of the client's address << 32 |
 * offset of the ports << 16 | segment. An offset of the ports of 0 says that the flow has none. A verdict where the row
 * is 0.
 */
static __always_inline __u64 rare(__u32 service, __u32 client, __u32 ports, __u32 segment)
{
	return (__u64)service << 48 | (__u64)client << 32 | ports << 16 | segment;
}

static __always_inline bool read_at(void *data, void *data_end, __u32 offset, void *to, __u32 size)
{
	if (offset > DEEPEST_HEADER || data + offset + size > data_end)
		return false;
	__builtin_memcpy(to, data + offset, size);
	return true;
}

/* What balance_rare() found. The flow that an ICMP error quotes has its ports the other way round. */
__noinline __u32 serve_rare(struct xdp_md *ctx, __u64 found, __u32 length)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 row = found >> 48;
	struct flow flow = { .row = row, .segment = (__u16)found, .length = length };
	struct service *service = bpf_map_lookup_elem(&services, &row);
	__u32 client_at = found >> 32 & DEEPEST_HEADER, ports_at = found >> 16 & DEEPEST_HEADER, ports = 0;
	struct iphdr *ip4 = data + sizeof(struct ethernet_header);
	struct ipv6hdr *ip6 = (void *)ip4;
	ip6_t client = {};

	if ((void *)(ip4 + 1) > data_end || !service)
		return CONTINUE;
	if (flow.segment & SEGMENT_IPV6) {
		if ((void *)(ip6 + 1) > data_end || !read_at(data, data_end, client_at, &client, sizeof(client)))
			return CONTINUE;
		flow.tos = ip6->priority << 4 | ip6->flow_lbl[0] >> 4;
		flow.ttl = ip6->hop_limit;
		flow.l3_length = sizeof(*ip6) + bpf_ntohs(ip6->payload_len);
	} else {
		if (!read_at(data, data_end, client_at, &client, sizeof(ip4_t)))
			return CONTINUE;
		flow.tos = ip4->tos;
		flow.ttl = ip4->ttl;
		flow.l3_length = bpf_ntohs(ip4->tot_len);
	}
	if (ports_at && !read_at(data, data_end, ports_at, &ports, sizeof(ports)))
		return CONTINUE;
	if (flow.segment & SEGMENT_QUOTED)
		ports = ports << 16 | ports >> 16;
	flow.hash = hash_of(service, flow.segment & SEGMENT_IPV6, &client, ports);
	return serve(ctx, service, &flow);
}

static __always_inline bool has_services(const struct vip *vip, bool udp)
{
	const __u64 *rules = udp ? vip->rules[SERVICE_UDP] : vip->rules[SERVICE_TCP];

	return READ_WORD(rules[0]) || READ_WORD(rules[1]) ||
	       (udp ? vip->pages[SERVICE_UDP] : vip->pages[SERVICE_TCP]);
}

static __always_inline __u32 offset_of_source(const struct packet *packet)
{
	return packet->l3_offset + (packet->family == 4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr));
}

/*
 * A later fragment has no ports, and the first may not be the first to come. A service of all ports needs none; of
 * another, where the VIP is local, the kernel would put it together and answer with a reset.
 */
static __always_inline __u64 find_fragment(const struct packet *packet, __u32 vip_row, const struct vip *vip)
{
	bool udp = packet->protocol == IPPROTO_UDP, ported = packet->flags & PACKET_PORTS;
	__u16 port = ported ? bpf_ntohs(packet->destination_port) : ANY_PORT_PROBE;
	__u32 row = service_of(vip, udp, port);
	struct service *service = bpf_map_lookup_elem(&services, &row);

	note_service(vip_row, row, false);
	if (row && service && service->flags & SERVICE_ANY_PORT)
		return rare(row, offset_of_source(packet), 0, segment_of(packet, packet->protocol));
	if (!(vip->flags & VIP_LOCAL))
		return CONTINUE;
	return (ported ? row != 0 : has_services(vip, udp)) ? DROP_FRAGMENT : CONTINUE;
}

/* Behind options or extension headers, or in a frame so short that it was not taken for plain. */
static __always_inline __u64 find_behind(struct xdp_md *ctx, const struct packet *packet, __u32 vip_row,
					 const struct vip *vip)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 offset = packet->l4_offset, end = packet->l3_offset + packet->l3_length, row, segment;
	__u8 flags = 0;

	if (!(packet->flags & PACKET_PORTS) || offset > end || !is_plain_l4(packet->protocol, end - offset))
		return CONTINUE;
	if (packet->protocol == IPPROTO_TCP && !read_at(data, data_end, offset + TCP_FLAGS, &flags, sizeof(flags)))
		return CONTINUE;
	row = service_of(vip, packet->protocol == IPPROTO_UDP, bpf_ntohs(packet->destination_port));
	segment = segment_of(packet, packet->protocol) | (flags & SEGMENT_TCP_FLAGS);
	note_service(vip_row, row, false);
	return row ? rare(row, offset_of_source(packet), offset, segment) : CONTINUE;
}

/* An echo to the VIP, or an error about what a backend sent in its name. */
static __always_inline __u64 find_quoted(struct xdp_md *ctx, const struct packet *packet, __u32 vip_row,
					 const struct vip *vip)
{
	enum verdict verdict = vip->flags & VIP_ANSWERS_ECHO ? answer_echo(ctx, packet) : CONTINUE;
	struct quoted quoted;

	if (verdict != CONTINUE || !quoted_flow(ctx, packet, &quoted))
		return verdict;
	__u32 row = service_of(vip, quoted.protocol == IPPROTO_UDP, bpf_ntohs(quoted.service_port));

	note_service(vip_row, row, true);
	if (!row)
		return CONTINUE;
	return rare(row, quoted.client_offset, quoted.ports_offset,
		    segment_of(packet, quoted.protocol) | SEGMENT_QUOTED);
}

/* What is not plain. A function of its own, so that nothing is kept for it on the way of packets that are. */
__noinline __u64 balance_rare(struct xdp_md *ctx)
{
	__u32 slot = interface_slot, zero = 0, vip_row, mixed;
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);
	struct packet packet;
	struct vip *vip;

	KEEP_IN_MEMORY(packet);
	if (!s || parse(ctx, ingress, &packet) != CONTINUE)
		return CONTINUE;
	if (packet.family == 4 ? !is_plain(packet.source.octets[0]) : !is_unicast6(&packet.source))
		return CONTINUE;
	mixed = packet.family == 4 ? mix4(s, packet.destination.words[0]) : mix6(s, &packet.destination);
	vip_row = search_vip(mixed, packet.family, packet.destination.halves[0], packet.destination.halves[1]);
	vip = bpf_map_lookup_elem(&vips, &vip_row);
	if (!vip_row || !vip)
		return CONTINUE;
	note_service(vip_row, 0, false);
	if (packet.family == 4)
		parse_l4_ipv4(ctx, &packet);
	else
		parse_extension_headers(ctx, packet.l3_offset + sizeof(struct ipv6hdr), &packet);
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP)
		return find_quoted(ctx, &packet, vip_row, vip);
	return packet.flags & PACKET_FRAGMENT ? find_fragment(&packet, vip_row, vip) :
						find_behind(ctx, &packet, vip_row, vip);
}

/* The verdict and, in the upper half, the length of the frame as it came. */
static __always_inline __u64 balance(struct xdp_md *ctx)
{
	struct ethernet_header *eth = (void *)(long)ctx->data;
	__u64 found, claimed = CONTINUE;
	__u32 outcome, length;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return CONTINUE;
	if (eth->ethertype == bpf_htons(ETH_P_IP))
		claimed = balance4(ctx);
	else if (eth->ethertype == bpf_htons(ETH_P_IPV6))
		claimed = balance6(ctx);
	outcome = claimed;
	length = claimed >> 32;
	if (outcome == OUTCOME_RARE) {
		found = balance_rare(ctx);
		outcome = found >> 48 ? serve_rare(ctx, found, length) : found;
	}
	if ((__u16)outcome == OUTCOME_REPORT)
		outcome = report(ctx, outcome);
	return outcome | (__u64)length << 32;
}
