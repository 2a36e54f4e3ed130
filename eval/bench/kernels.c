/*
 * Every kernel alone (kernels.h). Like phases.c, and no other file of eval/, this one looks into quant/: to
 * measure kernels is to measure quant/.
 *
 * A slot is measured as the constant bench_SLOT says, found through KVQ_KERNEL_LIST: a new slot without one
 * does not compile. Its function makes one call on block i of a few that together stay in the second-level
 * cache.
 */
#include "eval/bench/kernels.h"

#include "quant/codec.h"
#include "quant/row8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    T = KVQ_SUPERBLOCK,
    N_BLOCKS = 8,
    GROUP = 32,
    MIN_ROUNDS = 9,
    MAX_ROUNDS = 101,
    /* The most that folding writes for KVQ_ROWS_MAX queries, keys and values alike. */
    MAX_WEIGHTS = KVQ_GROUPS_MAX * KVQ_ROWS_MAX * 2 * T,
    MAX_STEPS = KVQ_GROUPS_MAX * KVQ_ROWS_MAX,
};

#define MIN_SAMPLE_SECONDS 1e-4

/* What a kernel is called on. */
typedef struct workspace {
    kvq_layout keys, values;
    size_t dim, n_q;
    size_t n_floats;                         /* of a block: T * dim */
    uint8_t *k, *v;                          /* N_BLOCKS encoded superblocks each */
    uint8_t *written;                        /* where encoders write */
    float *rows;                             /* [N_BLOCKS][T][dim] normal */
    uint16_t *half;                          /* the same in half */
    uint8_t *rows8, *row8;                   /* the same in int8 (row8.h), and one row for results */
    float *floats;                           /* [T][dim] for results */
    uint16_t *halves;                        /* likewise */
    float *q, *acc, *p, *scores;             /* [n_q][dim], [n_q][dim], [n_q][T], [n_q][T] */
    int8_t *k_weights, *v_weights, *weights; /* folded from q and p; written by folding */
    float *k_step, *k_bias, *v_step, *v_bias, *v_energy, *step, *bias, *energy;
    float sink; /* so that results are used */
} workspace;

typedef struct kernel_bench {
    /* One call on block i; returns the bytes it goes through, which are what GB/s count. */
    size_t (*run)(const kvq_kernels *k, workspace *w, size_t i);
    bool packed;  /* depends on the bits of codes */
    bool queries; /* and on the number of queries */
} kernel_bench;

static const uint8_t *block(const uint8_t *first, const kvq_layout *l, size_t i)
{
    return first + i * l->bytes;
}

/* ---- rows and scores ---- */

static size_t run_all_finite_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    w->sink += k->all_finite_f32(w->rows + i * w->n_floats, w->n_floats) ? 1.0f : 0.0f;
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_all_finite_f32 = {run_all_finite_f32, false, false};

static size_t run_convert_f32_f16(const kvq_kernels *k, workspace *w, size_t i)
{
    k->convert_f32_f16(w->rows + i * w->n_floats, w->n_floats, w->halves);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_convert_f32_f16 = {run_convert_f32_f16, false, false};

static size_t run_convert_f16_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    k->convert_f16_f32(w->half + i * w->n_floats, w->n_floats, w->floats);
    return w->n_floats * sizeof(uint16_t);
}
static const kernel_bench bench_convert_f16_f32 = {run_convert_f16_f32, false, false};

static size_t run_convert_f32_bf16(const kvq_kernels *k, workspace *w, size_t i)
{
    k->convert_f32_bf16(w->rows + i * w->n_floats, w->n_floats, w->halves);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_convert_f32_bf16 = {run_convert_f32_bf16, false, false};

static size_t run_convert_bf16_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    k->convert_bf16_f32(w->half + i * w->n_floats, w->n_floats, w->floats); /* any bits do */
    return w->n_floats * sizeof(uint16_t);
}
static const kernel_bench bench_convert_bf16_f32 = {run_convert_bf16_f32, false, false};

static size_t run_dot_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    k->dot_f32(w->rows + i * w->n_floats, w->dim, T, (kvq_next){NULL, 0}, w->q, w->n_q, w->dim, w->scores);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_dot_f32 = {run_dot_f32, false, true};

