/* Fills caches with zeros and weighs them (usage.h). */
#include "eval/plan/usage.h"

#include <stdlib.h>

enum { PAGE = 128 }; /* tokens */

/* Layers of a cache, in two groups that hold different numbers of tokens. */
typedef struct filling {
    size_t n_layers[2], n_tokens[2];
    size_t n_kv_heads, n_sequences;
} filling;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Tokens [at, at + n) of a group's layers, those that there are. */
static kvq_status feed(kvq_cache *cache, const filling *f, size_t group, size_t at, size_t n,
                       const float *zeros, float *out)
{
    const size_t end = smaller(at + n, f->n_tokens[group]), first = group == 0 ? 0 : f->n_layers[0];
    kvq_status status = KVQ_OK;
    for (size_t l = 0; status == KVQ_OK && at < end && l < f->n_layers[group]; l++) {
        for (size_t s = 0; status == KVQ_OK && s < f->n_sequences; s++) {
            const size_t one = 1;
            status = at == 0
                         ? kvq_cache_step(cache, first + l, &s, 1, &one, zeros, zeros, zeros, 1.0f, NULL, out)
                         : kvq_cache_append(cache, first + l, s, zeros, zeros, end - at);
        }
    }
    return status;
}

static kvq_status fill(kvq_cache *cache, const filling *f, const float *zeros, float *out)
{
    const size_t most = f->n_tokens[0] > f->n_tokens[1] ? f->n_tokens[0] : f->n_tokens[1];
    kvq_status status = KVQ_OK;
    for (size_t at = 0, n = 1; status == KVQ_OK && at < most; at += n) {
        n = at == 0 ? 1 : USAGE_CHUNK;
        status = feed(cache, f, 0, at, n, zeros, out);
        if (status == KVQ_OK)
            status = feed(cache, f, 1, at, n, zeros, out);
    }
    return status;
}

/* Make, fill, ask, free. *n_pages: of all layers and sequences of the first group. */
static bool run(const model_dims *d, const kvq_scheme *scheme, const filling *f, kvq_usage *usage,
                size_t *n_pages, eval_error *e)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = f->n_layers[0] + f->n_layers[1];
    config.n_kv_heads = f->n_kv_heads;
    config.n_heads = f->n_kv_heads; /* query heads have no bytes in a cache */
    config.head_dim = d->head_dim;
    config.n_sequences = f->n_sequences;
    config.scheme = scheme;
    kvq_cache *cache = NULL;
    kvq_status status = kvq_cache_create(&cache, &config);
    if (status == KVQ_ERR_SCHEME && kvq_scheme_min_layers(scheme) > config.n_layers)
        return eval_fail(e, "scheme %.600s: layer %zu is named, but the model has no more than %zu",
                         kvq_scheme_text(scheme), kvq_scheme_min_layers(scheme) - 1, config.n_layers);
    if (status == KVQ_ERR_SCHEME)
        return eval_fail(e, "scheme %s: cannot store heads of %zu numbers", kvq_scheme_text(scheme),
                         d->head_dim);
    const size_t width = f->n_kv_heads * d->head_dim,
                 n_rows = f->n_tokens[0] + f->n_tokens[1] > 0 ? USAGE_CHUNK : 0;
    float *zeros = calloc((n_rows + 1) * width, sizeof *zeros); /* and the output of one step */
    if (status == KVQ_OK)
        status = zeros ? fill(cache, f, zeros, zeros + n_rows * width) : KVQ_ERR_NOMEM;
    size_t k = 0, v = 0;
    if (status == KVQ_OK)
        status = kvq_cache_n_packed(cache, 0, 0, &k, &v);
    *n_pages = ((k > v ? k : v) + PAGE - 1) / PAGE * f->n_layers[0] * f->n_sequences;
    if (status == KVQ_OK)
        status = kvq_cache_usage(cache, usage);
    free(zeros);
    kvq_cache_free(cache);
    return status == KVQ_OK || eval_fail(e, "scheme %s: cannot weigh a cache: %s", kvq_scheme_text(scheme),
                                         kvq_status_string(status));
}

static cache_bytes of_usage(const kvq_usage *u)
{
    return (cache_bytes){.payload = u->payload,
                         .metadata = u->metadata,
                         .residual = u->residual,
                         .sinks = u->sinks,
                         .evidence = u->evidence,
                         .slack = u->slack,
                         .bookkeeping = u->bookkeeping,
                         .total = u->total};
}

static uint64_t n_elements(const model_dims *d, const filling *f)
{
    const uint64_t tokens =
        (uint64_t)f->n_layers[0] * f->n_tokens[0] + (uint64_t)f->n_layers[1] * f->n_tokens[1];
    return 2 * tokens * f->n_kv_heads * d->head_dim * f->n_sequences;
}

/* Bytes of n_pages pages of n_kv_heads heads: they come from chunks of one more than an eighth of the pages
 * there are, in whole huge pages if they are that large (kvq.h tells a page's bytes, lib/memory.h how chunks
 * grow). */
static double pages_bytes(const model_dims *d, const kvq_scheme *scheme, size_t n_kv_heads, size_t n_pages)
{
    const uint64_t huge = 2 << 20;
    const double bits = kvq_scheme_bits_per_element(scheme, d->head_dim);
    const uint64_t slot = (uint64_t)(bits / 8 * 2 * PAGE * (double)(n_kv_heads * d->head_dim) + 0.5);
    double bytes = 0.0;
    for (uint64_t n = 0; n < n_pages && slot > 0;) {
        uint64_t chunk = (n / 8 + 1) * slot;
        chunk = chunk >= huge ? (chunk + huge - 1) / huge * huge : chunk;
        bytes += (double)chunk;
        n += chunk / slot;
    }
    return bytes;
}

