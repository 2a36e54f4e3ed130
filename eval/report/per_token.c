/* What every step says, as JSON Lines (report.h). */
#include "eval/report/report.h"

#include <inttypes.h>

/* A scheme's text is printable ASCII without quotes or backslashes, so it needs no escaping; %.17g gives the
 * same double back. */
static void print_step(FILE *f, const evaluation *ev, size_t run, size_t window, size_t position,
                       const int32_t *ids)
{
    const size_t at = window * (ev->n_tokens - ev->n_prompt) + position - ev->n_prompt;
    const evaluate_step *step = &ev->runs[run].steps[at], *fp32 = &ev->runs[0].steps[at];
    const int32_t *token = ids + window * ev->n_tokens + position;
    fprintf(f,
            "{\"scheme\": \"%s\", \"window\": %zu, \"position\": %zu, \"token\": %" PRId32 ", \"kl\": %.17g",
            ev->runs[run].text, window, position, *token, step->kl);
    if (position + 1 < ev->n_tokens)
        fprintf(f, ", \"next\": %" PRId32 ", \"nll\": %.17g, \"nll_fp32\": %.17g", token[1], step->nll,
                fp32->nll);
    else
        fputs(", \"next\": null, \"nll\": null, \"nll_fp32\": null", f);
    fprintf(f, ", \"best\": %" PRId32 ", \"best_fp32\": %" PRId32 "}\n", step->best, fp32->best);
}

void report_per_token(FILE *f, const evaluation *ev, const int32_t *ids)
{
    for (size_t i = ev->runs[0].is_reference ? 1 : 0; i < ev->n_runs; i++)
        for (size_t window = 0; window < ev->n_windows; window++)
            for (size_t t = ev->n_prompt; t < ev->n_tokens; t++)
                print_step(f, ev, i, window, t, ids);
}