static size_t run_dot_f16(const kvq_kernels *k, workspace *w, size_t i)
{
    k->dot_f16(w->half + i * w->n_floats, w->dim, T, (kvq_next){NULL, 0}, w->q, w->n_q, w->dim, w->scores);
    return w->n_floats * sizeof(uint16_t);
}
static const kernel_bench bench_dot_f16 = {run_dot_f16, false, true};

static size_t run_accumulate_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    k->accumulate_f32(w->rows + i * w->n_floats, w->dim, T, (kvq_next){NULL, 0}, w->p, w->n_q, w->dim,
                      w->acc);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_accumulate_f32 = {run_accumulate_f32, false, true};

static size_t run_accumulate_f16(const kvq_kernels *k, workspace *w, size_t i)
{
    k->accumulate_f16(w->half + i * w->n_floats, w->dim, T, (kvq_next){NULL, 0}, w->p, w->n_q, w->dim,
                      w->acc);
    return w->n_floats * sizeof(uint16_t);
}
static const kernel_bench bench_accumulate_f16 = {run_accumulate_f16, false, true};

static const uint8_t *row8_block(const workspace *w, size_t i)
{
    return w->rows8 + i * T * kvq_row8_bytes(w->dim);
}

static size_t run_convert_f32_i8(const kvq_kernels *k, workspace *w, size_t i)
{
    for (size_t t = 0; t < T; t++)
        k->convert_f32_i8(w->rows + i * w->n_floats + t * w->dim, w->dim, w->row8);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_convert_f32_i8 = {run_convert_f32_i8, false, false};

static size_t run_convert_i8_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    for (size_t t = 0; t < T; t++)
        k->convert_i8_f32(row8_block(w, i) + t * kvq_row8_bytes(w->dim), w->dim, w->floats + t * w->dim);
    return T * kvq_row8_bytes(w->dim);
}
static const kernel_bench bench_convert_i8_f32 = {run_convert_i8_f32, false, false};

static size_t run_dot_i8(const kvq_kernels *k, workspace *w, size_t i)
{
    k->dot_i8(row8_block(w, i), kvq_row8_bytes(w->dim), T, (kvq_next){NULL, 0}, w->q, w->n_q, w->dim,
              w->scores);
    return T * kvq_row8_bytes(w->dim);
}
static const kernel_bench bench_dot_i8 = {run_dot_i8, false, true};

static size_t run_accumulate_i8(const kvq_kernels *k, workspace *w, size_t i)
{
    k->accumulate_i8(row8_block(w, i), kvq_row8_bytes(w->dim), T, (kvq_next){NULL, 0}, w->p, w->n_q, w->dim,
                     w->acc);
    return T * kvq_row8_bytes(w->dim);
}
static const kernel_bench bench_accumulate_i8 = {run_accumulate_i8, false, true};

/* ---- what encodes and folds for kvq2 ---- */

static size_t run_channel_stats(const kvq_kernels *k, workspace *w, size_t i)
{
    kvq_channels stats;
    const float *row[T];
    for (size_t t = 0; t < T; t++)
        row[t] = w->rows + i * w->n_floats + t * 16;
    k->channel_stats(row, 0, &stats);
    w->sink += stats.square[0];
    return (size_t)T * 16 * sizeof(float);
}
static const kernel_bench bench_channel_stats = {run_channel_stats, false, false};

static size_t run_fit_channels(const kvq_kernels *k, workspace *w, size_t i)
{
    int8_t exponents[16];
    kvq_channels stats; /* of normal numbers */
    for (size_t j = 0; j < 16; j++)
        stats.mean[j] = 0.0f, stats.min[j] = -2.5f, stats.max[j] = 2.5f, stats.square[j] = (float)T;
    k->fit_channels(w->rows + i * w->n_floats, &stats, 2, 3.0f, (uint8_t *)w->floats, exponents, w->halves);
    return (size_t)T * 16 * sizeof(float);
}
static const kernel_bench bench_fit_channels = {run_fit_channels, false, false};

static size_t run_fit_channel(const kvq_kernels *k, workspace *w, size_t i)
{
    int8_t exponent;
    k->fit_channel(w->rows + i * w->n_floats, 2, 3.0f, (uint8_t *)w->floats, &exponent, w->halves);
    return T * sizeof(float);
}
static const kernel_bench bench_fit_channel = {run_fit_channel, false, false};

