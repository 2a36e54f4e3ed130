/* The tuner (tune.h). */
#include "eval/tune/tune.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_TRIED = 8, /* trades of a round that are measured */
    N_UNIFORM =
        6, /* uniform schemes that are measured: those of the least divergence that the table promises */
};

static const size_t heavy_hitters[] = {0, 2, 4};
static const size_t residuals[] = {128, 0};
enum {
    N_HH = sizeof heavy_hitters / sizeof heavy_hitters[0],
    N_RESIDUALS = sizeof residuals / sizeof residuals[0],
};

typedef struct tuner {
    const tune_config *config;
    const model_shape *shape;
    tune_result *out;
    choice_common common; /* of what is being chosen */
    double overhead;      /* the table's bytes of a choice less those of a real cache */
} tuner;

static size_t n_layers(const tuner *t)
{
    return t->shape->n_layer;
}

static void say(const tuner *t, const char *what)
{
    if (t->config->phase)
        t->config->phase(t->config->phase_ctx, what);
}

/* ---- measuring ---- */

/* Schemes as canonical texts, and their cells. */
typedef struct batch {
    scheme_list list;
    sweep_plan plan;
    results results;
    inputs view; /* the windows it is about */
} batch;

static void batch_free(batch *b)
{
    results_free(&b->results);
    sweep_plan_free(&b->plan);
    scheme_list_free(&b->list);
}

/* Takes the text. */
static bool batch_add(batch *b, char *text, eval_error *e)
{
    const bool good = text ? scheme_list_add(&b->list, "tune", text, e) : eval_fail(e, "out of memory");
    free(text);
    return good;
}

static void remember_failure(void *ctx, const char *scheme, size_t window, const eval_error *why)
{
    eval_error *first = ctx;
    if (first->text[0] == '\0')
        (void)eval_fail(first, "scheme %.600s, window %zu: %s", scheme, window, why->text);
}

/* Measure the batch's schemes on the first n windows. */
static bool batch_measure(batch *b, const tuner *t, size_t n_windows, eval_error *e)
{
    eval_error failed = {""};
    sweep_config config = t->config->sweep;
    b->view = *config.in;
    b->view.n_windows = n_windows;
    config.in = &b->view;
    config.list = &b->list;
    config.shard = (shard){.n = 1};
    config.failed = remember_failure;
    config.failed_ctx = &failed;
    if (!sweep_plan_make(&b->plan, &config, e) || !sweep_run(&config, &b->plan, e))
        return false;
    if (config.stop && config.stop(config.stop_ctx))
        return eval_fail(e, "stopped");
    if (failed.text[0] != '\0') {
        *e = failed;
        return false;
    }
    return sweep_load(&b->results, config.out, e);
}

/* The cells of a scheme (canonical text) on windows [first, end): false if one is missing. */
static bool batch_cells(const batch *b, const char *scheme, size_t first, size_t end, const cell **cells,
                        eval_error *e)
{
    size_t i = 0;
    while (i < b->plan.n_schemes && strcmp(b->plan.schemes[i], scheme) != 0)
        i++;
    for (size_t w = first; w < end; w++) {
        cells[w - first] =
            i < b->plan.n_schemes ? results_find(&b->results, sweep_key(&b->plan, i, w)) : NULL;
        if (!cells[w - first])
            return eval_fail(e, "scheme %.600s: this model's caches cannot have it", scheme);
    }
    return true;
}

static bool batch_estimate(const batch *b, const char *scheme, size_t first, size_t end, estimate *out,
                           eval_error *e)
{
    const cell **cells = calloc(end - first, sizeof cells[0]);
    bool good = cells || eval_fail(e, "out of memory");
    good = good && batch_cells(b, scheme, first, end, cells, e);
    if (good)
        *out = statistics_estimate(FIGURE_KL, cells, end - first, STATISTICS_SEED);
    free(cells);
    return good;
}

/* The i-th scheme that was added. None is a repetition of another. */
static const char *batch_text(const batch *b, size_t i)
{
    return kvq_scheme_text(b->list.schemes[i]);
}

/* ---- 1. sensitivities ---- */

