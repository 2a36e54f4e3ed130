/*
 * Schemes as programs make them: a plain one, or a base and ranges of layers with schemes of their own.
 */
#include "lib/internal.h"
#include "lib/scheme.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1 << 16 }; /* bytes that hold every canonical text, its NUL included */

static const kvq_layered *layered_of(const kvq_scheme *scheme)
{
    return scheme != NULL && scheme->min_layers > 0 ? (const kvq_layered *)(const void *)scheme : NULL;
}

/* ---- Asking ---- */

const char *kvq_scheme_text(const kvq_scheme *scheme)
{
    const kvq_layered *layered = layered_of(scheme);
    return layered != NULL ? layered->text : scheme == NULL ? NULL : scheme->text;
}

size_t kvq_scheme_min_layers(const kvq_scheme *scheme)
{
    return scheme == NULL ? 0 : scheme->min_layers;
}

const kvq_scheme *kvq_scheme_of_layer(const kvq_scheme *scheme, size_t layer)
{
    const kvq_layered *layered = layered_of(scheme);
    if (layered == NULL)
        return scheme;
    for (size_t i = 0; i < layered->n_ranges && layered->range[i].first <= layer; i++)
        if (layer <= layered->range[i].last)
            return &layered->range[i].scheme;
    return &layered->base;
}

/* ---- Parsing ---- */

/* Ranges as they are read; no layer is in two of them, so KVQ_MAX_LAYERS are enough. */
typedef struct reading {
    kvq_layer_range *range;
    size_t n;
    bool named[KVQ_MAX_LAYERS];
} reading;

/* N ["-" N] */
static bool parse_layers(kvq_text *t, kvq_layer_range *out)
{
    const uint32_t highest = KVQ_MAX_LAYERS - 1;
    if (!kvq_text_number(t, highest, &out->first))
        return false;
    out->last = out->first;
    if (!kvq_text_accept(t, "-"))
        return true;
    const char *start = t->at;
    if (!kvq_text_number(t, highest, &out->last))
        return false;
    return out->last >= out->first ||
           kvq_text_fail(t, start, "the last layer of a range is before its first");
}

/* "+" layers "=" scheme */
static bool parse_range(kvq_text *t, reading *r)
{
    const char *start = ++t->at; /* a scheme that is read ends at a + or the end */
    kvq_layer_range range;
    if (!parse_layers(t, &range))
        return false;
    for (uint32_t layer = range.first; layer <= range.last; layer++) {
        if (r->named[layer])
            return kvq_text_fail(t, start, "a layer is named twice");
        r->named[layer] = true;
    }
    if (!kvq_text_accept(t, "="))
        return kvq_text_fail(t, t->at, "= and the scheme of these layers are expected here");
    if (!kvq_scheme_read(t, &range.scheme))
        return false;
    r->range[r->n++] = range;
    return true;
}

/* ---- The canonical form ---- */

static int by_layer(const void *a, const void *b)
{
    const kvq_layer_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static bool equal(const kvq_scheme *a, const kvq_scheme *b)
{
    return strcmp(a->text, b->text) == 0;
}

/* Sort the ranges, join those that are one, leave out what the base says. */
static void settle(reading *r, const kvq_scheme *base)
{
    size_t n = 0;
    qsort(r->range, r->n, sizeof r->range[0], by_layer);
    for (size_t i = 0; i < r->n; i++) {
        if (equal(&r->range[i].scheme, base))
            continue;
        if (n > 0 && r->range[n - 1].last + 1 == r->range[i].first &&
            equal(&r->range[n - 1].scheme, &r->range[i].scheme))
            r->range[n - 1].last = r->range[i].last;
        else
            r->range[n++] = r->range[i];
    }
    r->n = n;
}

static void put_whole(kvq_printer *p, const kvq_scheme *base, const reading *r)
{
    kvq_put(p, base->text);
    for (size_t i = 0; i < r->n; i++) {
        kvq_put_number(p, "+", r->range[i].first);
        if (r->range[i].last > r->range[i].first)
            kvq_put_number(p, "-", r->range[i].last);
        kvq_put(p, "=");
        kvq_put(p, r->range[i].scheme.text);
    }
}

/* ---- Making ---- */

static kvq_status make_plain(kvq_scheme **out, const kvq_scheme *scheme, kvq_error *err)
{
    kvq_scheme *made = malloc(sizeof *made);
    if (made == NULL)
        return kvq_fail(err, KVQ_ERR_NOMEM, "out of memory", 0);
    *made = *scheme;
    *out = made;
    return KVQ_OK;
}

static kvq_status make_layered(kvq_scheme **out, const kvq_scheme *base, const reading *r, kvq_error *err)
{
    kvq_printer length = {.size = 0};
    put_whole(&length, base, r);
    if (length.n >= TEXT_MAX)
        return kvq_fail(err, KVQ_ERR_SCHEME, "the scheme is too long: it must fit 65535 characters", 0);
    kvq_layered *made = malloc(sizeof *made + r->n * sizeof r->range[0] + length.n + 1);
    if (made == NULL)
        return kvq_fail(err, KVQ_ERR_NOMEM, "out of memory", 0);
    made->scheme = *base;
    made->scheme.min_layers = r->range[r->n - 1].last + 1;
    made->base = *base;
    made->n_ranges = r->n;
    memcpy(made->range, r->range, r->n * sizeof r->range[0]);
    kvq_printer p = {.text = (char *)(made->range + r->n), .size = length.n + 1};
    put_whole(&p, base, r);
    made->text = p.text;
    *out = &made->scheme;
    return KVQ_OK;
}

/* What follows the base in `text`, from t->at, the first +. */
static kvq_status create_layered(kvq_scheme **out, const kvq_scheme *base, kvq_text *t, const char *text,
                                 kvq_error *err)
{
    size_t n = 0;
    for (const char *at = t->at; *at != '\0' && n < KVQ_MAX_LAYERS; at++)
        n += *at == '+';
    reading r = {.range = malloc((n > 0 ? n : 1) * sizeof r.range[0])};
    if (r.range == NULL)
        return kvq_fail(err, KVQ_ERR_NOMEM, "out of memory", 0);
    bool good = true;
    while (good && *t->at != '\0')
        good = parse_range(t, &r);
    if (good)
        settle(&r, base);
    kvq_status status;
    if (!good)
        status = kvq_fail(err, KVQ_ERR_SCHEME, t->problem, (uint64_t)(t->problem_at - text));
    else
        status = r.n > 0 ? make_layered(out, base, &r, err) : make_plain(out, base, err);
    free(r.range);
    return status;
}

kvq_status kvq_scheme_create(kvq_scheme **out, const char *text, kvq_error *err)
{
    if (out == NULL || text == NULL)
        return kvq_fail(err, KVQ_ERR_ARG, "text or out is NULL", 0);
    kvq_text t = {.at = text};
    kvq_scheme base;
    if (!kvq_scheme_read(&t, &base))
        return kvq_fail(err, KVQ_ERR_SCHEME, t.problem, (uint64_t)(t.problem_at - text));
    return *t.at == '\0' ? make_plain(out, &base, err) : create_layered(out, &base, &t, text, err);
}

void kvq_scheme_free(kvq_scheme *scheme)
{
    free(scheme);
}
