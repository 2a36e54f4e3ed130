/*
 * The registry of codecs, and what a side does where its codec leaves it to the defaults.
 */
#include "quant/codec.h"

#include <math.h>
#include <stdatomic.h>
#include <threads.h>

extern const kvq_codec kvq_codec_affine, kvq_codec_f16, kvq_codec_f32, kvq_codec_tier, kvq_codec_rot;
extern const kvq_codec kvq_codec_q8_0, kvq_codec_q4_0, kvq_codec_q4_1;
extern const kvq_codec kvq_codec_turbo, kvq_codec_kvarn, kvq_codec_quarot, kvq_codec_nuq;

static const kvq_codec *const built_in[] = {
    &kvq_codec_affine, &kvq_codec_f16,   &kvq_codec_f32,    &kvq_codec_tier,
    &kvq_codec_rot,    &kvq_codec_q8_0,  &kvq_codec_q4_0,   &kvq_codec_q4_1,
    &kvq_codec_turbo,  &kvq_codec_kvarn, &kvq_codec_quarot, &kvq_codec_nuq,
};
enum { N_BUILT_IN = sizeof built_in / sizeof built_in[0] };

/* ---- Registered codecs: written once, then only read ---- */

static const kvq_codec *registered[KVQ_CODECS_MAX - N_BUILT_IN];
static atomic_size_t n_registered;
static mtx_t registering;
static once_flag once = ONCE_FLAG_INIT;

static void make_mutex(void)
{
    (void)mtx_init(&registering, mtx_plain);
}

const kvq_codec *kvq_codec_at(size_t i)
{
    if (i < N_BUILT_IN)
        return built_in[i];
    return i - N_BUILT_IN < atomic_load(&n_registered) ? registered[i - N_BUILT_IN] : NULL;
}

static bool name_is_valid(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char others[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
    size_t n = strlen(name);
    return n > 0 && n < 24 && strchr(letters, name[0]) != NULL && strspn(name, others) == n;
}

kvq_registration kvq_codec_register(const kvq_codec *codec)
{
    if (!name_is_valid(codec->name))
        return KVQ_BAD_NAME;
    call_once(&once, make_mutex);
    (void)mtx_lock(&registering);
    size_t n = atomic_load(&n_registered);
    kvq_registration result = KVQ_REGISTERED;
    for (size_t i = 0; i < N_BUILT_IN + n; i++)
        if (strcmp(kvq_codec_at(i)->name, codec->name) == 0)
            result = KVQ_BAD_NAME;
    if (result == KVQ_REGISTERED && n == KVQ_CODECS_MAX - N_BUILT_IN)
        result = KVQ_NO_ROOM;
    if (result == KVQ_REGISTERED) {
        registered[n] = codec;
        atomic_store(&n_registered, n + 1);
    }
    (void)mtx_unlock(&registering);
    return result;
}

const kvq_codec *kvq_codec_for_text(const char *text, const char **rest)
{
    const kvq_codec *codec;
    for (size_t i = 0; (codec = kvq_codec_at(i)) != NULL; i++) {
        kvq_text t = {.at = text};
        bool owns = codec->owns != NULL ? codec->owns(text) : kvq_text_accept_word(&t, codec->name);
        if (!owns)
            continue;
        (void)(codec->owns == NULL && kvq_text_accept(&t, ":"));
        *rest = t.at;
        return codec;
    }
    return NULL;
}

/* ---- Sides ---- */

const char *kvq_side_init(kvq_side *s, const kvq_spec *spec, const kvq_common *common, kvq_role role,
                          size_t dim)
{
    memset(s, 0, sizeof *s);
    s->codec = spec->codec;
    s->role = role;
    s->dim = dim;
    s->common = *common;
    memcpy(s->parameter, spec->parameter, sizeof s->parameter);
    return spec->codec->init(s);
}

void kvq_side_read(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n,
                   float *out, size_t stride)
{
    s->codec->dequantize(k, s, superblock, t0, n, out, stride);
    for (size_t i = 0; i < n && s->codec->finish != NULL; i++)
        s->codec->finish(k, s, out + i * stride);
}

void kvq_side_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                          size_t stride)
{
    if (s->codec->error_bound != NULL) {
        s->codec->error_bound(s, superblock, t0, n, out, stride);
        return;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < s->dim; c++)
            out[i * stride + c] = INFINITY;
}

void kvq_side_clear(const kvq_side *s, uint8_t *superblock, size_t t0)
{
    if (s->codec->clear != NULL)
        s->codec->clear(s, superblock, t0);
    else
        memset(superblock, 0, s->bytes);
}

bool kvq_side_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    return s->codec->is_valid == NULL || s->codec->is_valid(s, superblock, n);
}

bool kvq_side_is_kept(const kvq_side *s, const uint8_t *superblock, size_t t)
{
    return s->codec->is_kept != NULL && s->codec->is_kept(s, superblock, t);
}

/* ---- Attention over dequantized blocks ---- */

enum { SLICE = 16 }; /* tokens dequantized at a time: 64 KB of stack at the largest D */

void kvq_score_dequantized(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                           size_t n_q, float *scores)
{
    const kvq_next none = {NULL, 0};
    float rows[SLICE * KVQ_DIM_MAX];
    for (size_t t = 0, n; t < tokens->n; t += n) {
        n = tokens->n - t < SLICE ? tokens->n - t : SLICE;
        s->codec->dequantize(k, s, tokens->superblock, t, n, rows, s->dim);
        k->dot_f32(rows, s->dim, n, none, q, n_q, s->dim, scores + t);
    }
}