/* Every width is as good as any other where nothing has left the residual yet. */
static bool check_packed(const tuner *t, eval_error *e)
{
    const choice_table *table = &t->out->table;
    for (size_t l = 0; l < table->n_layers; l++)
        if (table->k_kl[l * CHOICE_N_K] != table->k_kl[(l + 1) * CHOICE_N_K - 1])
            return true;
    return eval_fail(e,
                     "in windows of %zu tokens nothing is packed yet, so there is nothing to tune by: these "
                     "schemes keep the newest 128 to 255 tokens as they are; take more --tokens",
                     t->config->sweep.in->n_tokens);
}

static bool measure_table(tuner *t, eval_error *e)
{
    const size_t L = n_layers(t), n = t->config->n_tune_windows;
    const choice_common common = {.heavy_hitters = 2, .residual = 128};
    choice_table *table = &t->out->table;
    table->n_layers = L;
    table->k_kl = calloc(L * CHOICE_N_K, sizeof table->k_kl[0]);
    table->v_kl = calloc(L * CHOICE_N_V, sizeof table->v_kl[0]);
    if (!table->k_kl || !table->v_kl)
        return eval_fail(e, "out of memory");
    batch b = {0};
    bool good = true;
    for (size_t l = 0; good && l < L; l++) {
        for (size_t i = 0; good && i < CHOICE_N_K; i++)
            good = batch_add(&b, choice_text_alone(l, true, i, &common), e);
        for (size_t i = 0; good && i < CHOICE_N_V; i++)
            good = batch_add(&b, choice_text_alone(l, false, i, &common), e);
    }
    good = good && batch_measure(&b, t, n, e);
    for (size_t i = 0; good && i < b.list.n; i++) {
        const size_t l = i / (CHOICE_N_K + CHOICE_N_V), at = i % (CHOICE_N_K + CHOICE_N_V);
        estimate kl;
        good = batch_estimate(&b, batch_text(&b, i), 0, n, &kl, e);
        if (good && at < CHOICE_N_K)
            table->k_kl[l * CHOICE_N_K + at] = kl.value;
        else if (good)
            table->v_kl[l * CHOICE_N_V + at - CHOICE_N_K] = kl.value;
    }
    t->out->n_measured += b.list.n;
    batch_free(&b);
    return good && check_packed(t, e);
}

/* ---- 2. choices for the budget ---- */

static bool bytes_of(const tuner *t, const char *text, double *bytes, eval_error *e)
{
    return choice_bytes(t->shape, text, &t->config->budget, bytes, e);
}

static bool bytes_of_choices(const tuner *t, const choice *choices, double *bytes, eval_error *e)
{
    char *text = choice_text(choices, n_layers(t), &t->common);
    const bool good = (text || eval_fail(e, "out of memory")) && bytes_of(t, text, bytes, e);
    free(text);
    return good;
}

/* `least`: what any choice needs. */
static bool fail_budget(const tuner *t, double least, eval_error *e)
{
    const choice_budget *b = &t->config->budget;
    if (b->context > 0)
        return eval_fail(e, "%.0f bytes are too few for %zu tokens of this model: the least is %.0f",
                         b->bytes, b->context, least);
    return eval_fail(e, "%.2f bytes per token are too few for this model: the least is %.2f", b->bytes,
                     least);
}

/* Is there a choice that fits? Better asked before hours of measuring than after. */
static bool check_budget(tuner *t, eval_error *e)
{
    double least = (double)INFINITY;
    choice *narrowest = calloc(n_layers(t), sizeof narrowest[0]);
    bool good = narrowest || eval_fail(e, "out of memory");
    for (size_t i = 0; good && i < N_RESIDUALS; i++) {
        double bytes = 0.0;
        t->common = (choice_common){heavy_hitters[0], residuals[i]};
        good = bytes_of_choices(t, narrowest, &bytes, e);
        least = fmin(least, bytes);
    }
    free(narrowest);
    return good && (least <= t->config->budget.bytes || fail_budget(t, least, e));
}

/* What one layer costs in each pair of widths, and what a cache shares among its layers. */
static bool weigh_layers(tuner *t, eval_error *e)
{
    choice_table *table = &t->out->table;
    model_shape one = *t->shape;
    one.n_layer = 1;
    for (size_t k = 0; k < CHOICE_N_K; k++)
        for (size_t v = 0; v < CHOICE_N_V; v++) {
            char *text = choice_text(&(choice){k, v}, 1, &t->common);
            const bool good = (text || eval_fail(e, "out of memory")) &&
                              choice_bytes(&one, text, &t->config->budget, &table->bytes[k][v], e);
            free(text);
            if (!good)
                return false;
        }
    choice *least = calloc(n_layers(t), sizeof least[0]);
    double bytes = 0.0;
    const bool good = (least || eval_fail(e, "out of memory")) && bytes_of_choices(t, least, &bytes, e);
    if (good)
        t->overhead = choice_table_bytes(table, least) - bytes;
    free(least);
    return good;
}

