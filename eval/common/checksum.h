/* XXH3-64 over 32-bit words as little-endian bytes, whatever the machine's order is. */
#ifndef KVQ_EVAL_COMMON_CHECKSUM_H
#define KVQ_EVAL_COMMON_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/** Add n words of 4 bytes each, floats or integers, to a state that XXH3_64bits_reset has begun. */
static inline void checksum_words(XXH3_state_t *state, const void *words, size_t n)
{
    uint8_t bytes[1024];
    const uint8_t *at = words;
    for (size_t i = 0; i < n;) {
        size_t used = 0;
        for (; i < n && used < sizeof bytes; i++, at += 4, used += 4) {
            uint32_t word;
            memcpy(&word, at, sizeof word);
            for (size_t b = 0; b < 4; b++)
                bytes[used + b] = (uint8_t)(word >> (8 * b));
        }
        XXH3_64bits_update(state, bytes, used);
    }
}

#endif
