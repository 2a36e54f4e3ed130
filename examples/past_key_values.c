/*
 * Hugging Face's past_key_values in a quantized cache: one float32 array [L][2][B][Hkv][T][D], one sequence
 * of the cache per batch entry, put in and read back without a copy in another order.
 *
 * Build it against the installed library:
 *   cc -O2 past_key_values.c $(pkg-config --cflags --libs kvq) -o past_key_values
 */
#include <kvq.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { L = 3, B = 2, HKV = 2, T = 400, D = 64 };

/* [Hkv][T][D] of one layer and batch entry; keys and values of the same entry lie B of them apart. */
enum { ENTRY = HKV * T * D, N = L * 2 * B * ENTRY };
static const kvq_strides strides = {.token = D, .head = T * D};

static void check(kvq_status status, const char *what)
{
    if (status != KVQ_OK) {
        fprintf(stderr, "past_key_values: %s: %s\n", what, kvq_status_string(status));
        exit(1);
    }
}

static size_t entry(size_t layer, int values, size_t b)
{
    return ((layer * 2 + (size_t)values) * B + b) * ENTRY;
}

/* Through a cache of this scheme, in two calls as after a prompt and its continuation. */
static void run(const char *scheme, const float *past, float *back)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = L;
    config.n_heads = config.n_kv_heads = HKV;
    config.head_dim = D;
    config.n_sequences = B;
    config.scheme_text = scheme;
    kvq_cache *cache = NULL;
    check(kvq_cache_create(&cache, &config), "create");
    const size_t first = T / 4;
    for (size_t l = 0; l < L; l++)
        for (size_t b = 0; b < B; b++) {
            const float *k = past + entry(l, 0, b), *v = past + entry(l, 1, b);
            check(kvq_cache_append_strided(cache, l, b, k, v, first, &strides), "append");
            check(kvq_cache_append_strided(cache, l, b, k + first * D, v + first * D, T - first, &strides),
                  "append");
            check(kvq_cache_read_strided(cache, l, b, 0, T, back + entry(l, 0, b), back + entry(l, 1, b),
                                         &strides),
                  "read");
        }
    kvq_usage usage;
    check(kvq_cache_usage(cache, &usage), "usage");
    float error = 0, norm = 0;
    for (size_t i = 0; i < N; i++) {
        error += (back[i] - past[i]) * (back[i] - past[i]);
        norm += past[i] * past[i];
    }
    printf("%-6s %8llu bytes, %5.2f bits a number; relative squared error %.4f\n", scheme,
           (unsigned long long)usage.total, 8.0 * (double)usage.total / N, (double)(error / norm));
    kvq_cache_free(cache);
}

int main(void)
{
    float *past = malloc(N * sizeof *past), *back = malloc(N * sizeof *back);
    unsigned long long state = 1;
    if (!past || !back)
        return 1;
    for (size_t i = 0; i < N; i++) { /* four uniform numbers make a fair bell curve */
        past[i] = -2.0f;
        for (int j = 0; j < 4; j++) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            past[i] += (float)(state >> 40) / (float)(1 << 24);
        }
    }
    run("fp32", past, back);
    const int same = memcmp(past, back, N * sizeof *past) == 0;
    printf("fp32 gives back %s\n", same ? "the same bits" : "OTHER NUMBERS");
    run("kivi2", past, back);
    run("kvq2", past, back);
    free(past), free(back);
    return same ? 0 : 1;
}