/* Greedy choices whose real cache keeps the budget; *fits is false if there are none. */
static bool choose(const tuner *t, choice *choices, bool *fits, eval_error *e)
{
    double budget = t->config->budget.bytes + t->overhead, bytes = 0.0;
    for (;;) {
        *fits = choice_greedy(choices, &t->out->table, budget);
        if (!*fits)
            return true;
        if (!bytes_of_choices(t, choices, &bytes, e))
            return false;
        if (bytes <= t->config->budget.bytes)
            return true;
        budget -= bytes - t->config->budget.bytes;
    }
}

/* Measure one more choice per element of `commons` and keep the best in out->choices. */
static bool measure_choices(tuner *t, const choice *choices, const choice_common *commons, size_t n,
                            double *best_kl, bool *better, eval_error *e)
{
    const size_t L = n_layers(t), n_windows = t->config->n_tune_windows;
    batch b = {0};
    bool good = true;
    for (size_t i = 0; good && i < n; i++)
        good = batch_add(&b, choice_text(choices + i * L, L, &commons[i]), e);
    good = good && batch_measure(&b, t, n_windows, e);
    *better = false;
    for (size_t i = 0; good && i < n; i++) {
        char *text = choice_text(choices + i * L, L, &commons[i]);
        kvq_scheme *s = NULL; /* its canonical text: equal ones were added once */
        estimate kl;
        good = text && evaluate_make_scheme(&s, text, e) &&
               batch_estimate(&b, kvq_scheme_text(s), 0, n_windows, &kl, e);
        if (good && kl.value < *best_kl) {
            *best_kl = kl.value;
            *better = true;
            memcpy(t->out->choices, choices + i * L, L * sizeof choices[0]);
            t->out->common = commons[i];
        }
        kvq_scheme_free(s);
        free(text);
    }
    t->out->n_measured += b.list.n;
    batch_free(&b);
    return good;
}

static bool choose_first(tuner *t, double *best_kl, eval_error *e)
{
    const size_t L = n_layers(t);
    choice *choices = calloc(N_HH * N_RESIDUALS * L, sizeof choices[0]);
    choice_common commons[N_HH * N_RESIDUALS];
    size_t n = 0;
    bool good = choices || eval_fail(e, "out of memory"), better = false;
    for (size_t i = 0; good && i < N_HH * N_RESIDUALS; i++) {
        /* A smaller window saves nothing that a token adds. */
        if (t->config->budget.context == 0 && i / N_HH > 0)
            break;
        t->common = (choice_common){heavy_hitters[i % N_HH], residuals[i / N_HH]};
        bool fits = false;
        good = weigh_layers(t, e) && choose(t, choices + n * L, &fits, e);
        commons[n] = t->common;
        n += good && fits ? 1 : 0;
    }
    assert(!good || n > 0); /* check_budget has seen to that */
    good = good && measure_choices(t, choices, commons, n, best_kl, &better, e);
    free(choices);
    t->common = t->out->common;
    return good && weigh_layers(t, e);
}

/* ---- 3. trades ---- */

/* A trade: one layer's side narrower, another's wider, and what the table says that does. */
typedef struct trade {
    size_t from, to; /* sides: 2 * layer, + 1 for values */
    double kl;
} trade;

/* One width down or up, if there is one. */
static bool move(choice *x, size_t side, bool up)
{
    size_t *at = side % 2 == 0 ? &x->k : &x->v;
    const size_t n = side % 2 == 0 ? CHOICE_N_K : CHOICE_N_V;
    if (up ? *at + 1 >= n : *at == 0)
        return false;
    *at += up ? 1 : (size_t)-1;
    return true;
}

/* The choices after a trade; false if it cannot be made. from == to: only wider. */
static bool make_trade(const tuner *t, const trade *x, choice *out)
{
    memcpy(out, t->out->choices, n_layers(t) * sizeof out[0]);
    return (x->from == x->to || move(&out[x->from / 2], x->from, false)) &&
           move(&out[x->to / 2], x->to, true);
}

