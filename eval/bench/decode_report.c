/* Rows and sentences about generation (decode.h). */
#include "eval/bench/decode.h"

#include <math.h>

enum { OUTLIER = 4 };

void bench_decode_table(bench_report *r)
{
    static const bench_column columns[] = {
        {"model", "model", BENCH_TEXT},
        {"n_params", NULL, 0},
        {"output_tokens", "output|tokens", 0},
        {"cache", "cache", BENCH_TEXT},
        {"tokens_per_s", "tokens|/s", 1},
        {"ttft_ms", "first|token ms", 2},
        {"ttft_ms_p10", NULL, 2},
        {"ttft_ms_p90", NULL, 2},
        {"step_ms", "ms per|token", 3},
        {"step_ms_p10", "p10", 3},
        {"step_ms_p90", "p90", 3},
        {"cache_ms", "cache|ms", 3},
        {"matrix_ms", "matrix|ms", 3},
        {"matrix_ms_p10", NULL, 3},
        {"matrix_ms_p90", NULL, 3},
        {"cache_percent", "% in|cache", 1},
        {"x_no_cache", "vs no|cache", 2},
        {"x_fp32", "vs|fp32", 3},
        {"cache_bytes", "bytes|at the end", 0},
        {"threads", NULL, 0},
        {"isa", NULL, BENCH_TEXT},
    };
    bench_add_table(r, "decode", "Generation", columns, sizeof columns / sizeof columns[0], 3)->noise =
        "matrix_ms"; /* the same for every token, while the cache's part grows with them */
    r->main_table = 0;
}

/* Median over the steps (begin, end] of a length; NaN if there are none or memory is short. */
static double window(const double *x, size_t begin, size_t end, double q)
{
    bench_sample s = {0};
    bool good = true;
    for (size_t i = begin; good && i < end; i++)
        good = bench_sample_add(&s, x[i]);
    const double value = good ? bench_quantile(&s, q) : NAN;
    bench_sample_free(&s);
    return value;
}

/*
 * Seconds from the prompt to output token n_output. A step of more than OUTLIER times the median of its
 * stretch was interrupted by another program, and counts as that much; the steps in which a residual is
 * packed stay below.
 */
static double total(const decode_run *d, size_t way, size_t n_output)
{
    const decode_way *w = &d->ways[way];
    double seconds = w->step[0];
    for (size_t p = 0; p < d->n_points; p++) {
        const size_t from = p > 0 ? d->points[p - 1] : 1;
        const double most = w->has_cache ? OUTLIER * window(w->step, from, d->points[p], 0.5) : INFINITY;
        for (size_t i = from; i < d->points[p] && i < n_output; i++)
            seconds += fmin(w->step[i], most);
    }
    return seconds;
}

/* The steps that stand for point p: those since the one before, without step 0, which is the prompt's. No
 * cache has been measured at the point alone. */
static size_t window_begin(const decode_run *d, const decode_way *w, size_t p)
{
    return !w->has_cache ? d->points[p] - 1 : p > 0 ? d->points[p - 1] : 1;
}

static double step_median(const decode_run *d, size_t way, size_t p)
{
    const decode_way *w = &d->ways[way];
    return window(w->step, window_begin(d, w, p), d->points[p], 0.5);
}

static double attention_median(const decode_run *d, size_t way, size_t p)
{
    const decode_way *w = &d->ways[way];
    return window(w->attention, window_begin(d, w, p), d->points[p], 0.5);
}

/* Of the matrix work of those steps; NaN without a cache, of which there is one step alone. */
static double matrix_quantile(const decode_run *d, const decode_way *w, size_t p, double q)
{
    bench_sample s = {0};
    bool good = w->has_cache;
    for (size_t i = window_begin(d, w, p); good && i < d->points[p]; i++)
        good = bench_sample_add(&s, w->step[i] - w->attention[i]);
    const double value = good ? bench_quantile(&s, q) : NAN;
    bench_sample_free(&s);
    return value;
}

