/* The attention benchmark: its grid, its rows and its sentences (attend.h). */
#include "eval/bench/attend.h"

#include "eval/bench/cell.h"
#include "eval/bench/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_HEADLINE, TABLE_ATTEND, SPOKEN_TOKENS = 16384, QUICK_SECONDS = 20 };

/* The columns of "headline" that the sentences are made of. */
enum { H_SHAPE, H_TOKENS, H_THREADS, H_ISA, H_SCHEME, H_X_SGEMV = 8, H_X_SGEMM, H_X_PACKED = 12 };

static void add_tables(bench_report *r, size_t n_queries)
{
    static const bench_column headline[] = {
        {"shape", "shape", BENCH_TEXT},      {"tokens", "tokens", 0},
        {"threads", "threads", 0},           {"isa", "ISA", BENCH_TEXT},
        {"scheme", "scheme", BENCH_TEXT},    {"us_sgemv", "sgemv|us", 1},
        {"us_sgemm", "sgemm|us", 1},         {"us", "scheme|us", 1},
        {"x_sgemv", "vs|sgemv", 2},          {"x_sgemm", "vs|sgemm", 2},
        {"x_fp32", "vs our|fp32", 2},        {"x_fp16", "vs our|fp16", 2},
        {"x_packed", "no wind.|vs BLAS", 2}, {"x_window_i8", "i8 wind.|vs BLAS", 2},
        {"error", "fast vs|exact", 5},
    };
    static bench_column attend[] = {
        {"shape", "shape", BENCH_TEXT},
        {"head_dim", NULL, 0},
        {"n_heads", NULL, 0},
        {"n_kv_heads", NULL, 0},
        {"tokens", "tokens", 0},
        {"queries", NULL, 0},
        {"threads", "thr.", 0},
        {"scheme", "scheme", BENCH_TEXT},
        {"isa", "ISA", BENCH_TEXT},
        {"precision", "preci-|sion", BENCH_TEXT},
        {"us", "us per|step", 1},
        {"us_p10", "p10", 1},
        {"us_p90", "p90", 1},
        {"ns_per_token_head", NULL, 2},
        {"ns_per_query_token_head", NULL, 2},
        {"bytes_read", NULL, 0},
        {"gb_s", "GB/s|read", 1},
        {"level", "from", BENCH_TEXT},
        {"bandwidth_percent", "% of|bandw.", 0},
        {"x_sgemv", "vs|sgemv", 2},
        {"x_sgemm", "vs|sgemm", 2},
        {"x_fp32", "vs|fp32", 2},
        {"x_fp16", "vs|fp16", 2},
        {"residual_us", "window|us", 1},
        {"error", "fast vs|exact", 5},
        {"superblocks", NULL, 0},
        {"superblocks_wide", NULL, 0},
        {"superblocks_exact", NULL, 0},
        {"heads", NULL, 0},
        {"heads_again", NULL, 0},
        {"bytes_per_token", "bytes/|token", 0},
        {"bytes_total", NULL, 0},
        {"memory_x_fp32", "memory|vs fp32", 2},
        {"n_layers", "layers", 0},
        {"rounds", NULL, 0},
    };
    for (size_t i = 0; i < sizeof attend / sizeof attend[0]; i++) { /* people see the one that fits */
        if (n_queries == 1 && strcmp(attend[i].key, "ns_per_token_head") == 0)
            attend[i].title = "ns/token|/head";
        if (n_queries > 1 && strcmp(attend[i].key, "ns_per_query_token_head") == 0)
            attend[i].title = "ns/query/|tok./head";
    }
    (void)bench_add_table(r, "headline",
                          "The first scheme; without its window of plain tokens, and with one of int8",
                          headline, sizeof headline / sizeof headline[0], 1);
    bench_add_table(r, "attend",
                    n_queries == 1 ? "One decode step of one layer" : "Several queries over one layer",
                    attend, sizeof attend / sizeof attend[0], 6)
        ->noise = "us";
    r->main_table = TABLE_ATTEND;
}

static bool same_side(const kvq_side_info *a, const kvq_side_info *b)
{
    return strcmp(a->codec, b->codec) == 0 && a->bits == b->bits && a->axis == b->axis &&
           a->group == b->group && a->arith == b->arith;
}

