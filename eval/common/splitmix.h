/* Random numbers that depend on a seed and an index only. */
#ifndef KVQ_EVAL_COMMON_SPLITMIX_H
#define KVQ_EVAL_COMMON_SPLITMIX_H

#include <stdint.h>

/**
 * Number i of the SplitMix64 sequence whose state begins at `seed`; its usual first output is i = 1.
 * Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
 */
static inline uint64_t splitmix64(uint64_t seed, uint64_t i)
{
    uint64_t x = seed + i * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
