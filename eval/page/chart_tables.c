/* All schemes, and the worst tokens, as tables (charts.h). */
#include "eval/page/charts.h"
#include "eval/page/markup.h"

#include <math.h>
#include <string.h>

static void add_estimate(table *t, const estimate *q)
{
    table_number(t, q->value);
    table_number(t, (q->high - q->low) / 2);
}

bool chart_schemes(pictures *list, const view *v, eval_error *e)
{
    static const char *const names[N_FIGURES] = {
        "KL", "same top token", "perplexity", "perplexity change %", "attention error", "attention KL"};
    bool there[N_FIGURES] = {false}, text = false;
    picture *fig = pictures_next(list, "schemes", "schemes");
    table *t = &fig->table;
    char context[64];
    for (int f = 0; f < N_FIGURES; f++)
        for (size_t i = 0; i < v->n; i++)
            there[f] = there[f] || !isnan(v->schemes[i].figures[f].value);
    if (!v->x->has_quality)
        there[FIGURE_KL] = there[FIGURE_TOP1] = there[FIGURE_PPL] = there[FIGURE_PPL_CHANGE] = false;
    snprintf(fig->title, sizeof fig->title, "All %zu schemes", v->n);
    snprintf(fig->note, sizeof fig->note,
             "By bits. \302\261: half of the 95 %% interval. Front: none is better in %s at as few bits.",
             v->main == FIGURE_KL ? "KL" : "the error of attention");
    snprintf(context, sizeof context, "bytes per token at %zu", v->context);
    table_column(t, "scheme", text);
    table_column(t, "front", text);
    table_column(t, "bits", true);
    table_column(t, context, true);
    for (int f = 0; f < N_FIGURES; f++) {
        if (there[f]) {
            table_column(t, names[f], true);
            table_column(t, "\302\261", true);
        }
    }
    if (there[FIGURE_KL])
        table_column(t, "largest KL", true);
    table_column(t, "K error", true);
    table_column(t, "V error", true);
    table_column(t, "windows", true);
    table_column(t, "family", text);
    for (size_t i = 0; i < v->n; i++) {
        const scheme_view *s = &v->schemes[i];
        table_text(t, s->text);
        table_text(t, s->front_bits ? "\342\227\217" : "");
        table_number(t, s->bits);
        table_number(t, s->bytes_per_token);
        for (int f = 0; f < N_FIGURES; f++)
            if (there[f])
                add_estimate(t, &s->figures[f]);
        if (there[FIGURE_KL])
            table_number(t, s->kl_max);
        table_number(t, s->k_error);
        table_number(t, s->v_error);
        table_number(t, (double)s->n_cells);
        table_text(t, v->families[s->family]);
    }
    return chart_done(fig, true, e);
}

/* ---- the worst tokens ---- */

typedef struct place {
    const cell_worst *worst;
    size_t window;
} place;

/* The CELL_N_WORST largest of all windows, largest first. */
static size_t find_worst(const scheme_view *s, place *places)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_cells; i++) {
        for (size_t j = 0; j < s->cells[i]->n_worst; j++) {
            const place new = {&s->cells[i]->worst[j], s->cells[i]->window};
            size_t at = n;
            while (at > 0 && places[at - 1].worst->kl < new.worst->kl)
                at--;
            if (at == CELL_N_WORST)
                continue;
            n += n < CELL_N_WORST;
            memmove(places + at + 1, places + at, (n - at - 1) * sizeof *places);
            places[at] = new;
        }
    }
    return n;
}

/* What a token says; where there is no tokenizer, its id. */
static void add_token(table *t, const char *text, int32_t id)
{
    char number[32];
    snprintf(number, sizeof number, id < 0 ? "(end)" : "#%d", (int)id);
    table_text(t, text[0] != '\0' ? text : number);
}

bool chart_worst(pictures *list, const view *v, eval_error *e)
{
    for (size_t c = 0; c < v->n_chosen && c < 2 && v->x->has_quality; c++) {
        const scheme_view *s = &v->schemes[v->chosen[c]];
        place places[CELL_N_WORST];
        char id[32];
        const size_t n = find_worst(s, places);
        if (n == 0)
            continue;
        snprintf(id, sizeof id, "worst-%zu", c + 1);
        picture *fig = pictures_next(list, "worst", id);
        table *t = &fig->table;
        snprintf(fig->title, sizeof fig->title, "Where %.40s differs most", s->label);
        snprintf(fig->note, sizeof fig->note,
                 "The tokens with the largest divergence. Marked: the token that really follows the text.");
        table_column(t, TABLE_TEXT_BEFORE, false);
        table_column(t, TABLE_NEXT, false);
        table_column(t, "fp32 expects", false);
        table_column(t, "the scheme expects", false);
        table_column(t, "KL", true);
        table_column(t, "window", true);
        table_column(t, "position", true);
        for (size_t i = 0; i < n; i++) {
            const cell_worst *w = places[i].worst;
            table_text(t, w->context);
            add_token(t, w->next_text, w->next);
            add_token(t, w->best_fp32_text, w->best_fp32);
            add_token(t, w->best_text, w->best);
            table_number(t, w->kl);
            table_number(t, (double)places[i].window);
            table_number(t, (double)w->position);
        }
        if (!chart_done(fig, true, e))
            return false;
    }
    return true;
}
