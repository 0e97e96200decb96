/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMP and ICMPv6: the messages that steps read or write. linux/icmp.h would take the C library along. */
#pragma once

#include <linux/types.h>

enum icmp_type {
	ICMP_REPLIED = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_SOURCE_QUENCHED = 4,
	ICMP_REDIRECTED = 5,
	ICMP_ECHO_ASKED = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
	ICMP_LAST_TYPE = 18, /* what is beyond is not known to be no error (net/ipv4/icmp.c) */
};

#define ICMP_UNREACHABLE_TOO_BIG 4 /* a code */

enum icmpv6_type {
	ICMPV6_UNREACHABLE = 1,
	ICMPV6_TOO_BIG = 2,
	ICMPV6_TIME_EXCEEDED = 3,
	ICMPV6_PARAMETER_PROBLEM = 4,
	ICMPV6_ECHO_ASKED = 128, /* below are errors */
	ICMPV6_REPLIED = 129,
	ICMPV6_REDIRECTED = 137,
};

/* What `rest` says depends on the type. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 rest;
};
