/* Cells of an evaluation: they add up to its figures, whatever the windows are shared out to, and their
 * details are those of the steps. */
#define _POSIX_C_SOURCE 200809L

#include "eval/measure/cells.h"
#include "eval/model/inputs.h"
#include "eval/report/report.h"
#include "eval/results/statistics.h"
#include "tests/support.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL KVQ_SOURCE_DIR "/data/gpt2-6m"
#define TEXT  KVQ_SOURCE_DIR "/data/sample.txt"

enum { N_TOKENS = 150, N_PROMPT = 13, N_COUNTED = N_TOKENS - N_PROMPT };

typedef struct measured {
    inputs in;
    kvq_scheme *schemes[2];
    evaluation ev;
    evaluate_config config;
} measured;

static void measure(measured *m, size_t n_windows, int n_threads)
{
    eval_error e;
    progress line = {.shown = false};
    const inputs_request request = {
        .model = MODEL, .text = TEXT, .windows = n_windows, .tokens = N_TOKENS, .prompt = N_PROMPT};
    cr_assert(inputs_load(&m->in, &request, &line, &e), "%s", e.text);
    cr_assert_eq(kvq_scheme_create(&m->schemes[0], "kivi2,r=32", NULL), KVQ_OK);
    cr_assert_eq(kvq_scheme_create(&m->schemes[1], "k=1,v=1,r=32", NULL), KVQ_OK);
    m->config = (evaluate_config){.model = m->in.model,
                                  .ids = m->in.ids,
                                  .n_windows = n_windows,
                                  .n_tokens = N_TOKENS,
                                  .n_prompt = N_PROMPT,
                                  .schemes = m->schemes,
                                  .n_schemes = 2,
                                  .n_threads = n_threads};
    cr_assert(evaluate(&m->ev, &m->config, &e), "%s", e.text);
}

static void clear(measured *m)
{
    evaluation_free(&m->ev);
    kvq_scheme_free(m->schemes[0]);
    kvq_scheme_free(m->schemes[1]);
    inputs_free(&m->in);
}

static void assert_close(double x, double expected, double relative)
{
    cr_assert(fabs(x - expected) <= relative * fabs(expected), "%.17g, expected %.17g", x, expected);
}

static double value(figure f, const measured *m, size_t run)
{
    const cell **cells = evaluate_cells(&m->ev, &m->ev.runs[run]);
    const double x = statistics_estimate(f, cells, m->ev.n_windows, 1).value;
    free(cells);
    return x;
}

Test(cells, add_up_to_the_figures)
{
    measured m = {0};
    measure(&m, 3, 2);
    for (size_t i = 0; i < m.ev.n_runs; i++) {
        const evaluate_run *run = &m.ev.runs[i];
        /* the same terms in another order */
        assert_close(value(FIGURE_KL, &m, i), run->kld_mean, 1e-12);
        assert_close(value(FIGURE_TOP1, &m, i), run->top1, 1e-12);
        assert_close(value(FIGURE_PPL, &m, i), run->ppl, 1e-12);
        assert_close(value(FIGURE_PPL_CHANGE, &m, i), evaluate_ppl_increase(run), 1e-9);
        if (i > 0) {
            assert_close(value(FIGURE_ATTN_ERROR, &m, i), run->attn_rel_l2, 1e-12);
            assert_close(value(FIGURE_ATTN_KL, &m, i), run->attn_prob_kl, 1e-12);
        }
    }
    clear(&m);
}

Test(cells, heads_add_up_to_those_of_the_run)
{
    measured m = {0};
    measure(&m, 2, 2);
    const evaluate_run *run = &m.ev.runs[1];
    for (size_t i = 0; i < m.ev.n_layer * m.ev.n_head; i++) {
        const cell_head *a = &run->cells[0].heads[i], *b = &run->cells[1].heads[i];
        const evaluate_head *h = &run->heads[i];
        assert_close(sqrt((a->k_error + b->k_error) / (a->k_reference + b->k_reference)),
                     metric_l2_value(&h->k), 1e-12);
        assert_close(sqrt((a->v_error + b->v_error) / (a->v_reference + b->v_reference)),
                     metric_l2_value(&h->v), 1e-12);
        assert_close(sqrt((a->attn_error + b->attn_error) / (a->attn_reference + b->attn_reference)),
                     metric_l2_value(&h->attn), 1e-12);
        assert_close(a->attn_kl + b->attn_kl, h->prob_kl_sum, 1e-12);
        cr_assert_eq(a->n_steps + b->n_steps, h->n_steps);
    }
    cr_assert_eq(fmaxf(run->cells[0].attn_max_abs, run->cells[1].attn_max_abs), (float)run->attn_max_abs);
    clear(&m);
}