static int least_first(const void *a, const void *b)
{
    const double x = ((const trade *)a)->kl, y = ((const trade *)b)->kl;
    return (x > y) - (x < y);
}

/* The trades that the table likes best and the budget allows, as choices [N_TRIED][L]; their number. */
static bool list_trades(const tuner *t, choice *choices, size_t *n, eval_error *e)
{
    const size_t L = n_layers(t), n_sides = 2 * L;
    const double budget = t->config->budget.bytes + t->overhead;
    trade *trades = calloc(n_sides * n_sides, sizeof trades[0]);
    bool good = trades || eval_fail(e, "out of memory");
    size_t n_trades = 0;
    *n = 0;
    for (size_t i = 0; good && i < n_sides * n_sides; i++) {
        trade x = {.from = i / n_sides, .to = i % n_sides};
        if (!make_trade(t, &x, choices) || choice_table_bytes(&t->out->table, choices) > budget)
            continue;
        x.kl = choice_table_kl(&t->out->table, choices);
        trades[n_trades++] = x;
    }
    if (good)
        qsort(trades, n_trades, sizeof trades[0], least_first);
    for (size_t i = 0; good && i < n_trades && *n < N_TRIED; i++) {
        double bytes = 0.0;
        if (!make_trade(t, &trades[i], choices + *n * L))
            continue;
        good = bytes_of_choices(t, choices + *n * L, &bytes, e);
        *n += good && bytes <= t->config->budget.bytes ? 1 : 0;
    }
    free(trades);
    return good;
}

static bool trade_widths(tuner *t, double *best_kl, eval_error *e)
{
    const size_t L = n_layers(t);
    choice *choices = calloc(N_TRIED * L, sizeof choices[0]);
    choice_common commons[N_TRIED];
    bool good = choices || eval_fail(e, "out of memory"), better = true;
    for (size_t i = 0; i < N_TRIED; i++)
        commons[i] = t->common;
    for (size_t round = 0; good && better && round < t->config->n_rounds; round++) {
        size_t n = 0;
        good = list_trades(t, choices, &n, e) && measure_choices(t, choices, commons, n, best_kl, &better, e);
        t->out->n_trades += good && better ? 1 : 0;
    }
    free(choices);
    return good;
}

/* ---- 4. the verdict ---- */

typedef struct uniform {
    choice widths;
    choice_common common;
    double kl;
} uniform;

static int least_promised_first(const void *a, const void *b)
{
    const double x = ((const uniform *)a)->kl, y = ((const uniform *)b)->kl;
    return (x > y) - (x < y);
}

/* Uniform schemes that fit the budget, those that the table promises most of first; *n of at most N_UNIFORM.
 */
static bool list_uniform(tuner *t, char **texts, size_t *n, eval_error *e)
{
    const size_t L = n_layers(t);
    uniform all[CHOICE_N_K * CHOICE_N_V * N_HH];
    size_t n_all = 0;
    choice *same = calloc(L, sizeof same[0]);
    bool good = same || eval_fail(e, "out of memory");
    for (size_t h = 0; good && h < N_HH; h++) {
        t->common = (choice_common){heavy_hitters[h], t->out->common.residual};
        good = weigh_layers(t, e);
        for (size_t i = 0; good && i < CHOICE_N_K * CHOICE_N_V; i++) {
            uniform u = {.widths = {i / CHOICE_N_V, i % CHOICE_N_V}, .common = t->common};
            for (size_t l = 0; l < L; l++)
                same[l] = u.widths;
            u.kl = choice_table_kl(&t->out->table, same);
            if (choice_table_bytes(&t->out->table, same) - t->overhead <= t->config->budget.bytes)
                all[n_all++] = u;
        }
    }
    if (good)
        qsort(all, n_all, sizeof all[0], least_promised_first);
    *n = 0;
    for (size_t i = 0; good && i < n_all && *n < N_UNIFORM; i++) {
        double bytes = 0.0;
        texts[*n] = choice_text(&all[i].widths, 1, &all[i].common);
        good = (texts[*n] || eval_fail(e, "out of memory")) && bytes_of(t, texts[*n], &bytes, e);
        if (good && bytes <= t->config->budget.bytes)
            (*n)++;
        else
            free(texts[*n]);
    }
    t->common = t->out->common;
    free(same);
    return good;
}