void kvq_accumulate_dequantized(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens,
                                const float *p, size_t n_q, float *packed)
{
    const kvq_next none = {NULL, 0};
    float rows[SLICE * KVQ_DIM_MAX];
    for (size_t t = 0, n; t < tokens->n; t += n) {
        n = tokens->n - t < SLICE ? tokens->n - t : SLICE;
        s->codec->dequantize(k, s, tokens->superblock, t, n, rows, s->dim);
        k->accumulate_f32(rows, s->dim, n, none, p + t, n_q, s->dim, packed);
    }
}

/* ---- Attention by whole numbers, where a side folds ---- */

/* The next run of marked rows from *first on: how many, at most `most`; 0 if there are none left. */
static size_t next_run(const bool *marked, size_t n, size_t most, size_t *first)
{
    while (*first < n && !marked[*first])
        (*first)++;
    size_t end = *first;
    while (end < n && end - *first < most && marked[end])
        end++;
    return end - *first;
}

/* Up to half of the most rows, folded wide; those that even so could be off too far in float32. */
static void score_wide(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                       size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts)
{
    kvq_tokens wide = *tokens;
    wide.sums = KVQ_SUMS_WIDE;
    float parts[KVQ_ROWS_MAX * KVQ_SUPERBLOCK];
    bool in_float32[KVQ_ROWS_MAX];
    s->codec->score(k, s, &wide, q, n_q, parts, score_rms_error);
    for (size_t i = 0; i < n_q; i++) {
        const float error = kvq_wide_error(score_rms_error[i]);
        in_float32[i] = !(error <= KVQ_SCORE_ERROR_WIDE); /* true for NaN */
        score_rms_error[i] = in_float32[i] ? 0.0f : error;
        counts->wide += !in_float32[i];
        counts->float32 += in_float32[i];
        kvq_join(parts + i * KVQ_SUPERBLOCK, parts + (n_q + i) * KVQ_SUPERBLOCK, tokens->n,
                 scores + i * KVQ_SUPERBLOCK);
    }
    for (size_t i = 0, n; (n = next_run(in_float32, n_q, n_q, &i)) > 0; i += n)
        kvq_score_dequantized(k, s, tokens, q + i * s->dim, n, scores + i * KVQ_SUPERBLOCK);
}

/* To 16 bits, and wide where that could be off too far. */
static void score_fast(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                       size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts)
{
    bool too_far[KVQ_ROWS_MAX];
    s->codec->score(k, s, tokens, q, n_q, scores, score_rms_error);
    for (size_t i = 0; i < n_q; i++)
        too_far[i] = !(score_rms_error[i] <= KVQ_SCORE_ERROR_FOLDED); /* true for NaN */
    kvq_tokens again = *tokens;
    if (kvq_any_folded(score_rms_error, n_q))
        again.next.n_bytes = 0; /* it is under way */
    for (size_t i = 0, n; (n = next_run(too_far, n_q, kvq_rows_most(s->dim) / 2, &i)) > 0;
         i += n, again.next.n_bytes = 0)
        score_wide(k, s, &again, q + i * s->dim, n, scores + i * KVQ_SUPERBLOCK, score_rms_error + i, counts);
}

void kvq_side_score(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                    size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts)
{
    const size_t half = kvq_rows_most(s->dim) / 2;
    if (!s->folds) {
        memset(score_rms_error, 0, n_q * sizeof *score_rms_error);
        if (s->codec->score_float != NULL) {
            s->codec->score_float(k, s, tokens, q, n_q, scores);
        } else {
            kvq_prefetch_all(tokens->next);
            kvq_score_dequantized(k, s, tokens, q, n_q, scores);
        }
    } else if (tokens->sums == KVQ_SUMS_FAST) {
        score_fast(k, s, tokens, q, n_q, scores, score_rms_error, counts);
    } else {
        kvq_tokens here = *tokens;
        for (size_t i = 0; i < n_q; i += half, here.next.n_bytes = 0)
            score_wide(k, s, &here, q + i * s->dim, n_q - i < half ? n_q - i : half,
                       scores + i * KVQ_SUPERBLOCK, score_rms_error + i, counts);
    }
}

void kvq_side_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                         size_t n_q, const float *score_rms_error, const kvq_sum_rows *sums)
{
    const size_t most = kvq_rows_most(s->dim) / (tokens->sums == KVQ_SUMS_WIDE ? 2 : 1);
    if (!s->folds) {
        if (s->codec->accumulate_float != NULL) {
            s->codec->accumulate_float(k, s, tokens, p, n_q, sums->packed);
        } else {
            kvq_prefetch_all(tokens->next);
            kvq_accumulate_dequantized(k, s, tokens, p, n_q, sums->packed);
        }
        return;
    }
    kvq_tokens here = *tokens;
    for (size_t i = 0; i < n_q; i += most, here.next.n_bytes = 0) {
        const kvq_sum_rows rows = {sums->plain + i * s->dim, sums->packed + i * s->dim, sums->error + i};
        s->codec->accumulate(k, s, &here, p + i * KVQ_SUPERBLOCK, n_q - i < most ? n_q - i : most,
                             score_rms_error + i, &rows);
    }
}

void kvq_accumulate_wide(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens,
                         const int8_t *p_folded, const float *step, const float *bias, size_t n_q, float *acc)
{
    const size_t n_numbers = n_q * l->dim;
    float parts[KVQ_ROW_NUMBERS_MAX];
    memcpy(parts, acc, n_numbers * sizeof *parts);
    memset(parts + n_numbers, 0, n_numbers * sizeof *parts);
    k->accumulate_folded(l, tokens->superblock, tokens->next, tokens->n, p_folded, step, bias, 2 * n_q,
                         parts);
    kvq_join(parts, parts + n_numbers, n_numbers, acc);
}
