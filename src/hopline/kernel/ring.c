// SPDX-License-Identifier: Apache-2.0
/* follows native.c in one translation unit, whose hl_load32 and its like it uses */
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* layout of the three mappings: kernel/bpf/ringbuf.c; protocol of the positions: libbpf's ringbuf.c */
struct hl_ring {
    uint64_t *consumer;
    uint64_t *producer;
    char *data;
    uint64_t mask;
    size_t page;
};

int hl_ring_open(int fd, uint32_t size, struct hl_ring **ring)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct hl_ring *new = calloc(1, sizeof(*new));
    char *shared;

    if (!new)
        return -ENOMEM;
    new->page = page;
    new->mask = size - 1;
    new->consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (new->consumer == MAP_FAILED)
        goto failed;
    /* the data area appears twice, so a record that wraps is contiguous */
    shared = mmap(NULL, page + 2 * (size_t)size, PROT_READ, MAP_SHARED, fd, (off_t)page);
    if (shared == MAP_FAILED) {
        int saved = errno;

        munmap(new->consumer, page);
        errno = saved;
        goto failed;
    }
    new->producer = (uint64_t *)shared;
    new->data = shared + page;
    *ring = new;
    return 0;
failed:
    free(new);
    return -errno;
}

void hl_ring_close(struct hl_ring *ring)
{
    munmap(ring->consumer, ring->page);
    munmap(ring->producer, ring->page + 2 * (ring->mask + 1));
    free(ring);
}

uint64_t hl_ring_available(struct hl_ring *ring)
{
    return hl_load64(ring->producer) - *ring->consumer;
}

static uint64_t padded(uint64_t length)
{
    return (length + 7) & ~7ULL;
}

uint64_t hl_ring_drain(struct hl_ring *ring, char *span, uint64_t room, uint64_t *records, uint64_t *discarded)
{
    uint64_t at = *ring->consumer, used = 0, kept = 0, dropped = 0;

    for (;;) {
        uint64_t end = hl_load64(ring->producer);
        uint64_t start = at;

        while (at < end) {
            const char *record = ring->data + (at & ring->mask);
            uint32_t header = hl_load32(record);
            uint64_t length = header & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
            uint64_t step = BPF_RINGBUF_HDR_SZ + padded(length);
            uint32_t prefix[2] = {(uint32_t)length, 0};

            if (header & BPF_RINGBUF_BUSY_BIT)
                goto done;
            if (header & BPF_RINGBUF_DISCARD_BIT) {
                dropped++;
            } else {
                if (used + step > room)
                    goto done;
                memcpy(span + used, prefix, sizeof(prefix));
                memcpy(span + used + sizeof(prefix), record + BPF_RINGBUF_HDR_SZ, length);
                memset(span + used + sizeof(prefix) + length, 0, padded(length) - length);
                used += step;
                kept++;
            }
            at += step;
            /* often enough that producers find room, seldom enough that the line does not bounce */
            if (((kept + dropped) & 63) == 0)
                hl_store64(ring->consumer, at);
        }
        hl_store64(ring->consumer, at);
        if (at == start)
            break;
    }
done:
    hl_store64(ring->consumer, at);
    /* the position must be seen before the next poll asks whether there is data */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *records += kept;
    *discarded += dropped;
    return used;
}

void hl_span_index(const char *span, uint64_t used, uint64_t *offsets, uint64_t *lengths)
{
    for (uint64_t at = 0, i = 0; at < used; i++) {
        uint32_t length;

        memcpy(&length, span + at, sizeof(length));
        offsets[i] = at + 8;
        lengths[i] = length;
        at += 8 + padded(length);
    }
}

void hl_span_gather(const char *span, uint64_t used, char *records, uint64_t record_size)
{
    for (uint64_t at = 0; at < used; records += record_size) {
        uint32_t length;
        uint64_t copied;

        memcpy(&length, span + at, sizeof(length));
        copied = length < record_size ? length : record_size;
        memcpy(records, span + at + 8, copied);
        memset(records + copied, 0, record_size - copied);
        at += 8 + padded(length);
    }
}
