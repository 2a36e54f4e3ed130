/*
 * The public call of attention, and the options that it shares with kvq_cache_step.
 */
#include "lib/internal.h"
#include "lib/sized.h"

#include <math.h>
#include <stdlib.h>

/* ---- Options and counters ---- */

void kvq_attend_options_init_sized(kvq_attend_options *options, size_t struct_size)
{
    static const kvq_attend_options defaults;
    if (options != NULL)
        (void)kvq_sized_write(options, struct_size, &defaults, sizeof defaults, false);
}

void kvq_attend_counters_init_sized(kvq_attend_counters *counters, size_t struct_size)
{
    static const kvq_attend_counters none;
    if (counters != NULL)
        (void)kvq_sized_write(counters, struct_size, &none, sizeof none, false);
}

/* May a caller's numbers be of this type? */
static bool is_of_arrays(kvq_dtype dtype)
{
    return dtype == KVQ_F32 || dtype == KVQ_F16 || dtype == KVQ_BF16;
}

kvq_status kvq_attend_options_read(const kvq_attend_options *given, kvq_attend_options *options,
                                   kvq_attend_counters *counters)
{
    *options = (kvq_attend_options){0};
    *counters = (kvq_attend_counters){0};
    if (given != NULL &&
        !kvq_sized_read(options, sizeof *options, given, KVQ_SIZE_THROUGH(kvq_attend_options, counters)))
        return KVQ_ERR_ARG;
    if (options->counters != NULL && !kvq_sized_read(counters, sizeof *counters, options->counters,
                                                     KVQ_SIZE_THROUGH(kvq_attend_counters, heads_again)))
        return KVQ_ERR_ARG;
    bool precision = options->precision == KVQ_PRECISION_FAST || options->precision == KVQ_PRECISION_EXACT;
    bool dtypes =
        is_of_arrays(options->q_dtype) && is_of_arrays(options->kv_dtype) && is_of_arrays(options->out_dtype);
    return precision && dtypes && options->n_threads >= 0 ? KVQ_OK : KVQ_ERR_ARG;
}

void kvq_attend_counters_write(const kvq_attend_options *options, const kvq_attend_counters *counters)
{
    if (options->counters != NULL)
        (void)kvq_sized_write(options->counters, options->counters->struct_size, counters, sizeof *counters,
                              false);
}

/* ---- The public call ---- */

static kvq_status check_sequences(const kvq_cache *cache, size_t layer, const size_t *sequences,
                                  size_t n_sequences, size_t n_q, bool equal_lengths)
{
    size_t first_length = 0;
    for (size_t s = 0; s < n_sequences; s++) {
        size_t sequence = sequences == NULL ? s : sequences[s];
        size_t n_tokens = kvq_cache_n_tokens(cache, layer, sequence);
        if (sequence >= cache->config.n_sequences || n_tokens < n_q)
            return KVQ_ERR_ARG;
        if (s == 0)
            first_length = n_tokens;
        if (equal_lengths && n_tokens != first_length)
            return KVQ_ERR_ARG;
    }
    return KVQ_OK;
}

/* The span of sequence number s of the call. */
static kvq_span make_span(const kvq_cache *cache, size_t layer, const size_t *sequences, size_t s, size_t n_q,
                          float *probabilities)
{
    const kvq_layer *state = kvq_layer_of(cache, layer, sequences == NULL ? s : sequences[s]);
    size_t n_tokens = state->n_tokens;
    kvq_span span = {
        .view = {.cache = cache, .plan = &cache->plan[layer], .layer = state},
        .n_q = n_q,
        .n_before = n_tokens - n_q,
        .first_query = s * n_q,
    };
    if (probabilities != NULL)
        span.probabilities =
            (kvq_probabilities){.p = probabilities + s * n_q * cache->config.n_heads * n_tokens,
                                .stride = n_tokens,
                                .per_query = cache->config.n_heads * n_tokens};
    return span;
}

kvq_status kvq_cache_attend(const kvq_cache *cache, size_t layer, const size_t *sequences, size_t n_sequences,
                            const void *q, size_t n_q, float scale, const kvq_attend_options *given,
                            void *out)
{
    enum { SPANS = 64 }; /* which need not be allocated; as many at a time where there is no memory for all */
    kvq_attend_options options;
    kvq_attend_counters counters;
    KVQ_TRY(kvq_attend_options_read(given, &options, &counters));
    if (cache == NULL || q == NULL || out == NULL || layer >= cache->config.n_layers || n_q == 0 ||
        !isfinite(scale))
        return KVQ_ERR_ARG;
    KVQ_TRY(check_sequences(cache, layer, sequences, n_sequences, n_q, options.probabilities != NULL));
    if (!kvq_rows_are_valid(cache, options.q_dtype, q, n_sequences * n_q * cache->config.n_heads))
        return KVQ_ERR_NONFINITE;
    kvq_attention_call call = {
        .cache = cache,
        .plan = &cache->plan[layer],
        .q = q,
        .q_dtype = options.q_dtype,
        .out_dtype = options.out_dtype,
        .scale = scale,
        .window = options.window,
        .fast = options.precision == KVQ_PRECISION_FAST && options.bound == NULL,
        .n_threads = options.n_threads,
        .n_heads = cache->config.n_kv_heads,
        .out = out,
        .bound = options.bound,
        .counters = &counters,
    };
    kvq_span few[SPANS], *all = n_sequences > SPANS ? malloc(n_sequences * sizeof *all) : NULL;
    size_t most = all != NULL ? n_sequences : SPANS;
    for (size_t s = 0, n; s < n_sequences; s += n) {
        kvq_span *spans = all != NULL ? all : few;
        n = kvq_min_size(n_sequences - s, most);
        for (size_t i = 0; i < n; i++)
            spans[i] = make_span(cache, layer, sequences, s + i, n_q, options.probabilities);
        kvq_attention(&call, spans, n);
    }
    free(all);
    kvq_attend_counters_write(&options, &counters);
    return KVQ_OK;
}