static bool same_codes(const kvq_scheme *a, const kvq_scheme *b)
{
    kvq_side_info ak, av, bk, bv;
    return kvq_scheme_keys(a, &ak) == KVQ_OK && kvq_scheme_values(a, &av) == KVQ_OK &&
           kvq_scheme_keys(b, &bk) == KVQ_OK && kvq_scheme_values(b, &bv) == KVQ_OK && same_side(&ak, &bk) &&
           same_side(&av, &bv);
}

static double median_us(const bench_competitor *who)
{
    return who ? BENCH_MEDIAN(&who->us) : NAN;
}

static double blas_us(const bench_cell *c, bool gemv, int n_threads)
{
    for (size_t i = 0; i < c->n_competitors; i++) {
        const bench_competitor *who = &c->competitors[i];
        if (!who->source && who->gemv == gemv && who->n_threads == n_threads)
            return median_us(who);
    }
    return NAN;
}

static const bench_competitor *find(const bench_cell *c, size_t source, int n_threads)
{
    for (size_t i = 0; i < c->n_competitors; i++)
        if (c->competitors[i].source == &c->sources[source] && c->competitors[i].n_threads == n_threads)
            return &c->competitors[i];
    return NULL;
}

/* The same codes on the same instruction set and threads without residual and sinks, or with as many in
 * int8. */
enum window { WINDOW_NONE, WINDOW_I8 };

static bool window_is(const kvq_scheme *s, const kvq_scheme *of, enum window window)
{
    kvq_side_info k, v;
    if (window == WINDOW_NONE)
        return kvq_scheme_residual(s) == 0 && kvq_scheme_sinks(s) == 0;
    return kvq_scheme_keys(s, &k) == KVQ_OK && kvq_scheme_values(s, &v) == KVQ_OK &&
           k.residual_dtype == KVQ_I8 && v.residual_dtype == KVQ_I8 &&
           kvq_scheme_residual(s) == kvq_scheme_residual(of) && kvq_scheme_sinks(s) == kvq_scheme_sinks(of);
}

static const bench_competitor *with_window(const bench_cell *c, const bench_competitor *who,
                                           enum window window)
{
    for (size_t i = 0; i < c->n_competitors; i++) {
        const bench_competitor *other = &c->competitors[i];
        const bench_source *s = other->source;
        if (s && s->isa == who->source->isa && other->n_threads == who->n_threads &&
            other->precision == who->precision && same_codes(s->scheme, who->source->scheme) &&
            window_is(s->scheme, who->source->scheme, window))
            return other;
    }
    return NULL;
}

static double bandwidth(const bench_bandwidth *b, size_t n, int level, int n_threads)
{
    for (size_t i = 0; i < n; i++)
        if (b[i].level == level && b[i].n_threads == n_threads)
            return bench_quantile(&b[i].gb_s, 0.9); /* what others take away is no limit of the machine's */
    return NAN;
}

/* NaN where nothing ran in fast precision. */
static double fast_error(const bench_competitor *who)
{
    const char *precision = bench_cell_precision(who);
    const bool other = strcmp(precision, "exact") == 0 || strcmp(precision, "float32") == 0;
    return who->source && !other ? who->source->fast_error : NAN;
}

