/* A prompt in one step, against OpenBLAS, which computes the attention among its tokens alone (prompt.h). */
#include "eval/bench/prompt.h"

#include "eval/bench/blas.h"
#include "eval/bench/cell.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLAS_QUERIES = 256 }; /* of OpenBLAS at once: each block sees the tokens up to its last one */

#define MAX_DISAGREEMENT 1e-4 /* of anybody and OpenBLAS, relative L2: among its tokens a prompt is exact */

/* The prompt of one cell of the grid. */
typedef struct prompt_input {
    bench_shape shape;
    size_t n_tokens;
    float *q, *k, *v;                     /* [n][H][D], [n][Hkv][D] */
    float *out, *wanted;                  /* [n][H][D] */
    float *q_block, *out_block, *scratch; /* of OpenBLAS */
    bench_blas blas;
} prompt_input;

/* Who runs in turns with the others. */
typedef struct prompt_runner {
    const char *text, *isa; /* of a scheme; NULL: OpenBLAS */
    int n_threads;
    kvq_cache *cache;
    bench_sample ms;
} prompt_runner;

/* ---- one prompt ---- */

static void run_blas(prompt_input *in, int n_threads, float *out)
{
    const bench_shape s = in->shape;
    const size_t query = s.n_heads * s.head_dim;
    for (size_t at = 0, n; at < in->n_tokens; at += n) {
        n = in->n_tokens - at < BLAS_QUERIES ? in->n_tokens - at : BLAS_QUERIES;
        in->blas.n_tokens = at + n;
        bench_blas_reorder(s, n, in->q + at * query, in->q_block, true);
        bench_blas_attend(&in->blas, in->q_block, n, 1.0f / sqrtf((float)s.head_dim), n_threads, false,
                          in->scratch, in->out_block);
        bench_blas_reorder(s, n, in->out_block, out + at * query, false);
    }
}

/* Seconds; NaN after an error. */
static double run_once(prompt_input *in, const prompt_runner *who, float *out, eval_error *e)
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
                                1.0f / sqrtf((float)in->shape.head_dim), &options, out);
    else
        run_blas(in, who->n_threads, out);
    const double seconds = progress_now() - start;
    if (status == KVQ_OK)
        return seconds;
    (void)eval_fail(e, "a prompt of %zu tokens into %s: %s", in->n_tokens, who->text,
                    kvq_status_string(status));
    return NAN;
}

/* What competes must compute the same. This is also what makes caches take memory, untimed. */
static bool check(prompt_input *in, const prompt_runner *who, eval_error *e)
{
    float *to = who->cache ? in->out : in->wanted;
    if (isnan(run_once(in, who, to, e)))
        return false;
    const double error =
        bench_relative_l2(to, in->wanted, in->n_tokens * in->shape.n_heads * in->shape.head_dim);
    return error <= MAX_DISAGREEMENT ||
           eval_fail(e, "OpenBLAS and %s disagree about a prompt: %.1e, relative L2", who->text, error);
}

/* ---- a cell ---- */

static bool make_input(prompt_input *in, const bench_options *o, eval_error *e)
{
    const bench_shape s = in->shape;
    const size_t n = in->n_tokens, row = s.n_kv_heads * s.head_dim, query = s.n_heads * s.head_dim;
    size_t scratch = 0;
    for (size_t i = 0; i < o->n_threads; i++)
        scratch =
            (size_t)fmax((double)scratch, (double)bench_blas_scratch(s, n, BLAS_QUERIES, o->threads[i]));
    const struct {
        float **where;
        size_t n;
    } arrays[] = {{&in->q, n * query},      {&in->k, n * row},
                  {&in->v, n * row},        {&in->out, n * query},
                  {&in->wanted, n * query}, {&in->q_block, BLAS_QUERIES * query},
                  {&in->scratch, scratch},  {&in->out_block, BLAS_QUERIES * query}};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        *arrays[i].where = bench_alloc(arrays[i].n * sizeof(float));
        if (!*arrays[i].where)
            return eval_fail(e, "out of memory for a prompt of %zu tokens", n);
    }
    if (!bench_blas_init(&in->blas, s, n))
        return eval_fail(e, "out of memory for a prompt of %zu tokens", n);
    bench_fill_normal(in->q, n * query, o->seed + 2);
    bench_fill_normal(in->k, n * row, o->seed);
    bench_fill_normal(in->v, n * row, o->seed + 1);
    bench_blas_fill(&in->blas, 0, in->k, in->v, n);
    return true;
}

