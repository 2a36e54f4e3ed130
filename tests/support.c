/*
 * See support.h.
 */
#include "tests/support.h"
#include "tests/toy_codec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t test_seed(void)
{
    const char *text = getenv("KVQ_SEED");
    return text == NULL ? 20240205 : strtoull(text, NULL, 0);
}

rng rng_make(uint64_t stream)
{
    rng r = {test_seed() * 0x9e3779b97f4a7c15u + stream * 0xd1b54a32d192ed03u};
    (void)rng_u64(&r);
    return r;
}

/* splitmix64 */
uint64_t rng_u64(rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

size_t rng_below(rng *r, size_t n)
{
    return (size_t)(rng_u64(r) % n);
}

float rng_uniform(rng *r)
{
    return (float)(rng_u64(r) >> 40) * 0x1p-24f;
}

float rng_normal(rng *r)
{
    double u = ((double)(rng_u64(r) >> 11) + 1) * 0x1p-53, v = (double)(rng_u64(r) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

const char *const fill_names[N_FILLS] = {
    "zero", "equal", "normal", "heavy-tailed", "outlier", "offsets", "tiny", "huge", "ties",
};

static float fill_one(rng *r, fill_kind kind, size_t c, size_t outlier, float offset)
{
    float x = rng_normal(r);
    switch (kind) {
    case FILL_EQUAL:
        return 0.1f;
    case FILL_HEAVY:
        return x * x * x;
    case FILL_OUTLIER:
        return c == outlier ? 1000 * x : x;
    case FILL_OFFSETS:
        return offset + x;
    case FILL_TINY:
        return x * 0x1p-22f;
    case FILL_HUGE:
        return x * 60000;
    case FILL_TIES:
        return 0.5f * (float)((int)rng_below(r, 13) - 6);
    case FILL_ZERO:
        return 0;
    case FILL_NORMAL:
    case N_FILLS:
        break;
    }
    return x;
}

void fill(rng *r, fill_kind kind, float *x, size_t n, size_t dim)
{
    size_t outlier = rng_below(r, dim);
    rng offsets = *r; /* the same offsets for every row */
    for (size_t i = 0; i < n; i++) {
        rng o = offsets;
        for (size_t c = 0; c < dim; c++) {
            float offset = kind == FILL_OFFSETS ? 10 * rng_normal(&o) : 0;
            x[i * dim + c] = fill_one(r, kind, c, outlier, offset);
        }
    }
}

bool same_bits(const char *what, const void *a, const void *b, size_t n_bytes)
{
    const uint8_t *x = a, *y = b;
    if (memcmp(x, y, n_bytes) == 0)
        return true;
    size_t i = 0;
    while (x[i] == y[i])
        i++;
    fprintf(stderr, "%s: byte %zu of %zu is %02x, expected %02x (seed %llu)\n", what, i, n_bytes, x[i], y[i],
            (unsigned long long)test_seed());
    return false;
}

bool within(const char *what, const float *got, const float *wanted, const float *bound, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)wanted[i]);
        if (error <= (double)bound[i]) /* false for NaN */
            continue;
        fprintf(stderr, "%s: element %zu of %zu is %.9g, expected %.9g within %.3g (seed %llu)\n", what, i, n,
                (double)got[i], (double)wanted[i], (double)bound[i], (unsigned long long)test_seed());
        return false;
    }
    return true;
}

double rel_l2(const float *got, const float *wanted, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)wanted[i];
        error += d * d;
        norm += (double)wanted[i] * (double)wanted[i];
    }
    return error == 0 ? 0 : sqrt(error / norm);
}

static void *counting_alloc(void *ctx, size_t size, size_t align)
{
    test_memory *memory = ctx;
    if (++memory->n_calls == memory->fail_at)
        return NULL;
    void *ptr = aligned_alloc(align, (size + align - 1) / align * align);
    if (ptr != NULL) {
        memory->live_bytes += size;
        memory->live_blocks++;
        memset(ptr, 0xa5, size); /* nobody may count on zeros */
    }
    return ptr;
}

static void counting_free(void *ctx, void *ptr, size_t size)
{
    test_memory *memory = ctx;
    memory->live_bytes -= size;
    memory->live_blocks--;
    free(ptr);
}

kvq_allocator test_allocator(test_memory *memory)
{
    return (kvq_allocator){.alloc = counting_alloc, .free = counting_free, .ctx = memory};
}

#define FAMILY_TEXT(text) text,
const char *const families[N_FAMILIES] = {FAMILIES(FAMILY_TEXT)};

bool family_rounds(const char *scheme)
{
    kvq_side_info k, v;
    const kvq_scheme *of = scheme_of(scheme);
    if (kvq_scheme_keys(of, &k) != KVQ_OK || kvq_scheme_values(of, &v) != KVQ_OK)
        abort();
    return k.residual_dtype != KVQ_F32 || v.residual_dtype != KVQ_F32;
}

kvq_scheme *scheme_of(const char *text)
{
    toy_codec_register();
    static kvq_scheme *known[64];
    kvq_scheme *scheme;
    kvq_error err;
    if (kvq_scheme_create(&scheme, text, &err) != KVQ_OK) {
        fprintf(stderr, "%s: %s at %d\n", text, err.message, (int)err.offset);
        abort();
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i] == NULL)
            return known[i] = scheme;
        if (strcmp(kvq_scheme_text(known[i]), kvq_scheme_text(scheme)) == 0) {
            kvq_scheme_free(scheme);
            return known[i];
        }
    }
    fprintf(stderr, "more schemes than a test should need\n");
    abort();
}

kvq_cache *cache_of(const char *scheme, shape s, const kvq_allocator *allocator)
{
    kvq_config config;
    kvq_cache *cache = NULL;
    toy_codec_register();
    kvq_config_init(&config);
    config.n_layers = s.n_layers;
    config.n_heads = s.n_heads;
    config.n_kv_heads = s.n_kv_heads;
    config.head_dim = s.head_dim;
    config.n_sequences = s.n_sequences;
    config.scheme_text = scheme;
    config.allocator = allocator;
    kvq_status status = kvq_cache_create(&cache, &config);
    if (status != KVQ_OK) {
        fprintf(stderr, "%s: %s\n", scheme, kvq_status_string(status));
        abort();
    }
    return cache;
}

bool buffer_write(void *ctx, const void *data, size_t n_bytes)
{
    buffer *b = ctx;
    if (b->n + n_bytes > b->capacity) {
        size_t capacity = 2 * (b->n + n_bytes);
        uint8_t *grown = realloc(b->data, capacity);
        if (grown == NULL)
            return false;
        b->data = grown;
        b->capacity = capacity;
    }
    memcpy(b->data + b->n, data, n_bytes);
    b->n += n_bytes;
    return true;
}

size_t buffer_read(void *ctx, void *data, size_t n_bytes)
{
    buffer *b = ctx;
    size_t n = n_bytes < b->n - b->at ? n_bytes : b->n - b->at;
    if (n > 0)
        memcpy(data, b->data + b->at, n);
    b->at += n;
    return n;
}

void buffer_free(buffer *b)
{
    free(b->data);
    *b = (buffer){0};
}

buffer saved(const kvq_cache *cache)
{
    kvq_config config;
    buffer b = {0};
    kvq_cache_get_config(cache, &config);
    kvq_status status = kvq_cache_save(cache, NULL, config.n_sequences, buffer_write, &b);
    if (status != KVQ_OK) {
        fprintf(stderr, "save: %s\n", kvq_status_string(status));
        abort();
    }
    return b;
}