static void put_row(bench_table *t, const bench_report *r, const bench_cell *c, const bench_competitor *who,
                    const bench_bandwidth *b, size_t n_bandwidth)
{
    const bench_source *s = who->source;
    const double us = median_us(who);
    const double fp32_bytes =
        (double)(c->n_tokens * c->shape.n_kv_heads * c->shape.head_dim) * 2.0 * sizeof(float);
    const double bytes = s ? s->bytes_read : fp32_bytes, total = s ? s->bytes_total : fp32_bytes;
    const double gb_s = bytes / us * 1e-3;
    const int level = bench_level_of(&r->machine, bytes * (double)c->n_layers, who->n_threads);
    char shape[64];
    bench_shape_print(c->shape, shape, sizeof shape);
    bench_put_text(t, shape);
    bench_put_number(t, (double)c->shape.head_dim);
    bench_put_number(t, (double)c->shape.n_heads);
    bench_put_number(t, (double)c->shape.n_kv_heads);
    bench_put_number(t, (double)c->n_tokens);
    bench_put_number(t, (double)c->n_q);
    bench_put_number(t, who->n_threads);
    bench_put_text(t, s ? s->text : who->gemv ? "OpenBLAS sgemv" : "OpenBLAS sgemm");
    bench_put_text(t, s ? s->isa : "");
    bench_put_text(t, bench_cell_precision(who));
    bench_put_sample(t, &who->us);
    bench_put_number(t, us * 1e3 / (double)(c->n_tokens * c->shape.n_kv_heads));
    bench_put_number(t, us * 1e3 / (double)(c->n_q * c->n_tokens * c->shape.n_heads));
    bench_put_number(t, bytes);
    bench_put_number(t, gb_s);
    bench_put_text(t, bench_level_names[level]);
    bench_put_number(t, 100.0 * gb_s / bandwidth(b, n_bandwidth, level, who->n_threads));
    bench_put_number(t, blas_us(c, true, who->n_threads) / us);
    bench_put_number(t, blas_us(c, false, who->n_threads) / us);
    bench_put_number(t, median_us(find(c, 0, who->n_threads)) / us);
    bench_put_number(t, median_us(find(c, 1, who->n_threads)) / us);
    bench_put_number(t, s && !window_is(s->scheme, s->scheme, WINDOW_NONE)
                            ? us - median_us(with_window(c, who, WINDOW_NONE))
                            : NAN);
    const bool is_fast = s && who->precision == KVQ_PRECISION_FAST; /* asked for */
    bench_put_number(t, fast_error(who));
    bench_put_number(t, is_fast ? (double)s->counters.superblocks : NAN);
    bench_put_number(t, is_fast ? (double)s->counters.superblocks_wide : NAN);
    bench_put_number(t, is_fast ? (double)s->counters.superblocks_exact : NAN);
    bench_put_number(t, is_fast ? (double)s->counters.heads : NAN);
    bench_put_number(t, is_fast ? (double)s->counters.heads_again : NAN);
    bench_put_number(t, total / (double)c->n_tokens);
    bench_put_number(t, total);
    bench_put_number(t, fp32_bytes / total);
    bench_put_number(t, (double)c->n_layers);
    bench_put_number(t, (double)who->n_rounds);
}

static void add_rows(bench_report *r, const bench_cell *c, const bench_bandwidth *b, size_t n_bandwidth)
{
    for (size_t i = 0; i < c->n_competitors; i++)
        put_row(&r->tables[TABLE_ATTEND], r, c, &c->competitors[i], b, n_bandwidth);
    bench_table *t = &r->tables[TABLE_HEADLINE];
    for (size_t i = 0; i < c->options->n_threads; i++) {
        const int n_threads = c->options->threads[i];
        const bench_competitor *who = find(c, c->n_baselines, n_threads);
        if (!who)
            continue;
        const double us = median_us(who), sgemv = blas_us(c, true, n_threads),
                     sgemm = blas_us(c, false, n_threads);
        const double blas = fmin(sgemv, sgemm); /* there is no sgemv, NaN, for many queries */
        char shape[64];
        bench_shape_print(c->shape, shape, sizeof shape);
        bench_put_text(t, shape);
        bench_put_number(t, (double)c->n_tokens);
        bench_put_number(t, n_threads);
        bench_put_text(t, who->source->isa);
        bench_put_text(t, who->source->text);
        bench_put_number(t, sgemv);
        bench_put_number(t, sgemm);
        bench_put_number(t, us);
        bench_put_number(t, sgemv / us);
        bench_put_number(t, sgemm / us);
        bench_put_number(t, median_us(find(c, 0, n_threads)) / us);
        bench_put_number(t, median_us(find(c, 1, n_threads)) / us);
        bench_put_number(t, blas / median_us(with_window(c, who, WINDOW_NONE)));
        bench_put_number(t, blas / median_us(with_window(c, who, WINDOW_I8)));
        bench_put_number(t, fast_error(who));
    }
}

