/* Widths per layer (choice.h). */
#include "eval/tune/choice.h"

#include "eval/measure/evaluate.h"
#include "eval/measure/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const choice_k_bits[CHOICE_N_K] = {"1.5", "2", "2.5", "3", "3.5", "4", "5"};
const char *const choice_v_bits[CHOICE_N_V] = {"1.5", "2", "3", "4"};

/* ---- texts ---- */

enum { TEXT_SIZE = 96 }; /* of one layer's scheme */

/* Sides are codecs without the "k=" and "v=". */
static void print_scheme(char *s, const char *k, const char *v, const choice_common *c)
{
    snprintf(s, TEXT_SIZE, "k=%s,v=%s,r=%zu,mode=sliding,rtype=f16/i8,s=4,hh=%zu", k, v, c->residual,
             c->heavy_hitters);
}

static void print_choice(char *s, const choice *x, const choice_common *c)
{
    char k[16], v[16];
    snprintf(k, sizeof k, "tier:%s", choice_k_bits[x->k]);
    snprintf(v, sizeof v, "rot:%s", choice_v_bits[x->v]);
    print_scheme(s, k, v, c);
}

char *choice_text(const choice *choices, size_t n_layers, const choice_common *common)
{
    const size_t size = (n_layers + 1) * (TEXT_SIZE + 16);
    char *text = malloc(size);
    if (!text)
        return NULL;
    char scheme[TEXT_SIZE];
    print_choice(scheme, &choices[0], common);
    size_t used = (size_t)snprintf(text, size, "%s", scheme);
    for (size_t layer = 1; layer < n_layers; layer++) {
        print_choice(scheme, &choices[layer], common);
        if (choices[layer].k != choices[0].k || choices[layer].v != choices[0].v)
            used += (size_t)snprintf(text + used, size - used, "+%zu=%s", layer, scheme);
    }
    return text;
}

char *choice_text_alone(size_t layer, bool keys, size_t width, const choice_common *common)
{
    char side[16], scheme[TEXT_SIZE];
    snprintf(side, sizeof side, "%s:%s", keys ? "tier" : "rot",
             keys ? choice_k_bits[width] : choice_v_bits[width]);
    print_scheme(scheme, keys ? side : "f32", keys ? "f32" : side, common);
    char *text = malloc(TEXT_SIZE + 32);
    if (text)
        snprintf(text, TEXT_SIZE + 32, "fp32+%zu=%s", layer, scheme);
    return text;
}

/* ---- bytes ---- */

bool choice_bytes(const model_shape *shape, const char *scheme, const choice_budget *budget, double *bytes,
                  eval_error *e)
{
    enum { LONG = 4096 }; /* whole pages, and superblocks of every layout, on both ends */
    const size_t lengths[2] = {budget->context > 0 ? budget->context : LONG, 2 * LONG};
    const size_t n = budget->context > 0 ? 1 : 2;
    kvq_usage usage[2];
    kvq_scheme *s = NULL;
    const bool good = evaluate_make_scheme(&s, scheme, e) && memory_weigh(shape, s, lengths, n, usage, e);
    kvq_scheme_free(s);
    if (good && n == 1)
        *bytes = (double)usage[0].total;
    else if (
        good) /* room for tokens to come grows in steps: it would tell two lengths apart, not two schemes */
        *bytes = ((double)(usage[1].total - usage[1].slack) - (double)(usage[0].total - usage[0].slack)) /
                 (double)LONG;
    return good;
}

double choice_table_kl(const choice_table *t, const choice *choices)
{
    double sum = 0.0;
    for (size_t l = 0; l < t->n_layers; l++)
        sum += t->k_kl[l * CHOICE_N_K + choices[l].k] + t->v_kl[l * CHOICE_N_V + choices[l].v];
    return sum;
}

double choice_table_bytes(const choice_table *t, const choice *choices)
{
    double sum = 0.0;
    for (size_t l = 0; l < t->n_layers; l++)
        sum += t->bytes[choices[l].k][choices[l].v];
    return sum;
}

/* ---- the choice ---- */

/* A layer's step to wider keys or values, and what it is worth. */
typedef struct step {
    size_t layer;
    choice to;
    double saved, cost;
} step;

/* Is the step better, and can it be paid? Those that cost nothing are the best of all. */
static void consider(step *best, const choice_table *t, size_t layer, const choice *from, choice to,
                     double left)
{
    const double *k = t->k_kl + layer * CHOICE_N_K, *v = t->v_kl + layer * CHOICE_N_V;
    const step s = {layer, to, k[from->k] - k[to.k] + v[from->v] - v[to.v],
                    t->bytes[to.k][to.v] - t->bytes[from->k][from->v]};
    if (s.saved <= 0.0 || s.cost > left)
        return;
    if (best->saved <= 0.0 || s.saved * best->cost > best->saved * s.cost)
        *best = s;
}

bool choice_greedy(choice *out, const choice_table *t, double bytes)
{
    memset(out, 0, t->n_layers * sizeof out[0]);
    double left = bytes - choice_table_bytes(t, out);
    if (left < 0.0)
        return false;
    for (;;) {
        step best = {.saved = 0.0};
        for (size_t l = 0; l < t->n_layers; l++) {
            /* Several widths up at once, too: one up may save little where two save much. */
            for (size_t k = out[l].k + 1; k < CHOICE_N_K; k++)
                consider(&best, t, l, &out[l], (choice){k, out[l].v}, left);
            for (size_t v = out[l].v + 1; v < CHOICE_N_V; v++)
                consider(&best, t, l, &out[l], (choice){out[l].k, v}, left);
        }
        if (best.saved <= 0.0)
            return true;
        out[best.layer] = best.to;
        left -= best.cost;
    }
}