static double packed(const cache_bytes *b)
{
    return (double)(b->payload + b->metadata);
}

/* A part of the cache that fits the budget, times what it is a part of. */
static bool scale(const model_dims *d, const kvq_scheme *scheme, size_t n_layers, size_t n_tokens,
                  size_t n_sequences, uint64_t budget, cache_bytes *out, eval_error *e)
{
    filling f = {{1, 0}, {n_tokens, 0}, 1, 1};
    const uint64_t one_head = n_elements(d, &f);
    if (one_head * d->n_kv_head <= budget)
        f.n_kv_heads = d->n_kv_head;
    const uint64_t room = budget / (one_head * f.n_kv_heads);
    if (room > 1)
        f.n_layers[0] = room < n_layers ? (size_t)room : n_layers;
    const filling part_empty = {{f.n_layers[0], 0}, {0, 0}, f.n_kv_heads, 1},
                  all_empty = {{n_layers, 0}, {0, 0}, d->n_kv_head, n_sequences};
    kvq_usage u, part_base, all_base;
    size_t n_pages = 0, none = 0;
    if (!run(d, scheme, &f, &u, &n_pages, e) || !run(d, scheme, &part_empty, &part_base, &none, e) ||
        !run(d, scheme, &all_empty, &all_base, &none, e))
        return false;
    const double tables = (double)(u.bookkeeping - part_base.bookkeeping) / (double)f.n_layers[0];
    /* Exact: the part's layers, sequences and heads divide the parts. */
    const uint64_t terms = (uint64_t)f.n_layers[0] * f.n_kv_heads,
                   all = (uint64_t)n_layers * n_sequences * d->n_kv_head;
    const double factor = (double)all / (double)terms;
    *out = (cache_bytes){.payload = u.payload / terms * all,
                         .metadata = u.metadata / terms * all,
                         .residual = u.residual / terms * all,
                         .sinks = u.sinks / terms * all,
                         .evidence = u.evidence / terms * all,
                         /* tables are per layer and sequence, whatever the number of heads */
                         .bookkeeping = all_base.bookkeeping +
                                        (uint64_t)(tables * (double)n_layers * (double)n_sequences),
                         .computed = true};
    const cache_bytes part = of_usage(&u);
    const size_t all_pages = n_pages / f.n_layers[0] * n_layers * n_sequences;
    const double page_slack = pages_bytes(d, scheme, f.n_kv_heads, n_pages) - packed(&part),
                 rest = (double)u.slack - page_slack,
                 slack = pages_bytes(d, scheme, d->n_kv_head, all_pages) - packed(out) + rest * factor;
    out->slack = slack > 0.0 ? (uint64_t)slack : 0;
    out->total = out->payload + out->metadata + out->residual + out->sinks + out->evidence + out->slack +
                 out->bookkeeping;
    return true;
}

static void add(cache_bytes *a, const cache_bytes *b)
{
    a->payload += b->payload;
    a->metadata += b->metadata;
    a->residual += b->residual;
    a->sinks += b->sinks;
    a->evidence += b->evidence;
    a->slack += b->slack;
    a->bookkeeping += b->bookkeeping;
    a->total += b->total;
    a->computed = a->computed || b->computed;
}

static bool run_or_scale(const model_dims *d, const kvq_scheme *scheme, const filling *f, uint64_t budget,
                         cache_bytes *out, eval_error *e)
{
    kvq_usage u;
    size_t n_pages = 0;
    if (n_elements(d, f) <= budget) {
        if (!run(d, scheme, f, &u, &n_pages, e))
            return false;
        *out = of_usage(&u);
        return true;
    }
    cache_bytes sum = {0};
    for (size_t g = 0; g < 2; g++) {
        cache_bytes part = {0};
        if (f->n_layers[g] == 0 || f->n_tokens[g] == 0)
            continue;
        if (!scale(d, scheme, f->n_layers[g], f->n_tokens[g], f->n_sequences, budget, &part, e))
            return false;
        add(&sum, &part);
    }
    *out = sum;
    return true;
}

bool usage_of_layers(const model_dims *d, const kvq_scheme *scheme, size_t n_layers, size_t n_tokens,
                     size_t n_sequences, uint64_t budget, cache_bytes *out, eval_error *e)
{
    const filling f = {{n_layers, 0}, {n_tokens, 0}, d->n_kv_head, n_sequences};
    return run_or_scale(d, scheme, &f, budget, out, e);
}

bool usage_of(const model_dims *d, const kvq_scheme *scheme, size_t n_tokens, size_t n_sequences,
              uint64_t budget, cache_bytes *out, eval_error *e)
{
    const filling f = {{d->n_layer - d->n_windowed, d->n_windowed},
                       {n_tokens, d->n_windowed > 0 ? smaller(n_tokens, d->window) : 0},
                       d->n_kv_head,
                       n_sequences};
    return run_or_scale(d, scheme, &f, budget, out, e);
}

uint64_t usage_read(const cache_bytes *b)
{
    return b->payload + b->metadata + b->residual + b->sinks;
}
