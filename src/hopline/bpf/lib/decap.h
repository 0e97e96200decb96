/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * decap: what is encapsulated for an address of ours, by a source that is accepted, loses its outer header and goes to
 * the host's stack.
 */
#pragma once

#include "config.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"
#include "trace.h"

static __always_inline enum verdict decapsulate(struct xdp_md *ctx __attribute__((unused)),
						const struct packet *packet __attribute__((unused)))
{
	return CONTINUE;
}
