/* What is drawn, taken from results (view.h). */
#include "eval/page/view.h"

#include "eval/measure/memory.h"
#include "eval/page/markup.h"
#include "eval/page/style.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *view_main_name(const view *v)
{
    return v->main == FIGURE_KL ? "KL divergence from fp32, nats per token"
                                : "relative error of attention's output";
}

const char *view_colour(size_t family)
{
    static const char *const classes[STYLE_N_COLOURS] = {"c0", "c1", "c2", "c3", "c4", "c5", "c6"};
    return classes[family % STYLE_N_COLOURS];
}

/* ---- families ---- */

/* q8_0, q4_1, ...: the block formats of ggml. */
static bool is_ggml(const char *codec)
{
    return codec[0] == 'q' && isdigit((unsigned char)codec[1]) && codec[2] == '_';
}

static void name_of_family(char name[VIEW_NAME], const scheme_view *s)
{
    kvq_side_info k = {0}, v = {0};
    if (!s->scheme || kvq_scheme_keys(s->scheme, &k) != KVQ_OK ||
        kvq_scheme_values(s->scheme, &v) != KVQ_OK) {
        size_t n = 0; /* one that is not known here: the letters it begins with */
        while (isalpha((unsigned char)s->text[n]) && n + 1 < VIEW_NAME)
            n++;
        snprintf(name, VIEW_NAME, "%.*s", n > 0 ? (int)n : VIEW_NAME - 1, s->text);
        return;
    }
    const bool affine = strcmp(k.codec, "affine") == 0 && strcmp(v.codec, "affine") == 0;
    if (strcmp(k.codec, "tier") == 0 && strcmp(v.codec, "rot") == 0)
        snprintf(name, VIEW_NAME, "kvq");
    else if (affine && k.axis == KVQ_AXIS_CHANNEL && v.axis == KVQ_AXIS_TOKEN)
        snprintf(name, VIEW_NAME, "kivi");
    else if (is_ggml(k.codec) && is_ggml(v.codec))
        snprintf(name, VIEW_NAME, "ggml");
    else if (strcmp(k.codec, v.codec) == 0)
        snprintf(name, VIEW_NAME, "%s", k.codec);
    else
        snprintf(name, VIEW_NAME, "%.16s+%.16s", k.codec, v.codec);
}

static void find_family(view *v, scheme_view *s)
{
    char name[VIEW_NAME];
    name_of_family(name, s);
    for (s->family = 0; s->family < v->n_families; s->family++)
        if (strcmp(v->families[s->family], name) == 0)
            return;
    if (v->n_families + 1 < VIEW_MAX_FAMILIES)
        snprintf(v->families[v->n_families++], VIEW_NAME, "%s", name);
    else
        snprintf(v->families[s->family = VIEW_MAX_FAMILIES - 1], VIEW_NAME, "other");
    v->n_families = s->family + 1 > v->n_families ? s->family + 1 : v->n_families;
}

/* kvq and kivi first, so that they have the same colours on every page. */
static void find_families(view *v)
{
    static const char *const first[] = {"kvq", "kivi"};
    for (size_t j = 0; j < sizeof first / sizeof first[0]; j++) {
        for (size_t i = 0; i < v->n; i++) {
            char name[VIEW_NAME];
            name_of_family(name, &v->schemes[i]);
            if (strcmp(name, first[j]) == 0)
                find_family(v, &v->schemes[i]);
        }
    }
    for (size_t i = 0; i < v->n; i++)
        find_family(v, &v->schemes[i]);
}

/* ---- one scheme ---- */

head_errors view_head(const view *v, const scheme_view *s, size_t layer, size_t head)
{
    double e[3] = {0}, x[3] = {0};
    for (size_t i = 0; i < s->n_cells; i++) {
        if (!s->cells[i]->heads)
            continue;
        const cell_head *h = &s->cells[i]->heads[layer * v->x->n_head + head];
        const double errors[] = {h->k_error, h->v_error, h->attn_error};
        const double references[] = {h->k_reference, h->v_reference, h->attn_reference};
        for (size_t j = 0; j < 3; j++) {
            e[j] += errors[j];
            x[j] += references[j];
        }
    }
    double r[3];
    for (size_t j = 0; j < 3; j++)
        r[j] = x[j] > 0.0 ? sqrt(e[j] / x[j]) : (double)NAN;
    return (head_errors){.k = r[0], .v = r[1], .attn = r[2]};
}

