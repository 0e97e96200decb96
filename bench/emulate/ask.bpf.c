// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What only the kernel can answer, asked by BPF_PROG_TEST_RUN: the frame is the question, and the answer. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* the frame is a struct bpf_fib_lookup */
SEC("xdp")
int ask_fib(struct xdp_md *ctx)
{
	struct bpf_fib_lookup *asked = (void *)(long)ctx->data, fib;

	if ((void *)(asked + 1) > (void *)(long)ctx->data_end)
		return -1;
	__builtin_memcpy(&fib, asked, sizeof(fib));
	int code = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);

	__builtin_memcpy(asked, &fib, sizeof(fib));
	return code;
}

/* the frame's first eight octets become jiffies */
SEC("xdp")
int ask_jiffies(struct xdp_md *ctx)
{
	__u64 *answer = (void *)(long)ctx->data;

	if ((void *)(answer + 1) > (void *)(long)ctx->data_end)
		return -1;
	*answer = bpf_jiffies64();
	return 0;
}

char _license[] SEC("license") = "GPL";