static size_t run_subtract_rows_f64(const kvq_kernels *k, workspace *w, size_t i)
{
    double rows[64][16] = {{1}}, by[64] = {0}, x[16] = {0};
    const double *row[64];
    for (size_t j = 0; j < 64; j++)
        row[j] = rows[(j + i) % 64];
    k->subtract_rows_f64(row, 0, by, 64, x);
    w->sink += (float)x[0];
    return sizeof rows;
}
static const kernel_bench bench_subtract_rows_f64 = {run_subtract_rows_f64, false, false};

static size_t run_add_moment_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    enum { N = 16, MOST = 2 * T - 16 }; /* whose triangle the floats have room for */
    const size_t dim = w->dim < MOST ? w->dim / 16 * 16 : MOST;
    k->add_moment_f32(w->rows + i * w->n_floats, N, dim, w->floats);
    return N * dim * sizeof(float);
}
static const kernel_bench bench_add_moment_f32 = {run_add_moment_f32, false, false};

/* In reverse order, half of the channels in one class. */
static size_t run_fold_ordered(const kvq_kernels *k, workspace *w, size_t i)
{
    uint16_t channel[KVQ_DIM_MAX];
    int8_t exponent[KVQ_DIM_MAX];
    size_t dim = w->dim / 16 * 16, first = dim / 32 * 16;
    for (size_t c = 0; c < dim; c++) {
        channel[c] = (uint16_t)(dim - 1 - c);
        exponent[c] = (int8_t)(c % 16);
    }
    k->fold_ordered(
        &(kvq_ordered){dim, exponent, w->half + i * w->n_floats, channel, 2, {first, dim - first}, {1, 1}},
        w->q, 1, false, w->weights, w->step, w->bias);
    return dim * sizeof(float);
}
static const kernel_bench bench_fold_ordered = {run_fold_ordered, false, false};

static size_t run_fold_products(const kvq_kernels *k, workspace *w, size_t i)
{
    kvq_fold fold;
    const uint8_t none[] = {255, 255};
    k->fold_products(&(kvq_log_scales){w->rows8 + i * T, 1e-3f, none, sizeof none}, T, w->p, 1, false,
                     w->floats, w->weights, &fold);
    w->sink += fold.sum;
    return T * sizeof(float);
}
static const kernel_bench bench_fold_products = {run_fold_products, false, false};

static size_t run_choose_levels(const kvq_kernels *k, workspace *w, size_t i)
{
    static const float thresholds[] = {-1.0f, 0.0f, 1.0f}, levels[] = {-1.5f, -0.5f, 0.5f, 1.5f};
    w->sink +=
        k->choose_levels(w->rows + i * w->n_floats, w->dim, thresholds, levels, 2, (uint8_t *)w->floats);
    return w->dim * sizeof(float);
}
static const kernel_bench bench_choose_levels = {run_choose_levels, false, false};

static size_t run_dequantize_levels(const kvq_kernels *k, workspace *w, size_t i)
{
    const kvq_token_codes codes = {
        .from = {block(w->v, &w->values, i)}, .stride = {64}, .n_planes = 1, .mask = {3}};
    k->dequantize_levels(&codes, w->q, 1.0f, w->q, w->dim, w->floats);
    return w->dim * sizeof(float);
}
static const kernel_bench bench_dequantize_levels = {run_dequantize_levels, false, false};

static size_t run_accumulate_levels(const kvq_kernels *k, workspace *w, size_t i)
{
    const kvq_block_codes codes = {
        .from = {block(w->v, &w->values, i)}, .stride = {512}, .n_planes = 1, .width = {2}};
    k->accumulate_levels(&codes, w->q, w->p, 1, w->dim / 16 * 16, w->floats);
    return w->dim / 16 * 16 * sizeof(float) * KVQ_BLOCK;
}
static const kernel_bench bench_accumulate_levels = {run_accumulate_levels, false, false};

static size_t run_hadamard_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    (void)i;
    k->hadamard_f32(w->floats, w->dim); /* in place: it keeps the norm */
    return w->dim * sizeof(float);
}
static const kernel_bench bench_hadamard_f32 = {run_hadamard_f32, false, false};

