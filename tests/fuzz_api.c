/*
 * Fuzzes sequences of calls. The bytes of the input choose the schemes and then, one call after the other,
 * what to do to two caches of the same shape:
 *   exact      a float32 scheme, which must give the appended numbers back and attend as a plain loop does;
 *   quantized  which must stay within the bounds it promises of what was appended to it.
 * After every call both caches' bytes are those the allocator handed out, and a call that fails changes
 * nothing.
 */
#include "tests/support.h"
#include "tests/toy_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    N_LAYERS = 2,
    N_SEQUENCES = 2,
    N_HEADS = 4,
    N_KV_HEADS = 2,
    DIM = 8,
    ROW = N_KV_HEADS * DIM, /* elements of a token */
    MAX_TOKENS = 300,
    N_STATES = N_LAYERS * N_SEQUENCES,
    MAX_CALLS = 32,
};

static const char *const exact_schemes[] = {"fp32", "k=f32,v=f32,r=32,s=3", "fp32,r=5",
                                            "k=f32,v=f32,r=0,mode=kivi,s=1", "fp32,s=40"};

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* One layer of one sequence, as plain arrays. */
typedef struct state {
    size_t n;
    float k[MAX_TOKENS * ROW], v[MAX_TOKENS * ROW];
    bool known; /* are k and v what the cache's bounds are relative to? */
} state;

typedef struct subject {
    kvq_cache *cache;
    const char *scheme;
    kvq_allocator allocator;
    test_memory memory;
    state state[N_STATES];
} subject;

static subject exact, quantized;

/* The input, as a stream of choices. */
static const uint8_t *input;
static size_t n_input;
static rng values;

static size_t choose(size_t n)
{
    if (n_input == 0)
        return 0;
    n_input--;
    return *input++ % n;
}

static state *state_of(subject *s, size_t layer, size_t sequence)
{
    return &s->state[sequence * N_LAYERS + layer];
}

/* ---- Checks ---- */

static void check_memory(const subject *s)
{
    kvq_usage u;
    must(kvq_cache_usage(s->cache, &u) == KVQ_OK);
    must(u.total == s->memory.live_bytes);
    must(u.payload + u.metadata + u.residual + u.sinks + u.slack + u.bookkeeping + u.evidence == u.total);
    must(kvq_cache_verify(s->cache, NULL) == KVQ_OK);
}

static void check_side(const float *got, const float *wanted, const float *bound, size_t n, bool known)
{
    for (size_t i = 0; i < n; i++) {
        must(isfinite(got[i]) && bound[i] >= 0);
        must(!known || fabs((double)got[i] - (double)wanted[i]) <= (double)bound[i]);
    }
}

static void check_tokens(subject *s, size_t layer, size_t sequence, size_t begin, size_t n)
{
    static float k[MAX_TOKENS * ROW], v[MAX_TOKENS * ROW], kb[MAX_TOKENS * ROW], vb[MAX_TOKENS * ROW];
    const state *m = state_of(s, layer, sequence);
    must(kvq_cache_n_tokens(s->cache, layer, sequence) == m->n);
    must(kvq_cache_read(s->cache, layer, sequence, begin, n, k, v) == KVQ_OK);
    must(kvq_cache_read_bound(s->cache, layer, sequence, begin, n, kb, vb) == KVQ_OK);
    if (s == &exact) {
        must(memcmp(k, m->k + begin * ROW, n * ROW * sizeof *k) == 0);
        must(memcmp(v, m->v + begin * ROW, n * ROW * sizeof *v) == 0);
    }
    check_side(k, m->k + begin * ROW, kb, n * ROW, m->known);
    check_side(v, m->v + begin * ROW, vb, n * ROW, m->known);
    must(kvq_cache_read(s->cache, layer, sequence, begin, m->n - begin + 1, k, v) == KVQ_ERR_ARG);
}

static void check_all(subject *s)
{
    check_memory(s);
    for (size_t sequence = 0; sequence < N_SEQUENCES; sequence++)
        for (size_t layer = 0; layer < N_LAYERS; layer++)
            check_tokens(s, layer, sequence, 0, state_of(s, layer, sequence)->n);
}