Test(cells, blocks_bins_and_the_worst_are_those_of_the_steps)
{
    measured m = {0};
    measure(&m, 2, 1);
    const size_t last = m.ev.n_runs - 1;
    const cell *c = &m.ev.runs[last].cells[1];
    const evaluate_step *steps = m.ev.runs[last].steps + N_COUNTED, *fp32 = m.ev.runs[0].steps + N_COUNTED;
    cr_assert_eq(c->n_blocks, 3);
    cr_assert_eq(c->blocks[2].n_steps, N_COUNTED - 2 * CELL_BLOCK);
    cr_assert_eq(c->blocks[2].n_targets, N_COUNTED - 2 * CELL_BLOCK - 1);
    cr_assert_eq(cell_n_steps(c), N_COUNTED);
    double kl = 0.0, nll = 0.0, worst = 0.0;
    size_t at = 0, n_agree = 0, n_in_bin = 0;
    for (size_t t = CELL_BLOCK; t < 2 * CELL_BLOCK; t++) {
        kl += steps[t].kl;
        nll += steps[t].nll;
        n_agree += steps[t].best == fp32[t].best ? 1 : 0;
    }
    for (size_t t = 0; t < N_COUNTED; t++) {
        n_in_bin += cell_bin(steps[t].kl) == 22 ? 1 : 0;
        if (steps[t].kl > worst) {
            worst = steps[t].kl;
            at = t;
        }
    }
    cr_assert_eq(c->blocks[1].kl, kl);
    cr_assert_eq(c->blocks[1].nll, nll);
    cr_assert_eq(c->blocks[1].n_agree, n_agree);
    cr_assert_eq(c->bins[22], n_in_bin);
    cr_assert_eq(c->n_worst, CELL_N_WORST);
    cr_assert_eq(c->worst[0].kl, worst);
    cr_assert_eq(c->worst[0].position, at + N_PROMPT);
    cr_assert_eq(c->worst[0].best, steps[at].best);
    cr_assert_eq(c->worst[0].best_fp32, fp32[at].best);
    cr_assert_eq(c->worst[0].next, m.in.ids[N_TOKENS + N_PROMPT + at + 1]);
    cr_assert_eq(c->kld_max, worst);
    size_t n_above = 0;
    for (size_t t = 0; t < N_COUNTED; t++)
        n_above += steps[t].kl > c->kld_p99 ? 1 : 0;
    cr_assert_eq(n_above, 1, "of 137 steps one lies above the 99th of a hundred");
    for (size_t i = 1; i < CELL_N_WORST; i++)
        cr_assert(c->worst[i].kl <= c->worst[i - 1].kl);
    clear(&m);
}

/* Every step as a line of its own: all numbers, in the order of schemes, windows and positions. */
Test(cells, lines_per_token_are_the_steps)
{
    measured m = {0};
    measure(&m, 2, 1);
    char *text = NULL;
    size_t size = 0, n = 0;
    FILE *f = open_memstream(&text, &size);
    report_per_token(f, &m.ev, m.in.ids);
    fclose(f);
    char *at = text;
    for (size_t run = 1; run < m.ev.n_runs; run++) {
        for (size_t i = 0; i < 2 * N_COUNTED; i++, n++) {
            const evaluate_step *step = &m.ev.runs[run].steps[i], *fp32 = &m.ev.runs[0].steps[i];
            const size_t window = i / N_COUNTED, position = N_PROMPT + i % N_COUNTED;
            const int32_t *token = m.in.ids + window * N_TOKENS + position;
            const bool last = position + 1 == N_TOKENS;
            char wanted[1024], tail[256] = ", \"next\": null, \"nll\": null, \"nll_fp32\": null";
            if (!last)
                snprintf(tail, sizeof tail, ", \"next\": %d, \"nll\": %.17g, \"nll_fp32\": %.17g",
                         (int)token[1], step->nll, fp32->nll);
            snprintf(
                wanted, sizeof wanted,
                "{\"scheme\": \"%s\", \"window\": %zu, \"position\": %zu, \"token\": %d, \"kl\": %.17g%s, "
                "\"best\": %d, \"best_fp32\": %d}\n",
                m.ev.runs[run].text, window, position, (int)token[0], step->kl, tail, (int)step->best,
                (int)fp32->best);
            cr_assert(strncmp(at, wanted, strlen(wanted)) == 0, "line %zu is %.300s, expected %s", n + 1, at,
                      wanted);
            at += strlen(wanted);
        }
    }
    cr_assert_eq(*at, '\0');
    free(text);
    clear(&m);
}