static bool judge_one(tuned *out, const batch *b, const tuner *t, const char *text, eval_error *e)
{
    const size_t n_tune = t->config->n_tune_windows, n = t->config->sweep.in->n_windows;
    kvq_scheme *s = NULL;
    bool good = evaluate_make_scheme(&s, text, e);
    if (good) {
        const char *canonical = kvq_scheme_text(s);
        out->scheme = malloc(strlen(canonical) + 1);
        good = out->scheme || eval_fail(e, "out of memory");
        if (good)
            memcpy(out->scheme, canonical, strlen(canonical) + 1);
        good = good && bytes_of(t, canonical, &out->bytes, e) &&
               batch_estimate(b, canonical, 0, n_tune, &out->tuning, e) &&
               batch_estimate(b, canonical, n_tune, n, &out->unseen, e);
    }
    kvq_scheme_free(s);
    return good;
}

static int best_unseen_first(const void *a, const void *b)
{
    const double x = ((const tuned *)a)->unseen.value, y = ((const tuned *)b)->unseen.value;
    return (x > y) - (x < y);
}

/* The chosen one against the best uniform one, on windows that the chosen one has not seen. The uniform one
 * is the best of several there, which is in its favour. */
static bool compare(tuner *t, const batch *b, eval_error *e)
{
    const size_t first = t->config->n_tune_windows, n = t->config->sweep.in->n_windows - first;
    const cell **cells = calloc(2 * n, sizeof cells[0]);
    bool good = cells || eval_fail(e, "out of memory");
    good = good && batch_cells(b, t->out->chosen.scheme, first, first + n, cells, e) &&
           batch_cells(b, t->out->uniform[0].scheme, first, first + n, cells + n, e);
    if (good)
        t->out->verdict = statistics_compare(FIGURE_KL, cells, cells + n, n, STATISTICS_SEED);
    free(cells);
    return good;
}

static bool judge(tuner *t, eval_error *e)
{
    tune_result *out = t->out;
    char *texts[N_UNIFORM + 1] = {NULL};
    size_t n = 0;
    batch b = {0};
    bool good = list_uniform(t, texts, &n, e);
    texts[n] = good ? choice_text(out->choices, n_layers(t), &out->common) : NULL;
    out->uniform = calloc(n > 0 ? n : 1, sizeof out->uniform[0]);
    good = good && ((texts[n] && out->uniform) || eval_fail(e, "out of memory"));
    for (size_t i = 0; good && i <= n; i++)
        good = scheme_list_add(&b.list, "tune", texts[i], e);
    good = good && batch_measure(&b, t, t->config->sweep.in->n_windows, e);
    good = good && judge_one(&out->chosen, &b, t, texts[n], e);
    for (size_t i = 0; good && i < n; i++) {
        out->n_uniform = i + 1;
        good = judge_one(&out->uniform[i], &b, t, texts[i], e);
    }
    if (good) {
        qsort(out->uniform, out->n_uniform, sizeof out->uniform[0], best_unseen_first);
        good = out->n_uniform == 0 || compare(t, &b, e);
    }
    for (size_t i = 0; i <= n; i++)
        free(texts[i]);
    out->n_measured += b.list.n;
    batch_free(&b);
    return good;
}

/* ---- all of it ---- */

bool tune(tune_result *out, const tune_config *config, eval_error *e)
{
    const inputs *in = config->sweep.in;
    tune_result result = {.n_tune_windows = config->n_tune_windows,
                          .n_unseen_windows = in->n_windows - config->n_tune_windows};
    tuner t = {.config = config, .shape = &in->model->shape, .out = &result};
    double kl = (double)INFINITY;
    result.choices = calloc(n_layers(&t), sizeof result.choices[0]);
    bool good = result.choices || eval_fail(e, "out of memory");
    good = good && check_budget(&t, e);
    say(&t, "layers alone");
    good = good && measure_table(&t, e);
    say(&t, "choices");
    good = good && choose_first(&t, &kl, e);
    say(&t, "trades");
    good = good && trade_widths(&t, &kl, e);
    say(&t, "verdict");
    good = good && judge(&t, e);
    if (!good) {
        tune_result_free(&result);
        return false;
    }
    *out = result;
    return true;
}

void tune_result_free(tune_result *r)
{
    free(r->table.k_kl);
    free(r->table.v_kl);
    free(r->choices);
    free(r->chosen.scheme);
    for (size_t i = 0; i < r->n_uniform; i++)
        free(r->uniform[i].scheme);
    free(r->uniform);
    memset(r, 0, sizeof *r);
}