static bool same_buffers(const buffer *a, const buffer *b)
{
    return a->n == b->n && memcmp(a->data, b->data, a->n) == 0;
}

/* ---- Calls ---- */

static void append(subject *s, size_t layer, size_t sequence, const float *k, const float *v, size_t n,
                   size_t fail_at)
{
    state *m = state_of(s, layer, sequence);
    buffer before = {0};
    s->memory.fail_at = fail_at > 0 ? s->memory.n_calls + fail_at : 0;
    if (fail_at > 0)
        before = saved(s->cache);
    kvq_status status = kvq_cache_append(s->cache, layer, sequence, k, v, n);
    s->memory.fail_at = 0;
    if (n > MAX_TOKENS - m->n) {
        must(status == KVQ_ERR_FULL);
    } else if (status == KVQ_ERR_NOMEM) {
        buffer after = saved(s->cache);
        must(fail_at > 0 && same_buffers(&before, &after));
        buffer_free(&after);
    } else {
        must(status == KVQ_OK);
        memcpy(m->k + m->n * ROW, k, n * ROW * sizeof *k);
        memcpy(m->v + m->n * ROW, v, n * ROW * sizeof *v);
        m->known = m->known || m->n == 0;
        m->n += n;
    }
    buffer_free(&before);
}

static void call_append(size_t layer, size_t sequence)
{
    static float k[256 * ROW], v[256 * ROW];
    size_t n = choose(256), fail_at = choose(4) == 0 ? choose(8) : 0;
    if (n > 48) /* short ones mostly */
        n = n < 224 ? n % 8 : n - 100;
    fill_kind kind = (fill_kind)choose(N_FILLS + 2);
    fill(&values, kind < N_FILLS ? kind : FILL_NORMAL, k, n, ROW);
    fill(&values, kind < N_FILLS ? kind : FILL_OFFSETS, v, n, ROW);
    append(&exact, layer, sequence, k, v, n, fail_at);
    append(&quantized, layer, sequence, k, v, n, fail_at);
    if (n > 0 && choose(8) == 0) { /* a number that must be refused */
        v[choose(n * ROW)] = choose(2) ? NAN : INFINITY;
        kvq_status full_or_not =
            state_of(&exact, layer, sequence)->n + n > MAX_TOKENS ? KVQ_ERR_FULL : KVQ_ERR_NONFINITE;
        must(kvq_cache_append(exact.cache, layer, sequence, k, v, n) == full_or_not);
    }
}

/* What a truncation unpacked is from now on what the cache knows; it is recognised by a bound of 0. A
 * residual that rounds has other bounds: there the sequence stays unknown until it is empty. */
static void relearn(subject *s, size_t layer, size_t sequence)
{
    static float k[MAX_TOKENS * ROW], v[MAX_TOKENS * ROW], kb[MAX_TOKENS * ROW], vb[MAX_TOKENS * ROW];
    state *m = state_of(s, layer, sequence);
    if (family_rounds(s->scheme)) {
        m->known = false;
        return;
    }
    must(kvq_cache_read(s->cache, layer, sequence, 0, m->n, k, v) == KVQ_OK);
    must(kvq_cache_read_bound(s->cache, layer, sequence, 0, m->n, kb, vb) == KVQ_OK);
    for (size_t i = 0; i < m->n * ROW; i++) {
        m->k[i] = kb[i] == 0 ? k[i] : m->k[i];
        m->v[i] = vb[i] == 0 ? v[i] : m->v[i];
    }
}

static void truncate_to(subject *s, size_t sequence, size_t n, size_t fail_at)
{
    s->memory.fail_at = fail_at > 0 ? s->memory.n_calls + fail_at : 0;
    buffer before = {0};
    if (fail_at > 0)
        before = saved(s->cache);
    kvq_status status = kvq_cache_truncate(s->cache, sequence, n);
    s->memory.fail_at = 0;
    if (status == KVQ_ERR_NOMEM) {
        buffer after = saved(s->cache);
        must(fail_at > 0 && same_buffers(&before, &after));
        buffer_free(&after);
    } else {
        must(status == KVQ_OK);
        for (size_t layer = 0; layer < N_LAYERS; layer++) {
            state *m = state_of(s, layer, sequence);
            if (m->n <= n)
                continue;
            m->n = n;
            if (s == &quantized)
                relearn(s, layer, sequence);
        }
    }
    buffer_free(&before);
}