Test(cells, do_not_depend_on_other_windows)
{
    measured one = {0}, two = {0};
    measure(&one, 1, 1);
    measure(&two, 3, 1);
    for (size_t i = 0; i < one.ev.n_runs; i++) {
        const cell *a = &one.ev.runs[i].cells[0], *b = &two.ev.runs[i].cells[0];
        cr_assert_str_eq(a->scheme, b->scheme);
        cr_assert_eq(a->ids_checksum, b->ids_checksum);
        cr_assert_neq(b->ids_checksum, two.ev.runs[i].cells[1].ids_checksum);
        for (size_t k = 0; k < a->n_blocks; k++) {
            cr_assert_eq(a->blocks[k].kl, b->blocks[k].kl);
            cr_assert_eq(a->blocks[k].attn_error, b->blocks[k].attn_error);
        }
        cr_assert_eq(a->usage.total, b->usage.total);
    }
    clear(&one);
    clear(&two);
}

Test(cells, the_portrait_shows_the_strongest_channel)
{
    measured m = {0};
    measure(&m, 2, 1);
    const cell *c = &m.ev.runs[0].cells[0];
    const cell_portrait *p = &c->portrait;
    const size_t D = m.in.model->shape.head_dim;
    cr_assert_str_eq(c->scheme, "fp32");
    cr_assert_eq(p->n_rows, CELL_PORTRAIT);
    cr_assert_eq(p->n_columns, D);
    cr_assert_eq(m.ev.runs[0].cells[1].portrait.n_rows, 0, "one is enough");
    cr_assert_eq(m.ev.runs[1].cells[0].portrait.n_rows, 0);
    /* Largest values over runs of tokens flatten it a little: 2.5 here; 1 would be flat. */
    double strongest = 0.0, sum = 0.0;
    for (size_t d = 0; d < D; d++) {
        double column = 0.0;
        for (size_t r = 0; r < p->n_rows; r++)
            column += (double)p->k[r * D + d];
        sum += column;
        strongest = fmax(strongest, column);
    }
    cr_assert(strongest > 2.0 * sum / (double)D, "%g of %g", strongest, sum);
    clear(&m);
}

Test(cells, text_stands_beside_the_worst_tokens)
{
    measured m = {0};
    eval_error e = {""};
    measure(&m, 1, 1);
    cell *c = &m.ev.runs[1].cells[0];
    cr_assert(cells_add_text(c, m.in.tokenizer, m.in.ids, &e), "%s", e.text);
    for (size_t i = 0; i < c->n_worst; i++) {
        const cell_worst *w = &c->worst[i];
        const size_t first = w->position > 31 ? w->position - 31 : 0;
        char *text;
        size_t n;
        cr_assert(tokenizer_decode(m.in.tokenizer, m.in.ids + first, w->position - first + 1, &text, &n, &e));
        const size_t n_shown = strlen(w->context);
        cr_assert(n_shown > 0 && n_shown <= n && n_shown < CELL_CONTEXT);
        cr_assert_str_eq(w->context, text + n - n_shown);
        free(text);
        const char *best = tokenizer_token(m.in.tokenizer, w->best, &n);
        cr_assert(strlen(w->best_text) == n && memcmp(w->best_text, best, n) == 0);
    }
    clear(&m);
}
