/* Predictions beside measurements (plan_measure.h). */
#include "eval/cli/plan_measure.h"

#include "eval/bench/decode.h"
#include "eval/bench/machine.h"

#include <math.h>
#include <omp.h>
#include <string.h>

bool plan_measure_machine(this_machine *m, progress *line, eval_error *e)
{
    bench_machine machine;
    bench_bandwidth bandwidth[BENCH_N_LEVELS] = {{0}};
    const int threads = omp_get_max_threads();
    progress_say(line, "measuring this machine");
    bench_machine_read(&machine);
    *m = (this_machine){.machine = {.name = "this machine", .memory = (double)machine.memory}};
    bool good = bench_measure_bandwidth(&machine, &threads, 1, 1.0, bandwidth, e) &&
                bench_measure_flops(0.5, &m->machine.flops, e);
    for (size_t i = 0; i < BENCH_N_LEVELS; i++) {
        m->level_gb_s[i] = BENCH_MEDIAN(&bandwidth[i].gb_s);
        bench_sample_free(&bandwidth[i].gb_s);
    }
    m->machine.bandwidth = 1e9 * m->level_gb_s[BENCH_DRAM];
    if (good && !(m->machine.memory > 0.0 && m->machine.bandwidth > 0.0 && m->machine.flops > 0.0))
        good = eval_fail(e, "this machine cannot be measured; describe one in a file for --machine");
    return good;
}

/* ---- a decode step ---- */

/* The two longest outputs: the steps between them are what the last rows tell. */
static void last_lengths(const bench_table *t, double *last, double *before)
{
    const size_t length = bench_column_of(t, "output_tokens");
    *last = *before = 0.0;
    for (size_t row = 0; row < t->n / t->n_columns; row++) {
        const double n = t->values[row * t->n_columns + length].number;
        if (n > *last) {
            *before = *last;
            *last = n;
        }
    }
}

/* Seconds of a step with that cache at the longest output; NaN if there is no such row. */
static double measured_seconds(const bench_table *t, const char *scheme, double n_output)
{
    const size_t length = bench_column_of(t, "output_tokens"), cache = bench_column_of(t, "cache"),
                 step = bench_column_of(t, "step_ms");
    for (size_t row = 0; row < t->n / t->n_columns; row++) {
        const bench_value *v = &t->values[row * t->n_columns];
        if (!(v[length].number < n_output) && strncmp(v[cache].text, scheme, BENCH_TEXT_SIZE - 1) == 0)
            return 1e-3 * v[step].number;
    }
    return NAN;
}

static bool predict(const plan_request *r, const this_machine *m, plan_measured *out, const bench_table *t,
                    tensor_type weights, double n_output, eval_error *e)
{
    bench_machine machine;
    bench_machine_read(&machine);
    for (size_t i = 0; i < r->n_schemes; i++) {
        cache_bytes cache;
        plan_measured_step *s = &out->steps[out->n++];
        if (!usage_of(&r->dims, r->schemes[i], out->n_tokens, 1, USAGE_BUDGET, &cache, e))
            return false;
        const double read = (double)usage_read(&cache);
        const double bytes = (double)plan_step_weight_bytes(&r->dims, weights) + read;
        plan_machine here = m->machine;
        const int level = bench_level_of(&machine, bytes, omp_get_max_threads());
        out->read_from = bench_level_names[level];
        here.bandwidth = 1e9 * m->level_gb_s[level];
        s->scheme = kvq_scheme_text(r->schemes[i]);
        s->predicted = plan_decode_step(&r->dims, weights, &here, out->n_tokens, 1, read).seconds;
        s->measured = measured_seconds(t, s->scheme, n_output);
        s->error_percent = 100.0 * (s->predicted / s->measured - 1.0);
    }
    return true;
}

bool plan_measure_steps(const plan_request *r, const this_machine *m, plan_measured *out, progress *line,
                        eval_error *e)
{
    static bench_options o; /* large */
    static bench_report report;
    static char name[300]; /* as long as o */
    const bool named = !model_is_random(r->dims.name), gpt2 = strcmp(r->dims.architecture, "gpt2") == 0;
    if (named && !shapes_find(r->dims.name))
        return eval_fail(e, "--measure: makes random weights of a named model; %s is read from a file",
                         r->dims.name);
    snprintf(name, sizeof name, "%s%s", named ? "random:" : "", r->dims.name);
    o = (bench_options){
        .mode = BENCH_DECODE, .quick = true, .seed = 1, .n_models = 1, .n_isas = 1, .n_threads = 1};
    o.models[0] = name;
    o.isas[0] = kvq_isa();
    o.threads[0] = omp_get_max_threads();
    bool good = true;
    for (size_t i = 0; good && i < r->n_schemes; i++) { /* fp32 and fp16 run anyway */
        const char *text = kvq_scheme_text(r->schemes[i]);
        if (strcmp(text, "fp16") == 0 || strcmp(text, "fp32") == 0)
            continue;
        kvq_scheme *copy = NULL;
        good = kvq_scheme_create(&copy, text, NULL) == KVQ_OK || eval_fail(e, "out of memory");
        if (good)
            o.schemes[o.n_schemes++] = copy;
    }
    double last = 0.0, before = 0.0;
    const tensor_type weights = gpt2 ? TENSOR_F32 : TENSOR_BF16; /* as random: makes them */
    good = good && bench_decode(&o, &report, line, e) && bench_report_check(&report, e);
    if (good) {
        last_lengths(&report.tables[0], &last, &before);
        *out = (plan_measured){.n_tokens = DECODE_PROMPT + (size_t)((last + before) / 2.0),
                               .weights = tensor_type_of(weights)->name};
        good = predict(r, m, out, &report.tables[0], weights, last, e);
    }
    for (size_t i = 0; i < o.n_schemes; i++)
        kvq_scheme_free(o.schemes[i]);
    bench_report_free(&report);
    return good;
}
