/* Made-up experiments and cells with awkward values, for the tests of results files. */
#ifndef KVQ_TESTS_RESULTS_CELLS_H
#define KVQ_TESTS_RESULTS_CELLS_H

#include "eval/common/splitmix.h"
#include "eval/results/cell.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline experiment some_experiment(void)
{
    experiment x;
    memset(&x, 0, sizeof x);
    strcpy(x.model, "gpt\"2\\ \xc3\xa4");
    strcpy(x.architecture, "gpt2");
    strcpy(x.weights, "F32, Q4_1");
    strcpy(x.text, "sample.txt");
    strcpy(x.precision, "fast");
    strcpy(x.version, "0.3.0");
    x.model_checksum = UINT64_C(0xfedcba9876543210);
    x.n_params = UINT64_MAX;
    x.n_layer = 2;
    x.n_head = 2;
    x.n_kv_head = 1;
    x.head_dim = 16;
    x.n_embd = 32;
    x.n_ctx = 1024;
    x.vocab_size = 50257;
    x.bos_id = -1;
    x.n_tokens = 130;
    x.n_prompt = 2;
    x.has_quality = true;
    x.seed = (UINT64_C(1) << 63) + 1;
    return x;
}

/* A double of any bits but the sign's that JSON can hold: all but NaN and infinities. */
static inline double any_double(uint64_t seed, uint64_t i)
{
    double x;
    const uint64_t bits = splitmix64(seed, i + 1);
    memcpy(&x, &bits, sizeof x);
    return isfinite(x) ? fabs(x) : -0.0;
}

/* Of any mantissa, and not above 1. */
static inline double some_double(uint64_t seed, uint64_t i)
{
    int exponent;
    return frexp(any_double(seed, i), &exponent);
}

static inline void fill_blocks(cell *c, uint64_t seed)
{
    for (size_t i = 0; i < c->n_blocks; i++)
        c->blocks[i] = (cell_block){.n_steps = 64,
                                    .n_targets = i == 1 ? 63 : 64,
                                    .n_agree = (uint32_t)(60 + i),
                                    .kl = any_double(seed, 10 * i),
                                    .nll = some_double(seed, 10 * i + 1),
                                    .nll_fp32 = some_double(seed, 10 * i + 2),
                                    .attn_error = (double)NAN,
                                    .attn_reference = (double)INFINITY,
                                    .attn_kl = 5e-324,
                                    .n_attn = UINT64_MAX - i};
}

/* Every number different, and among them those that are hard to write down. */
static inline cell some_cell(const experiment *x, const char *scheme, size_t window, uint64_t seed)
{
    cell c;
    memset(&c, 0, sizeof c);
    c.scheme = strdup(scheme);
    c.window = window;
    c.ids_checksum = splitmix64(seed, 1);
    c.n_blocks = 2;
    c.blocks = calloc(c.n_blocks, sizeof c.blocks[0]);
    fill_blocks(&c, seed);
    c.heads = calloc(x->n_layer * x->n_head, sizeof c.heads[0]);
    for (size_t i = 0; i < x->n_layer * x->n_head; i++)
        c.heads[i] =
            (cell_head){any_double(seed, 100 + i), 0.1, 1e300, DBL_MIN, DBL_MAX, -0.0, (double)INFINITY,
                        UINT64_MAX / 2 + i};
    for (size_t i = 0; i < CELL_N_BINS; i++)
        c.bins[i] = (uint32_t)(UINT32_MAX - i);
    c.kld_p99 = 1.0 / 3.0;
    c.kld_max = (double)NAN;
    c.attn_max_abs = FLT_MAX;
    c.n_worst = 2;
    c.worst[0] = (cell_worst){.position = 7, .kl = 0.25, .next = -1, .best_fp32 = 3, .best = 50256};
    strcpy(c.worst[0].context, "a\n\t\"quoted\" \xe2\x82\xac \x01");
    strcpy(c.worst[0].best_text, " the");
    c.worst[1].kl = 0.125;
    c.portrait = (cell_portrait){.layer = 1, .kv_head = 0, .n_rows = 3, .n_columns = 4};
    c.portrait.k = calloc(12, sizeof(float));
    c.portrait.v = calloc(12, sizeof(float));
    for (size_t i = 0; i < 12; i++) {
        c.portrait.k[i] = (float)i / 3.0f;
        c.portrait.v[i] = i == 5 ? NAN : i == 6 ? -INFINITY : -0.0f;
    }
    const uint64_t most = (UINT64_C(1) << 63) - 1;
    c.usage = (kvq_usage){sizeof(kvq_usage), 1, 2, 3, 4, 5, most, most + 25, 8, 9, 10};
    c.seconds = 1.25;
    strcpy(c.isa, "avx512");
    return c;
}

#endif
