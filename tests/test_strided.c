/*
 * kvq_cache_append_strided and kvq_cache_read_strided: whatever the layout, the bytes of kvq_cache_append and
 * kvq_cache_read, and nothing read or written between the rows.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/script.h"

static const shape small = {1, 4, 2, 20, 1}, wide = {1, 8, 4, 64, 1};

/* A layout of n tokens: strides, and the elements that they span. */
typedef struct layout {
    kvq_strides strides;
    size_t n_elements;
} layout;

enum { N_LAYOUTS = 6 };

static layout make_layout(size_t which, shape s, size_t n)
{
    size_t dim = s.head_dim, heads = s.n_kv_heads;
    const kvq_strides all[N_LAYOUTS] = {
        {.token = heads * dim, .head = dim},               /* as kvq_cache_append */
        {.token = dim, .head = n * dim},                   /* [Hkv][T][D] */
        {.token = 3 * heads * dim, .head = dim},           /* [T][3][Hkv][D], one of three */
        {.token = dim + 3, .head = n * (dim + 3) + 5},     /* odd, heads outside */
        {.token = heads * (dim + 1) + 7, .head = dim + 1}, /* odd, tokens outside */
        {.token = 2 * heads * dim, .head = 2 * dim},       /* [T][Hkv][2][D] */
    };
    kvq_strides st = all[which];
    return (layout){.strides = st, .n_elements = (n - 1) * st.token + (heads - 1) * st.head + dim};
}

/* NaN in every place. */
static float *gaps(size_t n)
{
    float *x = malloc(n * sizeof *x);
    cr_assert_not_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

static float *row_of(float *x, const layout *l, size_t token, size_t head)
{
    return x + token * l->strides.token + head * l->strides.head;
}

/* Tokens from `begin` on of [..][Hkv][D], laid out between NaN. */
static float *laid_out(const float *x, const layout *l, shape s, size_t begin, size_t n)
{
    float *out = gaps(l->n_elements);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < s.n_kv_heads; h++)
            memcpy(row_of(out, l, t, h), x + ((begin + t) * s.n_kv_heads + h) * s.head_dim,
                   s.head_dim * sizeof *x);
    return out;
}

static void append_laid_out(kvq_cache *cache, const script *d, size_t which, size_t n)
{
    size_t begin = kvq_cache_n_tokens(cache, 0, 0);
    layout l = make_layout(which, d->s, n);
    float *k = laid_out(d->k, &l, d->s, begin, n), *v = laid_out(d->v, &l, d->s, begin, n);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, k, v, n, &l.strides), KVQ_OK);
    free(k), free(v);
}

Test(strided, append_stores_what_append_stores)
{
    static const size_t calls[] = {1, 2, 130, 1, 64, 100, 2};
    script d = make_script(1, small, 300);
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t which = 0; which < N_LAYOUTS; which++) {
            kvq_cache *cache = cache_of(families[i], d.s, NULL), *wanted = cache_of(families[i], d.s, NULL);
            for (size_t j = 0; j < sizeof calls / sizeof calls[0]; j++)
                append_laid_out(cache, &d, which, calls[j]);
            script_append(wanted, &d, 0, d.n);
            cr_assert(same_caches(families[i], cache, wanted), "layout %zu", which);
            kvq_cache_free(cache), kvq_cache_free(wanted);
        }
    free_script(&d);
    d = make_script(2, wide, 700); /* enough for threads */
    for (size_t which = 0; which < N_LAYOUTS; which++) {
        kvq_cache *cache = cache_of("kivi2,s=5", d.s, NULL), *wanted = cache_of("kivi2,s=5", d.s, NULL);
        append_laid_out(cache, &d, which, d.n);
        script_append(wanted, &d, 0, d.n);
        cr_assert(same_caches("wide", cache, wanted), "layout %zu", which);
        kvq_cache_free(cache), kvq_cache_free(wanted);
    }
    free_script(&d);
}

/* Read [begin, begin + n) of one side or both; the rest of the arrays must stay NaN. */
static void check_read(const kvq_cache *cache, const script *d, size_t which, size_t begin, size_t n,
                       const float *k, const float *v)
{
    layout l = make_layout(which, d->s, n);
    float *got[2] = {gaps(l.n_elements), gaps(l.n_elements)};
    float *wanted[2] = {laid_out(k, &l, d->s, begin, n), laid_out(v, &l, d->s, begin, n)};
    bool both = n % 2 == 0;
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, begin, n, got[0], both ? got[1] : NULL, &l.strides),
                 KVQ_OK);
    cr_assert(same_bits("keys", got[0], wanted[0], l.n_elements * sizeof(float)), "layout %zu", which);
    if (!both)
        cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, begin, n, NULL, got[1], &l.strides), KVQ_OK);
    cr_assert(same_bits("values", got[1], wanted[1], l.n_elements * sizeof(float)), "layout %zu", which);
    free(got[0]), free(got[1]), free(wanted[0]), free(wanted[1]);
}

