/* The limits of --max-kld and its like (limits.h). */
#include "eval/cli/limits.h"

#include "eval/report/report.h"

#include <math.h>

static size_t check_one(FILE *f, const evaluate_run *run, const char *what, double value, const char *option,
                        const options_limit *limit, bool at_least)
{
    const bool holds = at_least ? value >= limit->value : value <= limit->value;
    if (!limit->set || holds)
        return 0;
    fprintf(f, "kvq-eval: %s: %s %.6g breaks --%s %.6g\n", run->text, what, value, option, limit->value);
    return 1;
}

/* A figure or, to be confident, the upper end of its interval. One without an interval breaks every limit
 * then: nothing can be said of it. */
static size_t check_figure(FILE *f, const evaluate_run *run, const char *what, double value, figure which,
                           const char *option, const options_limit *limit, bool confident)
{
    char text[96];
    if (!confident)
        return check_one(f, run, what, value, option, limit, false);
    if (limit->set && isnan(run->estimates[which].high)) {
        fprintf(f,
                "kvq-eval: %s: %s has no interval, so --%s --confident cannot hold: take more windows or "
                "tokens\n",
                run->text, what, option);
        return 1;
    }
    snprintf(text, sizeof text, "the 95 %% interval's end of %s", what);
    return check_one(f, run, text, run->estimates[which].high, option, limit, false);
}

size_t limits_check(FILE *f, const options *o, const evaluation *ev)
{
    size_t n = 0;
    for (size_t i = 0; i < ev->n_runs; i++) {
        const evaluate_run *run = &ev->runs[i];
        if (run->is_reference)
            continue;
        n += check_figure(f, run, "attention error", run->attn_rel_l2, FIGURE_ATTN_ERROR, "max-attn-error",
                          &o->max_attn_error, o->confident);
        if (ev->has_quality) {
            n += check_figure(f, run, "mean next-token KL", run->kld_mean, FIGURE_KL, "max-kld", &o->max_kld,
                              o->confident);
            n += check_figure(f, run, "perplexity increase in percent", evaluate_ppl_increase(run),
                              FIGURE_PPL_CHANGE, "max-ppl-increase", &o->max_ppl_increase, o->confident);
        }
        if (!report_is_fp32(run))
            n += check_one(f, run, "ratio to fp32", run->ratio_vs_fp32, "min-ratio", &o->min_ratio, true);
    }
    return n;
}