static void say_row(bench_report *r, const bench_value *row, size_t n_queries)
{
    const int n_threads = (int)row[H_THREADS].number;
    const double sgemv = row[H_X_SGEMV].number, sgemm = row[H_X_SGEMM].number,
                 packed = row[H_X_PACKED].number;
    char queries[48] = "", also[64] = "";
    if (n_queries > 1)
        snprintf(queries, sizeof queries, "with %zu queries ", n_queries);
    if (isfinite(packed))
        snprintf(also, sizeof also, "; %.1f times without its window", packed);
    bench_headline(r,
                   "%s attends %.1f times as fast as OpenBLAS fp32 (%s kernels; %s) %sover %.0f tokens of %s "
                   "(D x KV heads; "
                   "%s, %d thread%s)%s.",
                   row[H_SCHEME].text, fmin(sgemv, sgemm), r->machine.blas,
                   n_queries > 1 ? "sgemm" : "the better of sgemv and sgemm", queries, row[H_TOKENS].number,
                   row[H_SHAPE].text, row[H_ISA].text, n_threads, n_threads == 1 ? "" : "s", also);
}

/* For each shape the longest context up to SPOKEN_TOKENS (the only one, if all are longer). */
static void say_headline(bench_report *r, size_t n_queries)
{
    const bench_table *t = &r->tables[TABLE_HEADLINE];
    const size_t n_rows = t->failed ? 0 : t->n / t->n_columns;
    for (size_t i = 0; i < n_rows; i++) {
        const bench_value *row = &t->values[i * t->n_columns];
        bool best = row[H_THREADS].number <= t->values[H_THREADS].number;
        for (size_t j = 0; j < n_rows; j++) {
            const bench_value *other = &t->values[j * t->n_columns];
            if (strcmp(other[H_SHAPE].text, row[H_SHAPE].text) == 0 &&
                ((other[H_TOKENS].number > row[H_TOKENS].number && other[H_TOKENS].number <= SPOKEN_TOKENS) ||
                 (other[H_TOKENS].number < row[H_TOKENS].number && row[H_TOKENS].number > SPOKEN_TOKENS)))
                best = false;
        }
        if (best)
            say_row(r, row, n_queries);
    }
}

/* The sum of a column over the rows that ran in fast precision, if only in part. */
static double sum_of(const bench_table *t, const char *key)
{
    const size_t column = bench_column_of(t, key), error = bench_column_of(t, "error");
    double sum = 0.0;
    for (size_t at = 0; !t->failed && at < t->n; at += t->n_columns)
        sum += isfinite(t->values[at + error].number) ? t->values[at + column].number : 0.0;
    return sum;
}

/* How often 16 bits were not enough for fast precision. */
static void say_counters(bench_report *r)
{
    const bench_table *t = &r->tables[TABLE_ATTEND];
    const double superblocks = sum_of(t, "superblocks"), heads = sum_of(t, "heads");
    if (superblocks > 0.0 && heads > 0.0) {
        bench_note(r,
                   "Fast precision scored %.3g %% of the superblocks of keys with 31 bits instead of 16, "
                   "because the "
                   "query's range was too wide, and %.3g %% in float32; it computed %.3g %% of the heads "
                   "again, because "
                   "they could be too far off.",
                   100.0 * sum_of(t, "superblocks_wide") / superblocks,
                   100.0 * sum_of(t, "superblocks_exact") / superblocks,
                   100.0 * sum_of(t, "heads_again") / heads);
    }
}