static size_t run_rotate_row(const kvq_kernels *k, workspace *w, size_t i)
{
    w->sink += (float)k->rotate_row(w->rows + i * w->n_floats, w->dim, w->floats, w->bias);
    return w->dim * sizeof(float);
}
static const kernel_bench bench_rotate_row = {run_rotate_row, false, false};

static size_t run_max_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    w->sink += k->max_f32(w->rows + i * w->n_floats, T);
    return T * sizeof(float);
}
static const kernel_bench bench_max_f32 = {run_max_f32, false, false};

static size_t run_exp2_sum_f32(const kvq_kernels *k, workspace *w, size_t i)
{
    (void)i;
    w->sink +=
        k->exp2_sum_f32(w->scores, T, 32.0f); /* in place: scores stay between 2^-32 and 2^-31 from then on */
    return T * sizeof(float);
}
static const kernel_bench bench_exp2_sum_f32 = {run_exp2_sum_f32, false, false};

/* ---- packed values ---- */

static size_t run_encode_affine_channel(const kvq_kernels *k, workspace *w, size_t i)
{
    k->encode_affine_channel(&w->keys, w->written, 0, T, w->rows + i * w->n_floats, w->dim);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_encode_affine_channel = {run_encode_affine_channel, true, false};

static size_t run_encode_affine_token(const kvq_kernels *k, workspace *w, size_t i)
{
    k->encode_affine_token(&w->values, w->written, 0, T, w->rows + i * w->n_floats, w->dim);
    return w->n_floats * sizeof(float);
}
static const kernel_bench bench_encode_affine_token = {run_encode_affine_token, true, false};

static size_t run_dequantize_affine(const kvq_kernels *k, workspace *w, size_t i)
{
    k->dequantize_affine(&w->keys, block(w->k, &w->keys, i), 0, T, w->floats, w->dim);
    return w->keys.bytes;
}
static const kernel_bench bench_dequantize_affine = {run_dequantize_affine, true, false};

/* ---- fast precision: folding goes through scales and minimums, the rest through codes ---- */

static kvq_next next_block(const uint8_t *first, const kvq_layout *l, size_t i)
{
    return (kvq_next){block(first, l, (i + 1) % N_BLOCKS), l->bytes};
}

static size_t metadata_bytes(const kvq_layout *l)
{
    return T / l->tokens_per_run * l->metadata_per_run;
}

static size_t run_fold_keys(const kvq_kernels *k, workspace *w, size_t i)
{
    k->fold_keys(&w->keys, block(w->k, &w->keys, i), T, w->q, w->n_q, false, w->weights, w->step, w->bias);
    return metadata_bytes(&w->keys);
}
static const kernel_bench bench_fold_keys = {run_fold_keys, true, true};

/* The codes of a whole superblock, as one tile of one plane, by the first tile's queries. */
static size_t run_score_runs(const kvq_kernels *k, workspace *w, size_t i)
{
    const kvq_layout *l = &w->keys;
    const uint32_t width = l->plane[0].width;
    const kvq_run run = {.width = width,
                         .block_bytes = l->meta_tile_bytes * KVQ_BLOCK / l->meta_tile_tokens,
                         .n = w->dim,
                         .folded_stride = 2 * kvq_fold_dim(w->dim)};
    k->score_runs(&run, 1, block(w->k, l, i), next_block(w->k, l, i), T, w->k_weights, w->k_step, w->k_bias,
                  w->n_q, w->scores);
    return T * w->dim * width / 8;
}
static const kernel_bench bench_score_runs = {run_score_runs, true, true};

static size_t run_fold_values(const kvq_kernels *k, workspace *w, size_t i)
{
    k->fold_values(&w->values, block(w->v, &w->values, i), T, w->p, w->n_q, false, w->weights, w->step,
                   w->bias, w->energy);
    return metadata_bytes(&w->values);
}
static const kernel_bench bench_fold_values = {run_fold_values, true, true};

static size_t run_accumulate_folded(const kvq_kernels *k, workspace *w, size_t i)
{
    k->accumulate_folded(&w->values, block(w->v, &w->values, i), next_block(w->v, &w->values, i), T,
                         w->v_weights, w->v_step, w->v_bias, w->n_q, w->acc);
    return T * w->values.payload_per_token;
}
static const kernel_bench bench_accumulate_folded = {run_accumulate_folded, true, true};

/* ---- all of them ---- */

typedef void (*any_kernel)(void);

/* Which kernel it is, for telling an instruction set's own from an inherited one. */
#define SAME(slot)                                                                                           \
    static bool same_##slot(const kvq_kernels *a, const kvq_kernels *b)                                      \
    {                                                                                                        \
        return a->slot == b->slot;                                                                           \
    }
KVQ_KERNEL_LIST(SAME)
#undef SAME

static const struct {
    const char *name;
    const kernel_bench *bench;
    bool (*same)(const kvq_kernels *a, const kvq_kernels *b);
} kernels[] = {
#define ENTRY(slot) {#slot, &bench_##slot, same_##slot},
    KVQ_KERNEL_LIST(ENTRY)
#undef ENTRY
};

enum { N_KERNELS = sizeof kernels / sizeof kernels[0] };

static bool workspace_init(workspace *w, size_t dim, uint32_t bits, size_t n_q, uint64_t seed)
{
    *w = (workspace){.dim = dim, .n_q = n_q, .n_floats = T * dim};
    kvq_layout_spec spec = {KVQ_KEYS, bits, true, false, GROUP, dim};
    kvq_layout_init(&w->keys, &spec);
    spec.role = KVQ_VALUES;
    spec.per_channel = false;
    kvq_layout_init(&w->values, &spec);
    const size_t largest = w->keys.bytes > w->values.bytes ? w->keys.bytes : w->values.bytes;
    const struct {
        void *where;
        size_t bytes;
    } arrays[] = {
        {&w->k, N_BLOCKS * w->keys.bytes},
        {&w->v, N_BLOCKS * w->values.bytes},
        {&w->written, largest},
        {&w->rows, N_BLOCKS * w->n_floats * sizeof(float)},
        {&w->half, N_BLOCKS * w->n_floats * sizeof(uint16_t)},
        {&w->rows8, N_BLOCKS * T * kvq_row8_bytes(dim)},
        {&w->row8, kvq_row8_bytes(dim)},
        {&w->floats, w->n_floats * sizeof(float)},
        {&w->halves, w->n_floats * sizeof(uint16_t)},
        {&w->q, n_q * dim * sizeof(float)},
        {&w->acc, n_q * dim * sizeof(float)},
        {&w->p, n_q * T * sizeof(float)},
        {&w->scores, n_q * T * sizeof(float)},
        {&w->k_weights, MAX_WEIGHTS},
        {&w->v_weights, MAX_WEIGHTS},
        {&w->weights, MAX_WEIGHTS},
        {&w->k_step, MAX_STEPS * sizeof(float)},
        {&w->k_bias, MAX_STEPS * sizeof(float)},
        {&w->v_step, MAX_STEPS * sizeof(float)},
        {&w->v_bias, MAX_STEPS * sizeof(float)},
        {&w->v_energy, MAX_STEPS * sizeof(float)},
        {&w->energy, MAX_STEPS * sizeof(float)},
        {&w->step, MAX_STEPS * sizeof(float)},
        {&w->bias, MAX_STEPS * sizeof(float)},
    };
    bool good = true;
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        void *memory = bench_alloc(arrays[i].bytes);
        good = good && memory;
        if (memory)
            memset(memory, 0, arrays[i].bytes);
        memcpy(arrays[i].where, &memory, sizeof memory);
    }
    if (!good)
        return false;
    const kvq_kernels *k = &kvq_kernels_portable;
    bench_fill_normal(w->rows, N_BLOCKS * w->n_floats, seed);
    bench_fill_normal(w->q, n_q * dim, seed + 1);
    bench_fill_normal(w->p, n_q * T, seed + 2);
    for (size_t i = 0; i < n_q * T; i++)
        w->p[i] = fabsf(w->p[i]) / 8.0f; /* between 0 and 1 */
    k->convert_f32_f16(w->rows, N_BLOCKS * w->n_floats, w->half);
    for (size_t t = 0; t < N_BLOCKS * T; t++)
        k->convert_f32_i8(w->rows + t * dim, dim, w->rows8 + t * kvq_row8_bytes(dim));
    for (size_t i = 0; i < N_BLOCKS; i++) {
        const float *x = w->rows + i * w->n_floats;
        k->encode_affine_channel(&w->keys, w->k + i * w->keys.bytes, 0, T, x, dim);
        k->encode_affine_token(&w->values, w->v + i * w->values.bytes, 0, T, x, dim);
    }
    k->fold_keys(&w->keys, w->k, T, w->q, n_q, false, w->k_weights, w->k_step, w->k_bias);
    k->fold_values(&w->values, w->v, T, w->p, n_q, false, w->v_weights, w->v_step, w->v_bias, w->v_energy);
    return true;
}

