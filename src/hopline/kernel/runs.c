// SPDX-License-Identifier: Apache-2.0
/* follows native.c and ring.c in one translation unit, whose functions it uses */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int hl_run_each(int fd, struct hl_ring *ring, const char *frames, const uint32_t *held, const uint32_t *lengths,
                uint32_t count, uint32_t ifindex, char *records, uint32_t record_size, uint32_t *done)
{
    uint64_t room = 8 + padded(record_size), got = 0, discarded = 0;
    uint32_t longest = 0;
    char *frame, *span;
    int error = 0;

    for (uint32_t i = 0; i < count; i++)
        longest = lengths[i] > longest ? lengths[i] : longest;
    frame = malloc(longest ? longest : 1);
    span = malloc(room);
    *done = 0;
    if (!frame || !span)
        error = -ENOMEM;
    for (uint32_t i = 0; !error && i < count; frames += held[i], i++) {
        struct hl_test_run run = {.data = frame, .size = lengths[i], .repeat = 1, .context = 1, .ifindex = ifindex};

        memcpy(frame, frames, held[i]);
        memset(frame + held[i], 0, lengths[i] - held[i]);
        /* what somebody else's run left, were there any, is not this one's */
        while (hl_ring_drain(ring, span, room, &got, &discarded))
            ;
        error = hl_test_run(fd, &run);
        if (error)
            break;
        if (!hl_ring_drain(ring, span, room, &got, &discarded)) {
            error = -ENODATA;
            break;
        }
        memcpy(records + (size_t)i * record_size, span + 8, record_size);
        *done = i + 1;
    }
    free(frame);
    free(span);
    return error;
}
