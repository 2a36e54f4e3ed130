/* A prompt in one step, against OpenBLAS, which computes the attention among its tokens alone (prompt.h). */
#include "eval/bench/prompt.h"

#include "eval/bench/blas.h"
#include "eval/bench/cell.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Query rows of OpenBLAS at once, and no more than 256 queries: the fastest of 128, 256 and 512 where it was
 * tried. Each block sees the tokens up to its last one. */
enum { BLAS_ROWS = 512, BLAS_QUERIES = 256 };

/* Of anybody and OpenBLAS, relative L2: among its tokens a prompt is exact. */
#define MAX_DISAGREEMENT 1e-4

/* The prompt of one cell of the grid. */
typedef struct prompt_input {
    bench_shape shape;
    size_t n_tokens;
    float *q, *k, *v;         /* [n][H][D], [n][Hkv][D] */
    float *out, *wanted;      /* [n][H][D] */
    float *q_blas, *out_blas; /* the same, each block of queries as OpenBLAS has it */
    float *scratch;
    size_t block; /* queries of OpenBLAS at once */
    bench_blas blas;
    bool checked; /* wanted is there */
} prompt_input;

/* Who runs in turns with the others. */
typedef struct prompt_runner {
    const char *text, *isa;
    int n_threads;
    kvq_cache *cache;         /* NULL: OpenBLAS */
    bench_sample ms, spoiled; /* the latter: of those that another program interrupted */
} prompt_runner;

/* ---- one prompt ---- */

static size_t block_at(const prompt_input *in, size_t at)
{
    return in->n_tokens - at < in->block ? in->n_tokens - at : in->block;
}

/* Queries into OpenBLAS's order, or its answers back: untimed, as in the benchmark of steps. */
static void reorder(const prompt_input *in, const float *from, float *to, bool for_blas)
{
    const size_t query = in->shape.n_heads * in->shape.head_dim;
    for (size_t at = 0; at < in->n_tokens; at += in->block)
        bench_blas_reorder(in->shape, block_at(in, at), from + at * query, to + at * query, for_blas);
}

static void run_blas(prompt_input *in, int n_threads)
{
    const size_t query = in->shape.n_heads * in->shape.head_dim;
    for (size_t at = 0; at < in->n_tokens; at += in->block) {
        in->blas.n_tokens = at + block_at(in, at);
        bench_blas_attend(&in->blas, in->q_blas + at * query, block_at(in, at),
                          1.0f / sqrtf((float)in->shape.head_dim), n_threads, false, in->scratch,
                          in->out_blas + at * query);
    }
}

/* Seconds; NaN after an error. */
static double run_once(prompt_input *in, const prompt_runner *who, eval_error *e)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = who->n_threads;
    if (who->cache)
        kvq_cache_reset(who->cache);
    const double start = progress_now();
    kvq_status status = KVQ_OK;
    if (who->cache)
        status = kvq_cache_step(who->cache, 0, NULL, 1, &in->n_tokens, in->q, in->k, in->v,
                                1.0f / sqrtf((float)in->shape.head_dim), &options, in->out);
    else
        run_blas(in, who->n_threads);
    const double seconds = progress_now() - start;
    if (status == KVQ_OK)
        return seconds;
    (void)eval_fail(e, "a prompt of %zu tokens into %s: %s", in->n_tokens, who->text,
                    kvq_status_string(status));
    return NAN;
}

/* What competes must compute the same as OpenBLAS on as many threads as are first. */
static bool check(prompt_input *in, const prompt_runner *who, eval_error *e)
{
    const size_t n = in->n_tokens * in->shape.n_heads * in->shape.head_dim;
    if (isnan(run_once(in, who, e)))
        return false;
    if (!who->cache)
        reorder(in, in->out_blas, in->out, false);
    if (!in->checked)
        memcpy(in->wanted, in->out, n * sizeof in->out[0]);
    in->checked = true;
    const double error = bench_relative_l2(in->out, in->wanted, n);
    return error <= MAX_DISAGREEMENT ||
           eval_fail(e, "OpenBLAS and %s disagree about a prompt: %.1e, relative L2", who->text, error);
}

/* ---- a cell ---- */

/* The arrays of a prompt and how many floats they have. */
enum { N_ARRAYS = 8 };
typedef struct prompt_array {
    float **where;
    size_t n;
} prompt_array;

static void list_arrays(prompt_input *in, const bench_options *o, prompt_array arrays[N_ARRAYS])
{
    const bench_shape s = in->shape;
    const size_t keys = in->n_tokens * s.n_kv_heads * s.head_dim,
                 queries = in->n_tokens * s.n_heads * s.head_dim;
    size_t scratch = 0;
    for (size_t i = 0; i < o->n_threads; i++) {
        const size_t n = bench_blas_scratch(s, in->n_tokens, in->block, o->threads[i]);
        scratch = n > scratch ? n : scratch;
    }
    const prompt_array list[N_ARRAYS] = {
        {&in->q, queries},      {&in->k, keys},         {&in->v, keys},          {&in->out, queries},
        {&in->wanted, queries}, {&in->q_blas, queries}, {&in->scratch, scratch}, {&in->out_blas, queries}};
    memcpy(arrays, list, sizeof list);
}