static void sum_sides(const view *v, scheme_view *s)
{
    double ke = 0, kr = 0, ve = 0, vr = 0;
    const size_t n_heads = v->x->n_layer * v->x->n_head;
    for (size_t i = 0; i < s->n_cells; i++) {
        for (size_t j = 0; s->cells[i]->heads && j < n_heads; j++) {
            const cell_head *h = &s->cells[i]->heads[j];
            ke += h->k_error;
            kr += h->k_reference;
            ve += h->v_error;
            vr += h->v_reference;
        }
    }
    s->k_error = kr > 0.0 ? sqrt(ke / kr) : (double)NAN;
    s->v_error = vr > 0.0 ? sqrt(ve / vr) : (double)NAN;
}

static bool weigh(const view *v, scheme_view *s, eval_error *e)
{
    kvq_usage usage;
    s->bytes_per_token = NAN;
    if (!s->scheme || kvq_scheme_bits_per_element(s->scheme, v->x->head_dim) <= 0.0)
        return true;
    if (!memory_weigh(&v->shape, s->scheme, &v->context, 1, &usage, e))
        return false;
    s->bytes_per_token = (double)usage.total / (double)v->context;
    return true;
}

/* Names of parameters whose values speak for themselves take room that pictures do not have. */
static void make_label(scheme_view *s)
{
    static const char *const silent[] = {"mode=", "rtype="};
    char text[256];
    size_t n = 0;
    for (const char *at = s->text; *at != '\0' && n + 1 < sizeof text;) {
        size_t skip = 0;
        for (size_t i = 0; i < 2; i++)
            skip = strncmp(at, silent[i], strlen(silent[i])) == 0 ? strlen(silent[i]) : skip;
        at += skip;
        if (skip == 0)
            text[n++] = *at++;
    }
    text[n] = '\0';
    markup_cut(s->label, sizeof s->label, text, 26);
}

static bool fill_scheme(view *v, scheme_view *s, const results *r, eval_error *e)
{
    kvq_side_info k, val;
    s->n_cells = results_of_scheme(r, v->index, s->text, NULL, 0);
    s->cells = malloc((s->n_cells + 1) * sizeof(cell *));
    if (!s->cells)
        return eval_fail(e, "no memory for the page");
    (void)results_of_scheme(r, v->index, s->text, s->cells, s->n_cells);
    make_label(s);
    if (kvq_scheme_create(&s->scheme, s->text, NULL) != KVQ_OK)
        s->scheme = NULL;
    s->plain = s->scheme && kvq_scheme_keys(s->scheme, &k) == KVQ_OK &&
               kvq_scheme_values(s->scheme, &val) == KVQ_OK && k.bits >= 16 && val.bits >= 16;
    double bytes = 0, elements = 0;
    for (size_t i = 0; i < s->n_cells; i++) {
        bytes += (double)s->cells[i]->usage.total;
        elements += (double)s->cells[i]->usage.n_elements;
        s->kl_max = fmax(s->kl_max, s->cells[i]->kld_max);
    }
    s->bits = elements > 0.0 ? 8.0 * bytes / elements : (double)NAN;
    for (int f = 0; f < N_FIGURES; f++)
        s->figures[f] = statistics_estimate((figure)f, s->cells, s->n_cells, STATISTICS_SEED);
    sum_sides(v, s);
    v->n_windows = s->n_cells > v->n_windows ? s->n_cells : v->n_windows;
    return weigh(v, s, e);
}

/* ---- all of them ---- */

static int by_bits(const void *a, const void *b)
{
    const scheme_view *x = a, *y = b;
    if (isnan(x->bits) || isnan(y->bits))
        return isnan(x->bits) - isnan(y->bits);
    return x->bits != y->bits ? (x->bits > y->bits) - (x->bits < y->bits) : strcmp(x->text, y->text);
}

static double size_of(const scheme_view *s, bool bytes)
{
    return bytes ? s->bytes_per_token : s->bits;
}

static bool on_front(const view *v, const scheme_view *s, bool bytes)
{
    const double size = size_of(s, bytes), value = s->figures[v->main].value;
    if (s->plain || isnan(size) || isnan(value))
        return false;
    for (size_t i = 0; i < v->n; i++) {
        const scheme_view *o = &v->schemes[i];
        if (!o->plain && statistics_beats(size_of(o, bytes), o->figures[v->main].value, size, value))
            return false;
    }
    return true;
}

/* The baseline is what was asked for, or kivi2 where it was measured: the published scheme that others
 * are held against. Else
 * the scheme of KIVI's kind with the fewest bits, else the first of all that quantizes. */
