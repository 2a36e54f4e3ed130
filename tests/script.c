/*
 * See script.h.
 */
#include "tests/script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "script: %s\n", what);
    abort();
}

static float *floats(size_t n)
{
    float *x = malloc((n + 1) * sizeof *x); /* malloc(0) may be NULL */
    must(x != NULL, "no memory");
    return x;
}

script make_script(uint64_t stream, shape s, size_t n)
{
    rng r = rng_make(stream);
    script d = {.s = s, .n = n, .row = s.n_kv_heads * s.head_dim, .q_row = s.n_heads * s.head_dim};
    size_t n_all = s.n_sequences * n;
    d.scale = 1.0f / sqrtf((float)s.head_dim);
    d.q = floats(n_all * d.q_row);
    d.k = floats(n_all * d.row);
    d.v = floats(n_all * d.row);
    fill(&r, FILL_NORMAL, d.q, n_all, d.q_row);
    fill(&r, FILL_OFFSETS, d.k, n_all, d.row);
    fill(&r, FILL_HEAVY, d.v, n_all, d.row);
    return d;
}

void free_script(script *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
}

call make_call(const kvq_cache *cache, const script *d, const size_t *sequences, size_t n_sequences,
               const size_t *n_new)
{
    call c = {0};
    for (size_t i = 0; i < n_sequences; i++)
        c.n_all += n_new == NULL ? 1 : n_new[i];
    c.q = floats(c.n_all * d->q_row);
    c.k = floats(c.n_all * d->row);
    c.v = floats(c.n_all * d->row);
    c.out = floats(c.n_all * d->q_row);
    for (size_t i = 0, at = 0, n; i < n_sequences; i++, at += n) {
        size_t s = sequences == NULL ? i : sequences[i];
        size_t begin = kvq_cache_n_tokens(cache, 0, s), from = s * d->n + begin;
        n = n_new == NULL ? 1 : n_new[i];
        must(begin + n <= d->n, "too short");
        memcpy(c.q + at * d->q_row, d->q + from * d->q_row, n * d->q_row * sizeof *c.q);
        memcpy(c.k + at * d->row, d->k + from * d->row, n * d->row * sizeof *c.k);
        memcpy(c.v + at * d->row, d->v + from * d->row, n * d->row * sizeof *c.v);
    }
    memset(c.out, 0x5a, c.n_all * d->q_row * sizeof *c.out);
    return c;
}

void free_call(call *c)
{
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->out);
}

float *script_step(kvq_cache *cache, const script *d, const size_t *sequences, size_t n_sequences,
                   const size_t *n_new, const kvq_attend_options *options)
{
    call c = make_call(cache, d, sequences, n_sequences, n_new);
    kvq_status status =
        kvq_cache_step(cache, 0, sequences, n_sequences, n_new, c.q, c.k, c.v, d->scale, options, c.out);
    must(status == KVQ_OK, kvq_status_string(status));
    float *out = c.out;
    c.out = NULL;
    free_call(&c);
    return out;
}

void script_append(kvq_cache *cache, const script *d, size_t sequence, size_t n)
{
    size_t begin = kvq_cache_n_tokens(cache, 0, sequence), from = sequence * d->n + begin;
    must(begin + n <= d->n, "too short");
    kvq_status status = kvq_cache_append(cache, 0, sequence, d->k + from * d->row, d->v + from * d->row, n);
    must(status == KVQ_OK, kvq_status_string(status));
}

bool uses_evidence(const char *scheme)
{
    kvq_side_info k, v;
    must(kvq_scheme_keys(scheme_of(scheme), &k) == KVQ_OK, scheme);
    must(kvq_scheme_values(scheme_of(scheme), &v) == KVQ_OK, scheme);
    return k.uses_evidence || v.uses_evidence;
}

bool same_caches(const char *what, const kvq_cache *a, const kvq_cache *b)
{
    buffer sa = saved(a), sb = saved(b);
    bool same = sa.n == sb.n;
    if (same)
        same = same_bits(what, sa.data, sb.data, sa.n);
    else
        fprintf(stderr, "%s: %zu bytes saved, expected %zu\n", what, sa.n, sb.n);
    buffer_free(&sa);
    buffer_free(&sb);
    return same;
}

kvq_cache *copy_of(const kvq_cache *cache)
{
    kvq_cache *copy = NULL;
    buffer file = saved(cache);
    kvq_status status = kvq_cache_load(&copy, NULL, buffer_read, &file, NULL);
    must(status == KVQ_OK, kvq_status_string(status));
    buffer_free(&file);
    return copy;
}
