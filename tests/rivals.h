/* What the tests of rivals' codecs share: the list of them, sides made of a text, numbers, a round trip. */
#ifndef KVQ_TESTS_RIVALS_H
#define KVQ_TESTS_RIVALS_H

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "quant/codec.h"

enum { T = KVQ_SUPERBLOCK, MAX_DIM = KVQ_DIM_MAX, MAX_BYTES = 2 * T * MAX_DIM };

static _Alignas(KVQ_ALIGNMENT) uint8_t superblock[MAX_BYTES], other[MAX_BYTES];
static float x[T * MAX_DIM], xhat[T * MAX_DIM];

static const kvq_kernels *const k = &kvq_kernels_portable;
static const char *const all[] = {"q8_0",        "q4_0",     "q4_1",       "turbo:1",  "turbo:2",
                                  "turbo:3",     "turbo:4",  "turbo:2:nc", "kvarn:2",  "kvarn:4",
                                  "quarot:2",    "quarot:3", "quarot:4",   "quarot:8", "quarot:4/32",
                                  "quarot:2/64", "nuq:2",    "nuq:3",      "nuq:4",    "nuq:2:qn"};
enum { N_ALL = sizeof all / sizeof all[0] };

/* ---- Making sides and numbers ---- */

static inline const char *parse(const char *text, kvq_role role, kvq_spec *spec)
{
    const char *rest;
    *spec = (kvq_spec){.codec = kvq_codec_for_text(text, &rest)};
    if (spec->codec == NULL)
        return "no such codec";
    kvq_text t = {.at = rest};
    if (!spec->codec->parse(spec->codec, &t, role, spec->parameter))
        return t.problem;
    return *t.at == '\0' ? NULL : "something is left";
}

static inline const char *try_side(const char *text, kvq_role role, size_t dim, kvq_side *s)
{
    kvq_spec spec;
    const char *problem = parse(text, role, &spec);
    return problem != NULL ? problem : kvq_side_init(s, &spec, &(kvq_common){0}, role, dim);
}

static inline kvq_side side_of(const char *text, kvq_role role, size_t dim)
{
    kvq_side s;
    const char *problem = try_side(text, role, dim, &s);
    cr_assert(problem == NULL, "%s, D = %zu: %s", text, dim, problem);
    cr_assert(s.bytes <= MAX_BYTES && s.bytes % KVQ_ALIGNMENT == 0, "%s: %zu bytes", text, s.bytes);
    return s;
}

static inline bool takes(const char *text, size_t dim)
{
    return strncmp(text, "nuq", 3) != 0 || dim <= 512;
}

static uint32_t random_state;

static inline double uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) / 16777216.0;
}

static inline double normal(void)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return sum;
}

/* Rows as keys look: an offset per channel, some tokens larger, some outliers. */
static inline void fill(size_t dim, uint32_t seed)
{
    random_state = seed;
    double offset[MAX_DIM];
    for (size_t c = 0; c < dim; c++)
        offset[c] = normal();
    for (size_t t = 0; t < T; t++) {
        double size = t % 9 == 4 ? 3.0 : 1.0;
        for (size_t c = 0; c < dim; c++)
            x[t * dim + c] = (float)(offset[c] + size * normal() * (uniform() < 0.01 ? 8.0 : 1.0));
    }
}

static inline void encode(const kvq_side *s)
{
    memset(superblock, 0xa5, sizeof superblock);
    if (s->tokens_per_run == 1)
        kvq_side_clear(s, superblock, 0);
    s->codec->encode(k, s, superblock, 0, T, x, s->dim, NULL);
}

static inline void round_trip(const kvq_side *s)
{
    encode(s);
    kvq_side_read(k, s, superblock, 0, T, xhat, s->dim);
}

#endif /* KVQ_TESTS_RIVALS_H */
