/* What dump writes of a model whose queries, keys and values are known, read back: places, rounding, scale
 * and windows; and figures of a recording that are those of its model to the bit. */
#define _POSIX_C_SOURCE 200809L

#include "eval/measure/evaluate.h"
#include "eval/model/record.h"
#include "tests/checkpoint_files.h"

#include <math.h>

enum { L = 2, B = 2, H = 4, HKV = 2, T = 40, D = 32 };

/* The number of a place, from -2 to 2 in steps of 1/64, which all types hold; b is the window. */
static float number(int part, size_t l, size_t b, size_t h, size_t t, size_t d)
{
    size_t x = (size_t)part + 3 * (l + L * (b + B * (h + H * (t + T * d))));
    x = (x + 1) * 0x9e3779b97f4a7c15u >> 56;
    return ((float)x - 128.0f) / 64.0f;
}

/* ---- a model of known numbers; its activations are the window that the tokens' ids name ---- */

static const float *fixed; /* if not NULL: the first queries, keys and values of every row of heads */
static size_t n_fixed;

static size_t scratch_floats(const model *m, size_t n)
{
    (void)m;
    return n;
}

static void embed(const model *m, const int32_t *ids, size_t pos0, size_t n, float *x)
{
    (void)m;
    (void)pos0;
    for (size_t t = 0; t < n; t++)
        x[t] = (float)ids[t];
}

static void fill(int part, size_t layer, const float *x, size_t n, size_t heads, float *to)
{
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < heads; h++)
            for (size_t d = 0; d < D; d++)
                to[(t * heads + h) * D + d] =
                    fixed && d < n_fixed ? fixed[d] : number(part, layer, (size_t)x[t], h, t, d);
}

static void layer_qkv(const model *m, size_t layer, const float *x, size_t pos0, size_t n, float *scratch,
                      float *q, float *k, float *v)
{
    (void)m;
    (void)scratch;
    cr_assert_eq(pos0, 0);
    fill(0, layer, x, n, H, q);
    fill(1, layer, x, n, HKV, k);
    fill(2, layer, x, n, HKV, v);
}

static void layer_finish(const model *m, size_t layer, float *x, const float *attn, size_t n, float *scratch)
{
    (void)m, (void)layer, (void)x, (void)attn, (void)n, (void)scratch;
}

static float attn_scale(const model *m, size_t layer)
{
    (void)m;
    (void)layer;
    return 0.3125f;
}

static size_t windows[L] = {7, 0};

static size_t attn_window(const model *m, size_t layer)
{
    (void)m;
    return windows[layer];
}

static const model_kind known_kind = {.scratch_floats = scratch_floats,
                                      .embed = embed,
                                      .layer_qkv = layer_qkv,
                                      .layer_finish = layer_finish,
                                      .attn_scale = attn_scale,
                                      .attn_window = attn_window};
static const model known = {.kind = &known_kind,
                            .random = true, /* there are no logits */
                            .shape = {.n_layer = L,
                                      .n_head = H,
                                      .n_kv_head = HKV,
                                      .head_dim = D,
                                      .n_embd = 1,
                                      .n_ctx = T,
                                      .vocab_size = B}};
static int32_t ids[B * T];

static bool write(const char *path, tensor_type type, bool npy, eval_error *e)
{
    for (size_t i = 0; i < B * T; i++)
        ids[i] = (int32_t)(i / T);
    const record_config c = {.model = &known,
                             .ids = ids,
                             .n_windows = B,
                             .n_tokens = T,
                             .model_name = "known",
                             .text_name = "none",
                             .type = type,
                             .npy = npy};
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    const bool ok = record_write(f, "out", &c, e);
    cr_assert_eq(fclose(f), 0);
    return ok;
}

static recording *record(tensor_type type, bool npy)
{
    char dir[64], path[96];
    eval_error e = {""};
    recording *r = NULL;
    make_dir(dir);
    snprintf(path, sizeof path, "%s/%s", dir, npy ? "r.npy" : "r.safetensors");
    cr_assert(write(path, type, npy, &e), "%s", e.text);
    cr_assert(recording_open(&r, path, &e), "%s", e.text);
    cr_assert_eq(remove(path), 0);
    remove_dir(dir);
    return r;
}

