/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* count: packets and bytes by verdict, in a map that user space reads */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct counter {
	__u64 packets;
	__u64 bytes;
};

/*
 * One element for each verdict. Every CPU has its own copy of all of them, so nobody waits for anybody
 * and no addition needs to be atomic; whoever reads adds the copies up.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDP_REDIRECT + 1);
	__type(key, __u32);
	__type(value, struct counter);
} verdicts SEC(".maps");

/* what becomes of IPv6; a constant for the verifier, set before the program is loaded */
const volatile enum xdp_action ipv6 = XDP_PASS;

static __always_inline int counted(struct xdp_md *ctx, __u32 verdict)
{
	struct counter *counter = bpf_map_lookup_elem(&verdicts, &verdict);

	/* an array's element is always there, but the verifier wants to see the question */
	if (counter) {
		counter->packets++;
		counter->bytes += ctx->data_end - ctx->data;
	}
	return verdict;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;

	/* the type of an Ethernet frame follows two addresses of six bytes; 0x86dd is IPv6 */
	if (data + 14 <= data_end && data[12] == 0x86 && data[13] == 0xdd)
		return counted(ctx, ipv6);
	return counted(ctx, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
