/* The limits of --max-kld and its like (limits.h). */
#include "eval/cli/limits.h"

#include "eval/report/report.h"

static size_t check_one(FILE *f, const evaluate_run *run, const char *what, double value, const char *option,
                        const options_limit *limit, bool at_least)
{
    const bool holds = at_least ? value >= limit->value : value <= limit->value;
    if (!limit->set || holds)
        return 0;
    fprintf(f, "kvq-eval: %s: %s %.6g breaks --%s %.6g\n", run->text, what, value, option, limit->value);
    return 1;
}

size_t limits_check(FILE *f, const options *o, const evaluation *ev)
{
    size_t n = 0;
    for (size_t i = 0; i < ev->n_runs; i++) {
        const evaluate_run *run = &ev->runs[i];
        if (run->is_reference)
            continue;
        n += check_one(f, run, "attention error", run->attn_rel_l2, "max-attn-error", &o->max_attn_error,
                       false);
        if (ev->has_quality) {
            n += check_one(f, run, "mean next-token KL", run->kld_mean, "max-kld", &o->max_kld, false);
            n += check_one(f, run, "perplexity increase in percent", evaluate_ppl_increase(run),
                           "max-ppl-increase", &o->max_ppl_increase, false);
        }
        if (!report_is_fp32(run))
            n += check_one(f, run, "ratio to fp32", run->ratio_vs_fp32, "min-ratio", &o->min_ratio, true);
    }
    return n;
}
