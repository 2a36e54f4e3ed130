/* Random numbers for weights: close enough to normal, and each a function of a stream and its index only, so
 * that threads may divide an array as they like. */
#ifndef KVQ_EVAL_MODEL_RANDOM_NORMAL_H
#define KVQ_EVAL_MODEL_RANDOM_NORMAL_H

#include "eval/common/splitmix.h"

#include <stdint.h>

/* The standard deviation of random_normal: a sum of four numbers, each uniform over 65,536 integers, has the
 * variance 65536^2 / 3. */
#define RANDOM_NORMAL_STD (65536.0f / 1.7320508f)

/** Number i of a stream: an integer with mean 0, within +-3.46 standard deviations. */
static inline float random_normal(uint64_t stream, uint64_t i)
{
    const uint64_t r = splitmix64(stream, i);
    const int sum = (int)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));
    return (float)(sum - 131070);
}

#endif