Test(strided, read_gives_what_read_gives)
{
    script d = make_script(3, small, 300);
    float *k = gaps(d.n * d.row), *v = gaps(d.n * d.row);
    rng r = rng_make(4);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = cache_of(families[i], d.s, NULL);
        script_append(cache, &d, 0, d.n);
        cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, d.n, k, v), KVQ_OK);
        for (size_t which = 0; which < N_LAYOUTS; which++) {
            check_read(cache, &d, which, 0, d.n, k, v);
            size_t begin = rng_below(&r, d.n), n = 1 + rng_below(&r, d.n - begin);
            check_read(cache, &d, which, begin, n, k, v);
            check_read(cache, &d, which, begin, 1, k, v);
        }
        kvq_cache_free(cache);
    }
    free(k), free(v);
    free_script(&d);
}

/* The worked example of kvq.h: past_key_values [L][2][B][Hkv][T][D] in, and out again. */
Test(strided, past_key_values_go_in_and_out)
{
    enum { L = 3, B = 2, HKV = 2, T = 150, D = 16, N = L * 2 * B * HKV * T * D };
    static float p[N], out[N], k[T * HKV * D], v[T * HKV * D], dense_k[T * HKV * D], dense_v[T * HKV * D];
    const kvq_strides strides = {.token = D, .head = (size_t)T * D};
    const shape s = {L, 4, HKV, D, B};
    rng r = rng_make(5);
    fill(&r, FILL_HEAVY, p, N / D, D);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = cache_of(families[i], s, NULL), *wanted = cache_of(families[i], s, NULL);
        for (size_t j = 0; j < N; j++)
            out[j] = NAN;
        for (size_t l = 0; l < L; l++)
            for (size_t b = 0; b < B; b++) {
                size_t base[2] = {((l * 2 + 0) * B + b) * HKV * T * D, ((l * 2 + 1) * B + b) * HKV * T * D};
                for (size_t t = 0; t < T; t++)
                    for (size_t h = 0; h < HKV; h++)
                        for (size_t c = 0; c < D; c++) {
                            k[(t * HKV + h) * D + c] = p[((((l * 2 + 0) * B + b) * HKV + h) * T + t) * D + c];
                            v[(t * HKV + h) * D + c] = p[((((l * 2 + 1) * B + b) * HKV + h) * T + t) * D + c];
                        }
                cr_assert_eq(kvq_cache_append(wanted, l, b, k, v, T), KVQ_OK);
                cr_assert_eq(kvq_cache_append_strided(cache, l, b, p + base[0], p + base[1], 100, &strides),
                             KVQ_OK);
                cr_assert_eq(kvq_cache_append_strided(cache, l, b, p + base[0] + 100 * D,
                                                      p + base[1] + 100 * D, T - 100, &strides),
                             KVQ_OK);
                cr_assert_eq(
                    kvq_cache_read_strided(cache, l, b, 0, T, out + base[0], out + base[1], &strides),
                    KVQ_OK);
                cr_assert_eq(kvq_cache_read(cache, l, b, 0, T, dense_k, dense_v), KVQ_OK);
                for (size_t j = 0; j < (size_t)T * HKV * D; j++) {
                    size_t at = (j / D % HKV * T + j / D / HKV) * D + j % D;
                    cr_assert(out[base[0] + at] == dense_k[j] && out[base[1] + at] == dense_v[j]);
                }
            }
        cr_assert(same_caches(families[i], cache, wanted));
        if (strcmp(families[i], "fp32") == 0)
            cr_assert(same_bits("fp32", out, p, sizeof p));
        kvq_cache_free(cache), kvq_cache_free(wanted);
    }
}

Test(strided, null_stands_for_dense)
{
    script d = make_script(6, small, 200);
    kvq_cache *cache = cache_of("kivi2,r=32", d.s, NULL), *wanted = cache_of("kivi2,r=32", d.s, NULL);
    float *x = gaps(d.n * d.row), *y = gaps(d.n * d.row);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, d.v, d.n, NULL), KVQ_OK);
    script_append(wanted, &d, 0, d.n);
    cr_assert(same_caches("NULL", cache, wanted));
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 0, d.n, x, NULL, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, d.n, y, NULL), KVQ_OK);
    cr_assert(same_bits("NULL", x, y, d.n * d.row * sizeof *x));
    free(x), free(y);
    kvq_cache_free(cache), kvq_cache_free(wanted);
    free_script(&d);
}

/* ---- Errors ---- */