static bool make_input(prompt_input *in, const bench_options *o, eval_error *e)
{
    prompt_array arrays[N_ARRAYS];
    list_arrays(in, o, arrays);
    for (size_t i = 0; i < N_ARRAYS; i++) {
        *arrays[i].where = bench_alloc(arrays[i].n * sizeof(float));
        if (!*arrays[i].where)
            return eval_fail(e, "out of memory for a prompt of %zu tokens", in->n_tokens);
    }
    if (!bench_blas_init(&in->blas, in->shape, in->n_tokens))
        return eval_fail(e, "out of memory for a prompt of %zu tokens", in->n_tokens);
    bench_fill_normal(in->q, arrays[0].n, o->seed + 2);
    bench_fill_normal(in->k, arrays[1].n, o->seed);
    bench_fill_normal(in->v, arrays[2].n, o->seed + 1);
    bench_blas_fill(&in->blas, 0, in->k, in->v, in->n_tokens);
    reorder(in, in->q, in->q_blas, true);
    return true;
}

static void free_input(prompt_input *in, const bench_options *o)
{
    prompt_array arrays[N_ARRAYS];
    list_arrays(in, o, arrays);
    for (size_t i = 0; i < N_ARRAYS; i++)
        free(*arrays[i].where);
    bench_blas_free(&in->blas);
}

/* Bytes, roughly: of the numbers, and of what OpenBLAS and every cache holds at most. */
static double memory_of(prompt_input *in, const bench_options *o, size_t n_runners)
{
    prompt_array arrays[N_ARRAYS];
    double n = 0.0;
    list_arrays(in, o, arrays);
    for (size_t i = 0; i < N_ARRAYS; i++)
        n += (double)arrays[i].n;
    return (n + 2.0 * (double)arrays[1].n * (double)n_runners) * sizeof(float);
}

static bool add_runner(prompt_runner *who, bench_shape shape, const kvq_scheme *scheme, const char *text,
                       const char *isa, int n_threads, eval_error *e)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = 1;
    config.n_heads = shape.n_heads;
    config.n_kv_heads = shape.n_kv_heads;
    config.head_dim = shape.head_dim;
    config.scheme = scheme;
    config.scheme_text = text;
    config.isa = isa;
    *who = (prompt_runner){.text = text, .isa = isa, .n_threads = n_threads};
    const kvq_status status = kvq_cache_create(&who->cache, &config);
    return status == KVQ_OK || eval_fail(e, "a cache of %s: %s", text, kvq_status_string(status));
}

/* For each number of threads OpenBLAS, an fp32 cache, and the schemes. */
static bool list_runners(const bench_options *o, bench_shape shape, size_t n_tokens, prompt_runner *list,
                         size_t *n, bench_report *r, eval_error *e)
{
    char text[64];
    bench_shape_print(shape, text, sizeof text);
    for (size_t t = 0; t < o->n_threads; t++) {
        list[(*n)++] = (prompt_runner){.text = "OpenBLAS sgemm", .isa = "", .n_threads = o->threads[t]};
        if (!add_runner(&list[(*n)++], shape, NULL, "fp32", kvq_isa(), o->threads[t], e))
            return false;
        for (size_t isa = 0; isa < o->n_isas; isa++) {
            for (size_t i = 0; i < o->n_schemes; i++) {
                const char *scheme = kvq_scheme_text(o->schemes[i]);
                if (!bench_takes(o->schemes[i], shape.head_dim)) {
                    if (t == 0 && isa == 0)
                        bench_leave_out(r, text, n_tokens, scheme, BENCH_DOES_NOT_TAKE, shape.head_dim);
                } else if (!add_runner(&list[(*n)++], shape, o->schemes[i], scheme, o->isas[isa],
                                       o->threads[t], e))
                    return false;
            }
        }
    }
    return true;
}

static bool run_in_turns(prompt_input *in, prompt_runner *list, size_t n, const bench_options *o, progress *p,
                         double fraction, eval_error *e)
{
    bool good = true;
    for (size_t i = 0; good && i < n; i++)
        good = check(in, &list[i], e);
    const double start = progress_now();
    for (size_t round = 0; good && bench_cell_goes_on(o, round, start); round++) {
        for (size_t i = 0; good && i < n; i++) {
            progress_update(p, "prompts", fraction);
            const long before = bench_interruptions(list[i].n_threads);
            const double seconds = run_once(in, &list[i], e);
            const bool quiet = bench_interruptions(list[i].n_threads) == before;
            good =
                !isnan(seconds) && (bench_sample_add(quiet ? &list[i].ms : &list[i].spoiled, seconds * 1e3) ||
                                    eval_fail(e, "out of memory"));
        }
    }
    for (size_t i = 0; good && i < n; i++)
        good = bench_cell_settle(&list[i].ms, &list[i].spoiled, e);
    return good;
}