static void put_row(bench_table *t, const decode_run *d, size_t p, size_t way)
{
    const decode_way *w = &d->ways[way];
    const size_t n = d->points[p], begin = window_begin(d, w, p);
    const double step = step_median(d, way, p), attention = attention_median(d, way, p);
    const double seconds = total(d, way, n);
    bench_put_text(t, d->model_name);
    bench_put_number(t, (double)d->model->n_params);
    bench_put_number(t, (double)n);
    bench_put_text(t, w->name);
    bench_put_number(t, (double)n / seconds);
    for (size_t i = 0; i < 3; i++) {
        static const double q[] = {0.5, 0.1, 0.9};
        bench_put_number(t, 1e3 * bench_quantile(&w->first, q[i]));
    }
    bench_put_number(t, 1e3 * step);
    bench_put_number(t, w->has_cache ? 1e3 * window(w->step, begin, n, 0.1) : NAN);
    bench_put_number(t, w->has_cache ? 1e3 * window(w->step, begin, n, 0.9) : NAN);
    bench_put_number(t, 1e3 * attention);
    bench_put_number(t, 1e3 * (step - attention));
    bench_put_number(t, 1e3 * matrix_quantile(d, w, p, 0.1));
    bench_put_number(t, 1e3 * matrix_quantile(d, w, p, 0.9));
    bench_put_number(t, 100.0 * attention / step);
    bench_put_number(t, total(d, 0, n) / seconds);
    bench_put_number(t, total(d, 1, n) / seconds);
    bench_put_number(t, w->has_cache ? w->bytes : 0.0);
    bench_put_number(t, d->n_threads);
    bench_put_text(t, d->isa);
}

/* The shortest output from which on generating with an fp32 cache takes less time, all in all. */
static void say_cache_pays(bench_report *r, const decode_run *d)
{
    size_t from = d->n_output + 1;
    for (size_t n = d->n_output; n > 1 && total(d, 0, n) > total(d, 1, n); n--)
        from = n; /* one token needs no cache: nothing is read back */
    const double none = total(d, 0, d->n_output), cached = total(d, 1, d->n_output);
    if (from > d->n_output) {
        bench_headline(r, "%s: up to %zu tokens no cache is as fast as one (fp32).", d->model_name,
                       d->n_output);
        return;
    }
    bench_headline(
        r,
        "%s: a cache (fp32) pays from an output of %zu tokens on (prompt %d); for %zu tokens it is "
        "%.1fx faster than recomputing.",
        d->model_name, from, DECODE_PROMPT, d->n_output, none / cached);
}

enum { PRESET_RESIDUAL = 128 }; /* residual of the kivi presets: nothing is packed before */

/* From which context on a step over a packed cache takes less time than one over fp32, and stays so. */
static void say_packed_pays(bench_report *r, const decode_run *d, size_t way)
{
    const char *name = d->ways[way].name;
    size_t from = d->n_points;
    for (size_t p = d->n_points; p > 0 && d->points[p - 1] + DECODE_PROMPT > PRESET_RESIDUAL &&
                                 step_median(d, way, p - 1) < step_median(d, 1, p - 1);
         p--)
        from = p - 1; /* while all tokens lie in the residual, a difference is chance */
    const size_t last = d->n_points - 1;
    const double gain = 100.0 * (step_median(d, 1, last) / step_median(d, way, last) - 1.0);
    const double cache_gain = attention_median(d, 1, last) / attention_median(d, way, last);
    if (from == d->n_points) {
        bench_headline(
            r,
            "%s: %s is not faster than an fp32 cache up to %zu tokens (there %+.1f %% in the step, "
            "%.2fx in attention alone).",
            d->model_name, name, d->n_output, gain, cache_gain);
    } else {
        bench_headline(
            r,
            "%s: a step with %s is faster than with fp32 from about %zu output tokens on (up to %zu: "
            "%+.1f %% in the step, %.2fx in attention alone).",
            d->model_name, name, from == 0 ? 1 : d->points[from - 1], d->n_output, gain, cache_gain);
    }
}

void bench_decode_rows(bench_report *r, const decode_run *d)
{
    for (size_t p = 0; p < d->n_points; p++)
        for (size_t way = 0; way < d->n_ways; way++)
            put_row(&r->tables[0], d, p, way);
    say_cache_pays(r, d);
    for (size_t way = 3; way < d->n_ways; way++)
        say_packed_pays(r, d, way);
    const size_t last = d->n_points - 1;
    bench_headline(
        r, "%s: at %zu tokens %.0f %% of a step with an fp32 cache is matrix work and %.0f %% cache.",
        d->model_name, d->n_output, 100.0 - 100.0 * attention_median(d, 1, last) / step_median(d, 1, last),
        100.0 * attention_median(d, 1, last) / step_median(d, 1, last));
}