/* One number that must be refused, wherever it is: nothing has changed. */
Test(strided, a_number_that_is_none_changes_nothing)
{
    enum { N = 140 };
    static const char *const schemes[] = {"kivi2,r=32,s=3", "kvq2", "fp32"};
    script d = make_script(7, small, 2 * N);
    for (size_t i = 0; i < 3 * N_LAYOUTS; i++) {
        kvq_cache *cache = cache_of(schemes[i / N_LAYOUTS], d.s, NULL);
        script_append(cache, &d, 0, N);
        kvq_cache *before = copy_of(cache);
        layout l = make_layout(i % N_LAYOUTS, d.s, N);
        for (size_t j = 0; j < 8; j++) {
            float *x[2] = {laid_out(d.k, &l, d.s, N, N), laid_out(d.v, &l, d.s, N, N)};
            size_t token = j < 4 ? N - 1 : j % 2 * 77, channel = j < 6 ? d.s.head_dim - 1 : 0;
            row_of(x[j % 2], &l, token, j / 2 % 2)[channel] = j % 3 ? INFINITY : NAN;
            cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, x[0], x[1], N, &l.strides), KVQ_ERR_NONFINITE,
                         "layout %zu, number %zu", i % N_LAYOUTS, j);
            free(x[0]), free(x[1]);
        }
        cr_assert(same_caches("refused", cache, before));
        kvq_cache_free(cache), kvq_cache_free(before);
    }
    free_script(&d);
}

/* Of 2 heads of 20 values and 10 tokens. */
static const struct {
    kvq_strides strides;
    bool fits;
} strides_of_ten[] = {
    {{.token = 40, .head = 20}, true},
    {{.token = 20, .head = 200}, true},
    {{.token = 20, .head = 199}, false}, /* the last token of head 0 meets head 1 */
    {{.token = 39, .head = 20}, false},
    {{.token = 40, .head = 21}, false},
    {{.token = 19, .head = 400}, false},
    {{.token = 400, .head = 19}, false},
    {{.token = 0, .head = 20}, false},
    {{.token = 20, .head = 20}, false},
    {{.token = 400, .head = 0}, false}, /* one head for all is not the same as many */
    {{.token = SIZE_MAX, .head = 20}, false},
    {{.token = SIZE_MAX / 8, .head = 20}, false},
    {{.token = SIZE_MAX / 9 + 1, .head = 20}, false}, /* times 9 it would be small again */
    {{.token = 20, .head = SIZE_MAX}, false},
    {{.token = 20, .head = PTRDIFF_MAX / 4 - 199}, false},
};

Test(strided, strides_are_checked)
{
    script d = make_script(8, small, 300);
    float out[600];
    kvq_cache *cache = cache_of("kivi2,r=32", d.s, NULL);
    script_append(cache, &d, 0, 100);
    kvq_cache *before = copy_of(cache);
    for (size_t i = 0; i < sizeof strides_of_ten / sizeof strides_of_ten[0]; i++) {
        const kvq_strides *strides = &strides_of_ten[i].strides;
        kvq_status wanted = strides_of_ten[i].fits ? KVQ_OK : KVQ_ERR_ARG;
        cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 3, 10, out, NULL, strides), wanted, "%zu", i);
        if (wanted == KVQ_ERR_ARG)
            cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, d.v, 10, strides), wanted, "%zu", i);
    }
    cr_assert(same_caches("refused", cache, before));
    /* What is never taken may be anything. */
    const kvq_strides any_token = {.token = SIZE_MAX, .head = 20}, any_head = {.token = 20, .head = 0};
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, d.v, 1, &any_token), KVQ_OK);
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 7, 1, out, out + 100, &any_token), KVQ_OK);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, d.v, 0, &any_token), KVQ_OK);
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 7, 0, out, out + 100, &any_token), KVQ_OK);
    kvq_cache *one = cache_of("kivi2,r=32,s=1", (shape){1, 1, 1, 20, 1}, NULL);
    cr_assert_eq(kvq_cache_append_strided(one, 0, 0, d.k, d.v, 1, &any_token), KVQ_OK);
    cr_assert_eq(kvq_cache_append_strided(one, 0, 0, d.k, d.v, 90, &any_head), KVQ_OK);
    cr_assert_eq(kvq_cache_read_strided(one, 0, 0, 7, 5, out, NULL, &any_head), KVQ_OK);
    kvq_cache_free(cache), kvq_cache_free(before), kvq_cache_free(one);
    free_script(&d);
}

Test(strided, other_arguments_are_checked)
{
    script d = make_script(9, small, 10);
    float out[400];
    kvq_cache *cache = cache_of("fp32", d.s, NULL);
    const kvq_strides st = {.token = 20, .head = 200};
    cr_assert_eq(kvq_cache_append_strided(NULL, 0, 0, d.k, d.v, 10, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append_strided(cache, 1, 0, d.k, d.v, 10, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 1, d.k, d.v, 10, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, NULL, d.v, 10, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, NULL, 10, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, d.v, KVQ_MAX_TOKENS + 1, &st), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_append_strided(cache, 0, 0, d.k, d.v, 10, &st), KVQ_OK);
    cr_assert_eq(kvq_cache_read_strided(NULL, 0, 0, 0, 10, out, NULL, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read_strided(cache, 1, 0, 0, 10, out, NULL, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 1, 0, 10, out, NULL, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 1, 10, out, NULL, &st), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 0, 10, NULL, NULL, &st), KVQ_OK);
    cr_assert_eq(kvq_cache_read_strided(cache, 0, 0, 0, 10, out, NULL, &st), KVQ_OK);
    kvq_cache_free(cache);
    free_script(&d);
}