static void workspace_free(workspace *w)
{
    void *const arrays[] = {w->k,         w->v,       w->written, w->rows,   w->half,   w->floats,
                            w->halves,    w->q,       w->acc,     w->p,      w->scores, w->k_weights,
                            w->v_weights, w->weights, w->k_step,  w->k_bias, w->v_step, w->v_bias,
                            w->v_energy,  w->step,    w->bias,    w->energy, w->rows8,  w->row8};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}

/* Nanoseconds per call, over n turns through all blocks. */
static double timed(const kernel_bench *b, const kvq_kernels *k, workspace *w, size_t n, size_t *bytes)
{
    const double start = progress_now();
    for (size_t i = 0; i < n * N_BLOCKS; i++)
        *bytes = b->run(k, w, i % N_BLOCKS);
    return (progress_now() - start) * 1e9 / (double)(n * N_BLOCKS);
}

/* The tables to compare, portable first. */
typedef struct contenders {
    const kvq_kernels *table[BENCH_MAX_LIST + 1];
    size_t n;
    double log_ratio[BENCH_MAX_LIST + 1]; /* sums over the kernels of its own */
    size_t n_ratios[BENCH_MAX_LIST + 1];
} contenders;

static void put_rows(bench_table *t, contenders *c, size_t kernel, const workspace *w, uint32_t bits,
                     const bench_sample *ns, const double *bytes)
{
    const kernel_bench *b = kernels[kernel].bench;
    for (size_t i = 0; i < c->n; i++) {
        size_t origin = 0;
        while (!kernels[kernel].same(kvq_kernels_at(origin), c->table[i]))
            origin++;
        const double median = BENCH_MEDIAN(&ns[i]), ratio = BENCH_MEDIAN(&ns[0]) / median;
        bench_put_text(t, kernels[kernel].name);
        bench_put_number(t, (double)w->dim);
        bench_put_number(t, b->packed ? (double)bits : NAN);
        bench_put_number(t, b->queries ? (double)w->n_q : NAN);
        bench_put_text(t, c->table[i]->isa);
        bench_put_text(t, kvq_kernels_at(origin)->isa);
        bench_put_sample(t, &ns[i]);
        bench_put_number(t, bytes[i]);
        bench_put_number(t, bytes[i] / median);
        bench_put_number(t, ratio);
        if (origin > 0 && isfinite(ratio)) {
            c->log_ratio[i] += log(ratio);
            c->n_ratios[i]++;
        }
    }
}

