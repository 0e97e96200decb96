/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps of balance and decap; included by maps.h alone. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

/* VIPs by a hash of their address */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIP_BUCKETS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct vip_bucket);
} vip_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIPS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORT_PAGES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct port_page);
} port_pages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

/* for the daemon alone: what a row is called */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct service_name);
} service_names SEC(".maps");

/* a row a service */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, struct flow_counter);
} flow_count SEC(".maps");

/* sized by the daemon, which makes it larger as services need it */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct ring_element);
} rings SEC(".maps");

/* sized by the daemon, like those below */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* a row a backend */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct backend_counter);
} backend_count SEC(".maps");

/* the flow table */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_bucket);
} flows SEC(".maps");

/* accepted pairs of outer addresses → row of decap_count */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, DECAPS * 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct decap_key4);
	__type(value, __u32);
} decap4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, DECAPS * 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct decap_key6);
	__type(value, __u32);
} decap6 SEC(".maps");

/* addresses that something is decapsulated for → bits of the encapsulations (1 << enum encapsulation) */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DECAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, ip4_t);
	__type(value, __u32);
} decap_local4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DECAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, ip6_t);
	__type(value, __u32);
} decap_local6 SEC(".maps");

/* UDP ports on which GUE is decapsulated; 0 is none */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct decap_ports);
} decap_ports SEC(".maps");

/* a row an accepted pair */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DECAPS * 64);
	__type(key, __u32);
	__type(value, struct counter);
} decap_count SEC(".maps");