static float x[3][T * H * D];

Test(record, every_number_stands_in_its_place)
{
    static const struct {
        tensor_type type;
        bool npy;
    } cases[] = {{TENSOR_F32, false},
                 {TENSOR_F16, false},
                 {TENSOR_BF16, false},
                 {TENSOR_F32, true},
                 {TENSOR_F16, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        recording *r = record(cases[i].type, cases[i].npy);
        eval_error e = {""};
        cr_assert_eq(recording_n_sequences(r), B);
        cr_assert_eq(recording_shape(r)->n_head, cases[i].npy ? HKV : H);
        for (size_t at = 0; at < L * B; at++) {
            const size_t l = at / B, b = at % B;
            cr_assert(recording_read(r, l, b, T, cases[i].npy ? NULL : x[0], x[1], x[2], &e), "%s", e.text);
            for (int part = cases[i].npy ? 1 : 0; part < 3; part++) {
                const size_t heads = part == 0 ? H : HKV;
                for (size_t j = 0; j < T * heads * D; j++)
                    cr_assert_eq(x[part][j], number(part, l, b, j / D % heads, j / D / heads, j % D),
                                 "case %zu: part %d, layer %zu, window %zu, number %zu", i, part, l, b, j);
            }
        }
        recording_close(r);
    }
}

Test(record, scale_and_windows_are_the_models)
{
    recording *r = record(TENSOR_F32, false);
    cr_expect_eq(recording_scale(r), 0.3125f);
    cr_expect_eq(recording_window(r, 0), 7);
    cr_expect_eq(recording_window(r, 1), 0);
    cr_expect_str_eq(recording_model(r), "known");
    recording_close(r);
}

/* Numbers between two of the type, and the one that each must become: the nearer one, of two as near the even
 * one. Halves have 10 bits of fraction and below 2^-14 steps of 2^-24; bfloat16 has 7 bits of fraction. */
static void check_rounding(tensor_type type, const float (*cases)[2], size_t n)
{
    float from[D];
    for (size_t i = 0; i < n; i++)
        from[i] = cases[i][0];
    fixed = from;
    n_fixed = n;
    recording *r = record(type, false);
    eval_error e = {""};
    cr_assert(recording_read(r, 1, 1, T, x[0], x[1], x[2], &e), "%s", e.text);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(x[1][i], cases[i][1], "%a became %a, expected %a", (double)cases[i][0], (double)x[1][i],
                     (double)cases[i][1]);
    recording_close(r);
    fixed = NULL;
}

Test(record, halves_are_the_nearest)
{
    static const float cases[][2] = {
        {0x1.002p0f, 0x1p0f},        {0x1.006p0f, 0x1.008p0f},     {0x1.002002p0f, 0x1.004p0f},
        {-0x1.006p0f, -0x1.008p0f},  {0x1.ffep0f, 0x1p1f},         {65519.0f, 65504.0f},
        {0x1p-24f, 0x1p-24f},        {0x1.8p-24f, 0x1p-23f},       {0x1p-25f, 0.0f},
        {0x1.000002p-25f, 0x1p-24f}, {0x1.ff8p-15f, 0x1.ff8p-15f}, {0x1.ffcp-15f, 0x1p-14f},
        {0x1.ffep-15f, 0x1p-14f},    {0x1.002p-14f, 0x1p-14f},     {0x1.804p-15f, 0x1.8p-15f},
        {0x1.80cp-15f, 0x1.81p-15f}, {-0x1.8p-24f, -0x1p-23f}};
    check_rounding(TENSOR_F16, cases, sizeof cases / sizeof cases[0]);
}

Test(record, bfloat16_are_the_nearest)
{
    static const float cases[][2] = {{0x1.01p0f, 0x1p0f},        {0x1.03p0f, 0x1.04p0f},
                                     {0x1.010002p0f, 0x1.02p0f}, {-0x1.03p0f, -0x1.04p0f},
                                     {0x1.ffp0f, 0x1p1f},        {0x1p-130f, 0x1p-130f}};
    check_rounding(TENSOR_BF16, cases, sizeof cases / sizeof cases[0]);
}

Test(record, numbers_that_do_not_fit_are_refused)
{
    static const struct {
        tensor_type type;
        float x;
        const char *what;
    } cases[] = {{TENSOR_F16, 65520.0f, "is too large for the type; take --dtype bf16 or f32"},
                 {TENSOR_BF16, 0x1.ffp127f, "is too large for the type; take --dtype bf16 or f32"},
                 {TENSOR_F32, NAN, "is not finite (NaN or Inf)"},
                 {TENSOR_F16, -INFINITY, "is not finite (NaN or Inf)"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[128];
        eval_error e = {""};
        fixed = &cases[i].x;
        n_fixed = 1;
        cr_expect_not(write("/dev/null", cases[i].type, false, &e));
        snprintf(expected, sizeof expected, "out: window 0, layer 0, head 0 of q: a number %s",
                 cases[i].what);
        cr_expect_str_eq(e.text, expected);
    }
    fixed = NULL;
}

/* ---- figures ---- */

static evaluation measure(const model *m, const recording *r)
{
    kvq_scheme *scheme = NULL;
    evaluation result;
    eval_error e = {""};
    cr_assert_eq(kvq_scheme_create(&scheme, "k=2/32,v=2/32,r=32", NULL), KVQ_OK);
    const evaluate_config c = {.model = m,
                               .recording = r,
                               .ids = ids,
                               .n_windows = B,
                               .n_tokens = T,
                               .schemes = &scheme,
                               .n_schemes = 1,
                               .precision = KVQ_PRECISION_EXACT,
                               .n_threads = 1};
    cr_assert(evaluate(&result, &c, &e), "%s", e.text);
    kvq_scheme_free(scheme);
    return result;
}

/* This model's layers do not feed each other, so that the recording is what the model gives, bit by bit. */
Test(record, figures_of_a_sliding_window_are_the_models)
{
    windows[0] = windows[1] = 5;
    recording *r = record(TENSOR_F32, false);
    evaluation direct = measure(&known, NULL), recorded = measure(NULL, r);
    cr_expect_eq(recorded.n_layer_windowed, L);
    cr_expect_eq(recorded.attn_window, 5);
    const evaluate_run *a = &direct.runs[1], *b = &recorded.runs[1];
    cr_expect(a->attn_rel_l2 > 0 && a->attn_rel_l2 == b->attn_rel_l2, "%g, recorded %g", a->attn_rel_l2,
              b->attn_rel_l2);
    cr_expect(a->attn_prob_kl > 0 && a->attn_prob_kl == b->attn_prob_kl);
    cr_expect(a->k_rel_l2 > 0 && a->k_rel_l2 == b->k_rel_l2);
    recording_close(r);
    windows[0] = windows[1] = 0; /* and the window makes a difference */
    r = record(TENSOR_F32, false);
    evaluation whole = measure(NULL, r);
    cr_expect_eq(whole.n_layer_windowed, 0);
    cr_expect_neq(whole.runs[1].attn_rel_l2, a->attn_rel_l2);
    recording_close(r);
    evaluation_free(&direct);
    evaluation_free(&recorded);
    evaluation_free(&whole);
}

/* The query heads of a group have the errors of their key-value head, those of another group others. */
Test(record, errors_of_keys_are_those_of_the_group)
{
    recording *r = record(TENSOR_F32, false);
    evaluation ev = measure(NULL, r);
    const evaluate_head *heads = ev.runs[1].heads;
    for (size_t l = 0; l < L; l++, heads += H) {
        cr_expect_eq(memcmp(&heads[0].k, &heads[1].k, sizeof heads->k), 0);
        cr_expect_eq(memcmp(&heads[2].v, &heads[3].v, sizeof heads->v), 0);
        cr_expect_neq(heads[1].k.error, heads[2].k.error);
        cr_expect_neq(heads[1].v.error, heads[2].v.error);
        for (size_t h = 0; h < H; h++) {
            double sum = 0;
            for (size_t b = 0; b < B; b++)
                for (size_t i = 0; i < T * D; i++) {
                    const double v = (double)number(2, l, b, h / (H / HKV), i / D, i % D);
                    sum += v * v;
                }
            cr_expect_float_eq(heads[h].v.reference, sum, 1e-9 * sum, "layer %zu, head %zu", l, h);
        }
    }
    evaluation_free(&ev);
    recording_close(r);
}