static bool measure(bench_table *t, contenders *c, size_t kernel, workspace *w, uint32_t bits, double seconds,
                    eval_error *e)
{
    bench_sample ns[BENCH_MAX_LIST + 1] = {{0}};
    double bytes[BENCH_MAX_LIST + 1] = {0};
    size_t n_turns[BENCH_MAX_LIST + 1] = {0};
    bool good = true;
    const double start = progress_now();
    for (size_t round = 0;
         good && (round < MIN_ROUNDS || (round < MAX_ROUNDS && progress_now() - start < seconds)); round++) {
        for (size_t i = 0; good && i < c->n; i++) {
            size_t n_bytes = 0;
            if (round == 0) {
                (void)timed(kernels[kernel].bench, c->table[i], w, 1, &n_bytes);
                const double once = timed(kernels[kernel].bench, c->table[i], w, 1, &n_bytes);
                n_turns[i] = 1 + (size_t)(MIN_SAMPLE_SECONDS * 1e9 / (once * N_BLOCKS + 1.0));
            }
            good =
                bench_sample_add(&ns[i], timed(kernels[kernel].bench, c->table[i], w, n_turns[i], &n_bytes));
            bytes[i] = (double)n_bytes;
        }
    }
    if (good)
        put_rows(t, c, kernel, w, bits, ns, bytes);
    for (size_t i = 0; i < c->n; i++)
        bench_sample_free(&ns[i]);
    return good || eval_fail(e, "out of memory");
}