static void put_rows(bench_table *t, const prompt_input *in, const prompt_runner *list, size_t n)
{
    const double pairs = 0.5 * (double)in->n_tokens * (double)(in->n_tokens + 1) * (double)in->shape.n_heads;
    char shape[64];
    double blas = NAN, fp32 = NAN;
    bench_shape_print(in->shape, shape, sizeof shape);
    for (size_t i = 0; i < n; i++) {
        const double ms = BENCH_MEDIAN(&list[i].ms);
        if (!list[i].cache) { /* of the rows that follow, with as many threads */
            blas = ms;
            fp32 = BENCH_MEDIAN(&list[i + 1].ms);
        }
        bench_put_text(t, shape);
        bench_put_number(t, (double)in->shape.head_dim);
        bench_put_number(t, (double)in->shape.n_heads);
        bench_put_number(t, (double)in->shape.n_kv_heads);
        bench_put_number(t, (double)in->n_tokens);
        bench_put_number(t, list[i].n_threads);
        bench_put_text(t, list[i].text);
        bench_put_text(t, list[i].isa);
        bench_put_sample(t, &list[i].ms);
        bench_put_number(t, ms * 1e6 / pairs);
        bench_put_number(t, blas / ms);
        bench_put_number(t, fp32 / ms);
    }
}

static bool measure_cell(const bench_options *o, bench_shape shape, size_t n_tokens, bench_report *r,
                         progress *p, double fraction, bool *measured, eval_error *e)
{
    const size_t most = o->n_threads * (2 + o->n_isas * o->n_schemes),
                 group = shape.n_heads / shape.n_kv_heads;
    prompt_input in = {.shape = shape, .n_tokens = n_tokens, .block = BLAS_ROWS / group};
    in.block = in.block > BLAS_QUERIES ? BLAS_QUERIES : in.block > 0 ? in.block : 1;
    const double memory = memory_of(&in, o, most);
    if (memory > o->memory) {
        char text[64];
        bench_shape_print(shape, text, sizeof text);
        bench_leave_out(r, text, n_tokens, "", "it may take %.1f GB (--memory)", memory * 1e-9);
        return true;
    }
    prompt_runner *list = calloc(most, sizeof list[0]);
    size_t n = 0;
    const bool good = (list || eval_fail(e, "out of memory")) && make_input(&in, o, e) &&
                      list_runners(o, shape, n_tokens, list, &n, r, e) &&
                      run_in_turns(&in, list, n, o, p, fraction, e);
    if (good)
        put_rows(&r->tables[r->main_table], &in, list, n);
    *measured = *measured || good;
    for (size_t i = 0; i < n; i++) {
        kvq_cache_free(list[i].cache);
        bench_sample_free(&list[i].ms);
        bench_sample_free(&list[i].spoiled);
    }
    free(list);
    free_input(&in, o);
    return good;
}

/* ---- the report ---- */

static void say(bench_report *r)
{
    bench_note(
        r,
        "A prompt goes into an empty cache by one kvq_cache_step: attention among its tokens, which is "
        "exact with every scheme, what schemes learn from queries, packing, and the mapping of memory, "
        "which an empty cache does not have. OpenBLAS (%s kernels, up to %d queries and %d rows at once) "
        "computes the attention alone, with its keys, values and queries in the order that suits it, and "
        "within a block what is masked, too.",
        r->machine.blas, BLAS_QUERIES, BLAS_ROWS);
    bench_note(r,
               "Shapes are head dimension x KV heads. ns are per query head, query and token that it sees, "
               "T (T + 1) / 2 of them in a prompt of T.");
    bench_note(
        r, "Competitors take turns, at least 9 rounds of them (5 if quick), whatever they take; a sample is "
           "one prompt, times are medians of those that nobody interrupted.");
    bench_note(r, "Answers were checked against OpenBLAS's (within 1e-4, relative L2).");
}

bool bench_prompt(const bench_options *o, bench_report *r, progress *p, eval_error *e)
{
    static const bench_column columns[] = {
        {"shape", "shape", BENCH_TEXT},
        {"head_dim", NULL, 0},
        {"n_heads", NULL, 0},
        {"n_kv_heads", NULL, 0},
        {"tokens", "tokens", 0},
        {"threads", "thr.", 0},
        {"scheme", "scheme", BENCH_TEXT},
        {"isa", "ISA", BENCH_TEXT},
        {"ms", "ms per|prompt", 2},
        {"ms_p10", "p10", 2},
        {"ms_p90", "p90", 2},
        {"ns_per_query_token_head", "ns/query/|tok./head", 2},
        {"x_sgemm", "vs|sgemm", 2},
        {"x_fp32", "vs|fp32", 2},
    };
    bench_add_table(r, "prompts", "A prompt in one step of one layer", columns,
                    sizeof columns / sizeof columns[0], 6)
        ->noise = "ms";
    const size_t n_cells = o->n_shapes * o->n_tokens;
    bool measured = false;
    for (size_t i = 0; i < n_cells; i++) {
        const double fraction = (double)i / (double)n_cells;
        if (!measure_cell(o, o->shapes[i / o->n_tokens], o->tokens[i % o->n_tokens], r, p, fraction,
                          &measured, e))
            return false;
    }
    if (!measured)
        return bench_nothing_measured(r, e);
    say(r);
    return true;
}