static void free_input(prompt_input *in)
{
    float *const arrays[] = {in->q,      in->k,       in->v,         in->out,
                             in->wanted, in->q_block, in->out_block, in->scratch};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    bench_blas_free(&in->blas);
}

/* Bytes, roughly: of what OpenBLAS and the caches hold, and of the numbers themselves. */
static double memory_of(const bench_options *o, bench_shape s, size_t n_tokens, size_t n_runners)
{
    const double token = (double)(s.head_dim * sizeof(float)) * (double)(2 * s.n_kv_heads * (n_runners + 2));
    double scratch = 0.0;
    for (size_t i = 0; i < o->n_threads; i++)
        scratch = fmax(scratch, (double)bench_blas_scratch(s, n_tokens, BLAS_QUERIES, o->threads[i]));
    return (double)n_tokens * (token + (double)(3 * s.n_heads * s.head_dim * sizeof(float))) + scratch * 4.0;
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
        list[(*n)++] = (prompt_runner){.n_threads = o->threads[t]};
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

static bool run_in_turns(prompt_input *in, prompt_runner *list, size_t n, const bench_options *o,
                         eval_error *e)
{
    for (size_t i = 0; i < n; i++)
        if (!check(in, &list[i], e))
            return false;
    const double start = progress_now();
    for (size_t round = 0; bench_cell_goes_on(o, round, start); round++) {
        for (size_t i = 0; i < n; i++) {
            const double seconds = run_once(in, &list[i], in->out, e);
            if (isnan(seconds))
                return false;
            if (!bench_sample_add(&list[i].ms, seconds * 1e3))
                return eval_fail(e, "out of memory");
        }
    }
    return true;
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
        bench_put_text(t, list[i].cache ? list[i].text : "OpenBLAS sgemm");
        bench_put_text(t, list[i].cache ? list[i].isa : "");
        bench_put_sample(t, &list[i].ms);
        bench_put_number(t, ms * 1e6 / pairs);
        bench_put_number(t, blas / ms);
        bench_put_number(t, fp32 / ms);
    }
}

static bool measure_cell(const bench_options *o, bench_shape shape, size_t n_tokens, bench_report *r,
                         bool *measured, eval_error *e)
{
    const size_t most = o->n_threads * (2 + o->n_isas * o->n_schemes);
    const double memory = memory_of(o, shape, n_tokens, most);
    if (memory > o->memory) {
        char text[64];
        bench_shape_print(shape, text, sizeof text);
        bench_leave_out(r, text, n_tokens, "", "it may take %.1f GB (--memory)", memory * 1e-9);
        return true;
    }
    prompt_input in = {.shape = shape, .n_tokens = n_tokens};
    prompt_runner *list = calloc(most, sizeof list[0]);
    size_t n = 0;
    const bool good = (list || eval_fail(e, "out of memory")) && make_input(&in, o, e) &&
                      list_runners(o, shape, n_tokens, list, &n, r, e) && run_in_turns(&in, list, n, o, e);
    if (good)
        put_rows(&r->tables[r->main_table], &in, list, n);
    *measured = *measured || good;
    for (size_t i = 0; i < n; i++) {
        kvq_cache_free(list[i].cache);
        bench_sample_free(&list[i].ms);
    }
    free(list);
    free_input(&in);
    return good;
}

/* ---- the report ---- */

static void say(bench_report *r)
{
    bench_note(r,
               "A prompt goes into an empty cache by one kvq_cache_step: attention among its tokens, which "
               "is exact with every scheme, what schemes learn from queries, and packing. OpenBLAS (%s "
               "kernels, 256 queries at once) computes the attention alone.",
               r->machine.blas);
    bench_note(r,
               "Shapes are head dimension x KV heads. ns are per query head, query and token that it sees, "
               "T (T + 1) / 2 of them in a prompt of T. Competitors take turns; times are medians.");
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
        progress_update(p, "prompts", (double)i / (double)n_cells);
        if (!measure_cell(o, o->shapes[i / o->n_tokens], o->tokens[i % o->n_tokens], r, &measured, e))
            return false;
    }
    if (!measured)
        return bench_nothing_measured(r, e);
    say(r);
    return true;
}