static void find_baseline(view *v, const char *wanted)
{
    v->baseline = v->n;
    for (size_t i = 0; wanted && i < v->n; i++)
        if (strcmp(v->schemes[i].text, wanted) == 0)
            v->baseline = i;
    for (int pass = 0; pass < 3 && v->baseline == v->n; pass++) {
        for (size_t i = 0; i < v->n && v->baseline == v->n; i++) {
            const scheme_view *s = &v->schemes[i];
            const bool kivi = strcmp(v->families[s->family], "kivi") == 0;
            if (!s->plain && !isnan(s->bits) && !isnan(s->figures[v->main].value) &&
                (pass == 2 || (kivi && (pass == 1 || strcmp(s->text, "kivi2") == 0))))
                v->baseline = i;
        }
    }
}

/* Best: the least of the main figure with no more bits than the baseline. */
static void find_best(view *v)
{
    v->best = v->n;
    for (size_t i = 0; i < v->n && v->baseline < v->n; i++) {
        const scheme_view *s = &v->schemes[i];
        const double value = s->figures[v->main].value;
        if (!s->plain && s->bits <= v->schemes[v->baseline].bits && !isnan(value) &&
            (v->best == v->n || value < v->schemes[v->best].figures[v->main].value))
            v->best = i;
    }
}

static bool compare(view *v, eval_error *e)
{
    if (v->best == v->n || v->best == v->baseline)
        return true;
    const scheme_view *a = &v->schemes[v->best], *b = &v->schemes[v->baseline];
    const cell **both = malloc((a->n_cells + b->n_cells + 1) * sizeof(cell *));
    if (!both)
        return eval_fail(e, "no memory for the page");
    const cell **second = both + a->n_cells;
    memcpy(both, a->cells, a->n_cells * sizeof(cell *));
    memcpy(second, b->cells, b->n_cells * sizeof(cell *));
    v->n_common = results_pair(both, a->n_cells, second, b->n_cells);
    v->compared = v->n_common > 0;
    if (v->compared)
        v->against = statistics_compare(v->main, both, second, v->n_common, STATISTICS_SEED);
    free(both);
    return true;
}

static void choose(view *v, size_t i)
{
    for (size_t j = 0; j < v->n_chosen; j++)
        if (v->chosen[j] == i)
            return;
    if (i < v->n && v->n_chosen < VIEW_MAX_CHOSEN)
        v->chosen[v->n_chosen++] = i;
}

static void choose_all(view *v)
{
    size_t n_front = 0, seen = 0;
    choose(v, v->best);
    choose(v, v->baseline);
    for (size_t i = 0; i < v->n; i++)
        n_front += v->schemes[i].front_bits;
    /* Of a long front every so-manyth, so that few and many bits are there. */
    const size_t step = (n_front + 3) / 4 > 0 ? (n_front + 3) / 4 : 1;
    for (size_t i = 0; i < v->n; i++)
        if (v->schemes[i].front_bits && seen++ % step == 0)
            choose(v, i);
    for (size_t i = 0; i < v->n && v->n_chosen < 2; i++)
        if (!v->schemes[i].plain)
            choose(v, i);
}

bool view_make(view *v, const results *r, size_t experiment_index, size_t context, const char *baseline,
               eval_error *e)
{
    const experiment *x = &r->experiments[experiment_index];
    *v = (view){.x = x, .index = experiment_index, .context = context > 0 ? context : x->n_tokens};
    v->main = x->has_quality ? FIGURE_KL : FIGURE_ATTN_ERROR;
    v->shape = (model_shape){.n_layer = x->n_layer,
                             .n_head = x->n_head,
                             .n_kv_head = x->n_kv_head,
                             .head_dim = x->head_dim,
                             .n_embd = x->n_embd,
                             .n_ctx = x->n_ctx,
                             .vocab_size = x->vocab_size};
    while (results_scheme(r, experiment_index, v->n))
        v->n++;
    v->schemes = calloc(v->n + 1, sizeof *v->schemes);
    if (!v->schemes)
        return eval_fail(e, "no memory for the page");
    for (size_t i = 0; i < v->n; i++) {
        v->schemes[i].text = results_scheme(r, experiment_index, i);
        if (!fill_scheme(v, &v->schemes[i], r, e))
            return false;
    }
    qsort(v->schemes, v->n, sizeof *v->schemes, by_bits);
    find_families(v);
    for (size_t i = 0; i < v->n; i++) {
        scheme_view *s = &v->schemes[i];
        v->has_figure = v->has_figure || !isnan(s->figures[v->main].value);
        s->front_bits = on_front(v, s, false);
        s->front_bytes = on_front(v, s, true);
    }
    find_baseline(v, baseline);
    find_best(v);
    if (!compare(v, e))
        return false;
    choose_all(v);
    return true;
}

void view_free(view *v)
{
    for (size_t i = 0; v->schemes && i < v->n; i++) {
        kvq_scheme_free(v->schemes[i].scheme);
        free(v->schemes[i].cells);
    }
    free(v->schemes);
    memset(v, 0, sizeof *v);
}
