// SPDX-License-Identifier: Apache-2.0

void hl_store32(void *address, uint32_t value)
{
    __atomic_store_n((uint32_t *)address, value, __ATOMIC_RELEASE);
}

void hl_store64(void *address, uint64_t value)
{
    __atomic_store_n((uint64_t *)address, value, __ATOMIC_RELEASE);
}

uint32_t hl_load32(const void *address)
{
    return __atomic_load_n((const uint32_t *)address, __ATOMIC_ACQUIRE);
}

uint64_t hl_load64(const void *address)
{
    return __atomic_load_n((const uint64_t *)address, __ATOMIC_ACQUIRE);
}

uint64_t hl_fetch_add64(void *address, uint64_t value)
{
    return __atomic_fetch_add((uint64_t *)address, value, __ATOMIC_ACQ_REL);
}

void hl_store32_at(char *words, uint64_t stride, const int64_t *indexes, const uint32_t *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        hl_store32(words + (uint64_t)indexes[i] * stride, values[i]);
}

void hl_exchange64_at(char *words, uint64_t stride, const int64_t *indexes, const uint64_t *expected,
                      const uint64_t *wanted, uint64_t count, bool *done)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t there = expected[i];

        done[i] = __atomic_compare_exchange_n((uint64_t *)(words + (uint64_t)indexes[i] * stride), &there, wanted[i],
                                              false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
}
