/*
 * See toy_codec.h. A superblock: 128 bytes e, 128 rows of D codes (xhat = code * 2^(e - 140)), then the
 * record: hashes of energy, received and moment, 0 for what was not there.
 */
#include "tests/toy_codec.h"

#include <math.h>
#include <stdlib.h>

enum { T = KVQ_SUPERBLOCK, BIAS = 140, N_RECORDS = 3 };

/* The packed domain: channel c of the numbers stands at place (c + D/3) mod D, with this sign. */
static float sign_of(size_t c)
{
    return c % 3 == 1 ? -1.0f : 1.0f;
}

static size_t place_of(size_t c, size_t dim)
{
    return (c + dim / 3) % dim;
}

static void toy_prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    (void)k;
    for (size_t c = 0; c < s->dim; c++)
        out[place_of(c, s->dim)] = sign_of(c) * q[c];
}

static void toy_finish(const kvq_kernels *k, const kvq_side *s, float *row)
{
    (void)k;
    float packed[KVQ_DIM_MAX];
    memcpy(packed, row, s->dim * sizeof *row);
    for (size_t c = 0; c < s->dim; c++)
        row[c] = sign_of(c) * packed[place_of(c, s->dim)];
}

/* The smallest e with |x| <= 127 * 2^(e - 140). */
static int exponent_of(const float *x, size_t dim)
{
    float most = 0;
    for (size_t c = 0; c < dim; c++)
        most = fmaxf(most, fabsf(x[c]));
    int e = 0;
    while (most > ldexpf(127, e - BIAS) && e < 255)
        e++;
    return e;
}

float toy_error_bound(const float *x, size_t dim)
{
    return ldexpf(1.0f, exponent_of(x, dim) - BIAS); /* half a step, and half a step of twice the size */
}

static uint64_t hash_of(const float *x, size_t n)
{
    uint64_t hash = x == NULL ? 0 : UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n * sizeof *x && x != NULL; i++)
        hash = (hash ^ ((const uint8_t *)x)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static void toy_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride, const kvq_evidence *evidence)
{
    if (t0 != 0 || n != T || (evidence != NULL) != (s->evidence != 0))
        abort(); /* the cache owes us whole pages, and evidence if we ask for it */
    static const kvq_evidence none;
    const kvq_evidence *e = evidence == NULL ? &none : evidence;
    float packed[KVQ_DIM_MAX], mean = 0;
    for (size_t t = 0; t < T && e->received != NULL; t++)
        mean += e->received[t] / T;
    for (size_t t = 0; t < T; t++) {
        int exponent = exponent_of(x + t * stride, s->dim);
        float scale = ldexpf(1.0f, exponent - BIAS);
        bool coarse = e->received != NULL && e->received[t] < mean;
        toy_prepare(k, s, x + t * stride, packed);
        superblock[t] = (uint8_t)exponent;
        for (size_t c = 0; c < s->dim; c++) {
            float code = coarse ? 2 * rintf(packed[c] / (2 * scale)) : rintf(packed[c] / scale);
            code = fmaxf(-127, fminf(code, 127));
            superblock[T + t * s->dim + c] = (uint8_t)(int8_t)code;
        }
    }
    const uint64_t record[N_RECORDS] = {hash_of(e->energy, s->dim), hash_of(e->received, T),
                                        hash_of(e->moment, s->dim * (s->dim + 1) / 2)};
    memcpy(superblock + T * (1 + s->dim), record, sizeof record);
}

static void toy_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    (void)k;
    for (size_t t = t0; t < t0 + n; t++, out += stride)
        for (size_t c = 0; c < s->dim; c++)
            out[c] = ldexpf((float)(int8_t)superblock[T + t * s->dim + c], superblock[t] - BIAS);
}

static bool toy_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec;
    (void)role;
    parameter[0] = KVQ_EVIDENCE_ENERGY | KVQ_EVIDENCE_RECEIVED;
    return t->at[-1] != ':' || kvq_text_number(t, 7, &parameter[0]);
}

static void toy_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec;
    (void)role;
    kvq_put(p, "toy");
    if (parameter[0] != (KVQ_EVIDENCE_ENERGY | KVQ_EVIDENCE_RECEIVED))
        kvq_put_number(p, ":", parameter[0]);
}

static const char *toy_init(kvq_side *s)
{
    size_t used = T * (1 + s->dim) + N_RECORDS * sizeof(uint64_t);
    s->bytes = (used + KVQ_ALIGNMENT - 1) / KVQ_ALIGNMENT * KVQ_ALIGNMENT;
    s->tokens_per_run = s->sliding_step = T;
    s->payload_per_run = T * s->dim;
    s->metadata_per_run = s->bytes - s->payload_per_run;
    s->evidence = s->parameter[0];
    s->bits = 8;
    return NULL;
}

void toy_codec_register(void)
{
    static const kvq_codec toy = {
        .name = "toy",
        .parse = toy_parse,
        .print = toy_print,
        .init = toy_init,
        .encode = toy_encode,
        .dequantize = toy_dequantize,
        .prepare = toy_prepare,
        .finish = toy_finish,
    };
    static bool registered;
    if (!registered && kvq_codec_register(&toy) != KVQ_REGISTERED)
        abort();
    registered = true;
}