static void call_truncate(size_t sequence)
{
    size_t held = state_of(&exact, choose(N_LAYERS), sequence)->n, n = choose(256);
    n = choose(2) ? n : held - (n < held ? n : held); /* n tokens, or n fewer than held */
    size_t fail_at = choose(4) == 0 ? choose(4) : 0;
    truncate_to(&exact, sequence, n, fail_at);
    truncate_to(&quantized, sequence, n, fail_at);
}

static void reset(subject *s)
{
    kvq_cache_reset(s->cache);
    for (size_t i = 0; i < N_STATES; i++)
        s->state[i].n = 0;
}

/*
 * Attention in double over given keys and values. The float one may differ by what its score's errors and its
 * sums' errors make of it: with u = 2^-24, scores are off by at most (D + 3) u sum |q k| * scale, weights by
 * the exponential of twice that, exp and rescaling by 8 u each time, and sums of T terms by T u.
 */
static void attend_plainly(const float *k, const float *v, size_t n, const float *q, float scale, double *out,
                           double *slack)
{
    double score[MAX_TOKENS], max = -INFINITY, sum = 0, largest_v = 0, off = 0;
    for (size_t t = 0; t < n; t++) {
        double magnitude = 0;
        score[t] = 0;
        for (size_t c = 0; c < DIM; c++) {
            double term = (double)scale * (double)q[c] * (double)k[t * ROW + c];
            score[t] += term;
            magnitude += fabs(term);
            largest_v = fmax(largest_v, fabs((double)v[t * ROW + c]));
        }
        off = fmax(off, magnitude * (DIM + 3) * 0x1p-24);
        max = fmax(max, score[t]);
    }
    /* The difference to the maximum is rounded as well. */
    off += 0x1p-24 * 2 * fabs(max);
    for (size_t c = 0; c < DIM; c++)
        out[c] = 0;
    for (size_t t = 0; t < n; t++) {
        double w = exp(score[t] - max);
        sum += w;
        for (size_t c = 0; c < DIM; c++)
            out[c] += w * (double)v[t * ROW + c];
    }
    for (size_t c = 0; c < DIM; c++)
        out[c] /= sum;
    *slack = 2 * largest_v * (expm1(2 * off) + (double)(n + 64) * 0x1p-23);
}

/* An output against attention over tokens [first, end) as the cache reads them back, and as they were
 * appended. */