static void list_contenders(contenders *c, const bench_options *o)
{
    *c = (contenders){.table = {kvq_kernels_at(0)}, .n = 1};
    for (size_t i = o->n_isas; i > 0; i--) { /* the best one comes last */
        const kvq_kernels *table = kvq_kernels_for_isa(o->isas[i - 1]);
        bool known = !table;
        for (size_t j = 0; j < c->n; j++)
            known = known || c->table[j] == table;
        if (!known)
            c->table[c->n++] = table;
    }
}

/* One size: every kernel that depends on what differs from the sizes before. */
static bool measure_size(bench_table *t, contenders *c, const bench_options *o, size_t dim, uint32_t bits,
                         size_t n_q, bool first_bits, progress *p, double done, eval_error *e)
{
    workspace w;
    bool good = workspace_init(&w, dim, bits, n_q, o->seed) || eval_fail(e, "out of memory");
    for (size_t i = 0; good && i < N_KERNELS; i++) {
        const kernel_bench *b = kernels[i].bench;
        if ((n_q > 1 && !b->queries) || (!first_bits && !b->packed))
            continue;
        good = measure(t, c, i, &w, bits, o->seconds, e);
        progress_update(p, "kernels", done);
    }
    workspace_free(&w);
    return good;
}

bool bench_kernels(const bench_options *o, bench_report *r, progress *p, eval_error *e)
{
    static const bench_column columns[] = {
        {"kernel", "kernel", BENCH_TEXT},
        {"head_dim", "D", 0},
        {"bits", "bits", 0},
        {"queries", "queries", 0},
        {"isa", "ISA", BENCH_TEXT},
        {"implementation", "kernel|of", BENCH_TEXT},
        {"ns", "ns per|call", 1},
        {"ns_p10", "p10", 1},
        {"ns_p90", "p90", 1},
        {"bytes", "bytes", 0},
        {"gb_s", "GB/s", 2},
        {"x_portable", "vs por-|table", 2},
    };
    static const size_t dims[] = {128, 64}, queries[] = {1, 4};
    static const uint32_t bits[] = {2, 4, 8};
    bench_table *t = bench_add_table(r, "kernels", "One call on 128 tokens of one head", columns,
                                     sizeof columns / sizeof columns[0], 2);
    t->noise = "ns";
    contenders c;
    list_contenders(&c, o);
    const size_t n_dims = o->quick ? 1 : 2, n_bits = o->quick ? 1 : 3, n_queries = 2;
    const size_t n_sizes = n_dims * n_bits * n_queries;
    bool good = true;
    for (size_t i = 0; good && i < n_sizes; i++) {
        const size_t b = i / n_queries % n_bits;
        good = measure_size(t, &c, o, dims[i / n_queries / n_bits], bits[b], queries[i % n_queries], b == 0,
                            p, (double)i / (double)n_sizes, e);
    }
    for (size_t i = 1; i < c.n; i++) {
        if (c.n_ratios[i] > 0) {
            bench_headline(r, "%s: its kernels run %.1fx as fast as portable C (geometric mean of %zu).",
                           c.table[i]->isa, exp(c.log_ratio[i] / (double)c.n_ratios[i]), c.n_ratios[i]);
        }
    }
    bench_note(
        r,
        "Medians of at least %d rounds in which the instruction sets take turns; one thread; %d blocks in "
        "turn, which stay in the L2 cache.",
        MIN_ROUNDS, N_BLOCKS);
    bench_note(
        r,
        "bytes: what a call goes through: the numbers it reads (rows, encoding, folding of rows), the whole "
        "packed block (dequantize_affine), its scales and minimums (fold_keys, fold_values), its codes "
        "(score_runs, accumulate_folded), or the floats that codes stand for (dequantize_levels, "
        "accumulate_levels).");
    bench_note(
        r, "kernel of: the instruction set that the kernel comes from, where one inherits a plainer one's.");
    return good;
}
