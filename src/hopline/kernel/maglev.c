// SPDX-License-Identifier: Apache-2.0

/* A backend that seeks slots: its preferences are at, at + skip, at + 2 * skip, … modulo the slots. */
struct suitor {
    uint64_t score; /* of `at`; the lower, the more a slot wants it */
    uint64_t step;
    uint32_t at;
    uint32_t skip;
    uint32_t lacks; /* slots */
};

enum { INDEX_BITS = 12 };
static const uint64_t INDEX_MASK = (1 << INDEX_BITS) - 1;

/* Deferred acceptance (Gale and Shapley 1962, colleges' side): each asks for slots down its list, a slot keeps the
   lowest score it was offered, and who is ousted asks further. The matching is the same in whatever order they ask.
   held[slot] is score | index, ~0 where nobody asked yet. */
static void match(struct suitor *suitors, uint32_t count, uint32_t slots, uint64_t *held, uint16_t *waiting)
{
    uint32_t length = 0;

    for (uint32_t i = count; i-- > 0;)
        if (suitors[i].lacks)
            waiting[length++] = (uint16_t)i;
    while (length) {
        uint32_t index = waiting[--length];
        struct suitor *suitor = &suitors[index];

        /* nobody who is ousted below is this one: a score of its own never beats another of its own */
        while (suitor->lacks) {
            uint64_t offer = (suitor->score & ~INDEX_MASK) | index, *slot = &held[suitor->at];

            if (offer < *slot) {
                if (*slot != UINT64_MAX && !suitors[*slot & INDEX_MASK].lacks++)
                    waiting[length++] = (uint16_t)(*slot & INDEX_MASK);
                *slot = offer;
                suitor->lacks--;
            }
            suitor->score += suitor->step;
            suitor->at += suitor->skip;
            if (suitor->at >= slots)
                suitor->at -= slots;
        }
    }
}

int hl_ring_fill(const uint32_t *offsets, const uint32_t *skips, const uint64_t *steps, const uint32_t *quotas,
                 uint32_t count, uint16_t *ring, uint32_t slots)
{
    struct suitor *suitors = calloc(count, sizeof(*suitors));
    uint16_t *waiting = calloc(count, sizeof(*waiting));
    uint64_t *held = malloc(slots * sizeof(*held));

    if (suitors && waiting && held) {
        for (uint32_t i = 0; i < count; i++)
            suitors[i] = (struct suitor){.step = steps[i], .at = offsets[i], .skip = skips[i], .lacks = quotas[i]};
        memset(held, 0xff, slots * sizeof(*held));
        match(suitors, count, slots, held, waiting);
        for (uint32_t slot = 0; slot < slots; slot++)
            ring[slot] = (uint16_t)(held[slot] & INDEX_MASK);
    }
    int error = suitors && waiting && held ? 0 : -ENOMEM;

    free(suitors);
    free(waiting);
    free(held);
    return error;
}