static void check_output(const subject *s, const state *m, const float *k, const float *v, size_t first,
                         size_t end, size_t kv_head, const float *q, float scale, const float *out,
                         float bound)
{
    double wanted[DIM], slack;
    size_t at = first * ROW + kv_head * DIM;
    attend_plainly(k + at, v + at, end - first, q, scale, wanted, &slack);
    for (size_t c = 0; c < DIM; c++)
        must(fabs((double)out[c] - wanted[c]) <= slack);
    must(bound >= 0);
    if (s == &quantized && !m->known)
        return;
    attend_plainly(m->k + at, m->v + at, end - first, q, scale, wanted, &slack);
    for (size_t c = 0; c < DIM; c++) /* our own double arithmetic is off by 2^-29 of float's, at most */
        must(fabs((double)out[c] - wanted[c]) <= (double)bound + slack * 0x1p-24);
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* A window or, as often, none; by chance. */
static size_t window_of(float x)
{
    uint32_t bits = bits_of(x) >> 2;
    return bits & 1 ? (size_t)(1 + (bits >> 1) % (MAX_TOKENS / 2)) : 0;
}

static size_t first_visible(size_t window, size_t visible)
{
    return window > 0 && visible > window ? visible - window : 0;
}

static void attend(subject *s, size_t layer, size_t sequence, size_t n_q, float scale, const float *q)
{
    static float k[MAX_TOKENS * ROW], v[MAX_TOKENS * ROW], out[4 * N_HEADS * DIM], bound[4 * N_HEADS],
        probabilities[4 * N_HEADS * MAX_TOKENS];
    const state *m = state_of(s, layer, sequence);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    bool fast = bits_of(q[0]) & 1; /* by chance; a bound makes the call exact */
    options.bound = fast ? NULL : bound;
    options.probabilities = probabilities;
    options.n_threads = 1 + (int)(bits_of(q[0]) >> 1 & 1);
    options.window = window_of(q[0]);
    kvq_status status = kvq_cache_attend(s->cache, layer, &sequence, 1, q, n_q, scale, &options, out);
    if (n_q == 0 || n_q > m->n) {
        must(status == KVQ_ERR_ARG);
        return;
    }
    must(status == KVQ_OK && kvq_cache_read(s->cache, layer, sequence, 0, m->n, k, v) == KVQ_OK);
    for (size_t i = 0; i < n_q; i++)
        for (size_t head = 0; head < N_HEADS; head++) {
            size_t row = i * N_HEADS + head, visible = m->n - n_q + i + 1;
            size_t first = first_visible(options.window, visible);
            double sum = 0;
            for (size_t t = 0; t < m->n; t++) {
                float p = probabilities[row * m->n + t];
                must(p >= 0 && p <= 1.0001f && ((t >= first && t < visible) || p == 0));
                sum += (double)p;
            }
            must(fabs(sum - 1) < 1e-4);
            if (!fast)
                check_output(s, m, k, v, first, visible, head / (N_HEADS / N_KV_HEADS), q + row * DIM, scale,
                             out + row * DIM, bound[row]);
        }
}

static void call_attend(size_t layer, size_t sequence)
{
    static float q[4 * N_HEADS * DIM];
    size_t n_q = choose(5);
    float scale = (float[]){0.35f, 0.0f, -0.5f, 0.01f}[choose(4)];
    fill(&values, choose(4) == 0 ? FILL_HEAVY : FILL_NORMAL, q, n_q * N_HEADS, DIM);
    attend(&exact, layer, sequence, n_q, scale, q);
    attend(&quantized, layer, sequence, n_q, scale, q);
}

/* Outputs of a step: numbers, and of the exact subject the right ones. */
static void check_step_output(subject *s, const state *m, size_t n_new, const float *q, float scale,
                              size_t window, const float *out)
{
    for (size_t row = 0; row < n_new * N_HEADS; row++) {
        size_t visible = m->n - n_new + row / N_HEADS + 1, first = first_visible(window, visible);
        size_t at = first * ROW + row % N_HEADS / (N_HEADS / N_KV_HEADS) * DIM;
        double wanted[DIM], slack;
        attend_plainly(m->k + at, m->v + at, visible - first, q + row * DIM, scale, wanted, &slack);
        for (size_t c = 0; c < DIM; c++) {
            float got = out[row * DIM + c];
            must(isfinite(got) && (s != &exact || fabs((double)got - wanted[c]) <= slack));
        }
    }
}

/* What a call of kvq_cache_step has: the sequences in one order or the other, one of them, or one twice. */
typedef struct step_call {
    size_t n_sequences, sequences[2], n_new[2];
    float q[2 * 64 * N_HEADS * DIM], k[2 * 64 * ROW], v[2 * 64 * ROW], scale;
} step_call;

static bool step_fits(const subject *s, size_t layer, const step_call *c)
{
    bool fits = true;
    for (size_t i = 0; i < c->n_sequences; i++)
        fits = fits && c->n_new[i] <= MAX_TOKENS - s->state[c->sequences[i] * N_LAYERS + layer].n;
    return fits;
}

static void step(subject *s, size_t layer, const step_call *c, size_t fail_at)
{
    static float out[2 * 64 * N_HEADS * DIM];
    bool twice = c->n_sequences == 2 && c->sequences[0] == c->sequences[1], fits = step_fits(s, layer, c);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = 1 + (int)(bits_of(c->q[0]) & 1);
    options.window = window_of(c->q[0]);
    options.precision = bits_of(c->q[0]) & 2 ? KVQ_PRECISION_FAST : KVQ_PRECISION_EXACT;
    buffer before = saved(s->cache);
    s->memory.fail_at = fail_at > 0 ? s->memory.n_calls + fail_at : 0;
    kvq_status status = kvq_cache_step(s->cache, layer, c->sequences, c->n_sequences, c->n_new, c->q, c->k,
                                       c->v, c->scale, &options, out);
    s->memory.fail_at = 0;
    if (status != KVQ_OK) {
        buffer after = saved(s->cache);
        must((status == KVQ_ERR_FULL && !fits) || (status == KVQ_ERR_ARG && twice) ||
             (status == KVQ_ERR_NOMEM && fail_at > 0));
        must(same_buffers(&before, &after));
        buffer_free(&after);
    } else {
        must(fits && !twice);
        const float *q = c->q, *k = c->k, *v = c->v, *o = out;
        for (size_t i = 0; i < c->n_sequences; i++) {
            size_t n = c->n_new[i];
            state *m = state_of(s, layer, c->sequences[i]);
            memcpy(m->k + m->n * ROW, k, n * ROW * sizeof *k);
            memcpy(m->v + m->n * ROW, v, n * ROW * sizeof *v);
            m->known = m->known || m->n == 0;
            m->n += n;
            check_step_output(s, m, n, q, c->scale, options.window, o);
            q += n * N_HEADS * DIM, o += n * N_HEADS * DIM, k += n * ROW, v += n * ROW;
        }
    }
    buffer_free(&before);
}

static void call_step(size_t layer)
{
    static step_call c;
    c.n_sequences = choose(3);
    size_t n_all = 0, fail_at = choose(4) == 0 ? choose(8) : 0;
    for (size_t i = 0; i < c.n_sequences; i++) {
        c.sequences[i] = choose(N_SEQUENCES);
        c.n_new[i] = choose(4) ? 1 : choose(64);
        n_all += c.n_new[i];
    }
    if (c.n_sequences == 2 && choose(8) > 0)
        c.sequences[1] = 1 - c.sequences[0];
    c.scale = (float[]){0.35f, 0.0f, -0.5f, 0.01f}[choose(4)];
    fill(&values, choose(4) == 0 ? FILL_HEAVY : FILL_NORMAL, c.q, n_all * N_HEADS, DIM);
    fill(&values, FILL_NORMAL, c.k, n_all, ROW);
    fill(&values, choose(2) ? FILL_OFFSETS : FILL_TIES, c.v, n_all, ROW);
    step(&exact, layer, &c, fail_at);
    step(&quantized, layer, &c, fail_at);
    if (n_all > 0 && choose(8) == 0) { /* a number that must be refused */
        float *x = (float *[]){c.q, c.k, c.v}[choose(3)];
        x[choose(n_all * (x == c.q ? N_HEADS * DIM : ROW))] = choose(2) ? NAN : INFINITY;
        kvq_status wanted = step_fits(&exact, layer, &c) ? KVQ_ERR_NONFINITE : KVQ_ERR_FULL;
        static float out[2 * 64 * N_HEADS * DIM];
        must(kvq_cache_step(exact.cache, layer, c.sequences, c.n_sequences, c.n_new, c.q, c.k, c.v, 1, NULL,
                            out) == wanted);
    }
}

/* Save all, load as a new cache or into this one, go on with that. */
static void save_and_load(subject *s, bool into)
{
    buffer file = saved(s->cache);
    kvq_error err;
    if (into) {
        must(kvq_cache_load_into(s->cache, NULL, N_SEQUENCES, buffer_read, &file, &err) == KVQ_OK);
    } else {
        kvq_cache *loaded;
        kvq_cache_free(s->cache);
        must(s->memory.live_bytes == 0 && s->memory.live_blocks == 0);
        kvq_load_options options;
        kvq_load_options_init(&options);
        options.allocator = &s->allocator;
        must(kvq_cache_load(&loaded, &options, buffer_read, &file, &err) == KVQ_OK);
        s->cache = loaded;
    }
    buffer again = saved(s->cache);
    must(same_buffers(&file, &again));
    buffer_free(&file);
    buffer_free(&again);
}

/* Export a layer of one sequence, import it into the other, which becomes its copy. */
static void export_and_import(subject *s, size_t layer, size_t from)
{
    static int32_t k_code[MAX_TOKENS * ROW], v_code[MAX_TOKENS * ROW];
    static uint16_t k_meta[2][MAX_TOKENS * ROW], v_meta[2][MAX_TOKENS * ROW];
    static float k[MAX_TOKENS * ROW], v[MAX_TOKENS * ROW];
    size_t to = 1 - from;
    kvq_kivi kivi = {.struct_size = sizeof kivi};
    if (kvq_cache_export_kivi(s->cache, layer, from, &kivi) != KVQ_OK)
        return; /* this scheme has no such form */
    must(kivi.n_tokens == state_of(s, layer, from)->n);
    kivi.k_code = k_code;
    kivi.v_code = v_code;
    kivi.k_scale = k_meta[0];
    kivi.k_min = k_meta[1];
    kivi.v_scale = v_meta[0];
    kivi.v_min = v_meta[1];
    kivi.k_residual = k;
    kivi.v_residual = v;
    must(kvq_cache_export_kivi(s->cache, layer, from, &kivi) == KVQ_OK);
    if (state_of(s, layer, to)->n > 0)
        must(kvq_cache_import_kivi(s->cache, layer, to, &kivi) == KVQ_ERR_ARG);
    truncate_to(s, to, 0, 0);
    must(kvq_cache_import_kivi(s->cache, layer, to, &kivi) == KVQ_OK);
    *state_of(s, layer, to) = *state_of(s, layer, from);
    size_t n = kivi.n_tokens;
    static float again_k[MAX_TOKENS * ROW], again_v[MAX_TOKENS * ROW];
    must(kvq_cache_read(s->cache, layer, from, 0, n, k, v) == KVQ_OK);
    must(kvq_cache_read(s->cache, layer, to, 0, n, again_k, again_v) == KVQ_OK);
    must(memcmp(k, again_k, n * ROW * sizeof *k) == 0 && memcmp(v, again_v, n * ROW * sizeof *v) == 0);
}

static void call_something(void)
{
    size_t layer = choose(N_LAYERS), sequence = choose(N_SEQUENCES);
    subject *one = choose(2) ? &exact : &quantized;
    switch (choose(13)) {
    default:
        call_append(layer, sequence);
        break;
    case 6:
        call_truncate(sequence);
        break;
    case 7:
    case 8:
        call_attend(layer, sequence);
        break;
    case 9:
        save_and_load(one, choose(2));
        break;
    case 10:
        call_step(layer);
        break;
    case 11:
        if (one == &quantized)
            export_and_import(one, layer, sequence);
        break;
    case 12:
        if (choose(8) == 0)
            reset(one);
        check_tokens(one, layer, sequence, state_of(one, layer, sequence)->n, 0);
        break;
    }
    check_memory(&exact);
    check_memory(&quantized);
}

static void open_subject(subject *s, const char *scheme)
{
    kvq_config config;
    memset(&s->memory, 0, sizeof s->memory);
    s->scheme = scheme;
    s->allocator = test_allocator(&s->memory);
    for (size_t i = 0; i < N_STATES; i++) {
        s->state[i].n = 0;
        s->state[i].known = true;
    }
    kvq_config_init(&config);
    config.n_layers = N_LAYERS;
    config.n_heads = N_HEADS;
    config.n_kv_heads = N_KV_HEADS;
    config.head_dim = DIM;
    config.n_sequences = N_SEQUENCES;
    config.max_tokens = MAX_TOKENS;
    config.scheme_text = scheme;
    config.allocator = &s->allocator;
    must(kvq_cache_create(&s->cache, &config) == KVQ_OK);
}

static void close_subject(subject *s)
{
    check_all(s);
    kvq_cache_free(s->cache);
    must(s->memory.live_bytes == 0 && s->memory.live_blocks == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    toy_codec_register();
    input = data;
    n_input = size;
    values = (rng){.state = choose(256)};
    open_subject(&exact, exact_schemes[choose(sizeof exact_schemes / sizeof exact_schemes[0])]);
    open_subject(&quantized, families[choose(N_FAMILIES)]);
    for (size_t i = 0; i < MAX_CALLS && n_input > 0; i++)
        call_something();
    close_subject(&exact);
    close_subject(&quantized);
    return 0;
}
