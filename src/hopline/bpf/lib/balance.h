/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * balance: which backend takes this flow, in which outer header. What is for no service goes on to the next step.
 */
#pragma once

#include "config.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"
#include "trace.h"

static __always_inline enum verdict balance(struct xdp_md *ctx __attribute__((unused)),
					    const struct interface *ingress __attribute__((unused)),
					    const struct packet *packet __attribute__((unused)))
{
	return CONTINUE;
}