static void say_sentences(bench_report *r, const bench_options *o)
{
    say_headline(r, o->n_queries);
    const bool one = o->n_queries == 1;
    bench_note(
        r,
        "A step is %zu quer%s over one layer. The caches of all layers are walked in turn, the same number "
        "for every competitor (column layers): 12, or as many as make fp32 twice the L3, divided by the "
        "queries; or as many as memory allows (--memory).",
        o->n_queries, one ? "y" : "ies, the last tokens,");
    bench_note(
        r,
        "Competitors take turns, at least %d rounds of them; one that could find its data in a cache (up to "
        "twice the L3) first walks untimed. Times are medians over single steps that nobody interrupted, "
        "ratios are of medians.",
        o->quick ? 5 : 9);
    bench_note(
        r,
        "Shapes are head dimension x KV heads. ns are per %s. GB/s read are the bytes of codes, scales, "
        "minimums, residual and sinks by time; `from' is the level that the walk over all layers fits "
        "into, and the percents are of the 90th percentile of the bandwidth measured there.",
        one ? "token and KV head" : "query, token and query head");
    bench_note(
        r,
        "OpenBLAS (%s kernels): per head, keys and values contiguous on huge pages; %s products per KV "
        "head in tiles of 256 tokens, or for many queries over all tokens at once, with a vectorised "
        "softmax between.%s Threads share the heads.",
        r->machine.blas,
        one ? "sgemv: a product for the scores and one for the output, per query head. sgemm:" : "sgemm:",
        one ? "" : " What a query may not see is computed, too, and left out of its softmax.");
    bench_note(
        r,
        "OpenBLAS's answers were checked against our fp32 cache in every cell (within 1e-4, relative L2).");
    bench_note(r, "window us: by how much a step takes longer than with everything packed (residual and "
                  "sinks 0). fast vs exact: relative L2 "
                  "error of the answers in KVQ_PRECISION_FAST against KVQ_PRECISION_EXACT.");
    bench_note(
        r,
        "Precision is what ran, by the library's account. All but the rows for comparison ask for "
        "KVQ_PRECISION_FAST; exact: KVQ_PRECISION_EXACT, with 31 bits; float32: throughout, for schemes that "
        "neither serves or of which nothing is packed yet; fast keys: values in float32 (rot of other "
        "widths than 2); mixed: some superblocks in float32.");
    say_counters(r);
    bench_note(
        r,
        "Encoding: GB/s of float32 input appended, %s tokens at once; into memory used before, and "
        "into fresh memory, where the kernel's page faults count. What stays in the residual counts "
        "among them: with kvq2 128 to 255 tokens. Nobody asks while these tokens come: without queries to "
        "learn from kvq2-fb has no feedback to work out, which is what takes its time.",
        o->quick ? "640" : "1,024");
    if (!o->isas_given && o->n_isas > 1)
        bench_note(
            r,
            "Instruction sets but the best have %s; portable is left out above 4,096 tokens. --isa measures "
            "any everywhere.",
            o->schemes_given ? "all schemes" : "the first two schemes");
}

/* The cells from `first` on. */
static void leave_out_rest(bench_report *r, const bench_options *o, size_t first)
{
    for (size_t i = first; i < o->n_shapes * o->n_tokens; i++) {
        char shape[64];
        bench_shape_print(o->shapes[i / o->n_tokens], shape, sizeof shape);
        bench_leave_out(r, shape, o->tokens[i % o->n_tokens], "",
                        "--quick was short of time, with others on this machine");
    }
}

bool bench_attend(const bench_options *o, bench_report *r, progress *p, eval_error *e)
{
    const size_t n_bandwidth = o->n_threads * BENCH_N_LEVELS;
    bench_bandwidth *b = calloc(n_bandwidth, sizeof b[0]);
    bench_cell *c = calloc(1, sizeof *c);
    bool good = (b && c) || eval_fail(e, "out of memory");
    add_tables(r, o->n_queries);
    progress_update(p, "bandwidth", 0.0);
    good = good && bench_measure_bandwidth(&r->machine, o->threads, o->n_threads,
                                           fmin(o->quick ? 1.0 : 5.0, o->seconds), b, e);
    const size_t n_cells = o->n_shapes * o->n_tokens;
    const double start = progress_now();
    size_t n_done = 0;
    for (size_t i = 0; good && i < n_cells; i++) {
        const bench_shape shape = o->shapes[i / o->n_tokens];
        const size_t n_tokens = o->tokens[i % o->n_tokens];
        bool skipped = false;
        if (o->quick && progress_now() - start > QUICK_SECONDS) { /* not on a quiet machine */
            leave_out_rest(r, o, i);
            break;
        }
        good = bench_cell_open(c, r, o, shape, n_tokens, NULL, &skipped, e) &&
               (skipped || bench_cell_run(c, p, (double)i / (double)n_cells, e));
        if (good && !skipped) {
            add_rows(r, c, b, n_bandwidth);
            n_done++;
        }
        bench_cell_free(c);
    }
    if (good && n_done == 0)
        good = bench_nothing_measured(r, e);
    for (size_t i = 0; good && i < o->n_shapes; i++) {
        progress_update(p, "encoding", 1.0);
        good = bench_encode(o, o->shapes[i], r, e);
    }
    if (good) {
        bench_add_bandwidth(r, b, n_bandwidth);
        say_sentences(r, o);
    }
    for (size_t i = 0; b && i < n_bandwidth; i++)
        bench_sample_free(&b[i].gb_s);
    free(b);
    free(c);
    return good;
}
